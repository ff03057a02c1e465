"""The database under concurrent use: races, violations, waits, and a server that goes away."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from typing import Any

import asyncpg
import pytest

from rowcast.errors import ValidationError
from rowcast.query.projection import projection_of

from ..conftest import Serve
from ..databases import at_database
from ..pgbouncer import BEHIND_POOLER
from ..waiting import until
from .conftest import Run
from .library import OPEN

PARENT: dict[str, Any] = {"fields": {"name": {"type": "string", "max_length": 20, "unique": True}}}
CHILD: dict[str, Any] = {
    "fields": {
        "parent": {"type": "foreign_key", "to": "parents", "on_delete": "restrict"},
        "n": {"type": "integer", "default": 0},
        "friends": {"type": "many_to_many", "to": "parents", "related_name": "fans"},
    },
    "viewset": {"filterset_fields": {"n": ["exact"], "id": ["in"]}},
}
QUICK = json.dumps({**json.loads(OPEN), "database": {"statement_timeout": "300ms", "pool_size": 2}})


async def test_one_of_many_racing_inserts_wins(run: Run) -> None:
    """Of 36 requests for the same unique value at the same time one is a 201 and all others a 409 on the field."""
    service = await run({"parents": PARENT})
    answers = await asyncio.gather(*(service.ask("POST", "/parents/", {"name": "same"}) for _ in range(36)))
    assert Counter(response.status for response, _ in answers) == {201: 1, 409: 35}
    assert {tuple(problem["errors"]) for response, problem in answers if response.status == 409} == {("name",)}
    rows = await asyncio.gather(*(service.post("/parents/", {"name": f"n{n}"}) for n in range(12)))
    answers = await asyncio.gather(*(service.ask("PATCH", f"/parents/{row['id']}/", {"name": "taken"}) for row in rows))
    assert Counter(response.status for response, _ in answers) == {200: 1, 409: 11}


async def test_reference_to_a_row_that_is_being_deleted_is_never_left(run: Run) -> None:
    """When a row is deleted while other rows begin to refer to it, either the delete or the reference is refused."""
    service = await run({"parents": PARENT, "children": CHILD})
    for n in range(8):
        parent = await service.post("/parents/", {"name": f"p{n}"})
        path = f"/parents/{parent['id']}/"
        (gone, _), *made = await asyncio.gather(
            service.ask("DELETE", path),
            *(
                service.ask("POST", "/children/", {"parent_id": parent["id"], "friends": [parent["id"]]})
                for _ in range(3)
            ),
        )
        statuses = {response.status for response, _ in made}
        if gone.status == 204:
            assert statuses == {400}
            for _, problem in made:  # both are missing, unless the row goes after one of them was looked up
                assert problem["errors"].keys() in ({"parent_id"}, {"friends"}, {"parent_id", "friends"})
        else:
            assert gone.status == 409
            assert 201 in statuses
    assert (
        await service.sql.fetchval("SELECT count(*) FROM children WHERE parent_id NOT IN (SELECT id FROM parents)") == 0
    )


async def test_deadlock_is_run_again(run: Run) -> None:
    """A statement that PostgreSQL cancels to end a deadlock is repeated, and succeeds after the other one."""
    service = await run({"parents": PARENT})
    await service.sql.execute("ALTER SYSTEM SET deadlock_timeout = '50ms'")
    await service.sql.execute("SELECT pg_reload_conf()")
    first = await service.post("/parents/", {"name": "first"})
    second = await service.post("/parents/", {"name": "second"})
    # the service locks the first row, then, by a trigger, wants the second one
    await service.sql.execute(
        f"""CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
              IF NEW.name LIKE 'x%' THEN
                PERFORM pg_advisory_xact_lock(1); PERFORM 1 FROM parents WHERE id = '{second["id"]}' FOR UPDATE; END IF;
              RETURN NEW; END $$;
            CREATE TRIGGER also AFTER UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION also()"""
    )
    await service.sql.execute("SELECT pg_advisory_lock(1)")
    transaction = service.sql.transaction()
    await transaction.start()
    await service.sql.execute("SELECT 1 FROM parents WHERE id = $1::text::uuid FOR UPDATE", second["id"])
    request = asyncio.create_task(service.ask("PATCH", f"/parents/{first['id']}/", {"name": "xyz"}))
    while not await service.sql.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 1"
    ):
        pass
    await service.sql.execute(
        "SET LOCAL deadlock_timeout = '60s'"
    )  # so that it is the service's statement that is ended
    await service.sql.execute("SELECT pg_advisory_unlock(1)")
    await service.sql.execute("SELECT 1 FROM parents WHERE id = $1::text::uuid FOR UPDATE", first["id"])
    await transaction.commit()
    response, row = await request
    assert (response.status, row["name"]) == (200, "xyz")
    await service.sql.execute("ALTER SYSTEM RESET deadlock_timeout")


async def test_colliding_link_changes_leave_one_of_the_lists(run: Run) -> None:
    """Many updates of the same links at once all get a response, none a 500, and the row has one request's list."""
    service = await run({"parents": PARENT, "children": CHILD})
    keys = [(await service.post("/parents/", {"name": str(n)}))["id"] for n in range(6)]
    child = await service.post("/children/", {"parent_id": keys[0]})
    path = f"/children/{child['id']}/"
    lists = [keys[:3], keys[3:], keys[::-1], [], keys[:1]] * 5
    answers = await asyncio.gather(*(service.ask("PATCH", path, {"friends": chosen}) for chosen in lists))
    assert {response.status for response, _ in answers} <= {200, 409}
    found = [friend["id"] for friend in (await service.get(path, expand="friends"))["friends"]]
    assert sorted(found) in [sorted(chosen) for chosen in lists]


