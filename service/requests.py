"""The request as a viewset sees it: aiohttp's, and what the service knows besides."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from service.authentication import ANONYMOUS, User
from service.errors import ParseError, PayloadTooLarge, UnsupportedMediaType


class Request:
    """An aiohttp request with ``user``, ``auth``, ``query_params`` and ``data``; every other attribute is aiohttp's.

    ``query_params`` maps each parameter to its text; ``ParseError`` when one is given twice. ``data`` is the body once
    ``read_json`` has run.
    """

    __slots__ = ("_params", "auth", "data", "http", "user")

    def __init__(self, http: web.Request) -> None:
        self.http = http
        self.user: User = ANONYMOUS
        self.auth: Any = None
        self.data: Any = None
        self._params: dict[str, str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.http, name)

    @property
    def query_params(self) -> dict[str, str]:
        if self._params is None:
            self._params = {}
            if self.http.rel_url.raw_query_string:
                for name, value in self.http.query.items():
                    if name in self._params:
                        raise ParseError(f"{name}: is given twice.", code="invalid_parameter")
                    self._params[name] = value
        return self._params

    async def read_json(self) -> Any:
        """The body, which must be JSON: ``ParseError``, ``UnsupportedMediaType`` or ``PayloadTooLarge`` otherwise."""
        kind = self.http.content_type
        if kind != "application/json" and not kind.endswith("+json"):
            raise UnsupportedMediaType()
        try:
            raw = await self.http.read()
        except web.HTTPRequestEntityTooLarge:
            raise PayloadTooLarge() from None
        except (web.RequestPayloadError, ConnectionResetError):  # a wrong Content-Encoding; a client that has left
            raise ParseError("The body is not what its headers say, or not all of it came.") from None
        if not raw:
            raise ParseError("The body is empty; send a JSON object.")
        try:
            self.data = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ParseError(f"The body is not valid JSON: {error}.") from None
        return self.data
