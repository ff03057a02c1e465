"""The SQL of the change log and of the triggers that fill it, one statement per file.

Two kinds of names in braces stand in the files: ``{_name}`` includes the file ``_name.sql``, and any other ``{name}``
is a placeholder of a template, for which Python has a value. Lines that begin with ``--`` are for readers only.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Final

_INCLUDE: Final = re.compile(r"\{(_\w+)\}")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")


def load(name: str) -> str:
    """The text of a file, with its includes and without its comments."""
    lines = resources.files(__name__).joinpath(f"{name}.sql").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("--")).strip()
    return _INCLUDE.sub(lambda include: load(include[1]), text)


def fill(template: str, **values: str) -> str:
    """The template with a value, which is SQL itself, for each placeholder; ``KeyError`` if one has none."""
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], template)
