"""Requests that meet share a statement; each gets the response that it would get alone."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import pytest

from rowcast.query.conditions import Query, by_key
from rowcast.query.projection import Projection

from .conftest import Run
from .library import OPEN, Service
from .test_declared_scope import SETTINGS, bearer

ITEM: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "name": {"type": "string", "max_length": 40, "unique": True},
        "level": {"type": "integer", "default": 0, "min": 0},
        "state": {"type": "string", "choices": ["open", "done"], "default": "open"},
        "price": {"type": "decimal", "max_digits": 8, "decimal_places": 2, "null": True},
        "words": {"type": "array", "of": "string", "default": []},
        "data": {"type": "json", "null": True},
        "due": {"type": "datetime", "null": True},
        "parent": {"type": "foreign_key", "to": "parents", "null": True, "on_delete": "restrict"},
        "changed_at": {"type": "datetime", "auto_now": True},
    }
}
PARENTS: dict[str, Any] = {"fields": {"id": {"type": "integer", "primary_key": True}}}
FEW = json.dumps({**json.loads(OPEN), "database": {"pool_size": 2}})


async def together(service: Service, *requests: tuple[str, str, Any]) -> list[tuple[int, Any]]:
    """The statuses and bodies of requests that are sent at the same time."""

    async def one(method: str, path: str, body: Any) -> tuple[int, Any]:
        response, answer = await service.ask(method, path, body)
        return response.status, answer

    return await asyncio.gather(*(one(*request) for request in requests))


async def test_requests_that_meet_share_statements(run: Run) -> None:
    """Fewer statements than requests, for rows that are read, made and changed; each response is the request's own."""
    service = await run({"parents": PARENTS, "items": ITEM}, FEW)
    before = service.database.statements
    made = await together(service, *(("POST", "/items/", {"name": f"n{n}", "level": n}) for n in range(60)))
    assert service.database.statements - before < 40
    before = service.database.statements
    assert [(status, row["name"], row["level"]) for status, row in made] == [(201, f"n{n}", n) for n in range(60)]
    ids = [row["id"] for _, row in made]
    assert len(set(ids)) == 60
    changed = await together(service, *(("PATCH", f"/items/{key}/", {"level": key + 1}) for key in ids))
    assert [(status, row["id"], row["level"]) for status, row in changed] == [(200, key, key + 1) for key in ids]
    read = await together(service, *(("GET", f"/items/{key}/", None) for key in [*ids, 999]))
    assert read[:-1] == changed
    assert read[-1][0] == 404
    assert service.database.statements - before < 80


async def test_random_requests_get_the_responses_that_they_get_alone(run: Run) -> None:
    """Rounds of requests at the same time, against the same requests one by one: statuses, errors and rows."""
    service = await run({"parents": PARENTS, "items": ITEM, "twins": ITEM}, FEW)
    await service.sql.execute("INSERT INTO parents DEFAULT VALUES; INSERT INTO parents DEFAULT VALUES")
    for table in ("items", "twins"):  # new rows have greater keys than those that requests name
        await service.sql.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 10000)")
    choose = random.Random(7)
    count, names = 0, 0

    def values(*, new: bool) -> dict[str, Any]:
        nonlocal names
        names += 1
        every = {
            "level": choose.choice([0, 1, 7, 7, -1, 2**31]),
            "state": choose.choice(["open", "done", "done", "none"]),
            "price": choose.choice([None, "1.50", "99999.99"]),
            "words": choose.choice([[], ["a", "b"]]),
            "data": choose.choice([None, {"a": [1, None]}, "x", 1.5]),
            "due": choose.choice([None, "2026-05-01T10:00:00Z"]),
            "parent_id": choose.choice([None, 1, 2, 2, 3]),
        }
        kept = every if choose.random() < 0.2 else {key: every[key] for key in choose.sample(list(every), 2)}
        if not new:  # a name that is changed at the same time is free for a new row, or not yet
            return kept
        return {"name": choose.choice([f"n{names}", f"n{choose.randint(1, max(1, count // 2))}"]), **kept}

    def shown(answer: tuple[int, Any]) -> Any:
        status, body = answer
        return status, {
            name: value for name, value in body.items() if name not in ("id", "changed_at", "instance", "request_id")
        }

    for _ in range(12):
        used = choose.sample(range(1, count + 3), min(count + 2, 20))
        requests: list[tuple[str, str, Any]] = [
            ("POST", "/{}/", values(new=True)) for _ in range(choose.randint(1, 20))
        ]
        for key in used:
            method = choose.choice(["GET", "PATCH", "PATCH", "GET"])
            requests.append((method, f"/{{}}/{key}/", None if method == "GET" else values(new=False)))
        posted = [body["name"] for method, _, body in requests if method == "POST"]
        requests = [each for each in requests if each[0] != "POST" or posted.count(each[2]["name"]) == 1]
        alone = [(await together(service, (method, path.format("twins"), body)))[0] for method, path, body in requests]
        shared = await together(service, *((method, path.format("items"), body) for method, path, body in requests))
        # Which row has which key depends on the order in which they are made, so both tables get the same keys.
        assert list(map(shown, shared)) == list(map(shown, alone))
        for table in ("items", "twins"):
            await service.sql.execute(f"UPDATE {table} SET id = -id")
            rows = await service.sql.fetch(f"SELECT id FROM {table} ORDER BY name")
            await service.sql.executemany(
                f"UPDATE {table} SET id = $1 WHERE id = $2", [(n, row["id"]) for n, row in enumerate(rows, 1)]
            )
            count = len(rows)
    assert count > 20


