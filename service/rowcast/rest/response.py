"""What a handler may return, and the JSON that becomes of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Set
from decimal import Decimal
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final

import orjson
from aiohttp import web

from rowcast.resources.fields import Field, Kind
from rowcast.resources.lossless_json import Raw
from rowcast.resources.types import FIELD_TYPES

JSON: Final = "application/json"
_MOMENTS: Final[Mapping[type | None, Field]] = {
    each.native: Field(each.name, each) for each in FIELD_TYPES.values() if each.kind is Kind.MOMENT
}


status: Final = SimpleNamespace(**{f"HTTP_{each.value}_{name}": each for name, each in HTTPStatus.__members__.items()})
"""Django REST framework's names of ``http.HTTPStatus``: ``status.HTTP_400_BAD_REQUEST``."""


class Response:
    """Data with a status and headers: ``Response({"status": "done"}, status=202)``."""

    __slots__ = ("content_type", "data", "headers", "status")

    def __init__(
        self,
        data: Any = None,
        status: int = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
        content_type: str = JSON,
    ) -> None:
        self.data = data
        self.status = status
        self.headers = headers
        self.content_type = content_type


def encode(data: Any, show: Callable[[Any], Any]) -> bytes:
    """JSON in the forms of the field types: decimals as strings, times in UTC as RFC 3339, durations as ISO 8601.

    ``show`` turns a row into a dictionary. ``TypeError`` names what has no JSON form.
    """

    def default(value: Any) -> Any:
        match value:
            case Decimal():
                return format(value, "f")
            case dt.datetime() | dt.date() | dt.time() | dt.timedelta():  # a naive datetime is local time
                kind = _MOMENTS[type(value)]
                return kind.field_type.dump(kind, value)
            case Set():
                return sorted(value, key=str)
            case Raw():
                return orjson.Fragment(bytes(value))
            case bytes():
                raise TypeError("bytes have no JSON form: decode them, or return an aiohttp response")
        return show(value)

    return orjson.dumps(data, default=default, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS)


def json_response(body: bytes, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response of JSON that is already made."""
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)
