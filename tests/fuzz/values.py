"""Hostile values: numbers, strings, regular expressions and JSON that some part of a service will not like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random

from tests.http.library import KINDS

BODY_BYTES = 1_000_000
COLUMNS = [name for name in KINDS if name != "id"]


def number(chance: Random) -> str:
    """A number that some part of a service will not like."""
    many = chance.choice((20, 400, 1001, 5000, 50_000))
    return chance.choice((
        "9" * many, "-" + "9" * many, "0." + "0" * many + "1", "1" + "0" * many, "0" * many, "1." + "3" * many,
        "1e400", "-1e400", "1e-400", "1E+999999999", "1e-999999999", "1e308", "4.9e-324", "1e", ".", "-", "+1", "1.", ".5",
        "NaN", "Infinity", "-Infinity", "-0", "-0.0", "0x10", "1_000", "٣", "1,5", "", " 1", "1 ", "00001", "1.0",
        str(2**31), str(-(2**31) - 1), str(2**53 + 1), str(2**63), str(-(2**63) - 1), str(2**64), "1e18446744073709551616",
    ))  # fmt: skip


def text(chance: Random) -> str | bytes:
    """A string that some part of a service will not like."""
    many = chance.choice((1, 50, 3000, 50_000))
    return chance.choice((
        "\0", "a\0b", "\ud800", "\udfff\ud800", "\ufeff", "\u202e", "\u2028", "\U0010ffff", "e" + "\u0301" * many, "ﷺ" * many,
        b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe9", "", " " * many, "\t\r\n", "\x7f", "%00", "%",
        "_" * many, "%" * many, "\\" * many, "'" * many, '"' * many, "a" * many, "a " * many, "{}" * many, "$1", "%s%n", "{0}",
        "'; SELECT pg_sleep(9) --", "a'||pg_sleep(9)||'", ":x", "?", "null", "true", "()" * many, "ß" * many, "İ" * many,
        "a@" + "a." * many, "a@" + "a" * many, "@" * many, "http://" + "a." * many, "http://" + "[" * many, "http://a:" + "9" * many,
        "P" + "1Y" * many, "PT" + "9" * many + "S", "P1Y2M3DT4H5M6.7S", "2026-02-30", "0000-01-01", "9999-12-31T23:59:60Z",
        "2026-01-01T00:00:00+99:99", "2026-01-01T00:00:00." + "9" * many + "Z", "-" * many, "a-" * many, "[" * many, "(" * many,
        "<script>alert(1)</script>", "../" * many, "AB" + "1" * many, "AB" + "1" * many + "!",
    ))  # fmt: skip


def expression(chance: Random) -> str:
    """A regular expression that explodes, or is none."""
    many = chance.choice((2, 10, 60, 1000))
    return chance.choice((
        r"(.+)(.+)(.+)\3\2\1", r"(.*)\1(.*)\2(.*)\3$", "(a*)*$", "(a|a)*b", "(a+)+!", "((a{1,100}){1,100}){1,100}", "a{255}" * many,
        "(" * many + ")" * many, "(" * many, "[" * many, "\\", "\\" * many, "*", "a**", "(?i)a", "(?=a)" * many, "***=a", "***:a",
        "(?:" * many + "a" + ")*" * many, "[[:alpha:]]" * many, "[[:nonsense:]]", "[z-a]", "a{9999}", "a{1,0}", "\\x" + "f" * many,
        "(x+x+)+y" * many, "|" * many, "^" * many, ".*" * many, r"\d" * many, "(.)" * many + "\\9" * 9, "\0", "\ud800",
    ))  # fmt: skip


def nested(chance: Random) -> str:
    """JSON, nested a little or a lot, whole or cut."""
    depth = chance.choice((10, 199, 200, 201, 255, 1024, 20_000, 200_000))
    opening, middle, closing = chance.choice((
        ("[", "", "]"), ('{"a":', "1", "}"), ('[{"a":', "[]", "}]"), ("[[],", "1", "]"), ('{"a":', "", ""), ("[", "", ""),
    ))  # fmt: skip
    depth = min(depth, BODY_BYTES // len(opening + closing))
    return opening * depth + middle + closing * depth


def value(chance: Random) -> str | bytes:
    """Any of the strings above."""
    return chance.choice((number, text, expression, nested))(chance)


def literal(chance: Random) -> str:
    """Any value as JSON, where that is possible."""
    kind = chance.randrange(6)
    if kind == 0:
        return number(chance) or "0"
    if kind == 1:
        return nested(chance)[: BODY_BYTES // 2]
    if kind == 2:
        item = chance.choice(("1", '"a"', "null", "[]", "{}", '"mark01"'))
        return "[" + ",".join([item] * chance.choice((0, 3, 5000, 100_000))) + "]"
    if kind == 3:
        return chance.choice(
            ("null", "true", "false", "{}", "[]", '""', '"\\ud800"', '"\\u0000"', '"\\x"', "'a'", "//", "undefined")
        )
    string = value(chance)
    return json.dumps(string if isinstance(string, str) else string.decode("latin-1"))


THINGS = (
    "string", "coded", "text", "initials", "chosen", "rated", "email", "url", "slug", "uuid", "integer", "big", "float", "bounded",
    "decimal", "price", "exact", "whole", "part", "boolean", "date", "time", "datetime", "duration", "json", "document", "numbers",
    "words", "colours", "prices", "bags", "box_id", "marks", "secret", "views", "id", "unknown",
)  # fmt: skip
GOOD: Mapping[str, str] = {
    "string": '"ab"', "email": '"a@example.org"', "slug": '"a"', "integer": "1", "decimal": '"1.25"', "document": "{}", "words": '["w"]',
}  # fmt: skip


def body_of(chance: Random, fields: Sequence[str]) -> bytes:
    """A JSON object with a hostile value in one of its fields or a few, and good ones in those that are required."""
    members = dict(GOOD) if fields is THINGS and chance.random() < 0.7 else {}
    for name in chance.sample(fields, min(len(fields), chance.choice((1, 1, 2, 3)))):
        members[name] = literal(chance)
    body = ",".join(f'"{name}":{value}' for name, value in members.items())
    return b"{%b}" % body.encode("utf-8", "surrogatepass")[:BODY_BYTES]