async def test_statement_that_takes_too_long_is_503(run: Run) -> None:
    """A request waits for a row that is locked elsewhere for ``statement_timeout``, and then fails."""
    service = await run({"parents": PARENT}, QUICK)
    row = await service.post("/parents/", {"name": "held"})
    async with service.sql.transaction():
        await service.sql.execute("SELECT 1 FROM parents FOR UPDATE")
        response, problem = await service.ask("PATCH", f"/parents/{row['id']}/", {"name": "x"}, status=503)
        assert problem["code"] == "statement_timeout"
        assert response.headers["Retry-After"]
        assert await service.rows("/parents/") == [row]
    assert (await service.patch(f"/parents/{row['id']}/", {"name": "x"}))["name"] == "x"


async def test_busy_connections_are_waited_for_and_then_503(run: Run) -> None:
    """Requests beyond the number of connections wait; if none becomes free in time they get a 503, and later ones succeed."""
    service = await run({"parents": PARENT}, QUICK)
    answers = await asyncio.gather(*(service.get("/parents/") for _ in range(50)))
    assert len(answers) == 50
    service.database.patience = 0.05
    async with service.sql.transaction():
        await service.sql.execute("LOCK TABLE parents")
        answers = await asyncio.gather(*(service.ask("GET", f"/parents/?page_size={1 + n}") for n in range(8)))
    codes = Counter(problem["code"] for response, problem in answers if response.status == 503)
    assert codes == {"statement_timeout": 2, "database_busy": 6}
    service.database.patience = 5.0
    await asyncio.gather(*(service.get("/parents/") for _ in range(10)))


async def test_lost_connections_are_replaced(run: Run) -> None:
    """Connections that PostgreSQL closes are replaced: reads succeed, and a write fails with 503 at most once."""
    service = await run({"parents": PARENT})
    row = await service.post("/parents/", {"name": "a"})
    await asyncio.gather(*(service.get("/parents/") for _ in range(10)))
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    for _ in range(3):
        await service.sql.execute(end)
        answers = await asyncio.gather(*(service.ask("GET", "/parents/") for _ in range(5)))
        assert {response.status for response, _ in answers} == {200}
    await service.sql.execute(end)
    statuses = [(await service.ask("PATCH", f"/parents/{row['id']}/", {"name": f"b{n}"}))[0].status for n in range(3)]
    assert statuses[-1] == 200
    assert set(statuses) <= {200, 503}


async def test_database_that_is_gone_is_503_until_it_is_back(run: Run) -> None:
    """While no connection can be made every request gets a 503 with a reason; afterwards they succeed again."""
    service = await run({"parents": PARENT})
    row = await service.post("/parents/", {"name": "a"})
    (name,) = await service.sql.fetchrow("SELECT current_database()")
    admin = await asyncpg.connect(at_database(service.database.url, "postgres"))
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND application_name = 'rowcast'",
            name,
        )
        for method, path, body in (
            ("GET", "/parents/", None),
            ("POST", "/parents/", {"name": "b"}),
            ("GET", f"/parents/{row['id']}/", None),
            ("DELETE", f"/parents/{row['id']}/", None),
        ):
            response, problem = await service.ask(method, path, body, status=503)
            assert problem["code"] == "database_unavailable"
            assert response.headers["Retry-After"]
        _, live = await service.ask("GET", "/health/live", status=200)
        assert live["status"] == "ok"
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
    if BEHIND_POOLER:  # which goes on refusing for a moment after a login has failed

        async def answers() -> bool:
            return (await service.client.get("/parents/")).status == 200

        await until(answers)
    assert await service.rows("/parents/") == [row]
    await service.post("/parents/", {"name": "b"})


