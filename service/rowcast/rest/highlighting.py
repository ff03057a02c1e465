"""``?highlight=title``: each row of a list also shows what a full text search has found in its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rowcast.errors import ParseError, did_you_mean
from rowcast.query.conditions import Found, Query
from rowcast.query.projection import Projection
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.rest.plan import ModelPlan
from rowcast.rest.request import names_in
from rowcast.rest.serializers import Serializer


def highlighted(
    plan: ModelPlan,
    serializer: Serializer,
    query: Query,
    read: Projection,
    params: Mapping[str, str],
    *,
    plain: bool,
) -> tuple[Query, Projection]:
    """The query and the projection with the fields that ``?highlight=`` names.

    Raises:
        ParseError: a field is not searched or not shown here, nothing is searched for, or Python makes the rows.
    """
    found = next((condition for condition in query.where if isinstance(condition, Found)), None)
    if found is None:
        raise ParseError(f"{HIGHLIGHT}: is for ?search= only.", code="invalid_parameter")
    if not plain:
        raise ParseError(
            f"{HIGHLIGHT}: Python of this service makes the rows of this list; leave it out.", code="invalid_parameter"
        )
    valid = highlightable(plan, serializer)
    names = tuple(dict.fromkeys(names_in(params[HIGHLIGHT])))
    for name in names or ("",):
        if name not in valid:
            hint = did_you_mean(name, valid) if valid else "no field that is searched is shown"
            raise ParseError(f"{HIGHLIGHT}: {name[:50]!r} is not searched here; {hint}", code="invalid_parameter")
    return query.showing(found), replace(read, highlight=names)


def highlightable(plan: ModelPlan, serializer: Serializer) -> list[str]:
    """The fields that are searched and that rows show."""
    search, shown = plan.resource.search, plan.default_projection(serializer).columns
    return [] if search is None else [name for name, _ in search.fields if name in shown]
