"""Throttling: how often a caller may send requests. A throttle is a class; all throttles of a viewset count a request.

A rate of 60/min accepts at most 60 requests in *any* minute: the time of an accepted request is kept for a minute, and a
refused request does not count. ``Retry-After`` of a refusal is the time until the oldest request no longer counts.
``throttle_storage`` has the counts. While it cannot be read, no request is refused: a broken cache does not stop the service.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (``RateLimit``, ``RateLimit-Policy``)
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import isawaitable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, ClassVar, Final

import structlog
from aiohttp import web

from rowcast.configuration.settings import UNLIMITED, Rate, Throttle, rate
from rowcast.errors import ConfigurationError, Throttled
from rowcast.identity.protocols import Request, View
from rowcast.identity.proxies import reported
from rowcast.identity.throttle_storage import STORAGE_TIMEOUT_SECONDS, Storage, StorageUnavailable, open_storage
from rowcast.identity.users import Clock, id_of

ADDRESSES_KEPT: Final = 256  # in the form in which they are counted
FAILURES_SCOPE: Final = "authentication_failures"
STORAGE_RETRY_SECONDS: Final = 5.0  # before a storage that failed is used again

_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """A caller's use of a rate: how many more requests are possible now, and in how many seconds the oldest expires."""

    scope: str
    rate: Rate
    remaining: int
    reset: float


class BaseThrottle:
    """One limit. There is an instance for each request."""

    def allow_request(self, request: Any, view: Any) -> bool | Awaitable[bool]:
        """Count the request and return whether it is accepted. May be a coroutine.

        Args:
            request: The ``rowcast.Request``, with ``user`` and ``auth``.
            view: The viewset.
        """
        raise NotImplementedError

    def wait(self) -> float | None:
        """After a refusal, the seconds until a request may be accepted; ``None`` if that is unknown."""
        return None


class SimpleRateThrottle(BaseThrottle):
    """A number of requests in a time, for each key. Subclasses override ``get_cache_key``.

    The rate is that of ``scope`` in ``throttle.rates``, or ``rate``, written as in the settings (``60/min``).
    """

    scope: ClassVar[str | None] = None
    rate: ClassVar[str | None] = None

    def __init__(self) -> None:
        self.window: Window | None = None

    @classmethod
    def get_scope(cls, view: Any) -> str | None:
        """The name of the limit for a viewset; ``None`` for no limit."""
        return cls.scope or cls.__name__

    @classmethod
    def get_rate(cls, scope: str, rates: Mapping[str, Rate]) -> Rate | None:
        """The rate of a scope; ``ValueError`` if ``rate`` of the class is malformed."""
        return rates.get(scope) if cls.rate is None else rate().take(cls.rate)

    def get_cache_key(self, request: Any, view: Any) -> str | None:
        """The key that the request is counted under; ``None`` accepts it without counting."""
        return self.get_ident(request)

    def get_ident(self, request: Any) -> str:
        """The caller: the user's id, or the address of an anonymous caller."""
        return caller_of(request)

    async def allow_request(self, request: Any, view: Any) -> bool:
        throttles: Throttles = request.app[THROTTLES]
        scope, key = self.get_scope(view), self.get_cache_key(request, view)
        if scope is None or key is None:
            return True
        limit = self.get_rate(scope, throttles.rates)
        if limit is None:
            raise ConfigurationError(_missing_rate(scope, type(self), throttles.rates))
        allowed, self.window = await throttles.count(scope, limit, key)
        return allowed

    def wait(self) -> float | None:
        return None if self.window is None else self.window.reset


class AnonRateThrottle(SimpleRateThrottle):
    """Anonymous callers, each address on its own; scope ``anon``."""

    scope = "anon"

    def get_cache_key(self, request: Any, view: Any) -> str | None:
        return None if request.user.is_authenticated else self.get_ident(request)


class UserRateThrottle(SimpleRateThrottle):
    """Every caller: a user from any address, anonymous callers by address; scope ``user``."""

    scope = "user"


class ScopedRateThrottle(SimpleRateThrottle):
    """Every caller, in the scope that the viewset names with ``throttle_scope``; without one there is no limit."""

    @classmethod
    def get_scope(cls, view: Any) -> str | None:
        return getattr(view, "throttle_scope", None)


def check_rates(throttles: Iterable[type[BaseThrottle]], view: object, rates: Mapping[str, Rate]) -> None:
    """``ConfigurationError`` if a throttle of a viewset, given as its class, has no rate."""
    for throttle in throttles:
        if not issubclass(throttle, SimpleRateThrottle) or (scope := throttle.get_scope(view)) is None:
            continue
        try:
            found = throttle.get_rate(scope, rates)
        except ValueError as error:
            raise ConfigurationError(f"{throttle.__name__}.rate: {error}") from None
        if found is None:
            raise ConfigurationError(_missing_rate(scope, throttle, rates))


def _missing_rate(scope: str, throttle: type[BaseThrottle], rates: Mapping[str, Rate]) -> str:
    present = f" (it has {', '.join(rates)})" if rates else ""
    return (
        f"{throttle.__name__} has no rate: throttle.rates in service.yaml lacks {scope!r}{present};"
        f" write for example throttle: {{rates: {{{scope}: 60/min}}}}"
    )


