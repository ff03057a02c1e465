"""The frame of the service's own pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

SCHEMES: Final = '<meta name="color-scheme" content="light dark">'


def html_page(title: str, head: Sequence[str], body: str) -> str:
    """A page in HTML. ``head`` are the elements of its head beside the title, and ``body`` is what its body has."""
    elements = "\n".join(head)
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
{elements}
</head>
<body>
{body}
</body>
</html>
"""
