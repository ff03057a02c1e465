"""What a service answers to its edges (``rowcast edge``), below ``/stream/edge/``: the log, and what else only a database has.

An edge has the key of ``stream.edge_key``, and may read the rows of all resources with it. Without the setting there is none of these
addresses.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final

import orjson
from aiohttp import web

from rowcast import __version__
from rowcast.changes.origin import (
    KEY_HEADER,
    LOG,
    POSITION,
    SNAPSHOT,
    STATE,
    TICKET,
    TOKEN,
    TOKENS,
    End,
    batch_frame,
    end_frame,
    reset_frame,
)
from rowcast.changes.position import Position
from rowcast.changes.tail import Reason, Reset, Tail
from rowcast.changes.ticks import Tick
from rowcast.configuration.load import Configuration
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.errors import AuthenticationFailed, ParseError, Unavailable
from rowcast.identity.authentication import Identity
from rowcast.rest.handlers import Handler
from rowcast.rest.plan import Service
from rowcast.rest.request import Request

WAIT_MAX_SECONDS: Final = 2.0  # for a change that an edge waits for; a service that stops waits for no longer
_MEMBERS: Final = frozenset(("after", "until", "wait", "position", "digest", "ids"))
_MALFORMED: Final = "The request of the edge is malformed."


def register(
    app: web.Application, configuration: Configuration, service: Service, identity: Identity, key: str
) -> None:
    """Add the addresses for edges that have a key."""
    answers = _Answers(configuration, service, identity)
    handlers: Mapping[str, Callable[[Mapping[str, str]], Awaitable[Any]]] = {
        STATE: answers.state,
        POSITION: answers.position,
        SNAPSHOT: answers.snapshot,
        TOKEN: answers.token,
        TOKENS: answers.tokens,
        TICKET: answers.ticket,
    }
    for path, answer in handlers.items():
        app.router.add_post(path, _answering(key, answer))

    async def log(http: web.Request) -> web.StreamResponse:
        return await answers.log(http, await _params(key, http))

    app.router.add_post(LOG, log)


def resource_digests(configuration: Configuration) -> dict[str, str]:
    """A digest of each resource's declaration, and of what decides with it who sees which rows: Rowcast, settings, Python."""
    settings = configuration.settings
    modules = [path.read_bytes() for path in sorted(configuration.directory.rglob("*.py"))]
    shared = [
        __version__,
        settings.auth.default_authentication_classes,
        repr(settings.auth.default_permission_classes),
        settings.throttle.classes,
        hashlib.sha256(b"\0".join(modules)).hexdigest(),
    ]
    return {
        name: hashlib.sha256(orjson.dumps([shared, configuration.files[name].data], default=str)).hexdigest()
        for name in configuration.resources
    }


def digest_of(resources: Mapping[str, str]) -> str:
    """One digest of those of all resources."""
    return hashlib.sha256(orjson.dumps(resources, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _answering(key: str, answer: Callable[[Mapping[str, str]], Awaitable[Any]]) -> Handler:
    async def handle(http: web.Request) -> web.StreamResponse:
        params = await _params(key, http)
        try:
            body = orjson.dumps(await answer(params))
        except (KeyError, ValueError):
            raise ParseError(_MALFORMED) from None
        except DRIVER_ERRORS:
            raise Unavailable from None
        return web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})

    return handle


async def _params(key: str, http: web.Request) -> Mapping[str, str]:
    """What an edge has sent with its request; an error for anybody who has not its key."""
    if not hmac.compare_digest(http.headers.get(KEY_HEADER, "").encode("utf-8", "surrogateescape"), key.encode()):
        raise AuthenticationFailed(
            f"{KEY_HEADER} is not the key of stream.edge_key.", headers={"WWW-Authenticate": 'Edge realm="rowcast"'}
        )
    found = await Request(http).read_json()
    if (
        not isinstance(found, dict)
        or not found.keys() <= _MEMBERS
        or not all(type(each) is str for each in found.values())
    ):
        raise ParseError(_MALFORMED)
    return found


