"""What a user's viewset class adds to Rowcast's: the methods it overrides, and attributes that look like mistakes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from rowcast.rest.decorators import is_action

OTHERS_OPTIONS: Final[Mapping[str, str]] = {
    "http_method_names": "name the actions in allowed_actions or excluded_actions",
    "parser_classes": "bodies are JSON, and imports also CSV and NDJSON",
    "renderer_classes": "responses are JSON, and lists also CSV and NDJSON",
    "content_negotiation_class": "responses are JSON, and lists also CSV and NDJSON",
    "versioning_class": "give each version resources of its own, or a service",
    "metadata_class": "override metadata() to change the response to OPTIONS",
}
"""Options of Django REST framework that would be ignored, and what there is instead."""


def is_ours(owner: type) -> bool:
    """Whether a class is Rowcast's or Python's, rather than a user's."""
    return owner.__module__.startswith("rowcast.") or owner is object


def has_users_code(cls: type) -> bool:
    """Whether a class, a parent, or a part of a combined permission is a user's."""
    return not all(map(is_ours, cls.__mro__)) or any(map(has_users_code, getattr(cls, "parts", ())))


def overridden_methods(cls: type) -> frozenset[str]:
    """The names of Rowcast's methods that a user's class, or one of its parents, replaces."""
    if all(map(is_ours, cls.__mro__)):
        return frozenset()
    ours = [owner for owner in cls.__mro__ if owner.__module__.startswith("rowcast.")]
    names = {
        name
        for owner in ours
        for name, member in vars(owner).items()
        if inspect.isroutine(member) or isinstance(member, property)
    }
    return frozenset(name for name in names if not is_ours(owner_of(cls, name)))


def owner_of(cls: type, name: str) -> type:
    """The class that an attribute comes from."""
    return next(owner for owner in cls.__mro__ if name in vars(owner))


def near_misses(cls: type, options: Iterable[str]) -> Iterator[str]:
    """A message for each attribute of a user's class that is almost an option, or has a name that instances need."""
    users = [owner for owner in cls.__mro__ if not is_ours(owner)]
    if not users:
        return
    names = [*options, "model", "queryset", "lookup_url_kwarg", "lookup_value_regex"]
    ours = [owner for owner in cls.__mro__ if is_ours(owner)]
    instance_names = {name for owner in ours for name in inspect.get_annotations(owner)}
    class_names = {name for owner in ours for name in vars(owner)}
    for owner in users:
        for name, value in vars(owner).items():
            if name in instance_names - class_names:
                yield f"{name}: viewsets have an attribute of this name; choose another one"
            if name in OTHERS_OPTIONS and name not in class_names:
                yield f"{name} is not read: {OTHERS_OPTIONS[name]}"
                continue
            if name.startswith("_") or callable(value) or name in class_names:
                continue
            if near := get_close_matches(name, names, n=1, cutoff=0.75):
                yield f"{name} is not an option; did you mean {near[0]}?"


def actions_of(cls: type, standard: Iterable[str]) -> list[str]:
    """The names of the actions that a class has."""
    extra = [name for name, _ in inspect.getmembers(cls, is_action)]
    return [*(name for name in standard if hasattr(cls, name)), *extra]
