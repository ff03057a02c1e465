"""The change log: schema ``rowcast``, and what is read from it.

Every writer, whoever it is, logs its changes into ``change`` in its own transaction, through triggers. Nothing in a row
of the log can say when it was committed: numbers and times are taken before commit, and transaction numbers are taken
in another order than rows are written. So the log is not read by number. The ticker (``rowcast.changes.ticker``) stores
a snapshot now and then, a *tick*, and a reader asks for what one tick sees and the one before does not. Nothing can be
skipped, because a change is seen by every snapshot from its commit on; nothing waits for a long transaction, which
simply is in a later tick.

Within a tick transactions are ordered by their largest ``seq``, and changes of one transaction by ``seq``. A
transaction that has changed a row holds its lock until it ends, so whoever changes that row next takes all its numbers
for it later: changes of one row are in their true order, and a transaction is never interleaved with another. This
needs a sequence that gives numbers in the order of asking, without a cache for each session.

The log is a ring of partitions that are all there from the start: writers fill the one that the sequence
``rowcast.change_part`` names, and old changes leave by emptying a partition (``rowcast.changes.retention``).
"""

from __future__ import annotations

import datetime as dt
import secrets
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import asyncpg

from rowcast.changes.position import Position, Snapshot
from rowcast.errors import ConfigurationError
from rowcast.resources.lossless_json import parse
from rowcast.resources.sql import SCHEMA

Connection: TypeAlias = asyncpg.Connection

LOCKS: Final = 1919907683  # the first half of every advisory lock of ours: "rowc"
INSTALLING, LEADING, GATE = 0, 1, 2  # the second half
TICKED: Final = "rowcast_tick"  # NOTIFY channels: there is a new tick,
WAKE: Final = "rowcast_wake"  # and the sleeping ticker has work

PAGE: Final = 64, 1024  # changes read at once: at first, at most
PAGE_BYTES: Final = 1 << 20  # of old and new rows in a page, about
CHUNK: Final = 512  # ticks read at once
PARTS: Final = 10  # partitions of the log


# --- the schema -------------------------------------------------------------------------------------------------------

_VERSIONS: Final[Sequence[str]] = (
    """
    CREATE TABLE rowcast.secret (single boolean PRIMARY KEY DEFAULT true CHECK (single), key bytea NOT NULL);

    CREATE TABLE rowcast.epoch (
        epoch bigint PRIMARY KEY,
        base_tick bigint NOT NULL,
        system_identifier bigint NOT NULL,
        timeline text NOT NULL,
        database oid NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE TABLE rowcast.tick (
        tick bigint PRIMARY KEY,
        epoch bigint NOT NULL,
        snap pg_snapshot NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE SEQUENCE rowcast.change_seq;
    CREATE TABLE rowcast.change (
        seq bigint NOT NULL DEFAULT nextval('rowcast.change_seq'),
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        resource text NOT NULL,
        op "char" NOT NULL,
        pk text,
        old jsonb,
        new jsonb
    ) PARTITION BY RANGE (at);
    ALTER SEQUENCE rowcast.change_seq OWNED BY rowcast.change.seq;
    CREATE INDEX change_order ON rowcast.change (xid, seq);
    CREATE TABLE rowcast.change_default PARTITION OF rowcast.change DEFAULT;
    COMMENT ON TABLE rowcast.change IS 'Rowcast: every committed change of a resource, kept for a while';
    """,
    """
    CREATE TABLE rowcast.token (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
        user_id text NOT NULL CHECK (user_id <> ''),
        is_staff boolean NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        expires_at timestamptz,
        revoked_at timestamptz
    );
    COMMENT ON TABLE rowcast.token IS 'Rowcast: who may call with which token, of which only the SHA-256 is here';
    """,
    f"""
    ALTER TABLE rowcast.change RENAME TO change_before;
    ALTER INDEX rowcast.change_order RENAME TO change_before_order;
    CREATE SEQUENCE rowcast.change_part MINVALUE 0;
    SELECT setval('rowcast.change_part', 0);
    CREATE TABLE rowcast.change (
        seq bigint NOT NULL DEFAULT nextval('rowcast.change_seq'),
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        resource text NOT NULL,
        op "char" NOT NULL,
        pk text,
        old jsonb,
        new jsonb,
        part bigint DEFAULT pg_sequence_last_value('rowcast.change_part')
    ) PARTITION BY LIST (part);
    CREATE INDEX change_order ON rowcast.change (xid, seq);
    CREATE TABLE rowcast.change_0 PARTITION OF rowcast.change FOR VALUES IN (0, NULL);
    {"".join(f"CREATE TABLE rowcast.change_{n} PARTITION OF rowcast.change FOR VALUES IN ({n});" for n in range(1, 10))}
    INSERT INTO rowcast.change (seq, xid, at, resource, op, pk, old, new)
        SELECT seq, xid, at, resource, op, pk, old, new FROM rowcast.change_before;
    ALTER SEQUENCE rowcast.change_seq OWNED BY rowcast.change.seq;
    ALTER SEQUENCE rowcast.change_part OWNED BY rowcast.change.part;
    DROP TABLE rowcast.change_before;
    COMMENT ON TABLE rowcast.change IS 'Rowcast: every committed change of a resource, kept for a while';
    """,
)

