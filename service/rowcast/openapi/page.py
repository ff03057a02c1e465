"""``/docs/``: the OpenAPI document as a page, made by Swagger UI from files that are installed with the service.

A browser that opens it loads nothing from another place. Its Content-Security-Policy allows no script but the two files,
and no connection but to the service and the ``servers`` that the document names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from swagger_ui_bundle import swagger_ui_path
from yarl import URL

from rowcast.openapi.html import SCHEMES, html_page

STYLE: Final = "swagger-ui.css"
LIBRARY: Final = "swagger-ui-bundle.js"
ICON: Final = "favicon-32x32.png"
START: Final = "start.js"

# The newest one: swagger-ui-bundle, which has the same name for Python and stopped at version 4, may be installed as well.
_FOLDER: Final = max(
    swagger_ui_path.parent.glob("swagger-ui-*"),
    key=lambda path: [int(number) for number in path.name.removeprefix("swagger-ui-").split(".")],
)
FILES: Final[Mapping[str, Path]] = {name: _FOLDER / name for name in (STYLE, LIBRARY, ICON)}
"""The files of Swagger UI that the page loads, by their names below ``/docs/``."""

START_SCRIPT: Final = """\
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

// A stream does not end, so its response is what it sends in a few seconds.
async function readStream(url, options) {
  const stop = new AbortController();
  const response = await fetch(url, {...options, signal: stop.signal});
  if (!response.ok) return response;
  setTimeout(() => stop.abort(), 3000);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (let part; !(part = await reader.read()).done && text.length < 100000;) text += part.value;
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  }
  stop.abort();
  const headers = new Headers(response.headers);
  headers.set("content-type", "text/plain");
  return new Response(text, {status: response.status, headers});
}

window.ui = SwaggerUIBundle({
  url: new URL("../openapi.json", document.currentScript.src).href,
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  requestInterceptor: request => {
    const accept = request.headers.accept ?? request.headers.Accept;
    if (accept === "text/event-stream") request.userFetch = readStream;
    return request;
  },
});
"""  # without a validator: it would send the document's address to a service on the internet


def page(title: str, root_path: str = "") -> str:
    """The page, for a document with this title, in a service below a path."""
    files = f"{root_path}/docs"
    head = (SCHEMES, f'<link rel="icon" href="{files}/{ICON}">', f'<link rel="stylesheet" href="{files}/{STYLE}">')
    without = f'This page needs JavaScript. The document itself is <a href="{root_path}/openapi.json">openapi.json</a>.'
    scripts = f'<script src="{files}/{LIBRARY}"></script>\n<script src="{files}/{START}"></script>'
    return html_page(title, head, f'<div id="docs"></div>\n<noscript>{without}</noscript>\n{scripts}')


def security_policy(servers: Sequence[str]) -> str:
    """The page's ``Content-Security-Policy``. Swagger UI sets styles of elements, and draws icons from ``data:`` URLs."""
    origins = {str(URL(server).origin()) for server in servers if URL(server).absolute}
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            " ".join(("connect-src 'self'", *sorted(origins))),
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
