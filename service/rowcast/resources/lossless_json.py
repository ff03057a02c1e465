"""JSON parsed without loss: rows written by PostgreSQL, and bodies of requests.

JSON has numbers of any size and values of any depth, and ``jsonb`` stores them. Python's parsers round such numbers to
floats and fail at great depth. A value that would not come back unchanged stays in a row as its bytes (``Raw``). A number
of a body that a float cannot hold keeps its digits (``ExactNumber``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

import orjson

JSON_MAX_DEPTH: Final = 200  # levels of nesting that every encoder on the way of a value supports
_DIGITS: Final = bytes(b"0"[0] if byte in b"0123456789." else b" "[0] for byte in range(256))
_LONG: Final = b"0" * 17  # the digits of a number that a float may not hold exactly, which has 16 of them
_LONG_IN_BODY: Final = b"0" * 16  # one digit less, because a number of a body may have an exponent
_OWN_DIGITS: Final = re.compile(rb"[0-9][eE]|\.[0-9]*0(?![0-9])")  # which a float writes in another way, such as 1.10
_LOOKED_INTO: Final = frozenset({dict, list, float, int})  # types of values that may have lost digits, or have members
_QUOTE_AND_SPACE: Final = re.compile(rb'"\s')
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_INTEGER: Final = re.compile(rb"-?[1-9][0-9]{16,19}")  # encoders take it if it fits into 64 bits
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)


class Raw(bytes):
    """A value as its original JSON. Two values are equal if their JSON is the same string."""


class ExactNumber(float):
    """The nearest float of a number that has other digits. ``str()`` of it has the number's own ones."""

    __slots__ = ("digits",)
    digits: str

    def __str__(self) -> str:
        return self.digits


def exact_number(digits: str) -> float:
    """A number as a float, or as an ``ExactNumber`` if the float is written in another way, such as ``1.10``."""
    number = float(digits)
    if repr(number) == digits:
        return number
    exact = ExactNumber(number)
    exact.digits = digits
    return exact


def parse_body(body: bytes) -> Any:
    """The JSON of a client; numbers keep their digits. ``ValueError`` if it is not JSON, or an object has a key twice.

    >>> str(parse_body(b"[9007199254740993.0]")[0])
    '9007199254740993.0'
    """
    value = orjson.loads(body)
    if type(value) is dict and _LOOKED_INTO.isdisjoint(map(type, value.values())) and _has_members(body, len(value)):
        return value  # as most are
    if not isinstance(value, dict | list):
        return value if type(value) is not float else _parse_slowly(body)
    members, has_floats = _members_and_floats(value)
    if _LONG_IN_BODY in body.translate(_DIGITS) or (has_floats and _OWN_DIGITS.search(body)):
        return _parse_slowly(body)
    return value if members == _members_in(body) else _parse_slowly(body)


def _has_members(body: bytes, number: int) -> bool:
    """Whether an object without nested ones plainly has so many members: none of its keys is there twice.

    Each member has a colon, which follows the quote of its key at once unless there is space after some quote.
    """
    return body.count(b":") == number or (body.count(b'":') == number and _QUOTE_AND_SPACE.search(body) is None)


def _members_in(body: bytes) -> int:
    """The number of members of all objects in JSON, those with the same key included."""
    compact = body.translate(None, b" \t\n\r")
    if b'\\":' in compact:  # perhaps within a string; otherwise `":` is only after the key of a member
        return _STRING.sub(b"", body).count(b":")
    return compact.count(b'":')


def _members_and_floats(value: dict[str, Any] | list[Any]) -> tuple[int, bool]:
    """The number of members of all objects in a value, and whether it has floats."""
    members, has_floats = 0, False
    collections: list[Any] = [value]
    while collections:
        collection = collections.pop()
        if type(collection) is dict:
            members += len(collection)
            collection = collection.values()
        for item in collection:
            kind = type(item)
            if kind is dict or kind is list:
                collections.append(item)
            elif kind is float:
                has_floats = True
    return members, has_floats


