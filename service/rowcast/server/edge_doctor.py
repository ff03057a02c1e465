"""What ``rowcast doctor --upstream`` finds out at an edge: whether its origin can be used, and what it sends itself."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from time import monotonic
from typing import Final

from rowcast import __version__
from rowcast.changes.bus import BusLost
from rowcast.changes.connection import OriginLost
from rowcast.changes.origin import TOKEN, End, Origin, OriginState
from rowcast.changes.position import Position
from rowcast.changes.relay import open_bus
from rowcast.changes.relay_messages import NotGenuine, RelayKey, decode
from rowcast.changes.tail import Reset
from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Jwt
from rowcast.identity.jwks import UNREADABLE_KEYS, read_keys
from rowcast.identity.jwt import LEEWAY_SECONDS
from rowcast.rest.plan import DIFFERS
from rowcast.server.doctor import PROBE_TIMEOUT_SECONDS, Finding
from rowcast.server.edge import Edge, make_edge
from rowcast.server.health import FEED_GRACE_SECONDS

_NO_PROXIES: Final = "takes all callers of this edge for one: set server.trusted_proxies there to the number of proxies in front of it, with the edge"
_NOTHING_HEARD: Final = (
    "nothing of the origin arrives over {place}: it is another bus, the user may not receive from rowcast.*, or no process of the origin"
    " makes ticks. Changes come from the origin"
)


async def examine_edge(configuration: Configuration, url: str) -> list[Finding]:
    """Check everything that an edge of the origin at a URL needs, in the order of dependence.

    Raises ``ConfigurationError`` for a configuration with which the edge does not start.
    """
    edge = make_edge(configuration, url)
    settings = configuration.settings
    try:
        found = await _examine_origin(edge, settings.stream.relay)
        if settings.auth.jwt is not None and settings.auth.jwt.jwks is not None:
            found.append(await _keys(settings.auth.jwt, settings.auth.jwt.jwks))
        return found
    finally:
        await edge.close()
        await edge.bound.identity.close()
        await edge.bound.throttles.close()


async def _examine_origin(edge: Edge, relay: str | None) -> list[Finding]:
    origin = edge.origin
    found: list[Finding] = []
    try:
        sent, began = time.time(), monotonic()
        state = await origin.state()
        took = monotonic() - began
        found += [*_about_origin(origin, state, took), _clock(state.time - (sent + took / 2), took / 2)]
        found.append(await _callers(origin))
        end = await _end_of_log(origin, state)
    except OriginLost as error:
        return [*found, Finding("origin", f"{origin.place} cannot be used: {error}", wrong=True)]
    except Reset as reset:
        message = f"the origin's log cannot be read from its newest tick: {reset.reason}. Run `rowcast doctor` there"
        return [*found, Finding("feed", message, wrong=True)]
    edge.compare(state)
    return [*found, _feed(end), *await _relay(relay, end.relay), *_streams(edge)]


def _about_origin(origin: Origin, state: OriginState, took: float) -> Iterator[Finding]:
    yield Finding("origin", f"{origin.place} answers within {1000 * took:.0f} ms, Rowcast {state.version}")
    if state.version != __version__:
        message = f"has Rowcast {state.version}, and this edge {__version__}: all streams are passed on"
        yield Finding("origin", message, wrong=True)
    if not state.trusted_proxies:
        yield Finding("origin", _NO_PROXIES, wrong=True)


def _clock(ahead: float, error: float) -> Finding:
    """``ahead`` is by how many seconds the origin's clock is ahead of this one, give or take an ``error``."""
    if abs(ahead) - error <= LEEWAY_SECONDS:
        return Finding("clock", f"is that of the origin within {abs(ahead) + error:.1f} s")
    where = "behind" if ahead > 0 else "ahead of"
    message = f"is {abs(ahead):.0f} s {where} the origin's, so tokens begin and expire at other times here"
    return Finding("clock", message, wrong=True)


async def _callers(origin: Origin) -> Finding:
    """Whether the origin answers about tokens, for which it reads its database."""
    try:
        await origin.ask(TOKEN, digest=secrets.token_hex(32))
    except OriginLost as error:
        return Finding("tokens", f"cannot be looked up at the origin: {error}", wrong=True)
    return Finding("tokens", "are looked up at the origin")


async def _end_of_log(origin: Origin, state: OriginState) -> End:
    """How far the origin is. Raises ``OriginLost``, and ``Reset`` if it does not know its own newest tick."""
    async for piece in origin.read(Position(state.newest.epoch, state.newest.tick)):
        if isinstance(piece, End):
            return piece
    raise OriginLost("its log has no end")


def _feed(end: End) -> Finding:
    if end.lag > FEED_GRACE_SECONDS:
        message = f"the origin has not seen for {end.lag:.0f} s that it has every change: run `rowcast doctor` there"
        return Finding("feed", message, wrong=True)
    return Finding("feed", f"the origin has every change, up to {end.head}")


async def _relay(own: str | None, key: RelayKey | None) -> list[Finding]:
    """Whether the edge hears the origin over the bus. ``key`` is what the origin uses there."""
    if own is None:
        message = "the origin has a stream.relay, which this edge does not use: it asks the origin for each change"
        return [] if key is None else [Finding("relay", message, hint=True)]
    bus, heard = open_bus(own), asyncio.Event()
    if key is None:
        message = f"the origin has no stream.relay, so nothing arrives over {bus.place}. Changes come from the origin"
        return [Finding("relay", message, wrong=True)]

    def receive(message: bytes) -> None:
        try:
            decode(key, message)
        except NotGenuine:
            return
        heard.set()

    try:
        async with bus.session(key.channel, receive, lambda: None), asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            await heard.wait()
    except BusLost as error:
        message = f"{bus.place} cannot be reached: {error}. Changes come from the origin"
        return [Finding("relay", message, wrong=True)]
    except TimeoutError:
        return [Finding("relay", _NOTHING_HEARD.format(place=bus.place), wrong=True)]
    return [Finding("relay", f"the origin's changes arrive over {bus.place}")]


async def _keys(settings: Jwt, source: str) -> Finding:
    try:
        keys = await read_keys(source, settings.algorithms)
    except UNREADABLE_KEYS as error:
        return Finding("jwks", f"{source} cannot be read: {str(error) or type(error).__name__}", wrong=True)
    return Finding("jwks", f"{source} has {len(keys)} {'keys' if len(keys) > 1 else 'key'}")


def _streams(edge: Edge) -> Iterator[Finding]:
    """Which resources have streams that the edge sends, and why it does not send the others."""
    streams = edge.streams()
    sent = [name for name, reason in streams.items() if reason is None]
    yield Finding("streams", f"this edge sends those of {', '.join(sent) or 'no resource'}")
    for name, reason in streams.items():
        if reason is not None:
            yield Finding("streams", f"those of {name} are passed on: {reason}", wrong=reason == DIFFERS)
