"""The origin as an edge uses it: a service with a database, asked over HTTP for what the edge does not have.

The addresses are below ``PREFIX``, and are for edges alone: they have the key of ``stream.edge_key``. A piece of the log is a
sequence of frames: a kind, a length, and so many bytes. It ends with a frame about the end of the log, or with one that says why the log
cannot be read from there. An answer that is cut off has neither.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from rowcast.changes.connection import OriginLost
from rowcast.changes.events import Batch
from rowcast.changes.position import Position, Snapshot
from rowcast.changes.relay_messages import FORMAT, RelayKey, pack, unpack
from rowcast.changes.tail import Reason, Reset
from rowcast.changes.ticks import Tick

PREFIX: Final = f"/stream/edge/{FORMAT}"  # versions of Rowcast with other messages do not understand each other
STATE: Final = f"{PREFIX}/state/"
LOG: Final = f"{PREFIX}/log/"
POSITION: Final = f"{PREFIX}/position/"
SNAPSHOT: Final = f"{PREFIX}/snapshot/"
TOKEN: Final = f"{PREFIX}/token/"
TOKENS: Final = f"{PREFIX}/tokens/"
TICKET: Final = f"{PREFIX}/ticket/"
KEY_HEADER: Final = "X-Edge-Key"

CONNECT_TIMEOUT_SECONDS: Final = 5.0
ANSWER_TIMEOUT_SECONDS: Final = 10.0  # between two pieces of an answer
REFUSAL_MAX_BYTES: Final = 16 << 10
ANSWER_MAX_BYTES: Final = 16 << 20  # of an answer that is not a piece of the log

_FRAME: Final = struct.Struct(">cI")
_BATCH: Final = b"B"
_END: Final = b"E"
_RESET: Final = b"R"


@dataclass(frozen=True, slots=True)
class End:
    """The end of the log, as far as the origin has read it.

    ``lag`` is for how many seconds it has not seen that this is the newest change. If the origin uses a message bus, ``relay`` is the
    key of the log there, and ``at`` when it was asked, by the clock of the database in seconds.
    ``config`` differs for an origin with another configuration.
    """

    head: Position
    lag: float
    relay: RelayKey | None
    at: float | None
    config: str


@dataclass(frozen=True, slots=True)
class OriginState:
    """What an edge begins with.

    ``oldest`` and ``newest`` are ticks of the origin: the one with which its memory begins, and its last. ``traits`` has what is known of
    each table, as ``TableTraits.dumped``, and ``resources`` a digest of each resource's declaration. ``version`` is that of Rowcast,
    ``time`` that of its clock in seconds since 1970, and ``trusted_proxies`` the setting.
    """

    oldest: Tick
    newest: Tick
    traits: Mapping[str, Any]
    resources: Mapping[str, str]
    config: str
    version: str
    time: float
    trusted_proxies: int


class Origin:
    """The service at a URL, for an edge that has its ``stream.edge_key``. ``place`` is the URL.

    Every method raises ``OriginLost``.
    """

    def __init__(self, url: str, key: str) -> None:
        self.place = url.rstrip("/")
        self._url = URL(self.place)
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def state(self) -> OriginState:
        """The origin as it is now."""
        found = await self.ask(STATE)
        with _understanding():
            oldest, newest = (Tick(tick, epoch, Snapshot.parse(snap)) for tick, epoch, snap in found["ticks"])
            rest = {each.name: found[each.name] for each in fields(OriginState)[2:]}
            return OriginState(oldest, newest, **rest)

    async def check(self, position: Position) -> Reason | None:
        """The reason why a reader cannot go on from a position, or ``None`` if it can."""
        found = await self.ask(POSITION, position=str(position))
        with _understanding():
            return None if found["reason"] is None else Reason(found["reason"])

    async def snapshot(self) -> str:
        """The ``pg_current_snapshot`` of the primary."""
        found = await self.ask(SNAPSHOT)
        with _understanding():
            return str(Snapshot.parse(found["snapshot"]))

    async def ask(self, path: str, **params: str) -> Any:
        """What the origin answers to a POST of ``params``, parsed."""
        async with self._request(path, orjson.dumps(params)) as response:
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > ANSWER_MAX_BYTES:
                    raise OriginLost("its answer is too long")
            with _understanding():
                return orjson.loads(body)

    async def read(
        self, after: Position, *, until: Position | None = None, wait: float = 0
    ) -> AsyncGenerator[Batch | End, None]:
        """The batches after a position, one after the other, and then the end of the log. Raises ``Reset``.

        With ``until`` there are none after that position. Where there is no batch the origin waits for one, for ``wait`` seconds at most.
        """
        params = {"after": str(after), "wait": str(wait), **({} if until is None else {"until": str(until)})}
        async with self._request(LOG, orjson.dumps(params)) as response:
            while True:
                kind, length = _FRAME.unpack(await response.content.readexactly(_FRAME.size))
                content = await response.content.readexactly(length)
                with _understanding():
                    piece = _opened(kind, content)
                yield piece
                if isinstance(piece, End):
                    return

    @contextlib.asynccontextmanager
    async def _request(self, path: str, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_SECONDS, sock_read=ANSWER_TIMEOUT_SECONDS
            )
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        headers = {KEY_HEADER: self._key, "Content-Type": "application/json"}
        url = self._url.with_path(self._url.path.rstrip("/") + path)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status != 200:
                    raise OriginLost(await _refusal(response))
                yield response
        except aiohttp.ClientConnectorError as error:
            raise OriginLost(f"no connection can be made: {error.os_error.strerror or error.os_error}") from None
        except (aiohttp.ClientError, EOFError, TimeoutError) as error:
            raise OriginLost(str(error) or type(error).__name__) from None


_REFUSALS: Final[Mapping[int, str]] = {
    401: "its stream.edge_key is another one",
    404: "there is no Rowcast of this version at this URL that serves edges: the origin needs stream.edge_key",
}


async def _refusal(response: aiohttp.ClientResponse) -> str:
    """Why the origin has not answered, in its own words where it has some."""
    if response.status in _REFUSALS:
        return _REFUSALS[response.status]
    try:
        detail = orjson.loads(await response.content.read(REFUSAL_MAX_BYTES))["detail"]
    except (KeyError, TypeError, ValueError):
        detail = "it is not one of Rowcast's"
    return f"its answer has the status {response.status}: {detail}"


@contextlib.contextmanager
def _understanding() -> Iterator[None]:
    """Read an answer, or raise ``OriginLost``."""
    try:
        yield
    except (LookupError, TypeError, ValueError, struct.error):
        raise OriginLost("its answer is malformed") from None


def _opened(kind: bytes, content: bytes) -> Batch | End:
    """What is in a frame. Raises ``Reset`` for one that says so."""
    if kind == _BATCH:
        return unpack(content)
    found = orjson.loads(content)
    if kind == _RESET:
        raise Reset(Reason(found["reason"]))
    relay = None if found["relay"] is None else RelayKey(found["relay"][0], bytes.fromhex(found["relay"][1]))
    return End(Position.parse(found["head"]), found["lag"], relay, found["at"], found["config"])


def batch_frame(batch: Batch) -> bytes:
    """The frame of a batch."""
    return _frame(_BATCH, pack(batch))


def end_frame(end: End) -> bytes:
    """The frame of the end of the log."""
    relay = None if end.relay is None else (end.relay.channel, end.relay.secret.hex())
    found = {"head": str(end.head), "lag": end.lag, "relay": relay, "at": end.at, "config": end.config}
    return _frame(_END, orjson.dumps(found))


def reset_frame(reason: Reason) -> bytes:
    """The frame that says why the log cannot be read from a position."""
    return _frame(_RESET, orjson.dumps({"reason": reason.value}))


def _frame(kind: bytes, content: bytes) -> bytes:
    return _FRAME.pack(kind, len(content)) + content
