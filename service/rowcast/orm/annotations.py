"""What rows may have of their related rows (``annotate``)."""

from __future__ import annotations

from collections.abc import Mapping

from rowcast.errors import did_you_mean
from rowcast.orm.model import Model
from rowcast.orm.statements import AGGREGATES
from rowcast.resources.resource import Resources


def check_annotations(resources: Resources, of: type[Model], functions: Mapping[str, tuple[str, str]]) -> None:
    """``ValueError`` for a name that rows have already, an unknown function, or a path that leads to one value."""
    resource = of.resource()
    for name, (function, path) in functions.items():
        if name in resource.fields or name in resource.columns or hasattr(of, name) or name.startswith("_"):
            raise ValueError(f"annotate: rows of {resource.name} have an attribute {name!r}; choose another name")
        if name in resources.relations(resource.name):
            raise ValueError(f"annotate: {resource.name} has a relation {name!r}; choose another name")
        if function not in AGGREGATES:
            raise ValueError(f"annotate: unknown function {function!r}; {did_you_mean(function, AGGREGATES)}")
        found = resources.resolve(resource.name, path)
        if not found.many or found.derived is not None:
            raise ValueError(f"annotate: {path} does not lead to many rows, so there is nothing to aggregate")
        if found.values.parts and function != "count":
            raise ValueError(f"annotate: {function} does not suit {path}, a key of several fields")
