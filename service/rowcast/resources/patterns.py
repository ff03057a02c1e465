"""A string that a regular expression matches, made from its parts as Python parses them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from re import _constants as codes
from re import _parser as parser
from typing import Any, Final

ALPHABET: Final = string.ascii_lowercase + string.digits + string.ascii_uppercase + " " + string.punctuation
_CATEGORIES: Final[dict[Any, Callable[[str], bool]]] = {
    codes.CATEGORY_DIGIT: str.isdigit,
    codes.CATEGORY_NOT_DIGIT: lambda character: not character.isdigit(),
    codes.CATEGORY_SPACE: str.isspace,
    codes.CATEGORY_NOT_SPACE: lambda character: not character.isspace(),
    codes.CATEGORY_WORD: lambda character: character.isalnum() or character == "_",
    codes.CATEGORY_NOT_WORD: lambda character: not (character.isalnum() or character == "_"),
}


def example(pattern: str, number: int) -> str | None:
    """A string that a pattern matches; another one for each number, as far as the pattern has them.

    ``None`` for a pattern that needs more than its parts one by one, such as one with a lookahead.
    """
    choices = _Choices(number - 1)
    try:
        made = "".join(_parts(parser.parse(pattern), choices))
    except LookupError:
        return None
    return made if re.search(pattern, made) else None


class _Choices:
    """The digits of a number, each to the base of the choice that it makes."""

    def __init__(self, number: int) -> None:
        self._left = number

    def of(self, options: Any) -> Any:
        """One of some options; ``LookupError`` if there is none."""
        self._left, place = divmod(self._left, len(options) or 1)
        return options[place]


def _parts(parsed: Any, choices: _Choices) -> Iterator[str]:
    """The string for each part of a pattern."""
    groups: dict[int, str] = {}
    for code, value in parsed:
        if code is codes.LITERAL:
            yield chr(value)
        elif code in (codes.IN, codes.NOT_LITERAL, codes.ANY):
            yield choices.of([character for character in ALPHABET if _takes(code, value, character)])
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, inner = value
            for _ in range(max(least, min(1, most))):
                yield from _parts(inner, choices)
        elif code is codes.SUBPATTERN:
            groups[value[0]] = "".join(_parts(value[-1], choices))
            yield groups[value[0]]
        elif code is codes.GROUPREF:
            yield groups[value]
        elif code is codes.BRANCH:
            yield from _parts(choices.of(value[1]), choices)
        elif code is not codes.AT:
            raise LookupError(code)


def _takes(code: Any, value: Any, character: str) -> bool:
    """Whether a part of one character matches this one."""
    if code is codes.ANY:
        return True
    if code is codes.NOT_LITERAL:
        return bool(ord(character) != value)
    negated = bool(value[0][0] is codes.NEGATE)
    return negated != any(_has(each, character) for each in value[1 if negated else 0 :])


def _has(member: tuple[Any, Any], character: str) -> bool:
    code, value = member
    if code is codes.LITERAL:
        return ord(character) == int(value)
    if code is codes.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    return bool(_CATEGORIES[value](character))
