"""``/console/``: a page for people over the public API, built from ``web/console``.

The page has no rights of its own. Everything that it shows and does is a request that any client could send, with the credentials
that somebody has entered. Its Content-Security-Policy allows no script, style or connection but the service's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Final

from aiohttp import web

from rowcast.configuration.settings import Settings
from rowcast.errors import NotFound
from rowcast.openapi.html import SCHEMES, html_page
from rowcast.rest.plan import SERVICE
from rowcast.rest.request import root_path
from rowcast.server.assets import CLIENT, NOT_BUILT, Asset, read_assets, sending

NAME: Final = "console"
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "worker-src 'self'",  # for the connection of all tabs
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types rowcast",  # the client's, for the address of its worker
    )
)
_ENTRY: Final = re.compile(r"console/main-[0-9A-Z]{8}\.(js|css)")


def is_on(settings: Settings) -> bool:
    """Whether there is a console: as ``server.console`` says, by default with the embedded database.

    It needs ``/``, which ``server.openapi: off`` hides.
    """
    wanted = settings.server.console if settings.server.console is not None else settings.database.url is None
    return wanted and not list(problems(settings))


def problems(settings: Settings) -> Iterator[str]:
    """Why there can be no console."""
    if settings.server.openapi == "off":
        yield "the console reads / and /openapi.json, which server.openapi: off hides"


def register(app: web.Application) -> None:
    """Add ``/console/`` and its files."""
    files = {name: asset for name, asset in read_assets().items() if name.startswith(f"{NAME}/")}
    settings, entries = app[SERVICE].settings, _entries(files)
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

    async def page(request: web.Request) -> web.Response:
        if entries is None:
            raise NotFound(NOT_BUILT)
        html = _page(*entries, settings.api.title, root_path(settings.server, request))
        return web.Response(text=html, content_type="text/html", headers=headers)

    for path in (f"/{NAME}", f"/{NAME}/"):
        app.router.add_get(path, page)
    for name, asset in files.items():
        app.router.add_get(f"/{name}", sending(asset))


def _entries(files: dict[str, Asset]) -> tuple[str, str] | None:
    """The script and the style sheet that the page loads; ``None`` if they were not built."""
    entries = {match[1]: name for name in files if (match := _ENTRY.fullmatch(name))}
    return (entries["js"], entries["css"]) if entries.keys() == {"js", "css"} else None


def _page(script: str, style: str, title: str, root_path: str) -> str:
    """The page, in a service below a path."""
    head = (
        SCHEMES,
        '<link rel="icon" href="data:,">',
        f'<link rel="stylesheet" href="{root_path}/{style}">',
        f'<link rel="modulepreload" href="{root_path}/{CLIENT}">',
        f'<script type="module" src="{root_path}/{script}"></script>',
    )
    without = f'The console needs JavaScript. <a href="{root_path}/docs/">The reference</a> shows the addresses of the service.'
    body = f'<div id="console" data-title="{escape(title)}"></div>\n<noscript>{without}</noscript>'
    return html_page(title, head, body)
