"""Valid values of fields, for rows of which a test names no more than what it is about."""

from __future__ import annotations

import base64
import datetime as dt
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import marshmallow as ma

from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.patterns import example
from rowcast.resources.validators import validators

FIRST_MOMENT: Final = dt.datetime(2000, 1, 1, 12, tzinfo=dt.UTC)


def needs_value(field: Field) -> bool:
    """Whether a row cannot be inserted without a value of the field."""
    set_by_itself = (
        field.auto_now
        or field.auto_now_add
        or field.default is not MISSING
        or field.database_default
        or field.generated
    )
    generated = field.primary_key and field.field_type.generated_key is not None and not field.sent_key
    many = field.field_type.kind is Kind.RELATIONS
    return not (field.null or set_by_itself or generated or many)


def sample(field: Field, number: int) -> Any:
    """A value of a field that no row has which was made with another number, where the field's rules allow that.

    Raises:
        ValueError: No value can be made up, or not one for this number; the message says which rule is in the way.
    """
    make = _MAKERS.get(field.type)
    if field.choices:
        choice = field.choices[(number - 1) % len(field.choices)] if field.unique else field.choices[0]
        value = [choice] if field.field_type.kind is Kind.ARRAY else choice
    elif make is None:
        raise ValueError(f"there is no example of the type {field.type}")
    elif field.pattern is not None:
        value = example(field.pattern, number)
        if value is None:
            raise ValueError(f"no example of the pattern {field.pattern} can be made up")
    else:
        value = make(field, number)
    loaded = field.field_type.load(field, value)
    for rule in validators(field, field):
        try:
            rule(loaded)
        except ma.ValidationError as error:
            raise ValueError(" ".join(map(str, error.messages))) from None
    return loaded


def _text(field: Field, number: int) -> str:
    made = f"{field.name.replace('_', ' ')} {number}"
    if field.longest is not None and len(made) > field.longest:
        made = str(number)
    return made.ljust(field.min_length or 0, "x")


def _slug(field: Field, number: int) -> str:
    return _text(field, number).replace(" ", "-")


def _array(field: Field, number: int) -> list[Any]:
    count = field.min_length or 0
    return [_MAKERS[field.element.type](field.element, number + place) for place in range(count)]


def _number(field: Field, number: int, step: Decimal = Decimal(1)) -> Decimal:
    """The ``number``-th multiple of a step within the limits of a field, from the lower one on."""
    low, high = (None if limit is None else Decimal(str(limit)) for limit in (field.min, field.max))
    if low is None:
        low = step if high is None or high >= step else high
    made = low + step * (number - 1)
    if high is not None and made > high:
        made = low + step * ((number - 1) % (int((high - low) / step) + 1))
    return made


def _decimal(field: Field, number: int) -> str:
    places = 0 if field.decimal_places is None else field.decimal_places
    whole = 1 if field.max_digits is None else field.max_digits - places
    step = Decimal(1) if whole > 0 else Decimal(1).scaleb(-places)
    return f"{_number(field, number, step).quantize(Decimal(1).scaleb(-places)):f}"


def _moment(field: Field, number: int, step: dt.timedelta) -> dt.datetime:
    """A moment after the lower limit of a field, or before the upper one."""
    low, high = (None if limit is None else field.field_type.load(field, limit) for limit in (field.min, field.max))
    first = low if low is not None else FIRST_MOMENT if high is None else high - step * number
    if not isinstance(first, dt.datetime):
        first = dt.datetime.combine(first, dt.time(), dt.UTC)
    return first + step * (number if low is None and high is not None else number - 1)


def _date(field: Field, number: int) -> str:
    return _moment(field, number, dt.timedelta(days=1)).date().isoformat()


def _datetime(field: Field, number: int) -> str:
    return _moment(field, number, dt.timedelta(minutes=1)).isoformat()


def _time(field: Field, number: int) -> str:
    made = FIRST_MOMENT + dt.timedelta(seconds=number - 1)
    limit = field.min if field.min is not None else field.max
    return made.strftime("%H:%M:%S") if limit is None else str(limit)


def _duration(field: Field, number: int) -> str:
    limit = field.min if field.min is not None else field.max
    return f"PT{number}S" if limit is None else str(limit)


_MAKERS: Final[Mapping[str, Callable[[Field, int], Any]]] = {  # type → its example in JSON
    "string": _text,
    "text": _text,
    "email": lambda _, number: f"user{number}@example.com",
    "url": lambda _, number: f"https://example.com/{number}",
    "slug": _slug,
    "uuid": lambda _field, _number: str(uuid.uuid4()),
    "integer": lambda field, number: int(_number(field, number)),
    "big_integer": lambda field, number: int(_number(field, number)),
    "float": lambda field, number: float(_number(field, number)),
    "decimal": _decimal,
    "boolean": lambda _field, _number: False,
    "date": _date,
    "time": _time,
    "datetime": _datetime,
    "duration": _duration,
    "json": lambda _field, _number: {},
    "array": _array,
    "smallint": lambda field, number: int(_number(field, number)),
    "real": lambda field, number: float(_number(field, number)),
    "citext": _text,
    "bytea": lambda _field, number: base64.b64encode(str(number).encode()).decode(),
}
