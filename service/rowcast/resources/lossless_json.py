"""Rows as JSON objects that PostgreSQL has written, parsed so that nothing of them is lost.

JSON knows numbers of any size and values of any depth, and ``jsonb`` stores them; a parser gives floats, and gives up.
What would not come back as it is, a row keeps as the bytes that it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

import orjson

JSON_MAX_DEPTH: Final = 200  # brackets in a value that every encoder can follow, however they are nested
_DIGITS: Final = bytes(b"0"[0] if byte in b"0123456789." else b" "[0] for byte in range(256))
_LONG: Final = b"0" * 17  # digits and points of a number that a float may not hold exactly; it holds 16 of them
_INTEGER: Final = re.compile(rb"-?[1-9][0-9]{16,19}")  # which an encoder takes where it has 64 bits
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)


class Raw(bytes):
    """A value as the JSON that it was. Two are equal if their text is."""


def parse(row: bytes) -> dict[str, Any]:
    """A row by column; a value that Python would not give back as it was is ``Raw``."""
    if _safe(row):
        parsed: dict[str, Any] = orjson.loads(row)
        return parsed
    return {name: orjson.loads(value) if _safe(value) else Raw(value) for name, value in _members(row)}


def nested(value: Any) -> list[dict[str, Any]]:
    """The rows of a member that is one, none or a list of them, each as ``parse`` has it."""
    if isinstance(value, Raw):
        return [parse(row) for _, row in _members(value)] if value.startswith(b"[") else [parse(value)]
    return value if isinstance(value, list) else [] if value is None else [value]


def nearest(raw: Raw) -> tuple[Any, bool]:
    """The value in Python, and whether it is exactly that.

    A number may be the nearest float, or infinity. What is nested too deep to be encoded again is the text.
    """
    if _is_deep(raw):
        return raw.decode(), False
    try:
        return orjson.loads(bytes(raw)), _LONG not in raw.translate(_DIGITS)
    except orjson.JSONDecodeError:  # a number beyond the floats
        return json.loads(raw, parse_int=_number), False


def _number(digits: str) -> int | float:
    """An integer of the 64 bits that an encoder takes, or the nearest float."""
    return number if len(digits) < 21 and -(2**63) <= (number := int(digits)) < 2**64 else float(digits)


def encode(value: Any) -> bytes:
    """The JSON of a value, whose ``Raw`` parts come out as they came in."""
    return orjson.dumps(value, default=_as_it_was)


def _as_it_was(value: Any) -> orjson.Fragment:
    if isinstance(value, Raw):
        return orjson.Fragment(bytes(value))
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _safe(value: bytes) -> bool:
    """Whether parsing and encoding gives the same value; a text always does."""
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
    """The members of an object, or those of an array without a name, each with the text of its value."""
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
