"""The state of an instance: one object, so that all other attribute names are free for columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

from rowcast.resources.resource import Resource


@dataclass(slots=True)
class RowState:
    """The values of a row by column, as they were read or set.

    ``saved`` is whether the row is in the database, and ``purging`` whether ``delete()`` is to delete it for good. ``exact`` has the stored JSON of columns for which Python has only a
    nearest value. ``related`` has the related rows that are loaded, by relation. ``changed`` are the names to save.
    """

    resource: Resource
    values: dict[str, Any]
    saved: bool
    exact: dict[str, Any] = field(default_factory=dict)
    related: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    purging: bool = False

    @property
    def key(self) -> Any:
        """The value of the primary key; ``None`` if there is none yet."""
        return self.resource.key_in(self.values)


class Row:
    """The base of all models."""

    __slots__ = ("_state",)


state_of: Callable[[Row], RowState] = attrgetter("_state")
R = TypeVar("R", bound=Row)


def set_state(row: Row, state: RowState) -> None:
    """Replace the state of an instance."""
    object.__setattr__(row, "_state", state)


def instance(of: type[R], state: RowState) -> R:
    """An instance of a model with a state."""
    row = of.__new__(of)
    set_state(row, state)
    return row