RATE_LIMITS: Final = web.RequestKey("throttle_headers", dict)


async def check(request: Request, view: View, throttles: Sequence[BaseThrottle]) -> None:
    """Count a request with all throttles; ``Throttled``, with the longest wait, if one of them refuses it."""
    waits = []
    for throttle in throttles:
        decision = throttle.allow_request(request, view)
        if not (await decision if isawaitable(decision) else decision):
            waits.append(throttle.wait() or 0)
    windows = [each.window for each in throttles if isinstance(each, SimpleRateThrottle) and each.window is not None]
    if windows:
        request.http[RATE_LIMITS] = _headers(windows)
    if waits:
        raise Throttled(max(waits))


def add_rate_limit_headers(http: web.Request, response: web.StreamResponse) -> None:
    """Add ``RateLimit`` and ``RateLimit-Policy`` to the response of a request that was counted."""
    if headers := http[RATE_LIMITS]:
        response.headers.update(headers)


def _headers(windows: Sequence[Window]) -> dict[str, str]:
    """Structured fields (RFC 9651): a list of names with parameters."""
    named = [(re.sub(r'[^ -~]|["\\]', "_", window.scope), window) for window in windows]
    return {
        "RateLimit-Policy": ", ".join(f'"{name}";q={each.rate.count};w={each.rate.seconds}' for name, each in named),
        "RateLimit": ", ".join(f'"{name}";r={each.remaining};t={math.ceil(each.reset)}' for name, each in named),
    }


def caller_of(request: Any) -> str:
    """Under what a caller is counted: the user's id, or the address of an anonymous caller."""
    user_id = id_of(request.user)
    return f"user:{user_id}" if user_id is not None else f"address:{_address(request)}"


def caller_at(peer: str) -> str:
    """Under what an anonymous caller is counted whose connection comes from an address."""
    return f"address:{_network(peer) or 'local'}"


def client_address(http: web.Request, trusted_proxies: int) -> str:
    """The address of a client: an IPv4 address, the /64 of an IPv6 address, or ``local`` for a Unix socket.

    With trusted proxies it is the address that the outermost of them has reported.
    """
    peer = http.remote or ""
    shown = reported(http, "for", trusted_proxies) if trusted_proxies else None
    return _network(shown or peer) or _network(peer) or "local"


@lru_cache(maxsize=ADDRESSES_KEPT)
def _network(text: str) -> str | None:
    """An address without its port, as the network that belongs to one caller; ``None`` if it is not an address."""
    if match := re.fullmatch(r"\[([^\]]*)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+):\d+", text):
        text = match[1] or match[2] or ""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), 64), strict=False))


def _address(request: Request) -> str:
    return client_address(request.http, request.app[THROTTLES].trusted_proxies)


class Throttles:
    """What the throttles of one service share: the rates, and the storage with the counts."""

    def __init__(
        self,
        settings: Throttle,
        *,
        trusted_proxies: int = 0,
        clock: Clock = time.time,
        storage: Storage | None = None,
    ) -> None:
        self.rates = settings.rates
        self._failures = settings.authentication_failures
        self.trusted_proxies = trusted_proxies
        self._clock = clock
        self._storage = storage or open_storage(settings.storage, clock)
        self._failed_at: float | None = None

    async def count(self, scope: str, limit: Rate, key: str) -> tuple[bool, Window | None]:
        """Count one request. Returns whether it is accepted, and the caller's window if the storage could be read."""
        if self._failed_at is not None and 0 <= self._clock() - self._failed_at < STORAGE_RETRY_SECONDS:
            return True, None
        name = f"{scope}/{key}"
        try:
            async with asyncio.timeout(STORAGE_TIMEOUT_SECONDS):
                allowed = await self._storage.acquire_entry(name, limit.count, limit.seconds)
                oldest, used = await self._storage.get_moving_window(name, limit.count, limit.seconds)
        except (StorageUnavailable, OSError, TimeoutError) as error:
            if self._failed_at is None:
                _logger.warning(
                    "throttle_storage_unavailable", error=str(error) or repr(error), effect="nobody is throttled"
                )
            self._failed_at = self._clock()
            return True, None
        if self._failed_at is not None:
            _logger.info("throttle_storage_available")
            self._failed_at = None
        reset = min(max(0.0, oldest + limit.seconds - self._clock()), limit.seconds)
        return allowed, Window(scope, limit, max(0, limit.count - used), reset)

    async def count_failure(self, http: web.Request) -> Throttled | None:
        """Count wrong credentials by the caller's address; the response instead of a 401 if there were too many.

        Right credentials are neither counted nor refused: other callers may have the same address.
        """
        if self._failures == UNLIMITED:
            return None
        address = client_address(http, self.trusted_proxies)
        allowed, window = await self.count(FAILURES_SCOPE, self._failures, f"address:{address}")
        return None if allowed else Throttled(None if window is None else window.reset)

    async def close(self) -> None:
        """Close the storage's connections."""
        await self._storage.close()


THROTTLES: Final = web.AppKey("throttles", Throttles)