VERSION: Final = len(_VERSIONS)

_UUID7 = "RETURN pg_catalog.uuidv7()"
_UUID7_BEFORE_18 = """RETURN encode(set_bit(set_bit(overlay(
    uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6
), 52, 1), 53, 1), 'hex')::uuid"""  # a version 4 with the time laid over it and two more bits of the version set

_IDENTITY = """
    SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
           left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
           (SELECT oid FROM pg_database WHERE datname = current_database()) AS database
"""  # pg_control_checkpoint() would give the timeline of the last checkpoint, which is stale after a promotion


async def install(connection: Connection) -> None:
    """Bring the schema ``rowcast`` to this version of the service: all of it or nothing, once however many try."""
    try:
        if await version(connection) == VERSION:
            return
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCKS, INSTALLING)
            present = await version(connection)
            if present > VERSION:
                raise ConfigurationError(newer(present))
            if present == 0:
                await _create(connection)
            for statements in _VERSIONS[present:]:
                await connection.execute(statements)
            if present == 0:
                await _begin(connection)
            await connection.execute("UPDATE rowcast.version SET version = $1", VERSION)
    except asyncpg.ReadOnlySQLTransactionError:
        raise ConfigurationError(
            "this database is read-only: the change log needs the primary, with default_transaction_read_only off"
        ) from None
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"the change log cannot be installed ({error}): the role needs CREATE on the database, or the schema"
            f" {SCHEMA} must be its own"
        ) from None


def newer(present: int) -> str:
    """What to say of a log that a later Rowcast has made."""
    return (
        f"the change log in this database is of version {present}, and this Rowcast knows {VERSION}:"
        " run the newer Rowcast that made it"
    )


async def version(connection: Connection) -> int:
    """The installed version, 0 for none.

    Asked of the catalog's rows: after waiting for a lock, ``to_regclass`` may still answer from a cache.
    """
    if not await connection.fetchval(
        """SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'rowcast' AND c.relname = 'version')"""
    ):
        return 0
    return int(await connection.fetchval("SELECT version FROM rowcast.version"))


async def _create(connection: Connection) -> None:
    body = _UUID7 if connection.get_server_version().major >= 18 else _UUID7_BEFORE_18
    await connection.execute(
        f"""
        CREATE SCHEMA IF NOT EXISTS rowcast;
        REVOKE ALL ON SCHEMA rowcast FROM PUBLIC;
        CREATE TABLE rowcast.version (version int NOT NULL);
        INSERT INTO rowcast.version VALUES (0);
        CREATE FUNCTION rowcast.uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE {body};
        COMMENT ON FUNCTION rowcast.uuid7() IS 'Rowcast: a version 7 UUID, which rises with time'
        """
    )


async def _begin(connection: Connection) -> None:
    """The first rows: the secret, an epoch, and a tick that everything logged from now on comes after."""
    await connection.execute("INSERT INTO rowcast.secret (key) VALUES ($1)", secrets.token_bytes(32))
    await keep_epoch(connection)


async def secret(connection: Connection) -> bytes:
    """The random key of this database, 32 bytes, which signs what clients carry around."""
    key: bytes = await connection.fetchval("SELECT key FROM rowcast.secret")
    return key


