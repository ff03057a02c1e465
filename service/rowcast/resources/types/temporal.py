"""Dates, times, datetimes and durations. Their JSON forms are the strings that PostgreSQL makes of them."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.resources.exchanged import MOMENT, Column, LocalTime
from rowcast.resources.fields import Field, FieldType, Kind

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(r"(?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?")
_DATETIME: Final = re.compile(rf"({_DATE.pattern})[Tt]({_TIME.pattern})([Zz]|[+-][0-9]{{2}}:[0-9]{{2}})?")
_WITH_SECONDS: Final = re.compile(rf"{_DATE.pattern}[Tt][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}.*")
_NOT_A_DATETIME: Final = "Not a valid datetime: use RFC 3339, such as 2026-01-31T12:00:00Z."
_LEAP_SECOND: Final = ":60"
_SECOND: Final = dt.timedelta(seconds=1)
_LOST_PLUS: Final = re.compile(r"(:[0-9]{2}(?:\.[0-9]+)?) ([0-9]{2}:[0-9]{2})$")
_DURATION: Final = re.compile(
    r"([+-]?)P(?:([+-]?\d+)W)?(?:([+-]?\d+)D)?"
    r"(?:T(?=[\d+-])(?:([+-]?\d+)H)?(?:([+-]?\d+)M)?(?:([+-]?\d+(?:[.,]\d{1,6})?)S)?)?",
    re.ASCII,
)
_INTERVAL: Final = re.compile(r"P(?:([+-]?\d+)Y)?(?:([+-]?\d+)M)?(?:([+-]?\d+)D)?(T.*)?", re.ASCII)

# The same for the clients of the OpenAPI document: values that do not exist are excluded, as far as a pattern can.
_DATE_PATTERN: Final = r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_SECONDS_PATTERN: Final = r":[0-5][0-9](?:\.[0-9]{1,9})?"
_TIME_PATTERN: Final = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_OFFSET_PATTERN: Final = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_DURATION_PATTERN: Final = (  # with as many digits as fit in every combination
    r"^[+-]?P(?=[-+0-9T])(?:[+-]?[0-9]{1,8}W)?(?:[+-]?[0-9]{1,8}D)?"
    r"(?:T(?=[-+0-9])(?:[+-]?[0-9]{1,9}H)?(?:[+-]?[0-9]{1,9}M)?(?:[+-]?[0-9]{1,9}(?:\.[0-9]{1,6})?S)?)?$"
)


def _trim(text: str) -> str:
    """An ISO time as PostgreSQL prints it: no zeros at the end of a fraction."""
    head, point, tail = text.partition(".")
    digits, offset = (tail[:6], tail[6:]) if point else ("", "")
    digits = digits.rstrip("0")
    return f"{head}.{digits}{offset}" if digits else head + offset


def _parse_date(_field: Field, value: object) -> dt.date:
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass  # the message below is the same as for any other string that is not a date
    raise ValueError("Not a valid date: use YYYY-MM-DD.")


def _parse_time(_field: Field, value: object) -> dt.time:
    if isinstance(value, str) and _TIME.fullmatch(value):
        whole, fraction = _split_fraction(value)
        try:
            time = dt.time.fromisoformat(whole)
        except ValueError:
            pass
        else:
            rounded = dt.datetime.combine(dt.date.min, time) + fraction
            return rounded.time() if rounded.date() == dt.date.min else dt.time.max
    raise ValueError("Not a valid time: use HH:MM:SS.")


def _split_fraction(time: str) -> tuple[str, dt.timedelta]:
    """A time of day without its fraction, and a fraction of over six digits as PostgreSQL rounds it."""
    whole, _, digits = time.partition(".")
    if len(digits) <= 6:
        return time, dt.timedelta()
    return whole, dt.timedelta(microseconds=round(float(f"0.{digits}") * 1_000_000))


def _moment(text: str) -> dt.datetime:
    match = _DATETIME.fullmatch(text)
    if match is None:
        raise ValueError
    date, time, offset = match.groups()
    whole, fraction = _split_fraction(time)
    leap = whole[5:8] == _LEAP_SECOND
    if leap:  # the last second of a month in UTC; as in PostgreSQL, it is the first of the next month
        whole = f"{whole[:5]}:59{whole[8:]}"
        fraction += _SECOND
    stated = dt.datetime.fromisoformat(f"{date}T{whole}{(offset or 'Z').upper()}").astimezone(dt.UTC)
    moment = stated + fraction
    if leap and ((stated.hour, stated.minute) != (23, 59) or (stated + _SECOND).day != 1):
        raise ValueError
    return moment


def _load_datetime(_field: Field, value: object) -> dt.datetime:
    """RFC 3339; without an offset the time is UTC."""
    if isinstance(value, str) and _WITH_SECONDS.fullmatch(value):
        try:
            return _moment(value)
        except (ValueError, OverflowError):
            pass
    raise ValueError(_NOT_A_DATETIME)


def _parse_datetime(_field: Field, text: str) -> dt.datetime:
    """As in a body, or shorter: a date alone is its midnight, and seconds may be missing.

    A ``+`` that a URL turned into a space is restored.
    """
    if _DATE.fullmatch(text):
        text += "T00:00:00"
    try:
        return _moment(_LOST_PLUS.sub(r"\1+\2", text))
    except (ValueError, OverflowError):
        raise ValueError(_NOT_A_DATETIME) from None


def _moment_json(field: Field, column: Column) -> Column:
    return LocalTime(field.zone).plain(column) if field.zone else sa.cast(column, MOMENT)  # without a zone it is UTC


def _local_literal(field: Field, value: str) -> str:
    return local_time(_load_datetime(field, value), field.zone).isoformat() if field.zone else value


def local_time(moment: dt.datetime, zone: str) -> dt.datetime:
    """The time of a zone at a moment."""
    return moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def is_ambiguous(moment: dt.datetime, zone: str) -> bool:
    """Whether the time of a zone at a moment means a later one: when clocks are set back, it is there twice."""
    return local_time(moment, zone).replace(tzinfo=ZoneInfo(zone), fold=1).astimezone(dt.UTC) != moment


def _load_duration(_field: Field, value: object) -> dt.timedelta:
    match = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) < 100 else None
    if match is None or not any(match.groups()[1:]):
        raise ValueError(
            "Not a valid duration: use ISO 8601 with weeks, days, hours, minutes, seconds, as in P1DT2H30M."
        )
    sign, weeks, days, hours, minutes, seconds = match.groups()
    whole, _, fraction = (seconds or "0").replace(",", ".").partition(".")
    micros = int(fraction.ljust(6, "0") or 0) * (-1 if whole.startswith("-") else 1)
    try:
        span = dt.timedelta(
            weeks=int(weeks or 0), days=int(days or 0), hours=int(hours or 0), minutes=int(minutes or 0),
            seconds=int(whole), microseconds=micros,
        )  # fmt: skip
        return -span if sign == "-" else span
    except OverflowError:
        raise ValueError("The duration is too long.") from None


def timedelta_of_interval(months: int, days: int, microseconds: int) -> dt.timedelta:
    """An interval as PostgreSQL compares it: a month has 30 days. One that is too long becomes the longest of Python."""
    days += 30 * months
    try:
        return dt.timedelta(days=days, microseconds=microseconds)
    except OverflowError:
        return dt.timedelta.max if days > 0 else dt.timedelta.min


def _nearest_duration(field: Field, text: str) -> dt.timedelta:
    if (match := _INTERVAL.fullmatch(text)) is None:
        return dt.timedelta.min if _is_early(text) else dt.timedelta.max
    years, months, days = (int(part or 0) for part in match.groups()[:3])
    time = _load_duration(field, f"P{match[4]}") if match[4] else dt.timedelta()
    return timedelta_of_interval(12 * years + months, days, time // dt.timedelta(microseconds=1))


def _is_early(text: str) -> bool:
    """Whether a moment that Python does not have is before all that it has, rather than after them."""
    return text.startswith("-") or text.endswith("BC")


def _dump_duration(_field: Field, value: dt.timedelta) -> str:
    """ISO 8601 as PostgreSQL prints an interval without months: days apart, a sign at each part, ``PT0S`` for zero."""
    sign = "-" if value < dt.timedelta(0) else ""
    span = abs(value)
    hours, rest = divmod(span.seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    exact = _trim(f"{seconds}.{span.microseconds:06}")
    date = f"{sign}{span.days}D" if span.days else ""
    time = (
        (f"{sign}{hours}H" if hours else "")
        + (f"{sign}{minutes}M" if minutes else "")
        + (f"{sign}{exact}S" if exact != "0" else "")
    )
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"


_LIMITS: Final = frozenset({"min", "max"})
_AUTO: Final = frozenset({"auto_now", "auto_now_add"})

TEMPORAL_TYPES: Final = (
    FieldType(
        name="date",
        kind=Kind.MOMENT,
        column=lambda _field: sa.Date(),
        load=_parse_date,
        parse=_parse_date,
        native=dt.date,
        from_native=lambda value: value.date() if isinstance(value, dt.datetime) else value,
        dump=lambda _field, value: value.isoformat(),
        nearest=lambda _field, text: dt.date.min if _is_early(text) else dt.date.max,
        schema=lambda _field: {"type": "string", "format": "date", "pattern": f"^{_DATE_PATTERN}$"},
        options=_LIMITS | _AUTO,
        now="(now() AT TIME ZONE 'UTC')::date",
    ),
    FieldType(
        name="time",
        kind=Kind.MOMENT,
        column=lambda _field: sa.Time(),
        load=_parse_time,
        parse=_parse_time,
        native=dt.time,
        dump=lambda _field, value: _trim(value.isoformat()),
        nearest=lambda _field, _text: dt.time.max,
        schema=lambda _field: {
            "type": "string",
            "format": "time-local",
            "pattern": f"^{_TIME_PATTERN}(?:{_SECONDS_PATTERN})?$",
        },
        options=_LIMITS | _AUTO,
        now="(now() AT TIME ZONE 'UTC')::time",
    ),
    FieldType(
        name="datetime",
        kind=Kind.MOMENT,
        column=lambda field: LocalTime(field.zone) if field.zone else MOMENT,
        load=_load_datetime,
        parse=_parse_datetime,
        native=dt.datetime,
        from_native=lambda value: value.astimezone(dt.UTC),  # a naive one is local time
        dump=lambda _field, value: _trim(value.astimezone(dt.UTC).isoformat()),
        json=_moment_json,
        literal=_local_literal,
        nearest=lambda _field, text: (dt.datetime.min if _is_early(text) else dt.datetime.max).replace(tzinfo=dt.UTC),
        schema=lambda _field: {
            "type": "string",
            "format": "date-time",
            "pattern": f"^{_DATE_PATTERN}[Tt]{_TIME_PATTERN}{_SECONDS_PATTERN}{_OFFSET_PATTERN}$",
        },
        options=_LIMITS | _AUTO | {"zone"},
        now="now()",
    ),
    FieldType(
        name="duration",
        kind=Kind.MOMENT,
        column=lambda _field: postgresql.INTERVAL(),
        load=_load_duration,
        parse=_load_duration,
        native=dt.timedelta,
        dump=_dump_duration,
        nearest=_nearest_duration,
        json=lambda _field, column: sa.func.justify_hours(column, type_=postgresql.INTERVAL()),
        schema=lambda _field: {"type": "string", "pattern": _DURATION_PATTERN},
        options=_LIMITS,
    ),
)
