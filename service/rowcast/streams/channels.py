"""Channels: streams that share one connection. Each has its own subscriber, in the group of its own subscriptions.

An event ``query`` with the name of a channel comes before what belongs to that channel. It is written together with the bytes of
the group, in one write, so the channels' events do not mix.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from rowcast.resources.lossless_json import encode
from rowcast.streams.hub import Hub
from rowcast.streams.sse import StreamResponse, opening
from rowcast.streams.subscriber import Subscriber
from rowcast.streams.subscription import Subscription, Subscriptions


@dataclass(frozen=True, slots=True)
class Channel:
    """One stream of a connection: its name, what it is about, and the position that it resumes from."""

    name: str
    subscriptions: Subscriptions
    last: str | None

    @property
    def marker(self) -> bytes:
        """The block that comes before the channel's own."""
        return b"event: query\ndata: %b\n\n" % encode({"query": self.name})


def refused_block(name: str, problem: Mapping[str, Any]) -> bytes:
    """The block about a query that may not be opened."""
    return b"event: refused\ndata: %b\n\n" % encode({"query": name, "problem": problem})


async def stream_channels(
    hub: Hub,
    http: web.Request,
    channels: Sequence[Channel],
    first: bytes = b"",
    *,
    auths: Sequence[object] = (),
    caller: str = "",
) -> web.StreamResponse:
    """Respond with several streams on one connection, which ends with the first of them. They count as one.

    They are sent when the handler has returned the response; ``first`` is what is sent before them. Raises what ``Hub.stream``
    raises.
    """
    response = StreamResponse()
    with hub.admission.admit(caller, _subscriptions(channels)):
        try:
            await response.prepare(http)
            await response.write(opening() + b"\n" + first)
        except ConnectionError:  # the client has gone
            return response
    if not hub.closing:
        subscribers = [
            hub.make_subscriber(response, hub.feed.head, auths, renews=False, marker=each.marker) for each in channels
        ]
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        response.sending = _send(hub, left, channels, subscribers, caller)
        response.client_left = partial(left.set_result, None)
    return response


async def _send(
    hub: Hub, left: asyncio.Future[None], channels: Sequence[Channel], subscribers: Sequence[Subscriber], caller: str
) -> None:
    """The streams of a connection, until the first of them ends, or the client has ``left``: with other queries it opens another one."""
    with hub.admission.place(caller):
        streams = [
            asyncio.create_task(hub.send(subscriber, each.subscriptions, each.last))
            for subscriber, each in zip(subscribers, channels, strict=True)
        ]
        try:
            await asyncio.wait([left, *streams], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for subscriber in subscribers:  # not by cancelling, which could leave the log locked by a reader
                subscriber.end()
            await asyncio.gather(*streams, return_exceptions=True)


def _subscriptions(channels: Sequence[Channel]) -> list[Subscription]:
    return [each for channel in channels for each in channel.subscriptions]
