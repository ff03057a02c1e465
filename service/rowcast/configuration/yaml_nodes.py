"""The nodes of a YAML document, with their places: what both parsers make of its text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

MAX_DEPTH: Final = 64

Kind: TypeAlias = Literal["scalar", "list", "mapping"]


@dataclass(slots=True)
class Node:
    """A scalar with its text, a list of nodes, or a mapping as pairs of nodes. Line and column count from 1.

    ``plain`` is a scalar without quotes, and ``empty`` one without any character. ``tag`` is a tag that is written.
    """

    kind: Kind
    line: int
    column: int
    value: Any = field(default_factory=list)
    plain: bool = False
    empty: bool = False
    tag: str = ""


@dataclass
class Unreadable(Exception):
    """The text is not YAML: where, and why."""

    line: int
    column: int
    message: str
