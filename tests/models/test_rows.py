"""Rows as objects: reading, writing and relating them."""

from __future__ import annotations

import asyncio
import contextlib
from uuid import uuid4

import pytest

from rowcast.errors import Conflict, ValidationError
from rowcast.orm.expressions import F, Q
from rowcast.orm.model import RelationNotLoaded, model
from rowcast.orm.raw import raw
from rowcast.orm.writing import transaction
from rowcast.query.store import STORE
from rowcast.rest.plan import SERVICE
from tests.conftest import Serve

Task, Category, Tag, Comment = model("tasks"), model("categories"), model("tags"), model("comments")


pytestmark = pytest.mark.tables(None)


@pytest.fixture
async def store(serve: Serve) -> None:
    """The models of the demo, on an empty database."""
    client = await serve()
    STORE.set(client.app[SERVICE].store)


async def test_created_row_has_the_stored_values(store: None) -> None:
    """The instance has the database's defaults; values may be Python's or their JSON form."""
    task = await Task.objects.create(title="one", due_date="2026-01-31T12:00:00Z")
    assert task.priority == "normal"
    assert task.pk == task.id
    assert task.due_date.year == 2026
    assert await Task.objects.get(pk=str(task.id)) == task


async def test_chained_filters_add_up(store: None) -> None:
    """A second filter narrows the first and never replaces it."""
    await Task.objects.bulk_create([Task(title=f"t{n}", completed=n % 2 == 0, priority="high") for n in range(10)])
    rows = Task.objects.filter(completed=True).filter(title__in=["t1", "t2", "t4"]).order_by("-title")
    assert [row.title for row in await rows] == ["t4", "t2"]
    assert await rows.count() == 2
    assert await Task.objects.filter(~Q(completed=True) & (Q(title="t1") | Q(title="t2"))).values("title") == [
        {"title": "t1"}
    ]
    assert await Task.objects.exclude(priority="high").exists() is False
    assert [row.title async for row in Task.objects.order_by("title")[2:4]] == ["t2", "t3"]
    last = await Task.objects.order_by("title").last()
    assert last is not None
    assert last.title == "t9"


async def test_save_writes_only_what_changed(store: None) -> None:
    """Two instances of a row, saved one after the other, keep each other's changes."""
    task = await Task.objects.create(title="one")
    other = await Task.objects.get(pk=task.pk)
    task.completed = True
    await task.save()
    other.priority = "high"
    await other.save()
    await task.refresh()
    assert (task.completed, task.priority) == (True, "high")


async def test_arithmetic_happens_in_the_database(store: None) -> None:
    """``F`` in an update adds to the current value of each row, and an update returns the number of rows."""
    task = await Task.objects.create(title="one")
    assert await Task.objects.filter(pk=task.pk).update(view_count=F("view_count") + 2) == 1
    assert await Task.objects.filter(view_count__gt=F("view_count")).count() == 0
    task.view_count = F("view_count") * 10
    await task.save()
    assert task.view_count == 20
    assert await Task.objects.aggregate(total=("sum", "view_count"), most=("max", "view_count")) == {
        "total": 20,
        "most": 20,
    }


async def test_related_rows_are_there_when_loaded(store: None) -> None:
    """``select_related`` and ``prefetch_related`` load related rows; without them the error names the remedy."""
    work = await Category.objects.create(name="work")
    tags = [await Tag.objects.create(name=name) for name in ("a", "b")]
    task = await Task.objects.create(title="one", category=work, tags=tags)
    await Comment.objects.create(task=task, body="hm", author="x")
    plain = await Task.objects.get(pk=task.pk)
    with pytest.raises(RelationNotLoaded, match=r"select_related\('category'\)"):
        _ = plain.category.name
    with pytest.raises(RelationNotLoaded, match="prefetch_related"):
        list(plain.tags)
    loaded = await Task.objects.select_related("category").prefetch_related("tags", "comments").get(pk=task.pk)
    assert loaded.category.name == "work"
    assert [tag.name for tag in loaded.tags] == ["a", "b"]
    assert [comment.body for comment in loaded.comments] == ["hm"]
    assert await plain.tags.filter(name="b").count() == 1
    assert [row.title for row in await work.tasks.all()] == ["one"]
    assert (await Category.objects.prefetch_related("tasks__tags").get()).tasks[0].tags[1].name == "b"


async def test_get_or_create_and_update_or_create(store: None) -> None:
    """An existing row is returned; a missing one is created."""
    tag, new = await Tag.objects.get_or_create(name="a")
    assert new
    assert await Tag.objects.get_or_create(name="a") == (tag, False)
    task, new = await Task.objects.update_or_create({"priority": "high"}, title="x")
    assert new
    assert task.priority == "high"
    task, new = await Task.objects.update_or_create({"priority": "low"}, title="x")
    assert not new
    assert task.priority == "low"


