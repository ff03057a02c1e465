"""How often callers may call. A throttle is a class; every throttle of a viewset counts every request.

A rate of 60/min lets through at most 60 requests in *any* minute: the moments of what was let through are kept for a
minute, and what was refused does not count. A caller who was refused is told when the oldest of them will be a minute
old. The counts are in Redis, where all processes share them, or in this process.

Where the count cannot be read nobody is refused: a cache that is down should not take the service with it.

https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/ (``RateLimit``, ``RateLimit-Policy``)
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import isawaitable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, ClassVar, Final, Protocol, TypeAlias

import limits.errors
import structlog
from aiohttp import web
from limits.storage import storage_from_string

from rowcast.configuration.settings import Rate, Throttle, rate
from rowcast.errors import ConfigurationError, Throttled

SLOTS: Final = 64  # in which the requests of a window are counted together, so that a window is small at any rate
WINDOWS: Final = 100_000  # in this process; beyond them the longest unused is forgotten
PATIENCE: Final = 1.0  # s that counting may take
PAUSE: Final = 5.0  # s before a storage that failed is asked again

Clock: TypeAlias = Callable[[], float]  # unix seconds

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Window:
    """Where a caller stands: how many more requests now, and in how many seconds the oldest stops counting."""

    scope: str
    rate: Rate
    remaining: int
    reset: float


class BaseThrottle:
    """One limit. There is an instance for each request."""

    def allow_request(self, request: Any, view: Any) -> bool | Awaitable[bool]:
        """Count the request, and say whether it may go on. May be a coroutine."""
        raise NotImplementedError

    def wait(self) -> float | None:
        """After a refusal, the seconds until a request may be let through; ``None`` if that is not known."""
        return None


class SimpleRateThrottle(BaseThrottle):
    """So many requests in so much time for each key. The rate is that of ``scope`` in ``throttle.rates``, or ``rate``.

    Subclasses override ``get_cache_key``.
    """

    scope: ClassVar[str | None] = None
    rate: ClassVar[str | None] = None  # as in settings: 60/min

    def __init__(self) -> None:
        self.window: Window | None = None

    @classmethod
    def get_scope(cls, view: Any) -> str | None:
        """The name of the limit for a viewset; ``None`` leaves it alone."""
        return cls.scope or cls.__name__

    @classmethod
    def get_rate(cls, scope: str, rates: Mapping[str, Rate]) -> Rate | None:
        """The rate of a scope; ``ValueError`` if the class's own cannot be read."""
        return rates.get(scope) if cls.rate is None else rate().take(cls.rate)

    def get_cache_key(self, request: Any, view: Any) -> str | None:
        """Who the request is counted for; ``None`` lets it through uncounted."""
        return self.get_ident(request)

    def get_ident(self, request: Any) -> str:
        """The caller: his id, or where he calls from."""
        who = getattr(request.user, "id", None) if request.user.is_authenticated else None
        return f"user:{who}" if who is not None else f"address:{_address(request)}"

    async def allow_request(self, request: Any, view: Any) -> bool:
        throttles: Throttles = request.app[THROTTLES]
        scope, key = self.get_scope(view), self.get_cache_key(request, view)
        if scope is None or key is None:
            return True
        limit = self.get_rate(scope, throttles.rates)
        if limit is None:
            raise ConfigurationError(_lacking(scope, type(self), throttles.rates))
        allowed, self.window = await throttles.count(scope, limit, key)
        return allowed

    def wait(self) -> float | None:
        return None if self.window is None else self.window.reset


class AnonRateThrottle(SimpleRateThrottle):
    """Callers without credentials, each address by itself; scope ``anon``."""

    scope = "anon"

    def get_cache_key(self, request: Any, view: Any) -> str | None:
        return None if request.user.is_authenticated else self.get_ident(request)


class UserRateThrottle(SimpleRateThrottle):
    """Every caller: a user wherever he calls from, others by address; scope ``user``."""

    scope = "user"


class ScopedRateThrottle(SimpleRateThrottle):
    """Every caller, in the scope that the viewset names with ``throttle_scope``; without one there is no limit."""

    @classmethod
    def get_scope(cls, view: Any) -> str | None:
        return getattr(view, "throttle_scope", None)


def check_rates(throttles: Iterable[type[BaseThrottle]], view: Any, rates: Mapping[str, Rate]) -> None:
    """``ConfigurationError`` for a throttle of a viewset that has no rate."""
    for throttle in throttles:
        if not issubclass(throttle, SimpleRateThrottle) or (scope := throttle.get_scope(view)) is None:
            continue
        try:
            found = throttle.get_rate(scope, rates)
        except ValueError as error:
            raise ConfigurationError(f"{throttle.__name__}.rate: {error}") from None
        if found is None:
            raise ConfigurationError(_lacking(scope, throttle, rates))


def _lacking(scope: str, throttle: type[BaseThrottle], rates: Mapping[str, Rate]) -> str:
    known = f" (it has {', '.join(rates)})" if rates else ""
    return (
        f"{throttle.__name__} has no rate: throttle.rates in service.yaml lacks {scope!r}{known};"
        f" write for example throttle: {{rates: {{{scope}: 60/min}}}}"
    )


_HEADERS: Final = web.RequestKey("throttle_headers", dict)


async def check(request: Any, view: Any, throttles: Sequence[BaseThrottle]) -> None:
    """Count a request with all throttles; ``Throttled``, with the longest wait, unless all let it through."""
    waits = []
    for throttle in throttles:
        answer = throttle.allow_request(request, view)
        if not (await answer if isawaitable(answer) else answer):
            waits.append(throttle.wait() or 0)
    windows = [each.window for each in throttles if isinstance(each, SimpleRateThrottle) and each.window is not None]
    if windows:
        request.http[_HEADERS] = _headers(windows)
    if waits:
        raise Throttled(max(waits))


