"""Logged rows: JSON objects as PostgreSQL has written them, parsed so that nothing of them is lost.

JSON knows numbers of any size and values of any depth, and ``jsonb`` stores them; a parser gives floats, and gives up.
What would not come back as it is, a row keeps as the bytes that it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

DEPTH: Final = 200  # brackets in a value that every encoder can follow, however they are nested
_DIGITS: Final = bytes(b"0"[0] if byte in b"0123456789." else b" "[0] for byte in range(256))
_LONG: Final = b"0" * 17  # digits and points of a number that a float may not hold exactly; it holds 16 of them
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]', re.DOTALL)


class Raw(bytes):
    """A value as the JSON that it was. Two are equal if their text is."""


def parse(row: bytes) -> dict[str, Any]:
    """A row by column; a value that Python would not give back as it was is ``Raw``."""
    if _safe(row):
        parsed: dict[str, Any] = orjson.loads(row)
        return parsed
    return {name: orjson.loads(value) if _safe(value) else Raw(value) for name, value in _members(row)}


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
    return _LONG not in value.translate(_DIGITS) and value.count(b"{") + value.count(b"[") <= DEPTH


def _members(row: bytes) -> Iterator[tuple[str, bytes]]:
    """The members of an object, each with the text of its value."""
    depth, start, name = 0, 0, ""
    for token in _TOKEN.finditer(row):
        mark = token[0]
        if mark in b"}]":
            depth -= 1
        if depth == 1 and mark == b":":
            name, start = orjson.loads(row[start : token.start()]), token.end()
        elif (depth == 1 and mark == b",") or (depth == 0 and mark == b"}"):
            yield name, row[start : token.start()].strip()
            start = token.end()
        if mark in b"{[":
            depth += 1
            start = token.end() if depth == 1 else start
