"""What a handler may return, and the JSON made of it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Awaitable, Callable, Mapping, Set
from decimal import Decimal
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import orjson
from aiohttp import web

from rowcast.database.pool import Database
from rowcast.database.written import Written
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lossless_json import ExactNumber, Raw, fragment
from rowcast.resources.types import FIELD_TYPES
from rowcast.rest.media_types import JSON

Answered = TypeVar("Answered", bound=web.StreamResponse | None)

TRANSACTION: Final = "X-Transaction"
_MOMENTS: Final[Mapping[type | None, Field]] = {
    each.native: Field(each.name, each) for each in FIELD_TYPES.values() if each.kind is Kind.MOMENT
}


status: Final = SimpleNamespace(**{f"HTTP_{each.value}_{name}": each for name, each in HTTPStatus.__members__.items()})
"""Django REST framework's names of ``http.HTTPStatus``: ``status.HTTP_400_BAD_REQUEST``."""


class Response:
    """Data with a status, headers and a content type: ``Response({"status": "done"}, status=202)``.

    Args:
        data: What is sent as JSON, or a string or bytes, sent as they are, if ``content_type`` is not JSON.
        status: The HTTP status.
        headers: Headers on top of the service's own.
        content_type: The media type; ``Response(csv, content_type="text/csv")`` sends the string ``csv``.
    """

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


def encode(data: object, show: Callable[[Any], Any]) -> bytes:
    """JSON in the forms of the field types: decimals as strings, times in UTC as RFC 3339, durations as ISO 8601.

    ``show`` turns a row into a dictionary. ``TypeError`` names a value that has no JSON form.
    """

    def default(value: Any) -> Any:
        match value:
            case Decimal():
                return format(value, "f")
            case dt.datetime() | dt.date() | dt.time() | dt.timedelta():  # a naive datetime is local time
                kind = _MOMENTS[type(value)]
                return kind.field_type.dump(kind, value)
            case uuid.UUID():  # asyncpg's class, which orjson does not take for Python's
                return str(value)
            case Set():
                return sorted(value, key=str)
            case Raw() | ExactNumber():
                return fragment(value)
            case bytes():
                raise TypeError("bytes have no JSON form: decode them, or return an aiohttp response")
        return show(value)

    return orjson.dumps(data, default=default, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS)


def json_response(body: bytes, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> web.Response:
    """A response of JSON that is already made."""
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


async def noting_transaction(database: Database, answer: Callable[[], Awaitable[Answered]]) -> Answered:
    """The answer to an unsafe request, with the transaction that its events name."""
    with database.noting() as written:
        response = await answer()
        if written.transaction is None:
            await database.note_transaction()
        if response is not None:
            add_transaction(response, written)
        return response


def add_transaction(response: web.StreamResponse, written: Written) -> None:
    """Name the transaction of a change that was made, as ``tx`` of its events does."""
    if written.transaction is not None and response.status < HTTPStatus.BAD_REQUEST and not response.prepared:
        response.headers.setdefault(TRANSACTION, written.transaction)


def verbatim_response(data: object, status: int, headers: Mapping[str, str] | None, content_type: str) -> web.Response:
    """A response whose content type is not JSON: a string, in UTF-8, or bytes, as they are; ``TypeError`` for others."""
    if not isinstance(data, str | bytes):
        raise TypeError(f"Response(content_type={content_type!r}) needs a string or bytes, not {type(data).__name__}")
    body = data.encode() if isinstance(data, str) else data
    response = web.Response(body=body, status=status, headers=headers)
    response.headers["Content-Type"] = content_type
    return response