# --- epochs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Epoch:
    """One history of the database: ticks after ``base`` are of it, and those of an earlier epoch are forked."""

    epoch: int
    base: int


async def keep_epoch(connection: Connection) -> int:
    """The epoch of this database's history, a new one if the history is not the one that the newest epoch began in.

    A promoted standby or a recovery to a point in time (another timeline) and a copy of the database share the log up
    to now. In another cluster, restored from a dump, the log's transaction numbers mean nothing: it begins anew there.
    """
    here = await connection.fetchrow(_IDENTITY)
    if (epoch := await _epoch_of(connection, here)) is not None:
        return epoch
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", LOCKS, INSTALLING)
        if (epoch := await _epoch_of(connection, here)) is not None:
            return epoch
        known = await connection.fetchval("SELECT system_identifier FROM rowcast.epoch ORDER BY epoch DESC LIMIT 1")
        newest = await connection.fetchval("SELECT max(tick) FROM rowcast.tick") or 0
        anew = known != here["system_identifier"]
        epoch = int(await connection.fetchval(
            """
            INSERT INTO rowcast.epoch (epoch, base_tick, system_identifier, timeline, database)
            SELECT greatest(
                (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, (SELECT max(epoch) + 1 FROM rowcast.epoch)
            ), $1, $2, $3, $4 RETURNING epoch
            """,
            0 if anew else newest, here["system_identifier"], here["timeline"], here["database"],
        ))  # fmt: skip
        if anew:
            await connection.execute("UPDATE rowcast.epoch SET base_tick = 0")
            await connection.execute("TRUNCATE rowcast.change, rowcast.tick")
            await connection.execute(
                "INSERT INTO rowcast.tick (tick, epoch, snap) VALUES ($1, $2, pg_current_snapshot())",
                newest + 1, epoch,
            )  # fmt: skip
        return epoch


async def _epoch_of(connection: Connection, here: asyncpg.Record) -> int | None:
    """The newest epoch if it is of this history."""
    known = await connection.fetchrow("SELECT * FROM rowcast.epoch ORDER BY epoch DESC LIMIT 1")
    same = known and all(known[name] == here[name] for name in ("system_identifier", "timeline", "database"))
    return int(known["epoch"]) if same else None


async def epochs(connection: Connection) -> list[Epoch]:
    """Every epoch, in their order."""
    rows = await connection.fetch("SELECT epoch, base_tick FROM rowcast.epoch ORDER BY epoch")
    return [Epoch(*row) for row in rows]


# --- ticks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """A boundary in the log: the number of the tick that ends here, and what had been committed."""

    tick: int
    epoch: int
    snap: Snapshot


_GAPS: Final = """(
                 SELECT low, coalesce(lead(low) OVER (ORDER BY low), pg_snapshot_xmax(pg_current_snapshot())) AS high
                 FROM (
                     SELECT (pg_snapshot_xmax(last.snap)::text::bigint - 1)::text::xid8 AS low
                     UNION ALL
                     SELECT x FROM pg_snapshot_xip(pg_current_snapshot()) x WHERE x >= pg_snapshot_xmax(last.snap)
                 ) running
             ) gap"""
"""The transactions younger than the last tick, between those that are still running."""

_UNTOLD: Final = f"""EXISTS (
             SELECT FROM {_GAPS}
             WHERE EXISTS (SELECT FROM rowcast.change c WHERE c.xid > low AND c.xid < high OFFSET 0)
             OFFSET 0
         ) OR EXISTS (  -- transactions that were running at the last tick and have ended since
             SELECT FROM pg_snapshot_xip(last.snap) x
             WHERE CASE WHEN pg_visible_in_snapshot(x, pg_current_snapshot())
                        THEN EXISTS (SELECT FROM rowcast.change c WHERE c.xid = x OFFSET 0) END
             OFFSET 0
         )"""
"""Whether there are changes behind the last tick."""

_LAST: Final = "last AS MATERIALIZED (SELECT tick, snap FROM rowcast.tick ORDER BY tick DESC LIMIT 1)"

