"""Which actions a caller may take, as far as that does not depend on a row: what ``/openapi.json?as=me`` shows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from aiohttp import web

from rowcast.errors import ApiError
from rowcast.orm.awaiting import run_checked
from rowcast.query.store import STORE
from rowcast.resources.actions import STREAM
from rowcast.rest import soft_deletion
from rowcast.rest.plan import ModelPlan, ViewPlan, new_view
from rowcast.rest.request import Request
from rowcast.rest.routers import Route


class Permitted(NamedTuple):
    """A method of a route that the caller may use, without the parameters that are ``refused``."""

    route: Route
    method: str
    refused: frozenset[str]


async def permitted(http: web.Request, routes: Iterable[Route]) -> AsyncIterator[Permitted]:
    """The routes and methods whose permissions allow the request's caller.

    The permissions are asked as for a request of that method at that address, before a row is found. A permission of the
    user's that needs more of a request than that fails with some error: then nothing is known, and the action is shown.
    """
    callers: dict[Any, tuple[Any, Any]] = {}
    for route in routes:
        for method, action in route.actions.items():
            if await _may(http, route, method, action, callers):
                refused = set()
                for parameter, about in _about_deleted(route.plan, action):
                    if not await _may(http, route, method, action, callers, about):
                        refused.add(parameter)
                if None not in refused:
                    yield Permitted(route, method, frozenset(filter(None, refused)))


def _about_deleted(plan: ViewPlan, action: str) -> Iterable[tuple[str | None, soft_deletion.Asked]]:
    return soft_deletion.offered(plan, action) if isinstance(plan, ModelPlan) and plan.resource.soft_delete else ()


async def _may(
    http: web.Request,
    route: Route,
    method: str,
    action: str,
    callers: dict[Any, tuple[Any, Any]],
    about: soft_deletion.Asked | None = None,
) -> bool:
    """Whether the caller may use a method, or what it does ``about`` deleted rows; true if that is not known."""
    view = _view(route.plan, http, route, method, action)
    try:
        await _identify(view, callers)
        asking = (
            view.check_permissions(view.request) if about is None else soft_deletion.admit(view, view.request, about)
        )
        await (run_checked(asking) if route.plan.checks_initial else asking)
    except ApiError:
        return False
    except (LookupError, AttributeError, TypeError, ValueError):
        pass
    return True


def _view(plan: ViewPlan, http: web.Request, route: Route, method: str, action: str) -> Any:
    """The viewset as it would be before it answers such a request."""
    STORE.set(plan.service.store)
    request = Request(http).as_method(method)
    view = new_view(plan, action_map=route.action_map, action=action, request=request)
    if plan.acts_as_caller:
        plan.service.store.database.act_for(lambda: request.user)
    return view


async def _identify(view: Any, callers: dict[Any, tuple[Any, Any]]) -> None:
    """Recognise the caller; once for all viewsets that do it in the same way."""
    plan: ViewPlan = view.view_plan
    own = plan.overrides("perform_authentication", "get_authenticators")
    key = (plan.viewset if own else None, plan.authentication_classes, view.action == STREAM)
    if key not in callers:
        await view.perform_authentication(view.request)
        callers[key] = view.request.user, view.request.auth
    view.request.user, view.request.auth = callers[key]