async def test_row_that_another_transaction_has_locked_delays_nobody(run: Run) -> None:
    """The change of a locked row waits for the lock, and those of other rows do not wait for it."""
    service = await run({"parents": PARENTS, "items": ITEM})
    rows = [await service.post("/items/", {"name": f"n{n}"}) for n in range(6)]
    async with service.sql.transaction():
        await service.sql.execute("SELECT FROM items WHERE id = $1 FOR UPDATE", rows[0]["id"])
        changes = [
            asyncio.create_task(service.ask("PATCH", f"/items/{row['id']}/", {"level": 5}, status=200)) for row in rows
        ]
        await asyncio.gather(*changes[1:])
        assert not changes[0].done()
    _, row = await changes[0]
    assert row["level"] == 5


async def test_lost_connection_repeats_no_write(run: Run) -> None:
    """A row that is made while its connection is ended is made once or not at all, and its response is a 201 or a 503."""
    service = await run({"parents": PARENTS, "items": ITEM})
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'rowcast' AND query LIKE '%INSERT INTO items%'"
    )
    statuses: Counter[int] = Counter()
    for n in range(15):
        requests = together(service, *(("POST", "/items/", {"name": f"n{n} {k}"}) for k in range(20)))
        task = asyncio.ensure_future(requests)
        await service.sql.execute(end)
        answers = await task
        statuses.update(status for status, _ in answers)
        there = set(await service.sql.fetchval("SELECT coalesce(array_agg(id), '{}') FROM items"))
        assert {row["id"] for status, row in answers if status == 201} <= there
    assert set(statuses) <= {201, 503}
    assert statuses[201] > 0


async def test_rows_without_values_stop_nobody_from_sharing(run: Run) -> None:
    """Each is made by a statement of its own, and none of these fails: after a failure, requests share no statements for a second."""
    service = await run({"parents": PARENTS})
    before = service.database.statements
    made = await together(service, *[("POST", "/parents/", {})] * 12)
    assert [status for status, _ in made] == [201] * 12
    assert service.database.statements - before == 12


@pytest.mark.parametrize("is_known", [True, False])
async def test_rows_that_a_trigger_skips_are_nobody_elses(run: Run, is_known: bool) -> None:
    """Each response has the request's own row, which is there once; also if the trigger is newer than the service's start."""
    service = await run({"parents": PARENTS, "items": ITEM}, FEW)
    await service.sql.execute(
        "CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.level = 0 THEN NULL ELSE NEW END; END';"
        "CREATE TRIGGER skip BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION skip()"
    )
    if is_known:
        await service.service.store.read_traits()
    made = await together(service, *(("POST", "/items/", {"name": f"n{n}", "level": n % 3}) for n in range(24)))
    found = [(status, row.get("name")) for status, row in made]
    assert found == [(201, f"n{n}") if n % 3 else (409, None) for n in range(24)]
    assert await service.sql.fetchval("SELECT count(*) FROM items") == 16


async def test_callers_share_a_statement_and_not_their_scopes(run: Run) -> None:
    """Callers with other values of one scope are answered by one statement, and each gets only rows of the own scope."""
    notes = {"fields": {"id": ITEM["fields"]["id"], "owner": {"type": "string", "max_length": 9}},
             "viewset": {"scope": {"owner": "$user.id"}}}  # fmt: skip
    service = await run({"notes": notes}, SETTINGS)
    await service.sql.execute("INSERT INTO notes (owner) SELECT 'u' || n % 4 FROM generate_series(1, 40) AS n")
    before = service.database.statements
    answers = await asyncio.gather(
        *(service.ask("GET", f"/notes/{n}/", headers=bearer(f"u{user}")) for n in range(1, 41) for user in range(4))
    )
    owners = [(response.status, answer.get("owner")) for response, answer in answers]
    assert owners == [(200, f"u{n % 4}") if n % 4 == user else (404, None) for n in range(1, 41) for user in range(4)]
    assert service.database.statements - before < 120


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_plan_finds_each_row_by_its_key(run: Run, method: str) -> None:
    """Statements for several rows look them up in the index, whether the statistics are there, wrong or missing."""
    service = await run({"parents": PARENTS, "items": ITEM})
    await service.sql.execute("INSERT INTO items (name) SELECT 'n' || n FROM generate_series(1, 60000) AS n")
    query = Query("items", (by_key(service.queries.resources, "items", 1),))
    shown = Projection("items", ("id", "name", "level"))
    build = service.queries.select_rows if method == "GET" else service.queries.update_each
    shape = (shown, query.shape) if method == "GET" else (shown, ("level",), query.shape)
    made = build(*shape)
    for statistics in ("SELECT", "ANALYZE items", "TRUNCATE items; ANALYZE items"):
        await service.sql.execute(statistics)
        if statistics.startswith("TRUNCATE"):
            await service.sql.execute("INSERT INTO items (name) SELECT 'n' || n FROM generate_series(1, 60000) AS n")
        for size in (2, 64):
            arguments = made.arguments([[*range(1, size + 1)]] * (1 if method == "GET" else 2))
            await service.sql.execute("SET plan_cache_mode = force_generic_plan")
            plan = await service.sql.fetchval(f"EXPLAIN (FORMAT JSON) {made.sql}", *arguments)
            assert "Seq Scan" not in str(plan), plan


async def test_resource_with_coalescing_off(run: Run) -> None:
    """Each request has a statement of its own."""
    service = await run({"parents": PARENTS, "items": {**ITEM, "coalesce": "off"}})
    before = service.database.statements
    made = await together(service, *(("POST", "/items/", {"name": f"n{n}"}) for n in range(30)))
    await together(service, *(("GET", f"/items/{row['id']}/", None) for _, row in made))
    assert service.database.statements - before >= 60
