"""The request as a viewset sees it: aiohttp's, and what the service knows besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from aiohttp import web

from rowcast.errors import ParseError, PayloadTooLarge, UnsupportedMediaType
from rowcast.identity.users import ANONYMOUS, User


class Request:
    """An aiohttp request with ``user``, ``auth``, ``query_params`` and ``data``; all else is aiohttp's.

    ``query_params`` maps each parameter to its text; ``ParseError`` when one is given twice. ``data`` is the body once
    ``read_json`` has run. It takes attributes (``request.tenant = …``) and, as aiohttp's does, items.
    """

    def __init__(self, http: web.Request) -> None:
        self.http = http
        self.user: User = ANONYMOUS
        self.auth: Any = None
        self.data: Any = None
        self._params: dict[str, str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.http, name)

    def __getitem__(self, key: Any) -> Any:
        return self.http[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.http[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.http[key]

    def __contains__(self, key: object) -> bool:
        return key in self.http

    def __iter__(self) -> Iterator[Any]:
        return iter(self.http)

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
