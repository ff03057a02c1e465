"""The events of each way to write."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from rowcast.changes.trigger_sync import sync_triggers
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.tables import Tables
from rowcast.resources.types import make_field

from .watching import Database, blocked, create, new, old, resources, summary

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("wakeup", ["notify", "poll"])
async def test_insert_update_delete_are_delivered_in_order(database: Database, wakeup: str) -> None:
    """Each committed statement is one event with the row before and after."""
    await database.ticker(wakeup=wakeup)
    watch = await database.watch(wakeup=wakeup)
    connection = await database.connect()
    key = await connection.fetchval("INSERT INTO tasks (title, price) VALUES ('a', 1.5) RETURNING id")
    await connection.execute("UPDATE tasks SET title = 'b'")
    await connection.execute("DELETE FROM tasks")
    events = await watch.fence(connection)
    assert summary(events) == [("I", "a"), ("U", "b"), ("D", "b")]
    assert [event.pk for event in events] == [str(key)] * 3
    assert events[1].before == events[0].after
    assert new(events[0])["price"] == "1.50"


async def test_the_changes_of_a_transaction_have_its_trace(database: Database) -> None:
    """What a writer has set is in each of its changes, cascades and links included, until its transaction ends."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    key = await connection.fetchval("INSERT INTO tasks (title) VALUES ('a') RETURNING id")
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'one')")
    async with connection.transaction():
        await connection.execute(f"SET LOCAL rowcast.traceparent = '{TRACEPARENT}'")
        await connection.execute("UPDATE tasks SET title = 'b'")
        await connection.execute("INSERT INTO tasks_tags VALUES ($1, 1)", key)
        await connection.execute("DELETE FROM tasks")
        await connection.execute("TRUNCATE tasks CASCADE")
    await connection.execute("INSERT INTO tasks (title) VALUES ('c')")
    events = [event for event in await watch.fence(connection) if event.resource == "tasks"]
    assert [(event.op, event.traceparent) for event in events] == [
        ("I", None), ("U", TRACEPARENT), ("U", TRACEPARENT), ("D", TRACEPARENT), ("T", TRACEPARENT), ("I", None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    ["", "x", f"{TRACEPARENT} ", TRACEPARENT[:-1] + "\n", TRACEPARENT.upper(), f"01{TRACEPARENT[2:]}", "0" * 9000],
)
async def test_what_is_no_trace_is_not_logged(database: Database, value: str) -> None:
    """A writer that sets anything else writes as before."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("SELECT set_config('rowcast.traceparent', $1, false)", value)
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'one')")
    events = [event for event in await watch.fence(connection) if event.resource == "tags"]
    assert [(event.pk, event.traceparent) for event in events] == [("1", None)]


async def test_every_way_to_insert_is_delivered(database: Database) -> None:
    """COPY, upsert and MERGE are logged as their effect on each row; a row that did not change is not logged."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.copy_records_to_table("tags", records=[(1, "one"), (2, "two")], columns=["id", "name"])
    await connection.execute(
        "INSERT INTO tags (id, name) VALUES (1, 'ONE'), (2, 'two'), (3, 'three')"
        " ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    )
    await connection.execute(
        """MERGE INTO tags USING (VALUES (1, 'gone'), (2, 'TWO'), (4, 'four')) AS given (id, name) ON tags.id = given.id
        WHEN MATCHED AND given.name = 'gone' THEN DELETE
        WHEN MATCHED THEN UPDATE SET name = given.name
        WHEN NOT MATCHED THEN INSERT (id, name) VALUES (given.id, given.name)"""
    )
    await connection.execute("UPDATE tags SET name = name")
    events = summary(await watch.fence(connection), "tags")
    assert events[:2] == [("I", "one"), ("I", "two")]
    assert sorted(events[2:4]) == [("I", "three"), ("U", "ONE")]
    assert sorted(events[4:]) == [("D", "ONE"), ("I", "four"), ("U", "TWO")]


async def test_a_cascade_is_delivered(database: Database) -> None:
    """Deleting a category deletes its children and clears it from its tasks, and all of that is delivered."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO categories (id, name, parent_id) VALUES (1, 'a', NULL), (2, 'b', 1)")
    await connection.execute("INSERT INTO tasks (title, category_id) VALUES ('t', 2)")
    await connection.execute("DELETE FROM categories WHERE id = 1")
    events = await watch.fence(connection)
    assert sorted(summary(events, "categories")[2:]) == [("D", "a"), ("D", "b")]
    assert summary(events)[1:] == [("U", "t")]
    assert watch.state["categories"] == {}
    assert [row["category_id"] for row in watch.state["tasks"].values()] == [None]


async def test_truncate_is_delivered_once(database: Database) -> None:
    """TRUNCATE … CASCADE, which empties the links too, is one event without a row; of links alone as well."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tasks (title) VALUES ('t')")
    await connection.execute("TRUNCATE tasks CASCADE")
    await connection.execute("TRUNCATE tasks_tags")
    events = [event for event in await watch.fence(connection) if event.resource == "tasks"]
    assert [(event.op, event.pk, event.old, event.new) for event in events[1:]] == [("T", None, None, None)] * 2


async def test_a_change_of_key_is_a_delete_and_an_insert(database: Database) -> None:
    """A row whose key changes leaves under the old one and appears under the new one."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'a'), (2, 'b')")
    await connection.execute("UPDATE tags SET id = id + 10, name = name || '!' WHERE id = 1")
    events = await watch.fence(connection)
    changes = {(event.op, event.pk) for event in events[2:]}
    assert changes == {("D", "1"), ("I", "11")}
    assert watch.state["tags"]["11"]["name"] == "a!"


async def test_rollbacks_are_not_delivered(database: Database) -> None:
    """Neither a transaction's nor a savepoint's; the changes that the same transaction kept are delivered."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("BEGIN; INSERT INTO tasks (title) VALUES ('never'); ROLLBACK")
    async with connection.transaction():
        await connection.execute("INSERT INTO tasks (title) VALUES ('before')")
        await connection.execute("SAVEPOINT s; INSERT INTO tasks (title) VALUES ('undone'); ROLLBACK TO s")
        async with connection.transaction():
            await connection.execute("INSERT INTO tasks (title) VALUES ('kept')")
    assert summary(await watch.fence(connection)) == [("I", "before"), ("I", "kept")]
    assert len({event.xid for event in watch.events[:2]}) == 1


async def test_a_prepared_transaction_is_delivered_when_it_commits(database: Database) -> None:
    """With ``wakeup: poll`` triggers do not notify, so PREPARE TRANSACTION works; it is delivered at COMMIT PREPARED."""
    connection = await database.connect()
    if await connection.fetchval("SHOW max_prepared_transactions") == "0":
        pytest.skip("needs max_prepared_transactions")
    await sync_triggers(connection, Tables(resources()), wakeup="poll")
    await database.ticker(wakeup="poll")
    watch = await database.watch(wakeup="poll")
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO tasks (title) VALUES ('t')")
    await connection.execute("PREPARE TRANSACTION 'p'")
    assert summary(await watch.fence(connection)) == []
    await connection.execute("COMMIT PREPARED 'p'")
    assert summary(await watch.fence(connection)) == [("I", "t")]


async def test_links_are_delivered_as_an_update_of_their_owner(database: Database) -> None:
    """One event for each owner and statement, with the lists before and after."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    one, two = uuid4(), uuid4()
    await connection.execute("INSERT INTO tasks (id, title) VALUES ($1, 'one'), ($2, 'two')", one, two)
    link = "INSERT INTO tasks_tags (task_id, tag_id) VALUES ($1, 2), ($1, 1), ($2, 3)"
    await connection.execute(link, one, two)
    await connection.execute("UPDATE tasks_tags SET tag_id = 3 WHERE tag_id = 2")
    await connection.execute("UPDATE tasks SET title = 'ONE' WHERE id = $1", one)
    await connection.execute("DELETE FROM tags WHERE id = 3")
    events = [event for event in await watch.fence(connection) if event.resource == "tasks"][2:]
    lists = {
        key: [(old(event)["tags"], new(event)["tags"]) for event in events if event.pk == str(key)]
        for key in (one, two)
    }
    assert lists == {
        one: [([], [1, 2]), ([1, 2], [1, 3]), ([1, 3], [1, 3]), ([1, 3], [1])],
        two: [([], [3]), ([3], [])],
    }
    assert {event.op for event in events} == {"U"}
    assert watch.state["tasks"][str(one)]["title"] == "ONE"


async def test_a_row_that_is_new_with_its_links_is_delivered_with_them(database: Database) -> None:
    """In one statement, whichever comes first, or with the links written before a row that they wait for."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'a'), (2, 'b')")
    one, two, three, four = (uuid4() for _ in range(4))
    await connection.execute(
        "WITH made AS (INSERT INTO tasks (id, title) VALUES ($1, '1') RETURNING id)"
        " INSERT INTO tasks_tags SELECT id, 1 FROM made",
        one,
    )
    await connection.execute(
        "WITH made AS (INSERT INTO tasks_tags VALUES ($1, 2)) INSERT INTO tasks (id, title) VALUES ($1, '2')", two
    )
    await connection.execute(
        "WITH made AS (INSERT INTO tasks (id, title) VALUES ($1, '3')), linked AS (INSERT INTO tasks_tags VALUES ($1, 1))"
        " SELECT",
        three,
    )
    await connection.execute(
        "ALTER TABLE tasks_tags ALTER CONSTRAINT fk_tasks_tags_task_id DEFERRABLE INITIALLY DEFERRED"
    )
    async with connection.transaction():
        await connection.execute("INSERT INTO tasks_tags VALUES ($1, 1), ($1, 2)", four)
        await connection.execute("INSERT INTO tasks (id, title) VALUES ($1, '4')", four)
    await watch.fence(connection)
    lists = {row["title"]: row["tags"] for row in watch.state["tasks"].values()}
    assert lists == {"1": [1], "2": [2], "3": [1], "4": [1, 2]}


