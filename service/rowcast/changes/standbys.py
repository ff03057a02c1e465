"""As of which moment a standby is current.

A *moment* is what this process knew when it looked at its clock: everything that had been committed before, by itself or
according to its feed. Every ``LOOK_SECONDS`` the process reads how far the primary has written (``PrimaryClock``) and how far each
standby has replayed that (``StandbyWatch``). A standby that has replayed what the primary had written after a moment shows
everything that had been committed before that moment, whatever the clocks of the servers are, and also if nothing is
written or replaying is paused. So a moment answers whether a standby has what a caller has written, what a position
contains, or what the cache knows.

A standby of another history may have replayed as many bytes. It does not have the newest epoch of the primary, which is
written when a history begins (``changes/epochs.py``), nor its newest tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog

from rowcast.changes import sql
from rowcast.changes.connection import Reconnecting
from rowcast.changes.position import POSITION_MAX_LENGTH, WITH_SNAPSHOT, Position, Snapshot
from rowcast.database.connection import Connect, Connection
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.tasks import Supervisor

LOOK_SECONDS: Final = 0.25  # between two looks
LOOK_TIMEOUT_SECONDS: Final = 1.0  # after which a server counts as lost
KEPT_SECONDS: Final = 61.0  # for which the ends of the primary's log are kept

RUNNING_MAX: Final = 1000  # transactions after the newest tick, of which a position names those that run
TOO_MANY: Final = "?"

_PRIMARY_END: Final = sql.load("primary_end")
_STANDBY_END: Final = sql.load("standby_end")
_STANDBY_POSITION: Final = sql.load("standby_position")
SNAPSHOT: Final = "pg_current_snapshot()::text"
"""The SQL of the snapshot of a statement on the primary."""
SNAPSHOT_OR_POSITION: Final = f"CASE WHEN pg_is_in_recovery() THEN {_STANDBY_POSITION} ELSE {SNAPSHOT} END"
"""The SQL of the snapshot of a statement, or on a standby of its position."""
READ_POSITION: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
    f"SELECT set_config('rowcast.position', {SNAPSHOT_OR_POSITION}, true);"
)
"""What a transaction begins with on a replica if its statement runs with the role of a caller, who may not read ticks."""
SNAPSHOT_OR_POSITION_READ: Final = f"coalesce(nullif(current_setting('rowcast.position', true), ''), {SNAPSHOT})"
"""The SQL of the snapshot of a statement, or of the position that was read before."""
_logger = structlog.get_logger(__name__)


def position_on_standby(made_of: str) -> str:
    """The position that continues a statement on a standby, from what the statement has returned of it.

    It is after the newest tick t that the statement sees, and omits the transactions that it sees as well. Those are known from
    the log: a transaction that is neither in t nor has changes there which the statement sees counts as running, which
    costs nothing if it has none at all. If there are too many, only those before the oldest that runs are omitted.
    """
    place, ticked, oldest, following, seen = made_of.split(WITH_SNAPSHOT)
    at_least = f"{place}-0{WITH_SNAPSHOT}{oldest}:{oldest}:"
    tick, end = Snapshot.parse(ticked), int(following)
    if seen == TOO_MANY or end - tick.xmax > RUNNING_MAX:
        return at_least
    known = {int(xid) for xid in seen.split(",") if xid}
    later = (*tick.running, *range(tick.xmax, end))
    running = [xid for xid in later if xid >= int(oldest) and xid not in known]
    exact = f"{place}-0{WITH_SNAPSHOT}{Snapshot(running[0] if running else end, end, tuple(running))}"
    return exact if len(exact) <= POSITION_MAX_LENGTH else at_least


def on_primary(statement: str) -> str:
    """A statement without what it would do on a standby."""
    return statement.replace(SNAPSHOT_OR_POSITION, SNAPSHOT).replace(SNAPSHOT_OR_POSITION_READ, SNAPSHOT)


@dataclass(frozen=True, slots=True)
class PrimaryEnd:
    """The end of the primary's log, in bytes, the newest epoch and tick there, and which transactions had committed.

    ``role`` is the service's own.
    """

    epoch: int
    tick: int
    lsn: int
    system: int
    snapshot: Snapshot
    role: str

    def includes(self, wanted: Position | int) -> bool:
        """Whether everything up to a position, or a transaction, had been committed before."""
        return Position(self.epoch, self.tick, 0, self.snapshot).includes(wanted)


@dataclass(frozen=True, slots=True)
class Moment:
    """What had been committed before ``time`` (monotonic): what the cache had counted up to ``generation``.

    The primary's ``end`` was read after that, and had arrived at ``read``.
    """

    time: float
    generation: int
    read: float
    end: PrimaryEnd


@dataclass(frozen=True, slots=True)
class StandbyEnd:
    """How far a standby has replayed, in which history; ``None`` for what it does not have. ``role`` is that of the connection."""

    is_standby: bool
    epoch: int | None
    tick: int | None
    lsn: int | None
    system: int
    role: str

    def problem(self, primary: PrimaryEnd, *, for_callers: bool) -> str | None:
        """Why it is not a standby of the primary, or not one ``for_callers``, whose rights are those of roles; ``None`` if it is one."""
        if not self.is_standby:
            return "is not a standby"
        if self.system != primary.system or self.lsn is None:
            return "is not a standby of the primary's system"
        if for_callers and self.role != primary.role:  # which may take other roles, or see rows that policies hide
            return f"is read as {self.role}, and not as {primary.role}, the role of the service, as callers with roles or settings need"
        return None if self.epoch == primary.epoch else "follows another history than the primary's"

    def has(self, primary: PrimaryEnd) -> bool:
        """Whether it has replayed everything up to an end of the primary's log."""
        reached = self.lsn is not None and self.lsn >= primary.lsn
        return reached and self.epoch == primary.epoch and self.tick is not None and self.tick >= primary.tick


