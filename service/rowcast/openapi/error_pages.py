"""``/docs/errors/<code>``: a page for each error code, and one with all of them, from the table ``ERROR_CODES``.

The pages have no script. They are the same for every service and show nothing of its resources.
"""

from __future__ import annotations

import re
from html import escape
from typing import Final

from rowcast.error_codes import ERROR_CODES, PAGES
from rowcast.openapi.html import html_page

STYLE_NAME: Final = "errors.css"
STYLE_SHEET: Final = """\
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 44rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
code { font: .9em ui-monospace, monospace; background: color-mix(in srgb, currentColor 10%, transparent); padding: .1em .3em; }
dt { font-weight: 600; margin-top: 1rem; }
dd { margin: 0; }
"""
POLICY: Final = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def error_page(code: str, root_path: str = "") -> str:
    """The page of a code, in a service below a path; ``KeyError`` for a code that Rowcast does not have."""
    status, cause, action = ERROR_CODES[code]
    return _page(
        code,
        f"<h1><code>{code}</code></h1>\n"
        f"<dl>\n<dt>Status</dt><dd>{status}</dd>\n"
        f"<dt>What it means</dt><dd>{_text(cause)}</dd>\n"
        f"<dt>What to do</dt><dd>{_text(action)}</dd>\n</dl>\n"
        f'<p><a href="{root_path}{PAGES}">All error codes</a></p>',
        root_path,
    )


def index_page(root_path: str = "") -> str:
    """The page with all codes, in a service below a path."""
    entries = (
        f'<dt><a href="{root_path}{PAGES}{code}">{code}</a> ({each.status})</dt><dd>{_text(each.cause)}</dd>'
        for code, each in ERROR_CODES.items()
    )
    return _page("Error codes", "<h1>Error codes</h1>\n<dl>\n" + "\n".join(entries) + "\n</dl>", root_path)


def _text(text: str) -> str:
    """A sentence as HTML: what is in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _page(title: str, body: str, root_path: str) -> str:
    head = ('<link rel="icon" href="data:,">', f'<link rel="stylesheet" href="{root_path}/docs/{STYLE_NAME}">')
    return html_page(title, head, f"<main>\n{body}\n</main>")
