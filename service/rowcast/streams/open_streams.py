"""The open streams of one process: counted while their requests last, and ended when their credentials are."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import structlog

from rowcast.database.absent import NeedsDatabase
from rowcast.errors import ApiError
from rowcast.streams.expansion import ExpansionTooLarge
from rowcast.streams.subscriber import AGE, CLIENT, CREDENTIALS, FAILED, ORIGIN, SHUTDOWN, UNAVAILABLE, Subscriber
from rowcast.streams.subscription import FilterTooSlow

CREDENTIALS_CHECK_SECONDS: Final = 5.0  # between two checks of the credentials of open streams
DRAIN_PER_SECOND: Final = 200  # streams that end: what comes back of them takes a tenth of another replica's CPU
YOUNGEST_SHARE: Final = 0.75  # of the age at which streams end: the least that is drawn for a stream
SEVERAL: Final = "*"  # in place of a resource, for a stream of several ones

_logger = structlog.get_logger(__name__)


def seconds_between(streams: int, most: float) -> float:
    """The time between the ends of two streams when so many are to end, all of them within ``most`` seconds."""
    return min(1 / DRAIN_PER_SECOND, most / max(1, streams))


class Described(Protocol):
    """What a stream sends."""

    @property
    def about(self) -> Mapping[str, Any]:
        """The resources, as the stream names them."""


class Held:
    """A context in which one stream is sent. It takes less memory than a generator: every open stream has one."""

    __slots__ = ("_ending", "_open_streams", "_sent", "_subscriber")

    def __init__(self, open_streams: OpenStreams, subscriber: Subscriber, sent: Described) -> None:
        self._open_streams = open_streams
        self._subscriber = subscriber
        self._sent = sent
        self._ending: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._ending = self._open_streams.begin(self._subscriber, self._resource)

    @property
    def _resource(self) -> str:
        resource: str = self._sent.about.get("resource", SEVERAL)
        return resource

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if self._ending is not None:
            self._ending.cancel()
        reason, handled = CLIENT, True
        match error:
            case None | ConnectionResetError():  # which is how a stream ends whose client has gone
                pass
            case ApiError():  # the client gets the error when it connects again, as with the following ones
                reason = UNAVAILABLE
            case NeedsDatabase():
                reason = ORIGIN
            case ExpansionTooLarge() | FilterTooSlow():
                reason = FAILED
            case Exception():
                reason = FAILED
                _logger.error("stream_failed", exc_info=error, **self._sent.about)
            case _:
                reason, handled = CLIENT if self._subscriber.gone else SHUTDOWN, False
        self._open_streams.forget(self._subscriber, self._resource, reason)
        return handled


class OpenStreams:
    """The subscribers whose requests last.

    ``of`` counts them by resource, ``opened`` those that have begun, by resource, and ``closed`` those that have ended, by reason.
    ``valid`` says whether a ``request.auth`` is still valid. ``max_age`` is how many seconds a stream lasts at most; 0 for no limit.
    """

    def __init__(self, valid: Callable[[object], Awaitable[bool]], max_age: float = 0) -> None:
        self._valid = valid
        self._max_age = max_age
        self._open: set[Subscriber] = set()
        self._none_left: asyncio.Event | None = None  # once somebody waits for it
        self.of: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def holding(self, subscriber: Subscriber, sent: Described) -> Held:
        """Keep a subscriber while its stream is sent, however that ends; an unexpected error is logged."""
        return Held(self, subscriber, sent)

    def begin(self, subscriber: Subscriber, resource: str) -> asyncio.TimerHandle | None:
        """Count a stream; the timer is that of its age, if it has one."""
        self._open.add(subscriber)
        self.of[resource] += 1
        self.opened[resource] += 1
        self._schedule_expiry(subscriber)
        return self._schedule_end(subscriber)

    def forget(self, subscriber: Subscriber, resource: str, reason: str) -> None:
        """A stream has ended."""
        subscriber.close()
        self._open.discard(subscriber)
        if self._none_left is not None and not self._open:
            self._none_left.set()
        self.of[resource] -= 1
        self.closed[subscriber.ended_by or reason] += 1

    def end(self) -> None:
        """End every stream at once."""
        for subscriber in list(self._open):
            subscriber.end(SHUTDOWN)

    async def ended(self) -> None:
        """Wait until no stream is open."""
        self._none_left = asyncio.Event()
        if self._open:
            await self._none_left.wait()

    async def drain(self, seconds: float) -> None:
        """End every stream, one after the other, in an order at random; the last one after so many seconds at most."""
        streams = list(self._open)
        random.shuffle(streams)
        gap = seconds_between(len(streams), seconds)
        clock = asyncio.get_running_loop().time
        begin = clock()
        for number, subscriber in enumerate(streams):
            if (wait := begin + number * gap - clock()) > 0:
                await asyncio.sleep(wait)
            subscriber.end(SHUTDOWN)

    async def check_credentials(self) -> None:
        """End the streams of callers whose credentials are no longer valid."""
        holders: dict[int, tuple[object, list[Subscriber]]] = {}
        for subscriber in self._open:
            for auth in subscriber.auths:
                holders.setdefault(id(auth), (auth, []))[1].append(subscriber)
        for auth, subscribers in holders.values():
            try:
                valid = await self._valid(auth)
                for subscriber in subscribers:
                    if valid:
                        self._schedule_expiry(subscriber)
                    else:
                        subscriber.end(CREDENTIALS)
            except Exception:
                _logger.exception("stream_caller_not_checked")

    def _schedule_end(self, subscriber: Subscriber) -> asyncio.TimerHandle | None:
        """End a stream when it has reached its age, which is drawn, so that streams of one moment do not end in one."""
        if not self._max_age:
            return None
        age = self._max_age * random.uniform(YOUNGEST_SHARE, 1)
        return asyncio.get_running_loop().call_later(age, subscriber.end, AGE)

    def _schedule_expiry(self, subscriber: Subscriber) -> None:
        """End a stream when its credentials expire, if that is before the next check."""
        now = time.time()
        for auth in subscriber.auths:
            expires_at = getattr(auth, "expires_at", None)
            if expires_at is not None and expires_at <= now + CREDENTIALS_CHECK_SECONDS:
                asyncio.get_running_loop().call_later(max(now, expires_at) - now, subscriber.end, CREDENTIALS)
