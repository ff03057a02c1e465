"""What a CHECK of a table's owner asks of values, in a sentence for clients, if it is one of the usual comparisons.

The text is PostgreSQL's own (``pg_get_expr``), which has parentheses around each part and the casts that it has added. What is not
a comparison of fields with values, of their lengths with numbers, or of two fields, has no sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

SENTENCES_MAX_CHARACTERS: Final = 300
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?)|(?P<name>[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")"""
    r"""|(?P<sign>::|<=|>=|<>|[-<>=(),\[\]]))""",
    re.IGNORECASE,
)
_PHRASES: Final[Mapping[str, str]] = {
    ">": "greater than", ">=": "at least", "<": "less than", "<=": "at most", "=": "", "<>": "",
}  # fmt: skip
_FLIPPED: Final = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_LENGTHS: Final = {"length", "char_length", "character_length"}
_TYPE_WORDS: Final = {"varying", "precision", "with", "without", "time", "zone"}  # after the first word of a type


@dataclass(frozen=True, slots=True)
class _Field:
    name: str


@dataclass(frozen=True, slots=True)
class _Length:
    field: _Field


@dataclass(frozen=True, slots=True)
class _Value:
    text: str


_Operand: TypeAlias = _Field | _Length | _Value


@dataclass(frozen=True, slots=True)
class _Comparison:
    left: _Operand
    sign: str
    right: _Operand | tuple[_Value, ...]


_Node: TypeAlias = _Operand | tuple[_Value, ...] | list[_Comparison]


class _NoSentence(Exception):
    """The expression is none of those that a sentence is made of."""


def sentence_of(expression: str, fields: Mapping[str, str], *, named: bool = False) -> str | None:
    """What an expression asks for; ``None`` if that is not known. ``fields`` has the names of fields by column.

    Where there are several, or if they have to be ``named``, the sentence names them.

    >>> sentence_of("((price >= (0)::numeric) AND (price < (100)::numeric))", {"price": "price"})
    'Must be at least 0. Must be less than 100.'
    >>> sentence_of("(starts < ends)", {"starts": "starts", "ends": "ends"})
    'starts must be less than ends.'
    >>> sentence_of("((state)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))", {"state": "state"})
    'Must be one of: a, b.'
    >>> sentence_of("(char_length((code)::text) = 3)", {"code": "code"})
    'Must have 3 characters.'
    >>> sentence_of("(price > cost(id))", {"price": "price", "id": "id"})
    """
    try:
        comparisons = _Parser(expression, fields).whole()
        alone = not named and len({each.name for comparison in comparisons for each in _fields_of(comparison)}) == 1
        found = " ".join(_sentence(comparison, alone=alone) for comparison in comparisons)
    except _NoSentence:
        return None
    return found if len(found) <= SENTENCES_MAX_CHARACTERS else None


