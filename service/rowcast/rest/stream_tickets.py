"""``POST /stream-ticket/``: a ticket with which a browser's ``EventSource`` opens one stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rowcast.errors import ParseError
from rowcast.identity.authentication import IDENTITY
from rowcast.identity.permissions import IsAuthenticated
from rowcast.identity.tickets import TICKET_SECONDS
from rowcast.rest.binding import plan_plain
from rowcast.rest.handlers import Handler, handler_for
from rowcast.rest.plan import Service
from rowcast.rest.request import Request
from rowcast.rest.response import Response
from rowcast.rest.routers import Route
from rowcast.rest.viewset import ViewSet

PREFIX: Final = "stream-ticket"
_ACTION_MAP: Final = {"POST": "create", "OPTIONS": "metadata"}


class StreamTicketViewSet(ViewSet):
    """A ticket for one stream: instead of a token in the address, `?ticket=…`."""

    name = "Stream ticket"
    permission_classes = (IsAuthenticated,)

    async def create(self, request: Request) -> Response:
        """A ticket that stands for the credentials of this request, for one stream, for half a minute."""
        if "Authorization" not in request.http.headers:
            raise ParseError(
                "A ticket stands for an Authorization header, and this request has none. Cookies are sent with streams anyway."
            )
        ticket = await request.http.app[IDENTITY].tickets.issue(request.http.headers["Authorization"])
        body: Mapping[str, Any] = {"ticket": ticket, "expires_in": TICKET_SECONDS}
        return Response(body, 201, {"Cache-Control": "no-store"})


def ticket_route(service: Service) -> Route:
    """The address. It recognises callers in each way in which some viewset does."""
    classes = dict.fromkeys(
        each
        for some in (service.authentication_classes, *(plan.authentication_classes for plan in service.plans.values()))
        for each in some
    )
    plan = plan_plain(service, StreamTicketViewSet, {"authentication_classes": tuple(classes)})
    return Route(f"/{PREFIX}", PREFIX, {"POST": "create"}, _ACTION_MAP, plan, {})


def ticket_handler(service: Service) -> Handler:
    """The handler of the address."""
    return handler_for(ticket_route(service).plan, _ACTION_MAP)