async def test_schema_that_differs_from_the_config_is_503(run: Run) -> None:
    """A table that has been dropped is not the client's mistake, and not a 500."""
    service = await run({"parents": PARENT})
    await service.get("/parents/")
    await service.sql.execute("DROP TABLE parents")
    _, problem = await service.ask("GET", "/parents/", status=503)
    assert problem["code"] == "schema_mismatch"


async def test_right_that_the_service_lacks_is_503(run: Run) -> None:
    """A missing right of the service's role is not the client's mistake; the response names no roles or tables."""
    service = await run({"parents": PARENT})
    await service.sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied for table parents'; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT ON parents FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    response, problem = await service.ask("POST", "/parents/", {"name": "a"})
    assert (response.status, problem["code"]) == (503, "database_forbidden")
    assert "parents" not in problem["detail"]


async def test_column_that_changes_under_the_service_does_not_break_it(run: Run) -> None:
    """Statements that were prepared before a compatible change of the schema continue to work."""
    service = await run({"parents": PARENT})
    row = await service.post("/parents/", {"name": "a"})
    await service.rows("/parents/")
    await service.sql.execute("ALTER TABLE parents ALTER name TYPE text, ADD extra integer")
    assert await service.rows("/parents/") == [row]
    assert (await service.patch(f"/parents/{row['id']}/", {"name": "b"}))["name"] == "b"
    await service.post("/parents/", {"name": "c"})


async def test_request_that_is_given_up_leaves_its_connection_usable(run: Run) -> None:
    """A cancelled statement's connection, or a new one, serves the next request."""
    service = await run({"parents": PARENT}, json.dumps({**json.loads(OPEN), "database": {"pool_size": 2}}))
    await service.sql.execute("SELECT pg_advisory_lock(5)")
    for _ in range(5):
        task = asyncio.create_task(service.database.fetch("SELECT pg_advisory_lock(5)", []))
        while not await service.sql.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 5"):
            pass
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(service.get("/parents/") for _ in range(6)))


async def test_values_that_do_not_fit_are_refused_by_the_store_too(run: Run) -> None:
    """Values from a handler are checked by the database; one that does not fit is a 400."""
    service = await run({"parents": PARENT, "children": CHILD})
    store, shown = service.service.store, projection_of(service.queries.resources["children"])
    parent = uuid.UUID((await service.post("/parents/", {"name": "p"}))["id"])
    for values in ({"n": 2**40}, {"n": "text"}, {"n": None}, {"parent_id": "x"}, {"parent_id": 7}):
        with pytest.raises(ValidationError):
            await store.insert(shown, {"parent_id": parent, **values})
    assert await service.rows("/children/") == []


WORDS = [
    "p", "q", "d", "t", "k", "w", "n", "item", "new", "old", "scope", "logged", "given", "count", "size",
    "keys", "results", "document", "position", "result", "version", "near", "far", "doc", "xid", "seq",
    "items", "user", "order", "select", "table", "values", "time", "c0", "v0", "excluded",
]  # fmt: skip


