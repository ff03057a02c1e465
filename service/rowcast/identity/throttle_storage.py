"""Where throttles count requests: in this process, or in Redis, which all processes of a service share.

Both count in a *moving window*: a request counts for the length of the window after it was made. In this process a window
is at most ``SLOTS_PER_WINDOW`` counts long, about, and there are at most ``WINDOWS_MAX`` windows; the storage in memory
that ``limits`` has knows no such bounds. ``limits`` and ``redis`` are imported only for ``redis://`` (``rowcast[redis]``).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from importlib import import_module
from typing import Any, Final, Protocol

from rowcast.errors import ConfigurationError
from rowcast.identity.users import Clock

SLOTS_PER_WINDOW: Final = 64  # requests within one slot are counted together, so a window is small at any rate
WINDOWS_MAX: Final = 100_000  # in this process; beyond it the least recently used one is dropped
STORAGE_TIMEOUT_SECONDS: Final = 1.0  # for counting one request


class StorageUnavailable(Exception):
    """The storage cannot be reached."""


class Storage(Protocol):
    """Counts requests by key, in moving windows of ``expiry`` seconds. ``StorageUnavailable`` where it cannot."""

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` requests, unless the window then has more than ``limit``; return whether they were counted."""

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The time of the oldest request in the window, in unix seconds, and the number of requests."""

    async def close(self) -> None:
        """Close the connections."""


def open_storage(address: str, clock: Clock) -> Storage:
    """The storage of ``throttle.storage``: ``memory`` or a ``redis://`` address; ``ConfigurationError`` if it is wrong."""
    return MemoryStorage(clock) if address == "memory" else RedisStorage(_connect(address))


class MemoryStorage:
    """Moving windows in this process, in bounded memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._windows: OrderedDict[tuple[str, int], deque[list[float]]] = OrderedDict()  # least recently used first

    @property
    def windows(self) -> int:
        """The number of windows in memory."""
        return len(self._windows)

    def slots(self, key: str, expiry: int) -> int:
        """The number of slots of one window."""
        return len(self._windows[key, expiry])

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        now = self._clock()
        window = self._window(key, expiry)
        if sum(count for _, _, count in window) + amount > limit:
            return False
        if window and now - window[-1][0] < expiry / SLOTS_PER_WINDOW:
            window[-1][1] = now
            window[-1][2] += amount
        else:
            window.append([now, now, amount])
        self._windows[key, expiry] = window
        self._windows.move_to_end((key, expiry))
        self._drop_unused()
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        window = self._window(key, expiry)
        return window[0][1] if window else self._clock(), int(sum(count for _, _, count in window))

    async def close(self) -> None:
        return

    def _window(self, key: str, expiry: int) -> deque[list[float]]:
        """The slots that still count: time of the first and the last request, and number of requests.

        A slot counts for as long as its last request does.
        """
        window = self._windows.get((key, expiry), deque())
        while window and window[0][1] <= self._clock() - expiry:
            window.popleft()
        return window

    def _drop_unused(self) -> None:
        """Drop the least recently used window if it is over, or if there are too many: two for each new one."""
        for _ in range(2):
            key, expiry = next(iter(self._windows))
            if self._window(key, expiry) and len(self._windows) <= WINDOWS_MAX:
                return
            del self._windows[key, expiry]


class RedisStorage:
    """A storage of ``limits``, whose errors leave as ``StorageUnavailable``."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._error: type[Exception] = import_module("limits.errors").StorageError

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        try:
            return bool(await self._storage.acquire_entry(key, limit, expiry, amount))
        except self._error as error:
            raise StorageUnavailable(str(error)) from error

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        try:
            oldest, count = await self._storage.get_moving_window(key, limit, expiry)
        except self._error as error:
            raise StorageUnavailable(str(error)) from error
        return oldest, count

    async def close(self) -> None:
        await self._storage.bridge.storage.aclose()


def _connect(address: str) -> Any:
    """The storage of ``limits`` for an address, which does not connect before it is used."""
    try:
        import_module("redis")
        errors, storages = import_module("limits.errors"), import_module("limits.storage")
    except ImportError as error:
        raise ConfigurationError(
            "throttle.storage: counting in Redis needs the packages limits and redis:"
            f" pip install 'rowcast[redis]' ({error})"
        ) from error
    try:
        return storages.storage_from_string(
            f"async+{address}",
            implementation="redispy",
            wrap_exceptions=True,
            key_prefix="rowcast",
            socket_timeout=STORAGE_TIMEOUT_SECONDS,
            socket_connect_timeout=STORAGE_TIMEOUT_SECONDS,
        )
    except (errors.ConfigurationError, ValueError):  # whose message may contain the password
        raise ConfigurationError(
            "throttle.storage: is not the address of a Redis; write it as redis://:password@host:6379/0"
        ) from None
