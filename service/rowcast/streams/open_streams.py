"""The open streams of one process: counted while their requests last, and ended when their credentials are."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final

import structlog

from rowcast.errors import ApiError
from rowcast.streams.expansion import ExpansionTooLarge
from rowcast.streams.subscriber import AGE, CLIENT, CREDENTIALS, FAILED, SHUTDOWN, UNAVAILABLE, Subscriber
from rowcast.streams.subscription import FilterTooSlow

CREDENTIALS_CHECK_SECONDS: Final = 5.0  # between two checks of the credentials of open streams
DRAIN_AT_ONCE_MAX: Final = 20  # streams that come back together are no load
YOUNGEST_SHARE: Final = 0.75  # of the age at which streams end: the least that is drawn for a stream
SEVERAL: Final = "*"  # in place of a resource, for a stream of several ones

_logger = structlog.get_logger(__name__)


class OpenStreams:
    """The subscribers whose requests last.

    ``of`` counts them by resource, ``opened`` those that have begun, by resource, and ``closed`` those that have ended, by reason.
    ``valid`` says whether a ``request.auth`` is still valid. ``max_age`` is how many seconds a stream lasts at most; 0 for no limit.
    """

    def __init__(self, valid: Callable[[object], Awaitable[bool]], max_age: float = 0) -> None:
        self._valid = valid
        self._max_age = max_age
        self._open: set[Subscriber] = set()
        self.of: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """The number of connections with open streams."""
        return len({subscriber.connection for subscriber in self._open})

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.contextmanager
    def holding(self, subscriber: Subscriber, about: Mapping[str, Any]) -> Iterator[None]:
        """Keep a subscriber while its stream is sent, however that ends; an unexpected error is logged."""
        resource, reason = about.get("resource", SEVERAL), CLIENT
        self._open.add(subscriber)
        ending = self._schedule_end(subscriber)
        self.of[resource] += 1
        self.opened[resource] += 1
        try:
            self._schedule_expiry(subscriber)
            yield
        except ConnectionResetError:  # which is how a stream ends whose client has gone
            pass
        except (ApiError, ExpansionTooLarge, FilterTooSlow) as error:
            # The client gets the error when it connects again.
            reason = UNAVAILABLE if isinstance(error, ApiError) else FAILED
        except asyncio.CancelledError:
            reason = CLIENT if subscriber.gone else SHUTDOWN
            raise
        except Exception:
            reason = FAILED
            _logger.exception("stream_failed", **about)
        finally:
            if ending is not None:
                ending.cancel()
            subscriber.close()
            self._open.discard(subscriber)
            self.of[resource] -= 1
            self.closed[subscriber.ended_by or reason] += 1

    def end(self) -> None:
        """End every stream at once."""
        for subscriber in list(self._open):
            subscriber.end(SHUTDOWN)

    async def drain(self, seconds: float) -> None:
        """End every stream, spread over a time, in an order at random; a few end at once."""
        streams = list(self._open)
        random.shuffle(streams)
        gap = seconds / len(streams) if len(streams) > DRAIN_AT_ONCE_MAX else 0.0
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
