"""Many live queries on one connection: ``QUERY /stream/`` with a JSON body.

Each query is a stream of its own, with its own filters, its own position and the guarantees of a stream. They share the connection
alone: an event ``query`` names the query of all that follows, until the next one. So the bytes of a query are those of every
other stream with the same query, and are made once.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from rowcast.errors import ApiError, ParseError, did_you_mean
from rowcast.identity.throttling import caller_of
from rowcast.query.store import STORE
from rowcast.rest.combined_stream import open_one, streamed_plan
from rowcast.rest.plan import SERVICE
from rowcast.rest.request import Request, parameter_text, root_path
from rowcast.streams.channels import Channel, refused_block, stream_channels
from rowcast.streams.subscription import Subscriptions

MEMBERS: Final = ("resource", "params", "last_event_id")
QUERIES_MAX: Final = 100
NAME_MAX_CHARACTERS: Final = 100
_QUERIES: Final = web.RequestKey("queries", dict)


async def stream_queries(http: web.Request) -> web.StreamResponse:
    """The changes of several queries. One that is refused is an event ``refused``; if all are, the first error is the answer."""
    service = http.app[SERVICE]
    STORE.set(service.store)
    if http.rel_url.raw_query_string:
        raise ParseError("A QUERY has its parameters in the body, and none in the address.", code="invalid_parameter")
    if _QUERIES not in http:  # while the database is away the handler is called again
        http[_QUERIES] = _queries(await Request(http).read_json())
        http._read_bytes = None  # noqa: SLF001, since aiohttp makes no copy of a request whose body it has read
    queries = http[_QUERIES]
    channels: list[Channel] = []
    refusals: list[bytes] = []
    first: ApiError | None = None
    requests: list[Request] = []
    for name, (resource, params, last) in queries.items():
        try:
            plan = streamed_plan(service, resource, f"queries.{name}.resource")
            subscription, request = await open_one(f"queries.{name}", plan, http, params)
        except ApiError as error:
            first = first or error
            below = root_path(service.settings.server, http)
            refusals.append(refused_block(name, error.problem_below(below, "")))
            continue
        requests.append(request)
        channels.append(Channel(name, Subscriptions([subscription]), last))
    if not channels:
        assert first is not None
        raise first
    auths = [request.auth for request in requests]
    return await stream_channels(
        service.hub, http, channels, b"".join(refusals), auths=auths, caller=caller_of(requests[0])
    )


def _queries(body: Any) -> dict[str, tuple[str, dict[str, str], str | None]]:
    """The resource, the parameters and the position of each query; ``ParseError`` names what is wrong."""
    queries = body.get("queries") if isinstance(body, dict) else None
    if not isinstance(queries, dict) or body.keys() != {"queries"} or not queries:
        raise ParseError(
            'The body must be {"queries": {"<name>": {"resource": …, "params": {…}, "last_event_id": …}}}.'
        )
    if len(queries) > QUERIES_MAX:
        raise ParseError(f"queries: at most {QUERIES_MAX} on one connection.")
    found = {}
    for name, query in queries.items():
        if not name.isprintable() or not 0 < len(name) <= NAME_MAX_CHARACTERS:
            raise ParseError(f"queries: a name has up to {NAME_MAX_CHARACTERS} printable characters.")
        at = f"queries.{name}"
        if not isinstance(query, dict):
            raise ParseError(f"{at}: must be an object.")
        for member in query:
            if member not in MEMBERS:
                raise ParseError(f"{at}.{member[:50]}: unknown member; {did_you_mean(member, MEMBERS)}")
        resource, params, last = query.get("resource"), query.get("params", {}), query.get("last_event_id")
        if not isinstance(resource, str) or not isinstance(params, dict) or not isinstance(last, str | None):
            raise ParseError(f"{at}: resource and last_event_id must be strings, and params an object.")
        if "snapshot" in params:
            raise ParseError(f"{at}.params.snapshot: a query of several begins without its rows; read the list first.")
        found[name] = resource, {key: _text(f"{at}.params.{key[:50]}", value) for key, value in params.items()}, last
    return found


def _text(at: str, value: Any) -> str:
    """A parameter as in an address: objects and lists are JSON, lists of names have commas."""
    match value:
        case str():
            return value
        case bool() | int() | float() | dict():
            return parameter_text(at, value)
        case list() if all(isinstance(each, str | int) and "," not in str(each) for each in value):
            return ",".join(map(str, value))
    raise ParseError(f"{at}: must be a string, a number, true or false, an object, or a list of names.")
