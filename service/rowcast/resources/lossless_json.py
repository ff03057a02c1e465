"""Rows as JSON objects written by PostgreSQL, parsed without loss.

JSON has numbers of any size and values of any depth, and ``jsonb`` stores them. Python's parsers round such numbers to
floats and fail at great depth. A value that would not come back unchanged stays in a row as its bytes (``Raw``).
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
_INTEGER: Final = re.compile(rb"-?[1-9][0-9]{16,19}")  # encoders take it if it fits into 64 bits
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)


class Raw(bytes):
    """A value as its original JSON. Two values are equal if their JSON is the same string."""


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


def encode(value: Any) -> bytes:
    """The JSON of a value, with its ``Raw`` parts unchanged."""
    return orjson.dumps(value, default=_fragment)


def _fragment(value: Any) -> orjson.Fragment:
    if isinstance(value, Raw):
        return orjson.Fragment(bytes(value))
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
