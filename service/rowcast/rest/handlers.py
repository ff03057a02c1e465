"""The handlers of routes to viewsets, and what at their addresses is answered without an instance of the viewset."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from aiohttp import web

from rowcast.identity.users import ANONYMOUS
from rowcast.resources.actions import READING_ACTIONS
from rowcast.rest.addresses import Link, link_header, with_part_as_sent
from rowcast.rest.direct_reading import Direct, DirectRead, direct_reader
from rowcast.rest.direct_streams import DirectStreams
from rowcast.rest.direct_writing import DirectWrite
from rowcast.rest.plan import ModelPlan, ViewPlan
from rowcast.rest.preferences import PREFER, counts_by_preference
from rowcast.rest.query_method import ACCEPT_QUERY, QUERY, as_get
from rowcast.rest.request import root_path
from rowcast.rest.response_cache import cached_response

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class DirectWays:
    """What of an address data alone decide about: its GETs, its streams, and by method its writes.

    ``plan`` is that of the viewset; ``None`` for a handler that belongs to none.
    """

    plan: ViewPlan | None = None
    read: DirectRead | None = None
    streams: DirectStreams | None = None
    writes: Mapping[str, DirectWrite] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: ModelPlan,
        action_map: Mapping[str, str],
        of_list: Mapping[str, str],
        of_change: Mapping[str, str],
    ) -> DirectWays:
        """The ways of an address; the headers are those of the responses to reads and to writes."""
        read = action_map.get("GET", "")
        writes = {
            method: DirectWrite.of(plan, action, of_change) for method, action in action_map.items() if method != "GET"
        }
        return cls(
            plan,
            DirectRead.of(plan, read, of_list),
            DirectStreams.of(plan, read),
            {method: write for method, write in writes.items() if write is not None},
        )

    def direct(self) -> dict[str, Direct]:
        """By method, the function that answers a request."""
        direct = {method: write.answer for method, write in self.writes.items()}
        return direct if self.read is None else {**direct, "GET": direct_reader(self.read)}


_NONE: Final = DirectWays()


def ways_of(handler: Any) -> DirectWays:
    """The ways of the address of a route, by its handler."""
    ways: DirectWays = getattr(handler, "direct_ways", _NONE)
    return ways


def with_ways(handler: Handler, ways: DirectWays) -> Handler:
    """The handler, by which its ways are found."""
    vars(handler)["direct_ways"] = ways
    return handler


def handler_for(plan: ViewPlan, action_map: Mapping[str, str], *, links: Sequence[Link] = ()) -> Handler:
    """The handler of an address: it answers from memory, directly, or by an instance of the viewset.

    ``links`` are the header ``Link`` of a list, where Python of the user's has not set another.
    """
    viewset: Callable[..., Any] = plan.viewset
    make_view = partial(viewset, view_plan=plan, action_map=action_map, **plan.attributes)
    may_be_cached = plan.public_and_cacheable and action_map.get("GET") in READING_ACTIONS

    queried = plan if action_map.get("GET") == "list" and isinstance(plan, ModelPlan) else None
    own_list = plan.exports and not plan.overrides("finalize_response")
    server = plan.service.settings.server
    link = link_header(links, server.root_path)
    vary = {"Vary": ", ".join(["Accept", *([PREFER] if counts_by_preference(plan) else [])])} if plan.exports else {}
    shown = {**ACCEPT_QUERY, **vary}
    ways = DirectWays(plan)
    if isinstance(plan, ModelPlan):
        linked = {"Link": link} if links else {}
        of_list = {} if queried is None else {**shown, **linked}
        of_change = {} if queried is None else {**ACCEPT_QUERY, **({} if own_list else linked)}
        ways = DirectWays.of(plan, action_map, of_list, of_change)
    direct = ways.direct()

    async def handler(http: web.Request) -> web.StreamResponse:
        if queried is not None and http.method == QUERY:
            http = await as_get(queried, http)
        response: web.StreamResponse | None = None
        if may_be_cached and http.method == "GET":
            response = cached_response(plan, http)
        if response is None and (directly := direct.get(http.method)) is not None:
            response = await directly(http)
        if response is None:
            if plan.acts_as_caller:  # as nobody until dispatch, which a class may override, says otherwise
                plan.service.store.database.act_for(lambda: ANONYMOUS)
            response = await make_view().dispatch(http)
        if queried is not None:
            reading = http.method in ("GET", "HEAD")
            response.headers.update(shown if reading else ACCEPT_QUERY)
            if links and (reading or not own_list) and "Link" not in response.headers:
                moved = server.trusted_proxies and link_header(links, root_path(server, http))
                response.headers["Link"] = moved or link
        return response

    whole: Handler = handler
    if isinstance(plan, ModelPlan) and plan.key.parts:
        whole = with_part_as_sent(handler, plan.lookup_url_kwarg)
    return with_ways(whole, ways)
