"""The ticker: one replica at a time divides the log into ticks.

The replica that has the lock on ``LEADER_TABLE`` makes ticks; the others look four times a second whether it is free. The
lock belongs to a connection of its own, so it is free when that ends, for whatever reason; then the leader stops. If the
leader is silent for a while, the server ends the connection. For a moment there may be two tickers. They do no harm: each
tick is one statement, which sees the tick before, and of two statements that make the same tick one fails. Nodes that are
fed by a relay hear whether there is a leader, and look at the lock twice a minute.

**Awake**, the ticker polls every 2 to 20 ms: faster after a change, and slower where the server is busy. This is cheap
for the ticker and free for writers; a NOTIFY in each writing transaction would serialize their commits. **Asleep**, it
is woken by NOTIFY. A writer finds out which of the two it is from the *gate*, a sequence that the ticker sets: a writer that
finds it open notifies.

A writer may find the gate shut just before the ticker opens it, and commit later without a notification. Such a writer
already has a transaction number when it looks. So the ticker, which is **dozing** now, opens the gate, takes a
transaction number of its own, and polls on until every transaction with a smaller number has ended. Every writer that
looks later finds the gate open. A poll every 750 ms is the safety net if any of this fails. After a poll that finds a change
of which no notification came, there are four polls a second, until a notification arrives again.

With ``wakeup="poll"`` the triggers never notify, and neither does the ticker. It polls more slowly the longer nothing
changes.

A tick commits synchronously, whatever the server's settings, and its commit reaches the disk after those that the tick
sees. So nothing is delivered that a crash could take back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from enum import Enum, auto
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

from rowcast.changes import retention, ticks
from rowcast.changes.bus import FED_POLL_SECONDS
from rowcast.changes.checks import sequence_is_ordered
from rowcast.changes.connection import SAFETY_POLL_SECONDS, Reconnecting, session
from rowcast.changes.coordination import GATE_OPEN, GATE_SHUT, LEADER_TABLE, WAKE_CHANNEL, set_gate
from rowcast.changes.epochs import current_epoch
from rowcast.changes.reader import prepare_session
from rowcast.changes.retention import PARTITIONS_KEPT
from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.table_lock import keep_lock, lock_holder, try_lock_table
from rowcast.errors import ConfigurationError
from rowcast.tasks import Supervisor

if TYPE_CHECKING:
    from rowcast.changes.relay import Relay

POLL_MIN_SECONDS: Final = 0.002
POLL_MAX_SECONDS: Final = 0.020
DOZE_AFTER_SECONDS: Final = 0.020  # without a change
LEADER_SILENCE_SECONDS: Final = 10  # after which the server ends the leader's sessions
LOCK_KEPT_SHARE: Final = 0.2  # of these seconds, after which the connection with the lock is used again

TICKER_NAME: Final = "rowcast ticker"  # of its sessions, by which others find them
_SESSION: Final = (
    f"SET application_name = '{TICKER_NAME}'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;"
    " SET tcp_keepalives_count = 3"
)

_logger = structlog.get_logger(__name__)


class Phase(Enum):
    """What a ticker is doing."""

    STANDBY = auto()  # another replica leads, or there is no connection
    POLLING = auto()  # leads, with wakeup="poll"
    WAKING = auto()  # leads, and is about to shut the gate
    AWAKE = auto()  # leads, and the gate is shut
    DOZING = auto()  # has opened the gate, and waits for the transactions that may have found it shut
    ASLEEP = auto()  # waits for a notification


_TRANSITIONS: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.STANDBY: frozenset({Phase.STANDBY, Phase.POLLING, Phase.WAKING}),
    Phase.POLLING: frozenset({Phase.STANDBY}),
    Phase.WAKING: frozenset({Phase.STANDBY, Phase.AWAKE, Phase.DOZING}),
    Phase.AWAKE: frozenset({Phase.STANDBY, Phase.DOZING}),
    Phase.DOZING: frozenset({Phase.STANDBY, Phase.WAKING, Phase.ASLEEP}),
    Phase.ASLEEP: frozenset({Phase.STANDBY, Phase.WAKING}),
}


class Ticker(Reconnecting):
    """Makes ticks while it leads, and keeps the log to ``retention`` seconds and ``size`` bytes, and answers to ``answers``
    seconds.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        wakeup: str = "notify",
        retention: float = 24 * 3600,
        size: int = 4 << 30,
        answers: float = 24 * 3600,
        relay: Relay | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        super().__init__(connect, "ticker", supervisor)
        self._relay = relay
        if relay is not None:
            relay.notify(of_changes=self.ring)
        self._notify = wakeup == "notify"
        self._retention = retention
        self._size = size
        self._answers = answers
        self._period = max(0.5, min(10.0, self._retention / PARTITIONS_KEPT / 4))  # of maintenance
        self._phase = Phase.STANDBY
        self.leading = asyncio.Event()  # set while this replica makes ticks
        self.asleep = asyncio.Event()  # set while it waits to be woken
        self.ticks = 0  # the number of ticks made

    async def start(self) -> None:
        """Start to lead, or to wait for it; returns at once."""
        await super().start()
        self._tasks.append(self._supervisor.every("log maintenance", self._period, self._maintain))

    async def _prepare(self, connection: Connection) -> None:
        if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=10):
            raise ConfigurationError("the database is a standby: ticks are made on the primary server")
        await prepare_session(connection)
        await connection.execute(f"{_SESSION}; SET synchronous_commit = on")

    async def _work(self, connection: Connection) -> None:
        while True:
            self._bell.clear()
            while await lock_holder(connection, LEADER_TABLE) is not None:
                fed = self._relay is not None and self._relay.feeds
                await self._wait((FED_POLL_SECONDS if fed else SAFETY_POLL_SECONDS) * random.uniform(0.8, 1.2))
                self._bell.clear()
            async with session(self._connect, self._lose_lock) as lock:
                await lock.execute(_SESSION)
                if await try_lock_table(lock, LEADER_TABLE, silence=LEADER_SILENCE_SECONDS):
                    await self._begin(connection, lock)
            await self._wait(SAFETY_POLL_SECONDS * random.uniform(0.1, 1))  # others have tried at the same moment

    def _lose_lock(self) -> None:
        if self._phase is not Phase.STANDBY:
            self._lose()

    async def _begin(self, connection: Connection, lock: Connection) -> None:
        """Lead for ever, with the connection that has the lock."""
        if not await sequence_is_ordered(connection):
            raise ConfigurationError("the sequence rowcast.change_seq must have CACHE 1, INCREMENT 1 and NO CYCLE")
        await connection.execute(f"SET idle_session_timeout = '{LEADER_SILENCE_SECONDS}s'")
        if self._notify:  # a ticker that waits for the lead is not to be woken by writers
            await self._listen(connection, WAKE_CHANNEL)
        epoch = await current_epoch(connection)
        _logger.info("ticker_leads", epoch=epoch)
        try:
            await self._lead(connection, lock, epoch)
        finally:
            self._enter(Phase.STANDBY)

    def _enter(self, phase: Phase) -> None:
        assert phase in _TRANSITIONS[self._phase], f"a ticker does not go from {self._phase} to {phase}"
        self._phase = phase
        for event, on in ((self.leading, phase is not Phase.STANDBY), (self.asleep, phase is Phase.ASLEEP)):
            if on:
                event.set()
            else:
                event.clear()
        if self._relay is not None:
            self._relay.lead(self.leading.is_set())

    async def _lead(self, connection: Connection, lock: Connection, epoch: int) -> None:
        """Poll for ever."""
        kept = monotonic()
        interval = POLL_MIN_SECONDS
        interval_max = POLL_MAX_SECONDS if self._notify else SAFETY_POLL_SECONDS
        changed = monotonic()
        doze_until = 0  # the transaction before which all must have ended, while dozing
        if self._notify:
            await set_gate(connection, GATE_OPEN)  # as it is while a ticker is waking
        self._enter(Phase.WAKING if self._notify else Phase.POLLING)
        while True:
            self._begin_look()
            started = monotonic()
            if started - kept > LOCK_KEPT_SHARE * LEADER_SILENCE_SECONDS:
                await keep_lock(lock)
                kept = started
            tick, oldest = await ticks.make_tick(connection, epoch, notify=self._notify)
            finished = monotonic()
            if tick is not None:
                self.ticks += 1
                changed = finished
                interval = min(max(POLL_MIN_SECONDS, 4 * (finished - started)), POLL_MAX_SECONDS)
                if self._phase is Phase.ASLEEP:
                    self._note_change()
                if self._phase in (Phase.DOZING, Phase.ASLEEP):
                    self._enter(Phase.WAKING)
            elif self._phase is not Phase.ASLEEP:
                interval = min(1.25 * interval, interval_max)
            match self._phase:
                case Phase.ASLEEP:
                    await self._wait(self._safety_pause)
                case Phase.DOZING if oldest > doze_until:
                    self._enter(Phase.ASLEEP)
                    await self._wait(self._safety_pause)
                case Phase.WAKING | Phase.AWAKE if finished - changed > DOZE_AFTER_SECONDS:
                    if self._phase is Phase.AWAKE:
                        await self._open_gate(connection)
                    doze_until = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint", timeout=10)
                    self._enter(Phase.DOZING)
                case Phase.WAKING:
                    await set_gate(connection, GATE_SHUT)
                    self._enter(Phase.AWAKE)
                    await self._wait(interval)
                case _:
                    await self._wait(interval)

    async def _open_gate(self, connection: Connection) -> None:
        await set_gate(connection, GATE_OPEN)

    async def _maintain(self) -> None:
        """Remove what is too old or too large, if this replica leads, over a connection of its own."""
        try:
            async with asyncio.timeout(self._period):
                await self.leading.wait()
        except TimeoutError:
            return
        try:
            async with session(self._connect) as connection:
                if not await retention.maintain(connection, self._retention, self._size):
                    _logger.info("log_maintenance_postponed")
                await retention.forget_answers(connection, self._answers)
                await retention.forget_tickets(connection)
        except DRIVER_ERRORS as error:
            _logger.warning("log_maintenance_failed", error=str(error) or type(error).__name__)
