"""The soak's own judge: it finds what is lost, doubled, wrong or growing, and does not pass a run that has seen nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from random import Random
from unittest import mock

import asyncpg
import pytest
from click.testing import CliRunner

from tests.conftest import Serve
from tests.faults.clients import RESOURCES

from .__main__ import soak
from .judge import Event, Fate, Record, Row, Rows, faults_of_client, faults_of_writes
from .measures import BOUNDS, HEAD, Sample, comparison, growth, line, unseen
from .observer import stored, take_journal
from .stage import JOURNAL, KILLS, ONCE, plan
from .watchers import MATCHES, Watcher

A, B, C, D = (Row(text, done, 1) for text, done in (("one", True), ("two", False), ("three", True), ("four", True)))
JOURNAL_OF_7 = [(7, A), (7, B), (7, C), (7, None), (7, D)]
ALL_OF_7 = [
    Event("INSERT", A), Event("UPDATE", B), Event("UPDATE", C), Event("DELETE", None), Event("INSERT", D)
]  # fmt: skip
DONE_OF_7 = [Event("INSERT", A), Event("DELETE", None), Event("INSERT", C), Event("DELETE", None), Event("INSERT", D)]
EVENTS = {"": ALL_OF_7, "done=true": DONE_OF_7}
WRITES = {(7, row.text): Fate.MADE for row in (A, B, C, D)}


def faults(
    events: list[Event], query: str = "", *, before: Rows | None = None, after: Row | None = D, **record: object
) -> list[str]:
    """What the judge finds in the events of row 7, where nothing else is wrong."""
    rows = {} if after is None else {7: after}
    seen = Record(events=[(7, event) for event in events], rows=dict(rows))
    return list(faults_of_client(before or {}, JOURNAL_OF_7, rows, MATCHES[query], replace(seen, **record)))  # type: ignore[arg-type]


@pytest.mark.parametrize("query", EVENTS)
def test_complete_events_have_no_faults(query: str) -> None:
    """Each change once and in order, as the filter shows it."""
    assert faults(EVENTS[query], query) == []


@pytest.mark.parametrize("query", EVENTS)
@pytest.mark.parametrize("number", range(5))
def test_a_lost_event_is_found(query: str, number: int) -> None:
    """Whichever it is, also if the rows are right in the end."""
    events = EVENTS[query]
    (fault,) = faults(events[:number] + events[number + 1 :], query)
    assert "lost" in fault


@pytest.mark.parametrize("query", EVENTS)
@pytest.mark.parametrize("number", range(5))
def test_a_doubled_event_is_found(query: str, number: int) -> None:
    """Whichever it is, also if it comes again much later."""
    events = EVENTS[query]
    for place in range(number, 5):
        (fault,) = faults([*events[: place + 1], events[number], *events[place + 1 :]], query)
        assert "doubled" in fault


def test_what_never_was_is_found() -> None:
    """Events in another order, with other values, of another row or of a time before the check point."""
    assert "out of order" in faults([ALL_OF_7[number] for number in (0, 2, 1, 3, 4)])[0]
    assert "wrong" in faults([*ALL_OF_7[:4], Event("INSERT", Row("five", True, 1))])[0]
    assert "wrong" in faults([Event("INSERT", A), *ALL_OF_7[1:]], before={7: D})[0]
    of_another = Record(events=[*((7, event) for event in ALL_OF_7), (8, Event("INSERT", A))], rows={7: D})
    (fault,) = faults_of_client({}, JOURNAL_OF_7, {7: D}, MATCHES[""], of_another)
    assert fault == "row 8: wrong INSERT 'one'"


def test_rows_that_differ_are_found() -> None:
    """A client whose rows are not those of the database in the end, whatever its events were."""
    for rows in ({}, {7: C}, {7: D, 8: A}):
        (fault,) = faults(ALL_OF_7, rows=rows)
        assert "the database" in fault


def test_a_list_decides_what_has_to_follow() -> None:
    """Exactly the rest comes after it; where its position is not exact, also what it has already, without a gap."""
    for number, row in enumerate((None, A, B, C)):
        listed = {} if row is None else {7: row}
        assert faults(ALL_OF_7[number:], listed=listed) == []
        assert faults(ALL_OF_7[number:], listed=listed, exact=False) == []
        if row is not None:
            assert "lost" in faults(ALL_OF_7[number + 1 :], listed=listed)[0]
            assert "lost" in faults(ALL_OF_7[number + 1 :], listed=listed, exact=False)[0]
            assert "doubled" in faults(ALL_OF_7[number - 1 :], listed=listed)[0]
            assert faults(ALL_OF_7[number - 1 :], listed=listed, exact=False) == []
    assert "never was" in faults(ALL_OF_7, listed={7: Row("five", True, 1)})[0]
    (gap,) = faults([ALL_OF_7[0], *ALL_OF_7[2:]], listed={7: B}, exact=False)
    assert gap == "row 7: doubled INSERT 'one'"  # or lost what comes after it


@pytest.mark.parametrize(
    ("ledger", "journal", "fault"),
    [
        (WRITES, JOURNAL_OF_7, ""),
        (WRITES, JOURNAL_OF_7[1:], "lost: the write of row 7, 'one'"),
        (WRITES, [*JOURNAL_OF_7, (7, B)], "doubled: the write of row 7, 'two', was made 2 times"),
        ({**WRITES, (7, "five"): Fate.UNSURE}, JOURNAL_OF_7, ""),
        ({**WRITES, (7, "four"): Fate.UNSURE}, JOURNAL_OF_7, ""),
        ({**WRITES, (7, "four"): Fate.UNSURE}, [*JOURNAL_OF_7, (7, D)], "doubled"),
        ({**WRITES, (7, "four"): Fate.UNDONE}, JOURNAL_OF_7, "rolled back and is in the database"),
        ({**WRITES, (7, "five"): Fate.UNDONE}, JOURNAL_OF_7, ""),
        (WRITES, [*JOURNAL_OF_7, (8, A)], "nobody has made the write of row 8, 'one'"),
    ],
)
def test_writes_are_made_once(
    ledger: dict[tuple[int, str], Fate], journal: list[tuple[int, Row | None]], fault: str
) -> None:
    """What was answered is there once, what was rolled back is not, and what was not answered is there at most once."""
    found = list(faults_of_writes(ledger, journal))
    assert len(found) == bool(fault)
    assert fault in "".join(found)


SAMPLE = Sample(1.0, "NATS", 100, 500, 3, 200.0, 80, 14, 700.0, 20.0, 4.0)


def test_growth_is_found_in_each_measure() -> None:
    """Half as much again or more in the second half of a run is a fault; what varies a little is not."""
    flat = [replace(SAMPLE, memory=200.0 + number % 3, killed=f"{number}") for number in range(20)]
    assert list(growth(flat)) == []
    for name, bound in BOUNDS.items():
        grown = [
            replace(each, **{name: (getattr(each, name) + bound.slack) * (1 + max(0, number - 9) / 2)})
            for number, each in enumerate(flat)
        ]
        (fault,) = growth(grown)
        assert fault.startswith(bound.title)
        assert any(row.startswith(f"| {bound.title} | ") for row in comparison(grown))
    (fault,) = growth([replace(each, statements=None) for each in flat])
    assert fault.endswith("not measured in both halves")


def test_lines_fit_the_head_of_the_table() -> None:
    """Each measure has its column."""
    columns = HEAD.splitlines()[0].count("|")
    assert columns == HEAD.splitlines()[1].count("|") == len(fields(Sample)) + 1
    assert line(SAMPLE) == "| 1.0 | NATS | 100 | 500 | 3 | 200.0 | 80 | 14 | 700.0 | 20.0 | 4.0 |"
    assert line(replace(SAMPLE, statements=None)).count("|") == columns


def test_a_run_that_has_seen_nothing_fails() -> None:
    """Whatever was not used at all is a fault."""
    assert list(unseen({"events": 1, "use of standby": 0})) == ["nothing was seen of: use of standby"]


def test_a_seed_kills_the_same_again() -> None:
    """Each kind several times in half an hour, and the primary once."""
    kills = list(plan(Random("1/kills"), 30))
    assert kills == list(plan(Random("1/kills"), 30))
    assert kills != list(plan(Random("2/kills"), 30))
    assert {name: kills.count(name) > 2 for name in KILLS} == {name: name != ONCE for name in KILLS}
    assert kills.count(ONCE) == 1


def test_a_missing_server_is_one_line() -> None:
    """It names what to install, and is no traceback."""
    with mock.patch("tests.programs.SEARCHED", ""):
        result = CliRunner().invoke(soak, [])
    assert result.exit_code == 1
    assert (
        result.output == "soak: needs nats-server, haproxy, pgbouncer: apt-get install nats-server haproxy pgbouncer\n"
    )


@pytest.mark.tables(RESOURCES)
async def test_the_judge_knows_what_a_service_sends(serve: Serve, sql: asyncpg.Connection) -> None:
    """The journal and the events of a real service fit together, and no longer if one event is missing or comes twice."""
    await sql.execute(JOURNAL)
    server = await serve(RESOURCES)
    async with (
        Watcher("client", server, "", primary=True) as all_,
        Watcher("client", server, "done=true", primary=True) as done,
    ):
        for client in (all_, done):
            await client.ready()
        await sql.execute("INSERT INTO notes (id, text, done) VALUES (8, 'begin', true)")
        for client in (all_, done):
            await client.until(lambda client=client: 8 in client.rows)  # type: ignore[misc]
            client.take()
        await take_journal(sql)
        before = await stored(sql)
        await sql.execute(
            "INSERT INTO notes (id, text, done) SELECT i, 'made ' || i, i < 3 FROM generate_series(1, 4) i"
        )
        await sql.execute("UPDATE notes SET text = 'changed ' || id, done = NOT done WHERE id BETWEEN 2 AND 4")
        await sql.execute("UPDATE notes SET text = text WHERE id = 1")
        await sql.execute("DELETE FROM notes WHERE id = 3")
        await sql.execute("INSERT INTO notes (id, text, done) VALUES (9, 'end', true)")
        journal, after = await take_journal(sql), await stored(sql)
        for client, count in ((all_, 9), (done, 7)):
            await client.until(lambda client=client: 9 in client.rows)  # type: ignore[misc]
            record = client.take()
            assert len(record.events) == count
            assert list(faults_of_client(before, journal, after, client.matches, record)) == []
            for number in range(count):
                lost = [*record.events[:number], *record.events[number + 1 :]]
                (fault,) = faults_of_client(before, journal, after, client.matches, replace(record, events=lost))
                assert "lost" in fault
                doubled = [*record.events, record.events[number]]
                (fault,) = faults_of_client(before, journal, after, client.matches, replace(record, events=doubled))
                assert "doubled" in fault
    assert await take_journal(sql) == []
