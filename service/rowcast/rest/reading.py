"""What a request that reads must see: what ``X-Read-After`` names, and if there are replicas its caller's own writes.

A caller is a user, or an address without one, and the connection. Those that have written read from the primary until a replica
has what they have written. Other processes do not know of that, so their clients name the write: ``X-Read-After`` with the
``X-Transaction`` of its response, or with a position, such as the id of an event. It may name several, with spaces between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Middleware

from rowcast.changes.position import Position
from rowcast.database.written import WRITTEN
from rowcast.identity.permissions import SAFE_METHODS
from rowcast.identity.throttling import client_address
from rowcast.identity.users import id_of
from rowcast.query.replicas import Reader, Replicas
from rowcast.query.store import Store
from rowcast.rest.plan import ModelPlan, Service
from rowcast.rest.query_method import QUERY

READ_AFTER: Final = "X-Read-After"
NAMED_MAX: Final = 16
TRANSACTION_MAX_DIGITS: Final = 19
AnyReader: TypeAlias = Store | Reader
WRITERS: ContextVar[set[Hashable] | None] = ContextVar("writers", default=None)
"""The users whose writes are part of the current request, which a batch recognises one by one."""


def reader_for(plan: ModelPlan, http: web.Request, user: Any = None) -> AnyReader:
    """What reads for a request of a user: the store, or if there are replicas a reader that may use them."""
    service = plan.service
    replicas = service.replicas
    if replicas is None:
        return service.store
    named = named_by(http)
    return Reader(
        replicas,
        after=replicas.writers.last(_readers(service, http, user)),
        named=named or (),
        replicas_answer=named is not None and plan.resource.reads_replicas and _may_be_older(service, http),
    )


def memory_answers(service: Service, http: web.Request) -> bool:
    """Whether what is kept in memory has what ``X-Read-After`` names."""
    if READ_AFTER not in http.headers:
        return True
    named = named_by(http)
    has = service.feed.has_delivered if service.replicas is None else service.replicas.memory_has
    return named is not None and all(has(each) for each in named)


def named_by(http: web.Request) -> tuple[Position | int, ...] | None:
    """The positions and transactions that ``X-Read-After`` names; ``None`` if one is not known, and only certain to be on the primary."""
    if READ_AFTER not in http.headers:
        return ()
    found = [_position(each) for each in " ".join(http.headers.getall(READ_AFTER)).split(" ")]
    known = tuple(each for each in found if each is not None)
    return known if len(known) == len(found) <= NAMED_MAX else None


def writers_of(service: Service, http: web.Request) -> set[Hashable]:
    """As whom a caller without a user is remembered who writes: all that reads of the same caller may have in common."""
    return {
        ("address", client_address(http, service.settings.server.trusted_proxies)),
        ("connection", id(http.protocol)),
    }


def user_key(user: Any) -> Hashable:
    """As whom a user is remembered; ``None`` for an anonymous caller."""
    user_id = id_of(user)
    return None if user_id is None else ("user", str(user_id))


def note_writer(user: Any) -> None:
    """Remember that a user is writing in this request, if there are replicas."""
    if (writers := WRITERS.get()) is not None and (key := user_key(user)) is not None:
        writers.add(key)


def remember_writers(service: Service, replicas: Replicas) -> Middleware:
    """Remember who has sent an unsafe request, once all of it is committed."""

    @web.middleware
    async def remember(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.method in SAFE_METHODS or request.method == QUERY:
            return await handler(request)
        writers = writers_of(service, request)
        token = WRITERS.set(writers)
        try:
            return await handler(request)
        finally:
            WRITERS.reset(token)
            replicas.writers.note(writers)

    return remember


def has_written() -> bool:
    """Whether the current request has changed rows."""
    written = WRITTEN.get()
    return written is not None and written.changes


def _readers(service: Service, http: web.Request, user: Any) -> set[Hashable]:
    key = None if user is None else user_key(user)
    return writers_of(service, http) if key is None else {key, ("connection", id(http.protocol))}


def _may_be_older(service: Service, http: web.Request) -> bool:
    """Whether what the request reads may be a little older than what has been committed."""
    if http.method not in SAFE_METHODS or service.store.database.in_transaction or has_written():
        return False
    return not wants_the_newest(http)


def wants_the_newest(http: web.Request) -> bool:
    """Whether ``Cache-Control`` asks for the newest there is."""
    return "Cache-Control" in http.headers and "no-cache" in ",".join(http.headers.getall("Cache-Control")).lower()


def _position(text: str) -> Position | int | None:
    """A position, or the number of a transaction; ``None`` for anything else."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= TRANSACTION_MAX_DIGITS else None
    try:
        return Position.parse(text)
    except ValueError:
        return None