async def test_many_links_at_once_are_delivered(database: Database) -> None:
    """A statement that links thousands of rows is planned for that many."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (id, name) SELECT i, i::text FROM generate_series(1, 5) i")
    await connection.execute("INSERT INTO tasks (title) SELECT i::text FROM generate_series(1, 3000) i")
    await connection.execute("INSERT INTO tasks_tags SELECT id, 1 FROM tasks WHERE title = '1'")
    await connection.execute("INSERT INTO tasks_tags SELECT k.id, t.id FROM tasks k, tags t WHERE k.title <> '1'")
    await connection.execute("DELETE FROM tasks_tags WHERE tag_id > 2")
    await watch.fence(connection)
    lists = {row["title"]: row["tags"] for row in watch.state["tasks"].values()}
    assert lists == {str(i): [1, 2] if i > 1 else [1] for i in range(1, 3001)}


async def test_deleting_an_owner_delivers_its_links_and_no_update(database: Database) -> None:
    """The cascade that removes the links first is not an event; the deleted row is delivered with its links."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'a'), (2, 'b')")
    await connection.execute("INSERT INTO tasks (title) VALUES ('one'), ('two')")
    await connection.execute("INSERT INTO tasks_tags SELECT k.id, t.id FROM tasks k, tags t")
    await connection.execute("DELETE FROM tasks WHERE title = 'one'")
    await connection.execute("DELETE FROM tasks")
    events = [event for event in await watch.fence(connection) if event.resource == "tasks"][4:]
    assert [(event.op, old(event)["title"], old(event)["tags"]) for event in events] == [
        ("D", "one", [1, 2]),
        ("D", "two", [1, 2]),
    ]