async def read_primary_end(connection: Connection) -> PrimaryEnd | None:
    """The end of the primary's log now; ``None`` while the history that goes on there has no epoch yet."""
    row = await connection.fetchrow(_PRIMARY_END, timeout=LOOK_TIMEOUT_SECONDS)
    if row is None or not row["settled"]:
        return None
    snapshot = Snapshot.parse(row["snapshot"])
    return PrimaryEnd(row["epoch"], row["tick"], row["lsn"], row["system"], snapshot, row["role"])


async def read_standby_end(connection: Connection) -> StandbyEnd:
    """How far a standby is now."""
    return StandbyEnd(*await connection.fetchrow(_STANDBY_END, timeout=LOOK_TIMEOUT_SECONDS))


class PrimaryClock(Reconnecting):
    """Reads again and again how far the primary has written, and keeps the results for a while.

    ``connect`` opens a direct connection to it; ``generation`` returns that of the cache.
    """

    def __init__(self, connect: Connect, generation: Callable[[], int], supervisor: Supervisor | None = None) -> None:
        super().__init__(connect, "replica_clock", supervisor)
        self._generation = generation
        self._moments: deque[Moment] = deque()

    @property
    def newest(self) -> PrimaryEnd | None:
        """The newest end that is known."""
        return self._moments[-1].end if self._moments else None

    def moment_of(self, standby: StandbyEnd) -> Moment | None:
        """The newest moment of which a standby has everything; ``None`` if it has that of none that is kept."""
        return next((moment for moment in reversed(self._moments) if standby.has(moment.end)), None)

    def end_at(self, time: float) -> PrimaryEnd | None:
        """The newest end that had arrived at a time."""
        return next((moment.end for moment in reversed(self._moments) if moment.read <= time), None)

    async def _prepare(self, connection: Connection) -> None:
        await connection.execute("SET application_name = 'rowcast replicas'", timeout=LOOK_TIMEOUT_SECONDS)

    async def _work(self, connection: Connection) -> None:
        while True:
            self._begin_look()
            time, generation = monotonic(), self._generation()
            end = await read_primary_end(connection)
            if end is None or self.newest is None or self.newest.epoch != end.epoch:
                self._moments.clear()  # of another history, whose ends cannot be compared with those of this one
            if end is not None:
                self._moments.append(Moment(time, generation, monotonic(), end))
            while self._moments and self._moments[0].time < time - KEPT_SECONDS:
                self._moments.popleft()
            await self._wait(LOOK_SECONDS)


class StandbyWatch(Reconnecting):
    """Finds out as of which moment a standby is current: ``moment``, or ``None`` with a ``reason`` if it may not be read.

    When the standby is lost, all connections of its pools are closed, so that no request waits for it.
    """

    def __init__(
        self, name: str, pools: tuple[Database, ...], clock: PrimaryClock, supervisor: Supervisor | None = None
    ) -> None:
        super().__init__(pools[0].open, "replica", supervisor)
        self.server = name
        self.moment: Moment | None = None
        self.reason = "has not been reached yet"
        self.shown: str | None = None  # what the position of a statement on it was made of, one of the last
        self._current_at = monotonic()  # at first only when the process began
        self._pools = pools
        self._clock = clock

    @property
    def lag(self) -> float:
        """For how many seconds it may lack what has been committed, at least."""
        return monotonic() - self._current_at

    def has_shown(self, wanted: Position | int) -> bool:
        """Whether a statement on it has seen everything up to a position, or of a transaction, and so will the next one."""
        return self.shown is not None and Position.parse(position_on_standby(self.shown)).includes(wanted)

    def refuse(self, reason: str) -> None:
        """Do not read from it until a look finds that it is a standby of the primary."""
        if self.moment is not None or reason != self.reason:
            _logger.warning("replica_not_read", replica=self.server, reason=reason)
        self.moment, self.reason, self.shown = None, reason, None

    def problem(self, standby: StandbyEnd) -> str | None:
        """Why a server may not be read, as far as is known of the primary; ``None`` if it may be read."""
        primary = self._clock.newest
        if primary is None:
            return "cannot be compared with the primary"
        return standby.problem(primary, for_callers=self._pools[0].acts_as_callers)

    async def _prepare(self, connection: Connection) -> None:
        """Nothing: it is a connection like those of the pool."""

    async def _work(self, connection: Connection) -> None:
        try:
            while True:
                self._begin_look()
                self._judge(await read_standby_end(connection))
                await self._wait(LOOK_SECONDS)
        except DRIVER_ERRORS:
            self.refuse("cannot be reached")
            for pool in self._pools:
                pool.abort()
            raise

    def _judge(self, standby: StandbyEnd) -> None:
        if self._clock.newest is None:
            return  # the primary is away, or a history begins: what is known grows old
        moment = self._clock.moment_of(standby)
        if problem := self.problem(standby):
            self.refuse(problem)
        elif moment is None:
            self.refuse("is far behind")
        else:
            if self.moment is None:
                _logger.info("replica_read", replica=self.server)
            self.moment, self.reason, self._current_at = moment, "", moment.time
