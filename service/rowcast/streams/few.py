"""A set of a few things: a tuple while there is one at most, since a set of one takes 216 bytes, and most groups have one member."""

from __future__ import annotations

from typing import TypeAlias, TypeVar

Item = TypeVar("Item")
Few: TypeAlias = "tuple[()] | tuple[Item] | set[Item]"


def with_one(some: Few[Item], one: Item) -> Few[Item]:
    """A set with one more; it replaces the one that was given."""
    if isinstance(some, set):
        some.add(one)
        return some
    return (one,) if not some else {*some, one}


def without(some: Few[Item], one: Item) -> Few[Item]:
    """A set without something; it replaces the one that was given."""
    if isinstance(some, set):
        some.discard(one)
        return some
    return () if one in some else some


def few(items: set[Item]) -> Few[Item]:
    """The items of a set that nothing else uses from here on."""
    return items if len(items) > 1 else tuple(items)  # type: ignore[return-value]


def many(some: Few[Item]) -> set[Item]:
    """The items as a set that nothing else uses from here on."""
    return some if isinstance(some, set) else set(some)
