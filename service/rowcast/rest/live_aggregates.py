"""``GET /tasks/aggregate/stream/``: the groups of ``aggregate`` that change, for the callers of both action and stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from aiohttp import web

from rowcast.errors import NotFound
from rowcast.identity.throttling import caller_of
from rowcast.identity.tickets import TICKET_PARAMETER
from rowcast.orm.awaiting import run_checked
from rowcast.query.conditions import Query
from rowcast.query.matching import routing_key
from rowcast.query.tallies import is_exact, tally_form
from rowcast.resources.actions import AGGREGATE, LIVE, STREAM
from rowcast.rest.direct_streams import SNAPSHOT_MAX_PAGES, wants_snapshot
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import ModelView
from rowcast.rest.request import Request
from rowcast.rest.scope import list_query
from rowcast.rest.stream_action import check_filters, check_ticket, last_position
from rowcast.streams.live_groups import LiveGroups, Route

_NO_STREAM: Final = "no_stream"


async def open_live(view: ModelView, request: Request) -> web.StreamResponse:
    """Send the stream of a viewset's groups; returns when it has ended."""
    plan, params = view.view_plan, request.query_params
    if plan.aggregates is None:
        raise NotFound("There is nothing at this address.")
    view.action = STREAM
    await run_checked(view.check_permissions(request))
    view.action = AGGREGATE
    return await plan.service.hub.aggregates.stream(
        request.http,
        await live_groups_of(view),
        last_position(request.http, params),
        snapshot=wants_snapshot(params),
        auths=[request.auth],
        caller=caller_of(request),
    )


async def live_groups_of(view: ModelView) -> LiveGroups:
    """The groups that the parameters of a request ask for; raises what ``aggregate`` would raise."""
    plan, params = view.view_plan, view.request.query_params
    opened = plan.aggregates
    assert opened is not None
    conditions = opened.conditions(params, plan.allowed_parameters[LIVE])
    plan.check_parameters(LIVE, {name: text for name, text in params.items() if name not in conditions})
    if TICKET_PARAMETER not in plan.allowed_parameters["list"]:  # no filter has this name
        check_ticket(params)
    params.pop("ordering", None)  # which only a viewset that is not strict lets pass
    asked = opened.read(params, conditions)
    shape = replace(asked.shape, order=())
    query = (await list_query(view)).unsorted()
    await check_filters(plan, query, params)
    store, resources = plan.service.store, plan.service.resources
    return LiveGroups(
        query=query,
        shape=shape,
        values=asked.values,
        of=_routes(plan, query, asked.paths),
        store=store,
        caller=store.database.caller(),
        form=tally_form(resources, query.where, shape, asked.values),
        exact_keys=all(
            is_exact(resources, shape.resource, resources.resolve(shape.resource, group.path)) for group in shape.groups
        ),
        limit=plan.max_page_size * SNAPSHOT_MAX_PAGES,
    )


def _routes(plan: ModelPlan, query: Query, paths: tuple[str, ...]) -> dict[str, Route]:
    """The resources whose changes can change the groups; ``NotFound`` if some of those changes are not in the log."""
    service, name = plan.service, query.resource
    resources = service.resources
    read = service.store.queries.reads(name, query.shape, paths)
    if read is None:
        raise NotFound(
            f"There is no stream of these groups of {name}: they depend on a view or on a write_only field, whose changes are "
            "not in the change log.",
            code=_NO_STREAM,
        )
    callers = service.settings.database.has_callers
    for each in sorted(read):
        traits = resources.traits_of(each)
        if traits.policies_apply or (callers and traits.policies):
            raise NotFound(
                f"There is no stream of these groups of {name}: {each} has row-level security, which does not apply to "
                "streams.",
                code=_NO_STREAM,
            )
    key = routing_key(resources, name, query.where) if len(read) == 1 else None
    return {each: Route(key if each == name else None) for each in read}