def announce(http: web.Request, response: web.StreamResponse) -> None:
    """Tell a caller whose request was counted where he stands, before the response is sent."""
    if (headers := http.get(_HEADERS)) is not None:
        response.headers.update(headers)


def _headers(windows: Sequence[Window]) -> dict[str, str]:
    """Structured fields (RFC 9651): a list of names with parameters."""
    named = [(re.sub(r'[^ -~]|["\\]', "_", window.scope), window) for window in windows]
    return {
        "RateLimit-Policy": ", ".join(f'"{name}";q={each.rate.count};w={each.rate.seconds}' for name, each in named),
        "RateLimit": ", ".join(f'"{name}";r={each.remaining};t={math.ceil(each.reset)}' for name, each in named),
    }


def client_address(http: web.Request, trusted_proxies: int) -> str:
    """Where a request comes from: an IPv4 address, the /64 of an IPv6 one, or ``local`` for a Unix socket.

    Of ``X-Forwarded-For`` counts what the outermost of our own proxies has written: the entry as far from the right as
    there are proxies. What is further left anybody can write.
    """
    peer = http.remote or ""
    if not trusted_proxies:
        return _network(peer) or "local"
    told = [part.strip() for line in http.headers.getall("X-Forwarded-For", ()) for part in line.split(",")]
    return _network(told[-trusted_proxies:][0] if told else peer) or _network(peer) or "local"


def _network(text: str) -> str | None:
    """An address without its port, as the network that one caller has; ``None`` if it is no address."""
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


def _address(request: Any) -> str:
    return client_address(request.http, request.app[THROTTLES].trusted_proxies)


class Storage(Protocol):
    """Where requests are counted: in this process, or as ``limits`` does it in Redis."""

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` requests if then there are no more than ``limit`` in ``expiry`` seconds; whether it was."""

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The moment of the oldest request that counts, in unix seconds, and how many do."""


class Memory:
    """Moving windows in this process. At most ``WINDOWS`` of them, of ``SLOTS`` counts each, about."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: OrderedDict[tuple[str, int], deque[list[float]]] = OrderedDict()  # the last used last

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = self._clock()
        window = self._window(key, expiry)
        if sum(count for _, _, count in window) + amount > limit:
            return False
        if window and now - window[-1][0] < expiry / SLOTS:
            window[-1][1] = now
            window[-1][2] += amount
        else:
            window.append([now, now, amount])
        self._windows[key, expiry] = window
        self._windows.move_to_end((key, expiry))
        self._forget()
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        window = self._window(key, expiry)
        return window[0][1] if window else self._clock(), int(sum(count for _, _, count in window))

    def _window(self, key: str, expiry: int) -> deque[list[float]]:
        """The slots that still count: from when, until when, how many. One counts as long as its last request."""
        window = self._windows.get((key, expiry), deque())
        while window and window[0][1] <= self._clock() - expiry:
            window.popleft()
        return window

    def _forget(self) -> None:
        """Drop what nobody has used for longest, if it is over or there is too much: two for each that may be new."""
        for _ in range(2):
            key, expiry = next(iter(self._windows))
            if self._window(key, expiry) and len(self._windows) <= WINDOWS:
                return
            del self._windows[key, expiry]


class Throttles:
    """What the throttles of one service share: the rates, and the counts."""

    def __init__(self, settings: Throttle, *, trusted_proxies: int = 0, clock: Clock = time.time) -> None:
        self.rates = settings.rates
        self.trusted_proxies = trusted_proxies
        self._clock = clock
        self._storage = Memory(clock) if settings.storage == "memory" else _redis(settings.storage)
        self._failed_at: float | None = None

    async def count(self, scope: str, limit: Rate, key: str) -> tuple[bool, Window | None]:
        """Count one request: whether it may go on, and where its caller stands if that is known."""
        if self._failed_at is not None and 0 <= self._clock() - self._failed_at < PAUSE:
            return True, None
        name = f"{scope}/{key}"
        try:
            async with asyncio.timeout(PATIENCE):
                allowed = await self._storage.acquire_entry(name, limit.count, limit.seconds)
                oldest, used = await self._storage.get_moving_window(name, limit.count, limit.seconds)
        except (limits.errors.StorageError, OSError, TimeoutError) as error:
            if self._failed_at is None:
                log.warning(
                    "throttle_storage_unavailable", error=str(error) or repr(error), effect="nobody is throttled"
                )
            self._failed_at = self._clock()
            return True, None
        if self._failed_at is not None:
            log.info("throttle_storage_available")
            self._failed_at = None
        reset = min(max(0.0, oldest + limit.seconds - self._clock()), limit.seconds)
        return allowed, Window(scope, limit, max(0, limit.count - used), reset)

    async def close(self) -> None:
        """Let go of Redis."""
        if not isinstance(self._storage, Memory):
            await self._storage.bridge.storage.aclose()


def _redis(url: str) -> Any:
    try:
        import_module("redis")
    except ImportError as error:
        raise ConfigurationError(
            f"throttle.storage: counting in Redis needs the redis package: pip install 'rowcast[redis]' ({error})"
        ) from error
    try:
        return storage_from_string(
            f"async+{url}",
            implementation="redispy",
            wrap_exceptions=True,
            key_prefix="rowcast",
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
        )
    except (limits.errors.ConfigurationError, ValueError):  # whose words may have the password
        raise ConfigurationError(
            "throttle.storage: is no address of a Redis; write it as redis://:password@host:6379/0"
        ) from None


THROTTLES: Final = web.AppKey("throttles", Throttles)
