"""Rules of a resource over several columns or by expressions: unique rules with conditions, and checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

DIGEST_BYTES: Final = 3


@dataclass(frozen=True, slots=True)
class UniqueRule:
    """Columns whose values no two rows have together.

    Those in ``lower`` are compared without case. With ``where``, an SQL condition, the rule is about the rows that meet it.
    With ``nulls_equal`` a null is a value as any other. ``message`` is sent to clients in the place of the usual one.
    """

    columns: tuple[str, ...]
    lower: tuple[str, ...] = ()
    where: str | None = None
    nulls_equal: bool = False
    message: str | None = None

    @property
    def plain(self) -> bool:
        """Whether a unique constraint expresses the rule."""
        return not (self.lower or self.where or self.nulls_equal)

    @property
    def taken(self) -> str:
        """The message for a row whose values another row has."""
        if self.message is not None:
            return self.message
        if len(self.columns) == 1:
            return "Another row has this value."
        return f"Another row has these values of {', '.join(self.columns)}."

    def lacks(self, values: Mapping[str, Any], column: str) -> bool:
        """Whether a row has no value of one of the columns by which the rule could find it."""
        return values.get(column) is None and not (self.nulls_equal and column in values)

    def compared(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of the columns so that they are equal where the rule says that they are; they can be keys."""
        return tuple(_comparable(values.get(name), lower=name in self.lower) for name in self.columns)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the name of the rule's index has after the names of the columns."""
        words: list[str] = []
        if self.lower:
            words += ["lower", *(self.lower if self.lower != self.columns else ())]
        if self.nulls_equal:
            words.append("nulls")
        if self.where:
            words.append(digest(self.where))
        return tuple(words)


def _comparable(value: Any, *, lower: bool) -> Any:
    if lower and isinstance(value, str):
        return value.lower()
    return repr(value) if isinstance(value, list | dict) else value


@dataclass(frozen=True, slots=True)
class CheckRule:
    """An SQL condition that each row meets, and the message, and the field that the message is about, if it is not."""

    expr: str
    message: str | None = None
    field: str | None = None


def digest(text: str) -> str:
    """A few letters that stand for an expression in the name of a constraint."""
    return hashlib.blake2s(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
