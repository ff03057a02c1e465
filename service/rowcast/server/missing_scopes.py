"""Resources that look as if they belonged to tenants or owners, and have no scope: ``rowcast check`` reports them."""

from __future__ import annotations

from collections.abc import Iterator

from rowcast.configuration.load import Configuration
from rowcast.rest.plan import Service


def missing_scopes(configuration: Configuration, service: Service) -> Iterator[str]:
    """A line for each resource without a scope that has a column by which the scope of another resource divides rows.

    The column has the same name, or it is a foreign key to the same resource.
    """
    marks: dict[
        str, str
    ] = {}  # a column's name, or the target of a foreign key as "→ target" → the resource with a scope
    for name, plan in service.plans.items():
        for column in plan.declared_scope.caller_columns if plan.declared_scope is not None else ():
            target = plan.resource.columns[column].to
            marks.setdefault(f"→ {target}" if target else column, name)
    for name, plan in service.plans.items():
        if plan.unscoped_query is None or name not in configuration.files:
            continue
        for column, field in plan.resource.columns.items():
            other = marks.get(f"→ {field.to}" if field.to else column)
            if other is not None:
                location = configuration.files[name].location(("fields", field.name), key=True)
                yield (
                    f"{location}: {name} has no scope, but {column}, by which the scope of {other} divides its rows: "
                    "every caller may see the rows of all"
                )
                break
