"""The option ``primary_key`` of a resource: the fields that are its key together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.composite import can_be_part
from rowcast.resources.fields import Field, Kind
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.types import make_field

_IMPOSSIBLE: Final = (
    ("null", "a primary key is never null"),
    ("write_only", "the key of a row is always visible, at least in its URL"),
    ("auto_now", "the service would change the key with each update"),
)


def set_primary_key(
    names: Sequence[str], fields: dict[str, Field], lost: Collection[str], report: Callable[[Steps, str], None]
) -> tuple[str, ...]:
    """Mark the fields that are the key together, and return their names; empty if a single field is the key.

    If the option is wrong, the problems are reported, and another field is the key, so that no other error follows.
    """
    if not names:
        return ()
    found = list(_problems(names, fields, lost))
    for path, message in found:
        report(("primary_key", *path), message)
    if found or not fields.keys() >= set(names):
        set_some_key(fields)
        return ()
    for name in names:
        fields[name] = replace(fields[name], primary_key=len(names) == 1, key_part=len(names) > 1)
    return tuple(names) if len(names) > 1 else ()


def set_some_key(fields: dict[str, Field]) -> None:
    """Make a field the key if none is, because of an error that is reported already: no other shall follow from it."""
    if not any(field.primary_key for field in fields.values()):
        fields["id"] = replace(fields.get("id") or make_field("id", "uuid", required=False), primary_key=True)


def _problems(names: Sequence[str], fields: Mapping[str, Field], lost: Collection[str]) -> Iterator[tuple[Steps, str]]:
    for other in fields.values():
        if other.primary_key:
            yield (), AboutKey(f"field {other.name!r} is the primary key already; keep one of them")
            return
    if len(names) == 1 and names[0] in fields and fields[names[0]].field_type.kind is not Kind.RELATION:
        yield (
            (),
            AboutKey(
                f"primary_key is for keys of several fields, and for a foreign key; give {names[0]!r} primary_key: true"
            ),
        )
        return
    for position, name in enumerate(names):
        field = fields.get(name)
        if field is None:
            if name not in lost:
                yield (position,), f"there is no field {name!r}; {did_you_mean(name, fields)}"
        elif name in names[:position]:
            yield (position,), f"{name!r} is listed twice"
        elif not can_be_part(field):
            yield (position,), f"{name!r} is of type {field.type}, which cannot be part of a key"
        else:
            for option, reason in _IMPOSSIBLE:
                if getattr(field, option):
                    yield (position,), f"{name!r} has {option}: true, but {reason}"


def reference_problem(resource: Resource, field: Field, draft: Resources) -> str | None:
    """Why a field cannot refer to the rows of its target, or have links at all; ``None`` if it can."""
    assert field.to is not None
    many = field.field_type.kind is Kind.RELATIONS
    for side in (draft[field.to], resource) if many else (draft[field.to],):
        if side.primary_key:
            columns = "a link has one column for each side" if many else "a foreign_key has one column"
            key = ", ".join(side.primary_key)
            return (
                f"{side.name} has the key [{key}], but {columns}; only resources with a key of one field can be linked"
            )
    return None


def circular_key(resource: Resource, draft: Resources) -> str | None:
    """The message for a key that is a foreign key and leads back to itself; ``None`` for all others."""
    seen = [resource.name]
    while (target := draft[seen[-1]].key.to) is not None:
        if target in seen:
            return f"the keys of {', '.join(seen)} refer to one another, so no row could be the first"
        seen.append(target)
    return None