async def test_atomic_rolls_back_and_savepoints_nest(store: None) -> None:
    """An error inside rolls everything back; one inside a nested block rolls that block back."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with transaction.atomic():
            await Tag.objects.create(name="gone")
            raise ZeroDivisionError
    async with transaction.atomic():
        await Tag.objects.create(name="kept")
        with pytest.raises(Conflict):
            async with transaction.atomic():
                await Tag.objects.create(name="kept")
    assert [row.name for row in await Tag.objects.all()] == ["kept"]


async def test_values_and_names_that_do_not_fit_are_errors(store: None) -> None:
    """A value that does not fit its column is the client's error, an unknown name the programmer's."""
    with pytest.raises(ValidationError) as raised:
        await Task.objects.create(title=5)
    assert "title" in (raised.value.errors or {})
    with pytest.raises(AttributeError, match="did you mean title"):
        Task(titel="x")
    with pytest.raises(ValueError, match="did you mean title"):
        await Task.objects.filter(titel="x")
    assert await Task.objects.filter(title="x").delete() == 0


async def test_all_rows_may_be_changed_and_deleted(store: None) -> None:
    """A query set without a condition is all rows, for writes as for reads."""
    await Task.objects.bulk_create([Task(title="one"), Task(title="two")])
    assert await Task.objects.update(view_count=F("view_count") + 1) == 2
    assert await Task.objects.all().delete() == 2
    assert await Task.objects.count() == 0


async def test_rows_are_inserted_or_changed_by_a_unique_rule(store: None) -> None:
    """``upsert`` returns the rows in their order; a row outside the query set is a conflict. ``in_bulk`` is a mapping."""
    home = await Category.objects.create(name="home", description="old")
    rows = await Category.objects.upsert([{"name": "work"}, Category(name="home", description="new")], on=["name"])
    assert [(row.name, row.description) for row in rows] == [("work", ""), ("home", "new")]
    assert rows[1] == home
    assert await Category.objects.in_bulk([home.pk, uuid4()]) == {home.pk: home}
    with pytest.raises(Conflict):
        await Category.objects.filter(description="old").upsert([{"name": "home"}], on=["name"])
    with pytest.raises(ValueError, match="is not a unique rule; "):
        await Category.objects.upsert([{"name": "x"}], on=["description"])
    assert await Category.objects.upsert([], on=["name"]) == []


async def test_rows_are_counted_and_summed_by_group(store: None) -> None:
    """Groups of a column, and of a column of a related row; null is a group."""
    home = await Category.objects.create(name="home")
    await Task.objects.bulk_create(
        [{"title": f"t{n}", "priority": ("high", "low")[n % 2], "view_count": n} for n in range(5)]
    )
    await Task.objects.filter(title__in=["t1", "t4"]).update(category=home)
    found = await Task.objects.group_by("priority").aggregate(n=("count", "*"), most=("max", "view_count"))
    assert found == [{"priority": "high", "n": 3, "most": 4}, {"priority": "low", "n": 2, "most": 3}]
    rows = Task.objects.filter(view_count__gt=0).group_by("category__name", "priority")
    assert await rows.aggregate(total=("sum", "view_count")) == [
        {"category__name": "home", "priority": "high", "total": 4},
        {"category__name": "home", "priority": "low", "total": 1},
        {"category__name": None, "priority": "high", "total": 2},
        {"category__name": None, "priority": "low", "total": 3},
    ]
    assert await Task.objects.aggregate(n=("count", "*")) == {"n": 5}
    with pytest.raises(ValueError, match="leads to many rows"):
        Task.objects.group_by("tags__name")


async def test_rows_are_locked_until_the_transaction_ends(store: None) -> None:
    """Another transaction leaves locked rows out, or waits; outside a transaction there is nothing to hold a lock."""
    await Task.objects.bulk_create([Task(title="a"), Task(title="b")])
    locked, done = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with transaction():
            assert await Task.objects.filter(title="a").select_related("category").select_for_update()
            locked.set()
            await done.wait()

    holding = asyncio.create_task(hold())
    await locked.wait()
    async with transaction():
        free = await Task.objects.order_by("title").select_for_update(skip_locked=True)
        assert [row.title for row in free] == ["b"]
    done.set()
    await holding
    async with transaction():
        assert len(await Task.objects.all().select_for_update()) == 2
    with pytest.raises(RuntimeError, match="needs a transaction"):
        await Task.objects.all().select_for_update()


async def test_raw_sql_has_bound_values(store: None) -> None:
    """Rows are dictionaries; a value that looks like SQL is a value, and casts are not parameters."""
    await Task.objects.bulk_create([Task(title="a"), Task(title="'; DROP TABLE tasks --")])
    rows = await raw(
        "SELECT title, (:n)::int + 1 AS more FROM tasks WHERE title = :title", title="'; DROP TABLE tasks --", n=1
    )
    assert rows == [{"title": "'; DROP TABLE tasks --", "more": 2}]
    with contextlib.suppress(ZeroDivisionError):
        async with transaction():
            assert await raw("UPDATE tasks SET title = 'c' WHERE title = :title RETURNING title", title="a") == [
                {"title": "c"}
            ]
            raise ZeroDivisionError
    assert await Task.objects.filter(title="c").exists() is False
    for wrong in ({}, {"title": "a", "x": 1}):
        with pytest.raises(TypeError, match="has the values title"):
            await raw("SELECT 1 FROM tasks WHERE title = :title", **wrong)


async def test_raw_changes_are_not_answered_from_memory(serve: Serve) -> None:
    """A list that is kept is read again after a statement that may have changed its rows."""
    client = await serve()
    STORE.set(client.app[SERVICE].store)
    before = await (await client.get("/tasks/")).json()
    await raw("INSERT INTO tasks (id, title) VALUES (gen_random_uuid(), :title)", title="new")
    after = await (await client.get("/tasks/")).json()
    assert after["count"] == before["count"] + 1