class _Answers:
    """The answers of one service."""

    def __init__(self, configuration: Configuration, service: Service, identity: Identity) -> None:
        self._service = service
        self._identity = identity
        self._resources = resource_digests(configuration)
        self._config = digest_of(self._resources)

    async def state(self, _: Mapping[str, str]) -> Any:
        """What an edge begins with: see ``OriginState``."""
        feed = self._service.feed
        traits = {name: self._service.resources.traits_of(name).dumped() for name in self._service.resources}
        return {
            "ticks": [_dumped(feed.oldest_tick), _dumped(feed.tick)],
            "traits": traits,
            "resources": self._resources,
            "config": self._config,
            "version": __version__,
            "time": time.time(),
            "trusted_proxies": self._service.settings.server.trusted_proxies,
        }

    async def position(self, params: Mapping[str, str]) -> Any:
        """Whether a reader can go on from a position."""
        reason = await self._service.feed.check(params["position"])
        return {"reason": None if reason is None else reason.value}

    async def snapshot(self, _: Mapping[str, str]) -> Any:
        """The primary's snapshot now."""
        with self._service.store.database.as_service():
            return {"snapshot": await self._service.store.snapshot()}

    async def token(self, params: Mapping[str, str]) -> Any:
        """The user and the expiry of a token."""
        row = await self._identity.tokens.read(bytes.fromhex(params["digest"]))
        return None if row is None else {name: row[name] for name in ("id", "user_id", "is_staff", "expires_at")}

    async def tokens(self, params: Mapping[str, str]) -> Any:
        """Which tokens have not been revoked."""
        return sorted(await self._identity.tokens.active([int(each) for each in params["ids"].split(",")]))

    async def ticket(self, params: Mapping[str, str]) -> Any:
        """What a ticket stands for, encrypted with a key that only the ticket gives."""
        sealed = await self._identity.tickets.take(bytes.fromhex(params["digest"]))
        return None if sealed is None else base64.b64encode(sealed).decode()

    async def log(self, http: web.Request, params: Mapping[str, str]) -> web.StreamResponse:
        """The log from a position on, up to what this process has read of it."""
        feed = self._service.feed
        try:
            after = Position.parse(params["after"])
            until = Position.parse(params["until"]) if "until" in params else None
            wait = float(params["wait"])
        except (KeyError, ValueError):
            raise ParseError(_MALFORMED) from None
        if not 0 <= wait <= WAIT_MAX_SECONDS:
            raise ParseError(_MALFORMED)
        at = None if feed.relay is None else feed.relay.clock.now(monotonic())
        await _change_after(feed, after, wait)
        try:
            reason = await feed.check(after)
        except DRIVER_ERRORS:
            raise Unavailable from None
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream", "Cache-Control": "no-store"})
        with contextlib.suppress(ConnectionResetError):  # the edge has gone
            await response.prepare(http)
            async with contextlib.aclosing(self._frames(after, until, reason, at)) as frames:
                async for frame in frames:
                    await response.write(frame)
        return response

    async def _frames(
        self, after: Position, until: Position | None, reason: Reason | None, at: float | None
    ) -> AsyncGenerator[bytes, None]:
        """The frames of a piece of the log, which was asked for at a time; the only one, if it cannot be read for a ``reason``."""
        feed = self._service.feed
        if reason is not None:
            yield reset_frame(reason)
            return
        try:
            async with contextlib.aclosing(feed.read(after)) as batches:
                async for batch in batches:
                    if until is not None and batch.end.sort_key > until.sort_key:
                        if batch.start.sort_key < until.sort_key:
                            yield batch_frame(batch.until(until))
                        break
                    yield batch_frame(batch)
        except Reset as reset:
            yield reset_frame(reset.reason)
            return
        relay = None if feed.relay is None else feed.relay.key
        yield end_frame(End(feed.head, feed.lag, relay, at, self._config))


def _dumped(tick: Tick) -> tuple[int, int, str]:
    return tick.tick, tick.epoch, str(tick.snap)


async def _change_after(feed: Tail, position: Position, seconds: float) -> None:
    """Wait until the head of a feed is after a position, or for so many seconds."""
    if feed.head.sort_key > position.sort_key or seconds <= 0:
        return
    arrived = asyncio.Event()
    unsubscribe = feed.subscribe(lambda _: arrived.set(), lambda _: arrived.set())
    try:
        async with asyncio.timeout(seconds):
            await arrived.wait()
    except TimeoutError:
        pass
    finally:
        unsubscribe()
