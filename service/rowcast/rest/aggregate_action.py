"""``GET /tasks/aggregate/``: one page of groups of the rows that ``list`` shows with the same filters."""

from __future__ import annotations

from aiohttp import web

from rowcast.changes.cache import Dependencies
from rowcast.errors import ConfigurationError, InvalidPattern, NotFound
from rowcast.orm.awaiting import must_be_awaited
from rowcast.query.conditions import Query
from rowcast.query.projection import Projection
from rowcast.resources.actions import STREAM
from rowcast.rest.aggregates import PARAMETERS
from rowcast.rest.etags import tag_of_list
from rowcast.rest.expansion import visible_relations
from rowcast.rest.filters import FieldFilter
from rowcast.rest.live_aggregates import open_live
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import ModelView
from rowcast.rest.reading import reader_for
from rowcast.rest.rendering import current_serializer
from rowcast.rest.request import Request, url_of
from rowcast.rest.response_cache import Answer, cache_key, list_address, list_dependencies, respond_from
from rowcast.rest.scope import list_query
from rowcast.rest.zones import ZONE_PARAMETER


def check_aggregates(plan: ModelPlan) -> None:
    """``ConfigurationError`` if the option ``aggregates`` opens what rows do not show, or a parameter that filters have."""
    if plan.aggregates is None:
        return
    shared = {"ordering", *(ZONE_PARAMETER for each in plan.filters if isinstance(each, FieldFilter) and each.zoned)}
    if taken := [name for name in PARAMETERS if name not in shared and name in plan.allowed_parameters[STREAM]]:
        raise ConfigurationError(
            f"aggregates: the parameter ?{taken[0]}= is a filter; filter by another lookup than exact"
        )
    if plan.serializer.dynamic or plan.overrides("get_serializer", "get_serializer_class"):
        raise ConfigurationError("aggregates: the serializer differs by request, and may hide what a group would show")
    for text in plan.aggregates.paths():
        resource, readable = plan.resource.name, plan.serializer.readable
        path = plan.service.resources.resolve(resource, text)
        for step in path.steps:
            if step.name not in visible_relations(plan.service, resource, readable):
                raise ConfigurationError(f"aggregates: {text}: the rows of {resource} do not show {step.name!r}")
            resource = step.target
            target = plan.service.plans.get(resource)
            readable = (
                frozenset(plan.service.resources[resource].columns) if target is None else target.serializer.readable
            )
        if path.field.column_name not in readable:
            raise ConfigurationError(
                f"aggregates: {text}: the rows of {resource} do not show {path.field.column_name!r}"
            )


class AggregateMixin:
    """``GET /tasks/aggregate/`` and ``GET /tasks/aggregate/stream/``"""

    @must_be_awaited
    async def aggregate(self: ModelView, request: Request) -> web.StreamResponse:
        """One page of groups, with counts, sums and other functions of the rows in each; or their stream."""
        return await (open_live(self, request) if self.sends_events else read_groups(self, request))


async def read_groups(view: ModelView, request: Request) -> web.Response:
    """One page of groups, in one statement."""
    plan, params = view.view_plan, request.query_params
    opened = plan.aggregates
    if opened is None:
        raise NotFound("There is nothing at this address.")
    conditions = opened.conditions(params, plan.allowed_parameters[view.action])
    plan.check_parameters(view.action, {name: text for name, text in params.items() if name not in conditions})
    asked = opened.read(params, conditions)
    page = opened.paginator.page_request(Query(plan.resource.name), Projection(plan.resource.name, ()), "exact", params)
    address = list_address(url_of(plan.service.settings.server, request.http), params)
    params.pop("ordering", None)  # of results, and not of the rows that list_query sorts
    query = (await list_query(view)).unsorted()

    reader = reader_for(plan, request.http, request.user)

    async def load() -> Answer:
        try:
            found = await reader.groups(query, asked.shape, (*asked.values, page.limit, page.offset))
        except InvalidPattern as error:
            raise plan.pattern_error(error, params) from None
        body = opened.paginator.body(page, query, found, address)
        return body, tag_of_list(body), found.snapshot

    def dependencies() -> Dependencies | None:
        return list_dependencies(plan, query.sort(asked.paths), Projection(plan.resource.name, ()))

    key = cache_key(view, current_serializer(view), query)
    return await respond_from(plan, request.http, key, query, dependencies, load, reader)