_NEW_TICK: Final = f"""
WITH {_LAST},
     made AS (
         INSERT INTO rowcast.tick (tick, epoch, snap)
         SELECT last.tick + 1, $1, pg_current_snapshot() FROM last
         WHERE {_UNTOLD}
         RETURNING tick
     ),
     told AS MATERIALIZED (SELECT pg_notify('rowcast_tick', tick::text) FROM made WHERE $2)
SELECT made.tick, pg_snapshot_xmin(pg_current_snapshot()) AS oldest, (SELECT count(*) FROM told)
FROM (VALUES (1)) one LEFT JOIN made ON true
"""
"""Make a tick if there is anything to tell, in one statement so that the test and the tick are of one snapshot.

Rows of transactions that are still running are stepped over rather than looked at: a large one that stays open would
make every poll walk through all of it.
"""


async def make_tick(connection: Connection, epoch: int, *, notify: bool) -> tuple[int | None, int]:
    """The tick made, ``None`` if nothing has changed, and the oldest transaction that was running."""
    row = await connection.fetchrow(_NEW_TICK, epoch, notify, timeout=10)
    return row["tick"], row["oldest"]


async def untold(connection: Connection) -> bool:
    """Whether there are changes behind the newest tick: none will be told of unless somebody makes another."""
    return bool(await connection.fetchval(f"WITH {_LAST} SELECT {_UNTOLD} FROM last", timeout=10))


async def newest_tick(connection: Connection) -> Tick:
    """The newest tick."""
    tick, epoch, snap = await connection.fetchrow(
        "SELECT tick, epoch, snap FROM rowcast.tick ORDER BY tick DESC LIMIT 1", timeout=10
    )
    return Tick(tick, epoch, Snapshot.of(snap))


async def oldest_tick(connection: Connection) -> int:
    """The oldest tick that is kept; what came after it can be read."""
    oldest: int = await connection.fetchval("SELECT tick FROM rowcast.tick ORDER BY tick LIMIT 1", timeout=10)
    return oldest


async def ticks(connection: Connection, first: int, count: int = CHUNK) -> list[Tick]:
    """Up to ``count`` ticks from ``first`` on, in order."""
    rows = await connection.fetch(
        "SELECT tick, epoch, snap FROM rowcast.tick WHERE tick >= $1 ORDER BY tick LIMIT $2", first, count, timeout=10
    )
    return [Tick(tick, epoch, Snapshot.of(snap)) for tick, epoch, snap in rows]


# --- how it is ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """How the log is: its oldest and newest position, when these ticks were made, and its size in bytes.

    ``untold`` is for how many seconds there have been changes that no tick tells, at least.
    """

    oldest: Position
    oldest_at: dt.datetime
    newest: Position
    newest_at: dt.datetime
    untold: float
    size: int
    read_only: bool


_STATE: Final = f"""
WITH last AS MATERIALIZED (SELECT tick, epoch, snap, at FROM rowcast.tick ORDER BY tick DESC LIMIT 1),
     first AS MATERIALIZED (SELECT tick, epoch, at FROM rowcast.tick ORDER BY tick LIMIT 1),
     untold (at) AS (
         SELECT c.at FROM last, LATERAL {_GAPS},
             LATERAL (SELECT c.at FROM rowcast.change c WHERE c.xid > low AND c.xid < high ORDER BY c.xid, c.seq LIMIT 1) c
         UNION ALL
         SELECT c.at FROM last, pg_snapshot_xip(last.snap) x,
             LATERAL (SELECT c.at FROM rowcast.change c WHERE c.xid = x ORDER BY c.seq LIMIT 1) c
     )
SELECT first.epoch, first.tick, first.at, last.epoch, last.tick, last.at,
    (SELECT extract(epoch FROM clock_timestamp() - greatest(last.at, min(untold.at)))::float8
        FROM untold HAVING count(*) > 0),
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('rowcast.change'))::bigint
        + pg_total_relation_size('rowcast.tick'),
    current_setting('transaction_read_only')::bool
