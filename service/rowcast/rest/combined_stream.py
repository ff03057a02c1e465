"""One stream of several resources: ``GET /stream/?resources=tasks,comments``.

Each resource's viewset decides about it as for its own stream: who may open it, which rows it has, how they are shown.
``?tasks.completed=false`` is the parameter ``completed`` of the stream of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from rowcast.database.absent import NeedsDatabase
from rowcast.errors import ParseError, PermissionDenied, did_you_mean
from rowcast.identity.authentication import redeem_ticket
from rowcast.identity.throttling import caller_of
from rowcast.identity.tickets import TICKET_PARAMETER
from rowcast.query.store import STORE
from rowcast.resources.actions import STREAM
from rowcast.rest.direct_streams import SNAPSHOT_MAX_PAGES, wants_snapshot
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.plan import SERVICE, ModelPlan, Service, new_view
from rowcast.rest.request import Request
from rowcast.rest.routers import has_stream
from rowcast.rest.stream_action import check_ticket, last_position, subscription_of
from rowcast.streams.subscription import Subscription, Subscriptions

PARAMETERS: Final = ("resources", "snapshot", "last_event_id", "access_token", "ticket")
_ACTION_MAP: Final = {"GET": STREAM, "HEAD": STREAM}


async def stream(http: web.Request) -> web.StreamResponse:
    """Every committed change that the streams of the named resources send, on one connection and in one order."""
    service = http.app[SERVICE]
    STORE.set(service.store)
    await redeem_ticket(http)
    params = Request(http).query_params
    check_ticket(params)
    plans = named_plans(service, params.get("resources", ""))
    own = _parameters(plans, params)
    opened = [await open_one(name, plan, http, own[name]) for name, plan in plans.items()]
    if len({subscription.caller for subscription, _ in opened}) > 1:
        raise PermissionDenied("These resources recognise callers differently; open a stream of each.")
    limit = sum(plan.max_page_size * SNAPSHOT_MAX_PAGES for plan in plans.values())
    return await service.hub.stream(
        http,
        Subscriptions(subscription for subscription, _ in opened),
        last_position(http, params),
        auths=[request.auth for _, request in opened],
        caller=caller_of(opened[0][1]),
        limit=limit if wants_snapshot(params) else None,
    )


def named_plans(service: Service, text: str) -> dict[str, ModelPlan]:
    """The viewsets' plans of the resources that ``?resources=`` names."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        message = f"resources: name those to watch, with commas between them; {did_you_mean('', _streamed(service))}"
        raise ParseError(message, code="invalid_parameter")
    return {name: streamed_plan(service, name, "resources") for name in names}


def streamed_plan(service: Service, name: str, where: str) -> ModelPlan:
    """The plan of the viewset whose stream may be one of several on a connection; ``ParseError`` says ``where`` it is named."""
    streamed = _streamed(service)
    if name not in streamed:
        message = f"{where}: there is no stream of {name[:50]!r}; {did_you_mean(name, streamed)}"
        raise ParseError(message, code="invalid_parameter")
    if streamed[name].overrides("dispatch"):
        message = f"{where}: {name} has its own stream only: its viewset overrides dispatch()."
        raise ParseError(message, code="invalid_parameter")
    return streamed[name]


def _streamed(service: Service) -> dict[str, ModelPlan]:
    return {name: plan for name, plan in service.plans.items() if has_stream(plan) and not plan.overrides(STREAM)}


def _parameters(plans: Mapping[str, ModelPlan], params: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The parameters of each resource's stream, without the prefix."""
    own: dict[str, dict[str, str]] = {name: {} for name in plans}
    for name, text in params.items():
        resource, point, parameter = name.partition(".")
        if point and resource in own and (parameter not in PARAMETERS or parameter == TICKET_PARAMETER):
            own[resource][parameter] = text
        elif name not in PARAMETERS:
            valid = [*PARAMETERS, *(f"{resource}.<parameter>" for resource in plans)]
            raise ParseError(f"{name[:50]}: unknown parameter; {did_you_mean(name, valid)}", code="unknown_parameter")
    shared = {name: params[name] for name in ("access_token",) if name in params}
    return {resource: {**parameters, **shared} for resource, parameters in own.items()}


async def open_one(
    name: str, plan: ModelPlan, http: web.Request, parameters: Mapping[str, str]
) -> tuple[Subscription, Request]:
    """The caller's subscription to one resource, and the request with its credentials; raises what the resource's own stream would."""
    if plan.service.why_passed_on(plan) is not None:
        raise NeedsDatabase
    view: GenericViewSet = new_view(plan, action_map=_ACTION_MAP)
    request = view.request = view.initialize_request(
        http.clone(method="GET", rel_url=http.rel_url.with_query(parameters))
    )
    if plan.acts_as_caller:
        plan.service.store.database.act_for(lambda: request.user)
    await view.initial(view.request)
    try:
        subscription = await subscription_of(view)
    except ParseError as error:
        error.detail = f"{name}.{error.detail}"
        raise
    return subscription, view.request