async def test_a_row_that_a_statement_reaches_twice_is_delivered_as_it_is_in_the_end(database: Database) -> None:
    """Deleting what a row refers to in several ways clears each reference, or deletes the row after clearing some."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO categories (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    await connection.execute(
        "INSERT INTO moves VALUES (1, 1, 1, NULL), (2, 1, 2, 3), (3, 1, 2, NULL), (4, 2, 1, 1), (5, 1, 2, 2)"
    )
    await connection.execute("DELETE FROM categories WHERE id < 3")
    await watch.fence(connection)
    rows = {row["id"]: row for row in watch.state["moves"].values()}
    assert rows == {row["id"]: dict(row) for row in await connection.fetch("SELECT * FROM moves")}
    assert list(rows) == [1, 2, 3]


async def test_links_changed_at_the_same_time_as_their_owner_are_not_lost(database: Database) -> None:
    """Two transactions that change a row and its links at once leave the last event with both changes."""
    await database.ticker()
    watch = await database.watch()
    first, second = await database.connect(), await database.connect()
    await first.execute("INSERT INTO tags (id, name) VALUES (1, 'a'), (2, 'b')")
    key = await first.fetchval("INSERT INTO tasks (title) VALUES ('t') RETURNING id")
    await first.execute("BEGIN")
    await first.execute("UPDATE tasks SET title = 'T' WHERE id = $1", key)
    linking = asyncio.create_task(second.execute("INSERT INTO tasks_tags VALUES ($1, 1)", key))
    await blocked(database, second)
    await first.execute("INSERT INTO tasks_tags VALUES ($1, 2)", key)
    await first.execute("COMMIT")
    await linking
    await watch.fence(first)
    assert (watch.state["tasks"][str(key)]["title"], watch.state["tasks"][str(key)]["tags"]) == ("T", [1, 2])


async def test_changes_by_triggers_of_the_user_leave_the_row_as_it_is(database: Database) -> None:
    """A trigger that changes the very rows of its statement is delivered before it, and still the last event is true."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute(
        """CREATE FUNCTION grow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE tasks SET n = n + 1 WHERE id = NEW.id AND n < 5; RETURN NULL; END $$;
        CREATE TRIGGER grow AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION grow();
        CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            DELETE FROM tags WHERE id = NEW.id AND NEW.name = 'gone'; RETURN NULL; END $$;
        CREATE TRIGGER gone AFTER INSERT OR UPDATE ON tags FOR EACH ROW EXECUTE FUNCTION gone()"""
    )
    await connection.execute("INSERT INTO tasks (title) VALUES ('a'), ('b')")
    await connection.execute("UPDATE tasks SET n = 3, title = title || '!'")
    await connection.execute("INSERT INTO tags (id, name) VALUES (1, 'gone'), (2, 'stays')")
    await connection.execute("UPDATE tags SET name = 'gone' WHERE id = 2")
    await connection.execute("INSERT INTO tags (id, name) VALUES (3, 'stays')")
    await watch.fence(connection)
    assert {row["title"]: row["n"] for row in watch.state["tasks"].values()} == {"a!": 5, "b!": 5}
    assert [row["id"] for row in watch.state["tags"].values() if row["id"] <= 3 and row["name"] == "stays"] == [3]
    assert not [row for row in watch.state["tags"].values() if row["name"] == "gone"]


