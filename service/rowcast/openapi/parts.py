"""The components of a document that some of its parts need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_COMPONENTS: Final = "#/components/"


def needed_components(components: Mapping[str, Mapping[str, Any]], *parts: Any) -> dict[str, dict[str, Any]]:
    """The components to which parts of the document lead, in the order that they have there."""
    needed: set[tuple[str, str]] = set()
    pending = [*parts]
    while pending:
        for reference in _references(pending.pop()):
            section, _, name = reference.removeprefix(_COMPONENTS).partition("/")
            if (section, name) not in needed:
                needed.add((section, name))
                pending.append(components[section][name])
    return {
        section: {name: part for name, part in entries.items() if (section, name) in needed}
        for section, entries in components.items()
    }


def _references(part: Any) -> Iterator[str]:
    """Every ``$ref`` to a component inside a part of a document."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if name == "$ref" and isinstance(value, str) and value.startswith(_COMPONENTS):
                yield value
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)