@pytest.mark.parametrize("word", ["t", "new", "item", "given", "user", "scope"])
async def test_sql_keyword_is_a_name_like_any_other(run: Run, word: str) -> None:
    """Fields, relations and tables may have the name of any SQL keyword; statements and triggers work."""
    fields: dict[str, Any] = {name: {"type": "integer", "null": True} for name in WORDS if name != word}
    fields["dates"] = {"type": "array", "of": "datetime", "default": ["2026-01-01T00:00:00+00:00"]}
    fields[word] = {"type": "foreign_key", "to": word, "null": True, "related_name": "later"}
    fields["twins"] = {"type": "many_to_many", "to": word, "related_name": "twin_of"}
    unnamed = {name: {key: field[key] for key in field if key != "related_name"} for name, field in fields.items()}
    unnamed["twins"]["related_name"] = "others"
    viewset = {
        "filterset_fields": {**{name: ["exact"] for name in WORDS}, f"{word}__n": ["exact"], "twins__n": ["exact"]},
        "ordering_fields": [*WORDS, f"{word}__n"],
        "prefetch_related": ["twins"],
    }
    paged = {**viewset, "pagination_class": "CursorPagination", "prefetch_related": []}
    service = await run({word: {"fields": fields, "viewset": viewset}, "paged": {"fields": unnamed, "viewset": paged}})
    numbers = {name: place for place, name in enumerate(WORDS) if name != word}
    for resource in (word, "paged"):
        first = await service.post(f"/{resource}/", {**numbers, f"{word}_id": None})
        assert first.items() >= numbers.items()
        if resource == "paged":
            numbers[f"{word}_id"] = (await service.get(f"/{word}/"))["results"][0]["id"]
            first = await service.patch(f"/paged/{first['id']}/", {f"{word}_id": numbers[f"{word}_id"]})
        else:
            first = await service.patch(f"/{word}/{first['id']}/", {f"{word}_id": first["id"], "twins": [first["id"]]})
            assert [twin["id"] for twin in first["twins"]] == [first["id"]]
        path = f"/{resource}/{first['id']}/"
        assert await service.get(path) == first
        assert await service.put(path, first) == first
        expanded = await service.get(path, expand=f"{word},twins")
        assert expanded[word]["dates"] == ["2026-01-01T00:00:00+00:00"]
        for name, value in {**numbers, f"{word}__n": numbers.get("n")}.items():
            if value is not None and not name.endswith("_id"):
                found = await service.get(f"/{resource}/", query={name: str(value), "ordering": f"-{name}"})
                assert [row["id"] for row in found["results"]] == [first["id"]], name
        stored = await service.sql.fetch(
            "SELECT op, new FROM rowcast.change WHERE resource = $1 ORDER BY seq", resource
        )
        assert json.loads(stored[-1]["new"]).items() >= {k: v for k, v in first.items() if k != "twins"}.items()


async def test_names_of_columns_may_be_as_long_as_postgresql_allows(run: Run) -> None:
    """A field, and a foreign key with its _id, may have 63 characters: rows are written, read, filtered and linked."""
    field, key, links = "x" * 63, "k" * 60, "l" * 40
    fields = {
        "id": {"type": "integer", "primary_key": True},
        field: {"type": "string", "max_length": 20},
        key: {"type": "foreign_key", "to": "longs", "null": True, "related_name": "back"},
        links: {"type": "many_to_many", "to": "longs", "related_name": "linked"},
    }
    viewset = {"filterset_fields": [field, key], "ordering_fields": [field]}
    service = await run({"longs": {"fields": fields, "viewset": viewset}})
    first = await service.post("/longs/", {field: "a"})
    second = await service.post("/longs/", {field: "b", f"{key}_id": first["id"], links: [first["id"]]})
    changed = await service.patch(f"/longs/{second['id']}/", {field: "c"})
    assert changed == {"id": 2, field: "c", f"{key}_id": 1}
    assert await service.rows("/longs/", **{field: "c", "ordering": f"-{field}", "expand": key}) == [
        {**changed, key: first}
    ]
    assert await service.put(f"/longs/{second['id']}/", {field: "d"}) == {**changed, field: "d"}
    await service.delete(f"/longs/{second['id']}/")


OWNERS: dict[str, Any] = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "unique": True}}
}
MANAGED = {**OWNERS, "viewset": {"class": "views:ManagedViewSet"}}
MANAGED_VIEWS = """
from rowcast import ModelViewSet, action, model


class ManagedViewSet(ModelViewSet):
    async def perform_create(self, serializer):
        await serializer.save()

    @action(detail=False, methods=["POST"])
    async def many(self, request):
        return {"ids": [row.id for row in await model("managed").objects.bulk_create(request.data["rows"])]}
"""