FROM first, last
"""


async def state(connection: Connection) -> State:
    """How the log is now. Of a change that took long to commit nobody knows since when it could have been told."""
    row = await connection.fetchrow(_STATE, timeout=10)
    oldest, newest = Position(row[0], row[1]), Position(row[3], row[4])
    return State(oldest, row[2], newest, row[5], row[6] or 0.0, *row[7:])


# --- changes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One change: the ``n``-th of its tick, with the row before and after as the JSON that clients see.

    ``op`` is I, U, D, or T for TRUNCATE, which has no ``pk`` and no rows. ``old`` is ``None`` for I, ``new`` for D.
    """

    n: int
    xid: int
    seq: int
    at: dt.datetime
    resource: str
    op: str
    pk: str | None
    old: bytes | None
    new: bytes | None

    @property
    def size(self) -> int:
        """The bytes that it takes in memory once its rows have been looked at, about: as objects they are larger."""
        return 1000 + sum(2 * len(row) + 100 * row.count(b'":') for row in (self.old, self.new) if row is not None)

    @cached_property
    def before(self) -> dict[str, Any] | None:
        """The row before, parsed once; not to be changed."""
        return None if self.old is None else parse(self.old)

    @cached_property
    def after(self) -> dict[str, Any] | None:
        """The row after, parsed once; not to be changed."""
        return None if self.new is None else parse(self.new)


@dataclass(frozen=True)
class Batch:
    """Consecutive events of one tick, all of them or, where a tick is large, a part.

    ``first`` is the ``n`` of the first event; ``last`` says that nothing of the tick follows, and ``snap`` what the
    database had seen when it ended. ``epoch`` is that of the tick, and ``xids`` are all its transactions.
    """

    epoch: int
    tick: int
    snap: Snapshot
    first: int
    events: tuple[Event, ...]
    last: bool
    xids: frozenset[int] = frozenset()

    @property
    def start(self) -> Position:
        """The position before the first event."""
        return Position(self.epoch, self.tick - 1, self.first - 1)

    @property
    def end(self) -> Position:
        """The position behind the last event."""
        if self.last:
            return Position(self.epoch, self.tick)
        return Position(self.epoch, self.tick - 1, self.first - 1 + len(self.events))

    def position(self, event: Event) -> Position:
        """The position behind an event of this batch."""
        return Position(self.epoch, self.tick - 1, event.n)

    def after(self, position: Position) -> Batch:
        """The part of this batch that lies behind a position."""
        done = position.n - (self.first - 1) if position.tick == self.tick - 1 else 0
        if done <= 0:
            return self
        return replace(self, first=self.first + min(done, len(self.events)), events=self.events[done:])

    def until(self, position: Position) -> Batch:
        """The part of this batch that does not lie behind a position."""
        return replace(self, events=self.events[: position.n - (self.first - 1)], last=False)

    @cached_property
    def size(self) -> int:
        """The bytes that it takes in memory, about."""
        return 400 + sum(event.size for event in self.events)


class Pruned(Exception):
    """What was to be read is not kept any more."""


_TRANSACTIONS: Final = """
SELECT xid, last, events FROM (SELECT FROM rowcast.tick WHERE tick = $3) kept LEFT JOIN (
    SELECT xid, max(seq) AS last, count(*) AS events FROM (
        SELECT xid, seq FROM rowcast.change
        WHERE xid >= pg_snapshot_xmax($1) AND xid < pg_snapshot_xmax($2) AND pg_visible_in_snapshot(xid, $2)
        UNION ALL
        SELECT c.xid, c.seq FROM pg_snapshot_xip($1) x, LATERAL (
            SELECT xid, seq FROM rowcast.change WHERE xid = x OFFSET 0
        ) c WHERE pg_visible_in_snapshot(x, $2)
    ) written GROUP BY xid
) transactions ON true
"""
"""The transactions that snapshot $2 sees and $1, that of tick $3, does not; no row at all if that tick is pruned.

Ticks are pruned before the changes behind them, and a statement takes its locks before its snapshot. So if the tick is
there, everything after it was. ``OFFSET 0`` forbids a join of the whole log with the few that were running, which is the
best plan for as long as the log is small, and is kept when it is not.
"""

_CHANGE: Final = "SELECT seq, xid, at, resource, op, pk, old, new FROM rowcast.change"
_WHOLE: Final = f"{_CHANGE} WHERE xid = ANY ($1::xid8[])"
_PART: Final = f"{_CHANGE} WHERE xid = $1 AND seq > $2 ORDER BY seq LIMIT $3 OFFSET $4"