async def test_partitioned_tables_are_delivered_whichever_way_they_are_written(database: Database) -> None:
    """Through the parent, into a partition, and moving between partitions."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute(
        """DROP TABLE categories CASCADE;
        CREATE TABLE categories (id int PRIMARY KEY, name text, parent_id int) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF categories FOR VALUES FROM (0) TO (10);
        CREATE TABLE high PARTITION OF categories FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
        CREATE TABLE highest PARTITION OF high FOR VALUES FROM (10) TO (100)"""
    )
    await sync_triggers(connection, Tables(resources()))
    await connection.execute("INSERT INTO categories VALUES (1, 'parent'), (11, 'parent')")
    await connection.execute("INSERT INTO highest VALUES (12, 'leaf')")
    await connection.execute("UPDATE low SET name = 'leaf'")
    await connection.execute("UPDATE categories SET id = 13, name = 'moved' WHERE id = 1")
    await connection.execute("DELETE FROM high WHERE id = 12")
    events = [(event.op, event.pk) for event in await watch.fence(connection) if event.resource == "categories"]
    assert events.pop(0) == ("T", None), "the table has taken the place of another one"
    assert sorted(events[:2]) == [("I", "1"), ("I", "11")]
    assert events[2:4] == [("I", "12"), ("U", "1")]
    assert sorted(events[4:6]) == [("D", "1"), ("I", "13")]
    assert events[6:] == [("D", "12")]
    await connection.execute("TRUNCATE categories")
    assert [event.op for event in await watch.fence(connection) if event.resource == "categories"][8:] == ["T"]


async def test_write_only_fields_are_nowhere_in_the_log(database: Database) -> None:
    """Neither on insert nor on update; an update of nothing else is no event."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute("INSERT INTO tasks (title, secret) VALUES ('t', 'hush')")
    await connection.execute("UPDATE tasks SET secret = 'hush hush'")
    await connection.execute("UPDATE tasks SET secret = 'hush', n = 1")
    assert summary(await watch.fence(connection)) == [("I", "t"), ("U", "t")]
    assert await connection.fetchval("SELECT count(*) FROM rowcast.change c WHERE c::text LIKE '%hush%'") == 0
    assert "secret" not in new(watch.events[0])