class _Parser:
    def __init__(self, expression: str, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self._tokens: list[tuple[str, str]] = []
        place = 0
        while expression[place:].strip():
            match = _TOKEN.match(expression, place)
            if match is None:
                raise _NoSentence
            self._tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            place = match.end()
        self._tokens.append(("end", ""))
        self._at = 0

    def whole(self) -> list[_Comparison]:
        found = self._conditions()
        self._expect("")
        if not isinstance(found, list):
            raise _NoSentence
        return found

    def _conditions(self) -> _Node:
        """Comparisons with AND between them, or a single operand."""
        found = self._condition()
        while self._take("AND"):
            following = self._condition()
            if not (isinstance(found, list) and isinstance(following, list)):
                raise _NoSentence
            found = found + following
        return found

    def _condition(self) -> _Node:
        left = self._operand()
        sign = self._tokens[self._at][1]
        if sign not in _PHRASES:
            return left
        self._at += 1
        if self._take("ANY"):
            if sign != "=":
                raise _NoSentence
            self._expect("(")
            right = self._conditions()
            self._expect(")")
            if not isinstance(right, tuple):
                raise _NoSentence
        else:
            right = self._operand()
        if isinstance(left, list | tuple) or isinstance(right, list):
            raise _NoSentence
        return [_Comparison(left, sign, right)]

    def _operand(self) -> _Node:
        found = self._plain_operand()
        while self._take("::"):
            self._skip_type()
        return found

    def _plain_operand(self) -> _Node:
        kind, token = self._tokens[self._at]
        self._at += 1
        if kind == "text":
            return _Value(token[1:-1].replace("''", "'"))
        if kind == "number":
            return _Value(token)
        if token == "-" and self._tokens[self._at][0] == "number":
            self._at += 1
            return _Value(f"-{self._tokens[self._at - 1][1]}")
        if token == "(":
            found = self._conditions()
            self._expect(")")
            return found
        if token == "ARRAY":
            return self._array()
        if kind == "name":
            return self._named(token)
        raise _NoSentence

    def _named(self, token: str) -> _Node:
        if token in _LENGTHS and self._take("("):
            of = self._conditions()
            self._expect(")")
            if isinstance(of, _Field):
                return _Length(of)
            raise _NoSentence
        column = token[1:-1].replace('""', '"') if token.startswith('"') else token
        if column not in self._fields:
            raise _NoSentence
        return _Field(self._fields[column])

    def _array(self) -> tuple[_Value, ...]:
        self._expect("[")
        found = [self._operand()]
        while self._take(","):
            found.append(self._operand())
        self._expect("]")
        values = tuple(each for each in found if isinstance(each, _Value))
        if len(values) < len(found):
            raise _NoSentence
        return values

    def _skip_type(self) -> None:
        kind, _ = self._tokens[self._at]
        if kind != "name":
            raise _NoSentence
        self._at += 1
        while True:
            if self._take("("):
                while not self._take(")"):
                    if self._tokens[self._at][0] not in ("number", "sign"):
                        raise _NoSentence
                    self._at += 1
            elif self._take("["):
                self._expect("]")
            elif self._tokens[self._at][1] in _TYPE_WORDS:
                self._at += 1
            else:
                return

    def _take(self, token: str) -> bool:
        if self._tokens[self._at] != ("text", token) and self._tokens[self._at][1] == token:
            self._at += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise _NoSentence


def _fields_of(comparison: _Comparison) -> list[_Field]:
    found = []
    for each in (comparison.left, comparison.right):
        if isinstance(each, _Length):
            found.append(each.field)
        elif isinstance(each, _Field):
            found.append(each)
    return found


def _sentence(comparison: _Comparison, *, alone: bool) -> str:
    """A comparison as a sentence; ``alone`` is about one field, which is named where the sentence is shown."""
    left, sign, right = comparison.left, comparison.sign, comparison.right
    if isinstance(left, _Value) and isinstance(right, _Field | _Length):
        left, sign, right = right, _FLIPPED.get(sign, sign), left
    match left, sign, right:
        case _Length(field), "<>", _Value():
            raise _NoSentence
        case _Length(field), _, _Value(number):
            return f"{_subject(field, alone=alone)} have {_phrase(sign)}{number} characters."
        case _Field(name), "<>", _Value(""):
            return "May not be blank." if alone else f"{name} may not be blank."
        case _Field(), "=", tuple():
            return f"{_subject(left, alone=alone)} be one of: {', '.join(each.text for each in right)}."
        case _Field(), _, _Value(other) | _Field(other) if other:
            return f"{_subject(left, alone=alone)} {'not be ' if sign == '<>' else f'be {_phrase(sign)}'}{other}."
    raise _NoSentence


def _subject(field: _Field, *, alone: bool) -> str:
    return "Must" if alone else f"{field.name} must"


def _phrase(sign: str) -> str:
    """What comes before a value."""
    return f"{_PHRASES[sign]} " if _PHRASES[sign] else ""
