"""Field types: bodies, parameters and JSON forms are converted into one another."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.resources.lossless_json import JSON_MAX_DEPTH
from rowcast.resources.types import FIELD_TYPES, make_field, scalar_types
from rowcast.resources.types.compound import split_list

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "uuid": st.uuids(),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "bytea": st.binary(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "big_integer": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**40), max_value=10**40),
    "boolean": st.booleans(),
    "date": st.dates(),
    "time": st.times(),
    "datetime": st.datetimes(timezones=st.just(dt.UTC)),
    "duration": st.timedeltas(),
}


@contextmanager
def suppress_sentence() -> Iterator[None]:
    """Suppress a ``ValueError``, whose message must be a sentence."""
    refused = None
    try:
        yield
    except ValueError as error:
        refused = str(error)
    assert refused is None or re.fullmatch(r"[A-Z].*\.", refused)


@pytest.mark.parametrize("name", VALUES)
@given(data=st.data())
def test_load_and_parse_reverse_dump(name: str, data: st.DataObject) -> None:
    """The JSON form of a value, in a body or in a URL, is converted back to the value."""
    field, value = make_field("x", name), data.draw(VALUES[name])
    shown = field.field_type.dump(field, value)
    assert field.field_type.load(field, orjson.loads(orjson.dumps(shown))) == value
    assert field.field_type.parse(field, str(shown).lower() if name == "boolean" else str(shown)) == value


@pytest.mark.parametrize("name", sorted(scalar_types() | {"array"}))
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_load_refuses_in_a_sentence(name: str, value: Any) -> None:
    """For any JSON, ``load`` returns a value or raises a ``ValueError`` with a sentence."""
    field = make_field("x", name, of="integer" if name == "array" else None)
    with suppress_sentence():
        field.field_type.load(field, value)


@pytest.mark.parametrize("name", sorted(scalar_types() | {"array"}))
@given(text=st.text(max_size=40))
def test_parse_refuses_in_a_sentence(name: str, text: str) -> None:
    """For any string, ``parse`` returns a value or raises a ``ValueError`` with a sentence."""
    field = make_field("x", name, of="duration" if name == "array" else None)
    with suppress_sentence():
        field.field_type.parse(field, text)


@given(st.lists(st.text(), max_size=5))
def test_split_list_reads_quoted_items_back(items: list[str]) -> None:
    """Items in double quotes, with inner quotes doubled, are read back unchanged, commas included."""
    text = ",".join('"' + item.replace('"', '""') + '"' for item in items)
    assert split_list(text) == items


@given(st.text())
def test_split_list_never_loses_text_without_quotes(text: str) -> None:
    """Without quotes the items are the strings between the commas."""
    if '"' not in text:
        assert ",".join(split_list(text)) == text


def test_json_may_be_nested_to_its_depth_and_no_deeper() -> None:
    """The limit is the depth that encoders support, in lists and objects."""
    field = make_field("x", "json")
    value: Any = 1
    for _ in range(JSON_MAX_DEPTH - 1):
        value = [value] if isinstance(value, dict) else {"a": value}
    assert field.field_type.load(field, value) == value
    with pytest.raises(ValueError, match="levels"):
        field.field_type.load(field, [value])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("P1W", dt.timedelta(weeks=1)),
        ("PT1.5S", dt.timedelta(seconds=1.5)),
        ("-P1DT1H", dt.timedelta(days=-1, hours=-1)),
        ("P-1DT+2H", dt.timedelta(days=-1, hours=2)),
        ("PT0S", dt.timedelta()),
    ],
)
def test_duration_is_iso_8601(text: str, value: dt.timedelta) -> None:
    """Weeks, days and times, each part or the whole with a sign."""
    assert FIELD_TYPES["duration"].load(make_field("x", "duration"), text) == value


def test_decimal_keeps_every_digit() -> None:
    """Limits count the digits on either side of the point. Nothing is rounded."""
    field = make_field("x", "decimal", max_digits=5, decimal_places=2)
    load = FIELD_TYPES["decimal"].load
    assert load(field, "123.45") == Decimal("123.45")
    for text in ("1234", "0.001", "1e3", "12345.6"):
        with pytest.raises(ValueError, match="at most"):
            load(field, text)
