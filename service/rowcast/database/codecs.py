"""How values travel between Python and PostgreSQL: JSON as bytes, and dates and times without their infinities."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from rowcast.database.connection import Connection
from rowcast.resources.lossless_json import Raw, encode, nearest
from rowcast.resources.types.temporal import timedelta_of_interval

_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_FIRST_DAY: Final = _EPOCH.toordinal()
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_DAY_MICROSECONDS: Final = 86_400_000_000


async def set_codecs(connection: Connection) -> None:
    """Set the codecs of a connection: ``json`` arrives as PostgreSQL's bytes, and ``jsonb`` is a Python value.

    The driver's own codecs would store Python's first and last moment as PostgreSQL's infinity.
    """
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=bytes, format="binary")
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=encode_jsonb, decoder=_decode_jsonb, format="binary"
    )
    await connection.set_type_codec(
        "date", schema="pg_catalog", encoder=_encode_date, decoder=_decode_date, format="tuple"
    )
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_encode_datetime, decoder=_decode_datetime, format="tuple"
    )
    await connection.set_type_codec(
        "time", schema="pg_catalog", encoder=_encode_time, decoder=_decode_time, format="tuple"
    )
    await connection.set_type_codec(
        "interval",
        schema="pg_catalog",
        encoder=_encode_interval,
        decoder=lambda raw: timedelta_of_interval(*raw),
        format="tuple",
    )


def encode_jsonb(value: Any) -> bytes:
    """A Python value as PostgreSQL receives a jsonb: a version byte and the text."""
    return b"\x01" + encode(value)


def _encode_date(value: dt.date) -> tuple[int]:
    return (value.toordinal() - _FIRST_DAY,)


def _decode_date(raw: tuple[int]) -> dt.date:
    """The day; one that Python does not have, such as infinity, is the first or the last that it has."""
    return dt.date.fromordinal(min(max(raw[0] + _FIRST_DAY, 1), dt.date.max.toordinal()))


def _encode_datetime(value: dt.datetime) -> tuple[int]:
    """Microseconds since 2000; without an offset the time is UTC."""
    aware = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
    return ((aware - _EPOCH) // _MICROSECOND,)


def _decode_datetime(raw: tuple[int]) -> dt.datetime:
    try:
        return _EPOCH + dt.timedelta(microseconds=raw[0])
    except OverflowError:
        return (dt.datetime.max if raw[0] > 0 else dt.datetime.min).replace(tzinfo=dt.UTC)


def _encode_time(value: dt.time) -> tuple[int]:
    span = dt.timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    return (span // _MICROSECOND,)


def _decode_time(raw: tuple[int]) -> dt.time:
    """The time; for 24:00 the last one before it."""
    return (dt.datetime.min + dt.timedelta(microseconds=raw[0])).time() if raw[0] < _DAY_MICROSECONDS else dt.time.max


def _encode_interval(value: dt.timedelta) -> tuple[int, int, int]:
    return (0, value.days, value // _MICROSECOND - value.days * _DAY_MICROSECONDS)


def _decode_jsonb(raw: bytes) -> Any:
    """The value; infinity for a number beyond Python's floats, and a string for JSON that is nested too deep."""
    return nearest(Raw(raw[1:]))[0]