async def test_rows_are_logged_in_the_form_that_clients_see(database: Database) -> None:
    """Whatever the writer's settings: decimals as text, times in UTC, durations as ISO 8601."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    await connection.execute(
        "SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'postgres_verbose'; SET datestyle = 'German';"
        " SET extra_float_digits = -5; SET search_path = pg_temp"
    )
    await connection.execute(
        "INSERT INTO public.tasks (title, price, took, due) VALUES ('t', 7, '36 hours', '2026-01-31 12:00:00+09')"
    )
    await connection.execute("SET search_path = public")
    event = (await watch.fence(connection))[0]
    row = new(event)
    assert (row["price"], row["took"], row["due"]) == ("7.00", "P1DT12H", "2026-01-31T03:00:00+00:00")
    assert UUID(row["id"]) == UUID(event.pk)


async def test_names_that_look_like_ours_are_columns(database: Database) -> None:
    """Quotes, colons, percent signs, and names that the triggers use themselves."""
    names = ["rowcast_old", "rowcast_new", "rowcast_o", "old", "new", "pk", "op", "we'i\"rd:%s $1", "select", "near"]
    fields = {"rowcast_k": make_field("rowcast_k", "text", primary_key=True)} | {
        name: make_field(name, "decimal", null=True) for name in names
    }
    declared = Resource("it's", "ta\"ble's", "Thing", fields)
    weird = Tables(Resources({declared.name: declared}))
    connection = await database.connect()
    await create(connection, weird)
    await sync_triggers(connection, weird)
    await sync_triggers(connection, Tables(resources()))
    await sync_triggers(connection, weird)
    await database.ticker()
    watch = await database.watch()
    table = '"ta""ble\'s"'
    await connection.execute(f"INSERT INTO {table} VALUES ('k')")
    await connection.execute(f'UPDATE {table} SET "select" = 1.5, rowcast_old = 2')
    await connection.execute(f"DELETE FROM {table}")
    await watch.until(lambda: len(watch.events) == 3)
    assert [event.op for event in watch.events] == ["I", "U", "D"]
    assert watch.events[2].before == dict.fromkeys(names) | {"rowcast_k": "k", "select": "1.5", "rowcast_old": "2"}


async def test_a_table_of_many_columns_is_delivered(database: Database) -> None:
    """More than the fifty that one call makes an object of."""
    fields = {f"c{i}": make_field(f"c{i}", "integer", null=True) for i in range(230)}
    declared = Resource("wide", "wide", "Wide", {"id": make_field("id", "integer", primary_key=True)} | fields)
    wide = Tables(Resources({"wide": declared}))
    connection = await database.connect()
    await create(connection, wide)
    await sync_triggers(connection, wide)
    await database.ticker()
    watch = await database.watch()
    await connection.execute("INSERT INTO wide (c0, c229) VALUES (1, 2)")
    await watch.until(lambda: bool(watch.events))
    assert len(new(watch.events[0])) == 231
    assert new(watch.events[0])["c229"] == 2


async def test_writers_need_no_rights_on_the_log(database: Database) -> None:
    """A role that may write the table may write it logged, and can neither read nor write the log."""
    await database.ticker()
    watch = await database.watch()
    connection = await database.connect()
    role = f"writer_{uuid4().hex}"
    await connection.execute(f"CREATE ROLE {role}; GRANT INSERT, SELECT ON tasks TO {role}; SET ROLE {role}")
    await connection.execute("INSERT INTO tasks (title) VALUES ('t')")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("SELECT FROM rowcast.change")
    await connection.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
    assert summary(await watch.fence(connection)) == [("I", "t")]