async def prepare(connection: Connection) -> None:
    """Make a connection of the caller's own one that ticks or reads: JSON as bytes, plans made once and by index."""
    await connection.execute(
        "SET jit = off; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; SET timezone = 'UTC';"
        " SET statement_timeout = 0; SET default_transaction_isolation = 'read committed'; SET search_path = pg_catalog"
    )
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=_refuse, decoder=lambda value: bytes(value[1:])
    )  # the first byte is the version of the format


def _refuse(_value: object) -> bytes:
    raise AssertionError("this connection only reads")


async def batches(connection: Connection, after: Position, known: Sequence[Tick]) -> AsyncGenerator[Batch, None]:
    """The events behind a position, through ``known``: consecutive ticks, of which the first ends at ``after.tick``.

    Memory is bounded by a page, however large a tick is. Raises ``Pruned`` if some are gone.
    """
    rows = await connection.fetch(_TRANSACTIONS, known[0].snap.value, known[-1].snap.value, known[0].tick, timeout=300)
    if not rows:
        raise Pruned
    order = sorted(
        (bisect_left(known, True, key=lambda tick, xid=xid: tick.snap.sees(xid)), last, xid, count)  # type: ignore[misc]
        for xid, last, count in rows
        if xid is not None
    )
    totals = Counter[int]()
    xids: dict[int, set[int]] = defaultdict(set)
    for place, _, xid, count in order:
        totals[place] += count
        xids[place].add(xid)
    n = min(after.n, totals[1])
    pages = _Pages(connection, [(xid, count) for _, _, xid, count in order], n)
    page: Sequence[asyncpg.Record] = ()
    for place, tick in enumerate(known[1:], start=1):
        while True:
            if not page and n < totals[place]:
                page = await pages.next()
            part, page = page[: totals[place] - n], page[totals[place] - n :]
            events = tuple(_event(n + i, row) for i, row in enumerate(part, start=1))
            first, n = n + 1, n + len(part)
            yield Batch(tick.epoch, tick.tick, tick.snap, first, events, n == totals[place], frozenset(xids[place]))
            if n == totals[place]:
                break
        n = 0


def _event(n: int, row: asyncpg.Record) -> Event:
    return Event(n, row["xid"], row["seq"], row["at"], row["resource"], row["op"].decode(), *row[5:])


class _Pages:
    """The changes of consecutive transactions, read a page at a time."""

    def __init__(self, connection: Connection, transactions: Sequence[tuple[int, int]], skip: int) -> None:
        self._connection = connection
        self._left = deque(transactions)
        while self._left and skip >= self._left[0][1]:
            skip -= self._left.popleft()[1]
        self._done = skip  # changes of the first transaction that are behind us,
        self._seq = -1  # those up to this number
        self._size = PAGE[0]

    async def next(self) -> Sequence[asyncpg.Record]:
        """The next page; ``Pruned`` if there is less than there was."""
        rows = await (self._part() if self._done or self._left[0][1] > self._size else self._whole())
        average = sum(len(row["old"] or b"") + len(row["new"] or b"") for row in rows) // len(rows)
        self._size = max(1, min(PAGE[1], 4 * self._size, PAGE_BYTES // (average + 1)))
        return rows

    async def _whole(self) -> Sequence[asyncpg.Record]:
        """As many transactions as a page has room for."""
        places: dict[int, int] = {}
        expected = 0
        while self._left and expected + self._left[0][1] <= self._size:
            xid, count = self._left.popleft()
            places[xid] = len(places)
            expected += count
        rows = await self._connection.fetch(_WHOLE, list(places), timeout=60)
        if len(rows) != expected:
            raise Pruned
        return sorted(rows, key=lambda row: (places[row["xid"]], row["seq"]))

    async def _part(self) -> Sequence[asyncpg.Record]:
        """A page of the first transaction, or what is left of it."""
        xid, count = self._left[0]
        offset = self._done if self._seq < 0 else 0
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(
            _PART, xid, self._seq, self._size, offset, timeout=60
        )
        if len(rows) != min(count - self._done, self._size):
            raise Pruned
        self._done, self._seq = self._done + len(rows), rows[-1]["seq"]
        if self._done == count:
            self._left.popleft()
            self._done, self._seq = 0, -1
        return rows
