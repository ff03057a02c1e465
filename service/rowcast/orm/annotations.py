"""What rows may have of their related rows (``annotate``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rowcast.errors import did_you_mean
from rowcast.orm.expressions import F, Q
from rowcast.orm.model import Model
from rowcast.resources.aggregates import RELATED_FUNCTIONS
from rowcast.resources.resource import Resources


def check_annotations(resources: Resources, of: type[Model], functions: Mapping[str, tuple[str, str]]) -> None:
    """``ValueError`` for a name that rows have already, an unknown function, or a path that leads to one value."""
    resource = of.resource()
    for name, (function, path) in functions.items():
        if name in resource.fields or name in resource.columns or hasattr(of, name) or name.startswith("_"):
            raise ValueError(f"annotate: rows of {resource.name} have an attribute {name!r}; choose another name")
        if name in resources.relations(resource.name):
            raise ValueError(f"annotate: {resource.name} has a relation {name!r}; choose another name")
        if function not in RELATED_FUNCTIONS:
            raise ValueError(f"annotate: unknown function {function!r}; {did_you_mean(function, RELATED_FUNCTIONS)}")
        found = resources.resolve(resource.name, path)
        if not found.many or found.computed:
            raise ValueError(f"annotate: {path} does not lead to many rows, so there is nothing to aggregate")
        if found.values.parts and function != "count":
            raise ValueError(f"annotate: {function} does not suit {path}, a key of several fields")


def paths_of(functions: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The path of each annotation, by its name: ``tasks__count`` for ``n=("count", "tasks")``."""
    return {name: f"{path}__{function}" for name, (function, path) in functions.items()}


def with_paths(condition: Q, paths: Mapping[str, str]) -> Q:
    """A condition in which paths stand for the names of annotations."""
    if not paths:
        return condition
    made = Q(*(with_paths(part, paths) for part in condition.parts))
    made.operator = condition.operator
    made.lookups = {_path(name, paths): _value(value, paths) for name, value in condition.lookups.items()}
    return made


def steps_with_paths(steps: Iterable[str], paths: Mapping[str, str]) -> tuple[str, ...]:
    """The steps of an order, in which paths stand for the names of annotations."""
    return tuple(f"{'-' * step.startswith('-')}{_path(step.removeprefix('-'), paths)}" for step in steps)


def _path(name: str, paths: Mapping[str, str]) -> str:
    """A name, perhaps followed by a lookup, with a path in place of the name of an annotation.

    >>> _path("n__gte", {"n": "tasks__count"}), _path("name", {"n": "tasks__count"})
    ('tasks__count__gte', 'name')
    """
    found = max((each for each in paths if name == each or name.startswith(f"{each}__")), key=len, default=None)
    return name if found is None else f"{paths[found]}{name[len(found) :]}"


def _value(value: object, paths: Mapping[str, str]) -> object:
    if not isinstance(value, F):
        return value
    return F(
        value.name and _path(value.name, paths),
        value.sign,
        *(_value(side, paths) for side in (value.left, value.right)),
    )
