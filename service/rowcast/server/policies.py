"""Streams of tables with row-level security: PostgreSQL applies policies to rows of tables, not to logged ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from rowcast.configuration.load import Configuration
from rowcast.configuration.yaml import Problems, SourceLocation
from rowcast.resources.actions import STREAM
from rowcast.resources.resource import Resources
from rowcast.rest.plan import ModelPlan
from rowcast.rest.routers import Route

_REMEDY: Final = "give its viewset a scope (or get_queryset), or set stream_enabled: false"


def unscoped_streams(routes: Iterable[Route]) -> frozenset[str]:
    """The resources that have a stream of all rows: their viewset has no scope."""
    plans = [route.plan for route in routes if STREAM in route.actions.values()]
    return frozenset(
        plan.resource.name for plan in plans if isinstance(plan, ModelPlan) and plan.unscoped_query is not None
    )


def check_streams(configuration: Configuration, unscoped: frozenset[str], problems: Problems) -> None:
    """Add the streams without a scope to the problems if callers have settings or a role."""
    database = configuration.settings.database
    key = "session" if database.session else "role_claim" if database.role_claim else "default_role"
    for name in sorted(unscoped if database.has_callers else ()):
        document = configuration.files[name]
        location = document.location((), key=True) if document.data else SourceLocation(name)
        problems.add(
            location,
            f"{name} has a stream of all rows, to which the policies that database.{key} is for do not apply: {_REMEDY}",
        )


def refused_streams(resources: Resources, unscoped: Iterable[str], *, callers: bool) -> Iterator[str]:
    """A sentence for each resource whose stream would send rows that policies of its table hide from ``list``.

    With ``callers`` the service's statements run with settings or a role of theirs.
    """
    for name in sorted(unscoped):
        traits = resources.traits_of(name)
        if traits.policies_apply or (callers and traits.policies):
            yield f"the table of {name} has row-level security, which does not apply to streams: {_REMEDY}"