async def test_sequence_behind_the_rows_is_moved_on(run: Run) -> None:
    """Rows that were loaded with their keys do not stand in the way of new ones; a value that is taken is a 409."""
    service = await run({"owners": OWNERS, "managed": MANAGED}, modules={"views": MANAGED_VIEWS})
    for table in ("owners", "managed"):
        await service.sql.execute(f"INSERT INTO {table} (id, name) SELECT g, 'i' || g FROM generate_series(1, 1000) g")
    assert await service.post("/owners/", {"name": "n"}) == {"id": 1001, "name": "n"}
    assert (await service.post("/owners/", {"name": "m"}))["id"] == 1002
    _, problem = await service.ask("POST", "/owners/", {"name": "m"}, status=409)
    assert problem["errors"] == {"name": ["Another row has this value."]}
    await service.sql.execute("SELECT setval('owners_id_seq', 1)")
    answers = await asyncio.gather(*(service.ask("POST", "/owners/", {"name": f"r{n}"}) for n in range(12)))
    assert Counter(response.status for response, _ in answers) == {201: 12}
    # A transaction that has failed cannot be repeated for the client, whose hooks have run; the next request succeeds.
    _, problem = await service.ask("POST", "/managed/", {"name": "n"}, status=409)
    assert problem["code"] == "serialization_failure"
    assert (await service.post("/managed/", {"name": "n"}))["id"] == 1001
    assert (await service.post("/managed/many/", {"rows": [{"name": "x"}, {"name": "y"}]}, 200))["ids"] == [1002, 1003]


async def test_sequence_of_a_partitioned_table_is_moved_on(run: Run) -> None:
    """The violation names the constraint of the partition."""
    plain = {"fields": {"id": OWNERS["fields"]["id"], "name": {"type": "string", "blank": True}}}
    service = await run({"owners": plain}, prepare="""
        CREATE TABLE owners (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL) PARTITION BY RANGE (id);
        CREATE TABLE owners_0 PARTITION OF owners FOR VALUES FROM (0) TO (10000);
        INSERT INTO owners (id, name) VALUES (1, 'a'), (2, 'b')
    """)  # fmt: skip
    assert (await service.post("/owners/", {"name": "c"}))["id"] == 3


async def test_rule_that_the_config_no_longer_has_is_dropped(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the service may migrate. Otherwise it logs the rules that are left."""
    fields = "{id: {type: integer, primary_key: true}, e: {type: string, null: true%s}, f: {type: integer, default: 0}}"
    viewset = "viewset: {permission_classes: [AllowAny]}"
    await serve({"t": f"fields: {fields % ', unique: true, max_length: 9'}\nunique: [[e, f]]\n{viewset}"})
    assert "rules_left" not in capsys.readouterr().out
    client = await serve({"t": f"fields: {fields % ', max_length: 9'}\n{viewset}"})
    assert "rules_left" not in capsys.readouterr().out
    assert [(await client.post("/t/", json={"e": "a"})).status for _ in range(2)] == [201, 201]


async def test_transaction_that_is_cancelled_leaves_nothing_to_the_next_one(run: Run) -> None:
    """Whenever it is cancelled, also while BEGIN or COMMIT is on its way, the next transaction is a whole one."""
    service = await run({"parents": PARENT}, json.dumps({**json.loads(OPEN), "database": {"pool_size": 1}}))
    database = service.database
    insert = "INSERT INTO parents (id, name) VALUES (gen_random_uuid(), $1)"

    async def write(name: str) -> None:
        async with database.transaction():
            await database.fetch(insert, [name])

    for turns in range(20):
        task = asyncio.create_task(write(f"cancelled {turns}"))
        for _ in range(turns):
            await asyncio.sleep(0 if turns < 10 else 0.0005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await write(f"kept {turns}")
        assert await service.sql.fetchval("SELECT count(*) FROM parents WHERE name = $1", f"kept {turns}") == 1


PLACE = """
CREATE FUNCTION place(integer) RETURNS integer PARALLEL SAFE LANGUAGE plpgsql AS 'BEGIN RETURN pg_backend_pid(); END';
CREATE TABLE numbers AS SELECT generate_series(1, 10000) AS n
"""
ALWAYS_PARALLEL = {
    "parallel_setup_cost": 0, "min_parallel_table_scan_size": 0,
    "max_parallel_workers_per_gather": 2, "parallel_leader_participation": "off",
}  # fmt: skip


async def test_a_statement_with_one_row_may_use_parallel_workers(run: Run) -> None:
    """PostgreSQL uses none for a client that limits how many rows it takes."""
    service = await run({"notes": {"fields": {}}}, prepare=PLACE)
    async with service.database.transaction():
        for name, value in ALWAYS_PARALLEL.items():
            await service.database.fetch(f"SET LOCAL {name} = {value}", ())
        row = await service.database.fetch(
            "SELECT at <> pg_backend_pid() FROM (SELECT max(place(n)) AS at FROM numbers) AS there", ()
        )
    assert row is not None
    assert row[0]