def _parse_slowly(body: bytes) -> Any:
    try:
        return json.loads(
            body, parse_int=_exact_integer, parse_float=exact_number, object_pairs_hook=_without_duplicates
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names: set[str] = set()
        twice = next(name for name, _ in pairs if name in names or names.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:50]!r} is there twice; an object has each key once")
    return members


def _exact_integer(digits: str) -> int | float:
    """An integer if it fits into 64 bits, as ``orjson`` returns it."""
    number = _number(digits)
    return number if isinstance(number, int) else exact_number(digits)


def with_exact_integers(value: Any) -> Any:
    """A JSON value whose integers beyond 64 bits are as those of ``parse_body``."""
    if isinstance(value, dict):
        return {name: with_exact_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_exact_integers(item) for item in value]
    return _exact_integer(str(value)) if type(value) is int else value


def parse(row: bytes) -> dict[str, Any]:
    """A row by column. A value that Python would not give back unchanged is ``Raw``."""
    if _safe(row):
        parsed: dict[str, Any] = orjson.loads(row)
        return parsed
    return {name: orjson.loads(value) if _safe(value) else Raw(value) for name, value in _members(row)}


def nested(value: Any) -> list[dict[str, Any]]:
    """The rows in a member that is a row, null or a list of rows, each as from ``parse``."""
    if isinstance(value, Raw):
        return [parse(row) for _, row in _members(value)] if value.startswith(b"[") else [parse(value)]
    return value if isinstance(value, list) else [] if value is None else [value]


def nearest(raw: Raw) -> tuple[Any, bool]:
    """The value in Python, and whether it is exact.

    A number may become the nearest float, or infinity. JSON that is nested too deeply to be encoded again is returned
    as a string.
    """
    if _is_deep(raw):
        return raw.decode(), False
    try:
        return orjson.loads(bytes(raw)), _LONG not in raw.translate(_DIGITS)
    except orjson.JSONDecodeError:  # a number beyond the floats
        return json.loads(raw, parse_int=_number), False


def _number(digits: str) -> int | float:
    """An integer if it fits into the 64 bits of the encoders, or else the nearest float."""
    return number if len(digits) < 21 and -(2**63) <= (number := int(digits)) < 2**64 else float(digits)


def encode(value: object) -> bytes:
    """The JSON of a value, with its ``Raw`` parts and its exact numbers unchanged."""
    return orjson.dumps(value, default=fragment)


def fragment(value: object) -> orjson.Fragment:
    """The JSON of a ``Raw`` value or an exact number; ``TypeError`` for others."""
    if isinstance(value, Raw):
        return orjson.Fragment(bytes(value))
    if isinstance(value, ExactNumber):
        return orjson.Fragment(value.digits)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _safe(value: bytes) -> bool:
    """Whether parsing and encoding gives the same value. For a string it always does."""
    if value.startswith(b'"'):
        return True
    if _INTEGER.fullmatch(value):
        return -(2**63) <= int(value) < 2**64
    return _LONG not in value.translate(_DIGITS) and value.count(b"{") + value.count(b"[") <= JSON_MAX_DEPTH


def _is_deep(value: bytes) -> bool:
    """Whether a value is nested in more than ``JSON_MAX_DEPTH`` levels."""
    if value.count(b"{") + value.count(b"[") <= JSON_MAX_DEPTH:
        return False
    steps = ((token[0] in b"{[") - (token[0] in b"}]") for token in _TOKEN.finditer(value))
    return max(accumulate(steps)) > JSON_MAX_DEPTH


def _members(row: bytes) -> Iterator[tuple[str, bytes]]:
    """The names and values of an object's members, as JSON. The items of an array have empty names."""
    depth, start, name = 0, 0, ""
    for token in _TOKEN.finditer(row):
        mark = token[0]
        if mark in b"}]":
            depth -= 1
        if depth == 1 and mark == b":":
            name, start = orjson.loads(row[start : token.start()]), token.end()
        elif (depth == 1 and mark == b",") or (depth == 0 and mark in b"}]"):
            yield name, row[start : token.start()].strip()
            start = token.end()
        if mark in b"{[":
            depth += 1
            start = token.end() if depth == 1 else start
