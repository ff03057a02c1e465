"""The files that browsers load: built from ``web/`` when a wheel or an image is made, or by ``make run``.

They are read once, when the service starts. A file whose name has a hash never changes, nor does an address with ``?v=`` and
the hash; any other is asked for again, and answered with 304.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from mimetypes import guess_type
from typing import Final

from aiohttp import web

from rowcast.errors import NotFound
from rowcast.rest.etags import client_has
from rowcast.rest.handlers import Handler

CLIENT: Final = "client.js"
FOLDER: Final = "assets"
HASHED_NAME: Final = re.compile(r"-[0-9A-Z]{8}\.[a-z0-9]+$")  # as esbuild writes [name]-[hash]
UNCHANGING: Final = "public, max-age=31536000, immutable"
COMPRESSED_FROM_BYTES: Final = 1000
MEDIA_TYPES: Final = {".js": "text/javascript", ".woff2": "font/woff2", ".webmanifest": "application/manifest+json"}
NOT_BUILT: Final = "This installation has no web files: they were not built. In a checkout, run `make web`."


@dataclass(frozen=True)
class Asset:
    """One file. ``name`` is its path in the folder of the assets."""

    name: str
    body: bytes

    @cached_property
    def hash(self) -> str:
        """Equal for equal contents; the entity tag, and what ``?v=`` is compared with."""
        return sha256(self.body).hexdigest()[:16]

    @cached_property
    def compressed(self) -> bytes | None:
        """The contents with gzip; ``None`` if that saves nothing."""
        if len(self.body) < COMPRESSED_FROM_BYTES:
            return None
        made = gzip.compress(self.body, mtime=0)
        return made if len(made) < 0.9 * len(self.body) else None

    @property
    def content_type(self) -> str:
        """By the name's extension."""
        extension = f".{self.name.rpartition('.')[2]}"
        return MEDIA_TYPES.get(extension) or guess_type(self.name)[0] or "application/octet-stream"

    def response(self, request: web.Request) -> web.Response:
        """The file, or 304 if the client has it."""
        hashed = HASHED_NAME.search(self.name) is not None or request.query.get("v") == self.hash
        tag = f'"{self.hash}"'
        headers = {"ETag": tag, "Cache-Control": UNCHANGING if hashed else "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("Origin"):
            headers["Access-Control-Allow-Origin"] = "*"  # it is public, and a page of another origin may import it
        if client_has(request, tag):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        body = self.body
        if self.compressed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = self.compressed, "gzip"
        headers["X-Content-Type-Options"] = "nosniff"
        return web.Response(body=body, content_type=self.content_type, charset=self._charset, headers=headers)

    @property
    def _charset(self) -> str | None:
        return "utf-8" if self.content_type.startswith("text/") else None


def read_assets() -> dict[str, Asset]:
    """Every file of the folder, by its path there; none if they were not built."""
    folder = files("rowcast") / FOLDER
    return {name: Asset(name, path.read_bytes()) for name, path in _files_in(folder, "")} if folder.is_dir() else {}


def _files_in(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_in(path, f"{prefix}{path.name}/")
        else:
            yield f"{prefix}{path.name}", path


def sending(asset: Asset | None) -> Handler:
    """A handler that sends a file; a 404 that gives the reason if it was not built."""

    async def send(request: web.Request) -> web.StreamResponse:
        if asset is None:
            raise NotFound(NOT_BUILT)
        return asset.response(request)

    return send


def register(app: web.Application) -> None:
    """Add ``/client.js``, the client for pages."""
    app.router.add_get(f"/{CLIENT}", sending(read_assets().get(CLIENT)))
