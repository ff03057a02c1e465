"""Query sets: values of related rows, iteration in chunks, and query sets inside filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rowcast.identity.users import User
from rowcast.orm.bridge import spawn
from rowcast.orm.expressions import Q
from rowcast.orm.model import model
from rowcast.orm.writing import transaction
from rowcast.query.store import STORE, Store
from rowcast.rest.plan import SERVICE
from tests.conftest import Serve

Task, Category, Tag, Comment = model("tasks"), model("categories"), model("tags"), model("comments")

pytestmark = pytest.mark.tables(None)


@pytest.fixture
async def store(serve: Serve) -> Store:
    """The models of the demo, with some rows."""
    client = await serve()
    store = client.app[SERVICE].store
    STORE.set(store)
    work, home = [await Category.objects.create(name=name) for name in ("work", "home")]
    tags = [await Tag.objects.create(name=name) for name in ("a", "b")]
    for number in range(7):
        await Task.objects.create(
            title=f"t{number}",
            category=work if number < 3 else home if number < 5 else None,
            view_count=number,
            tags=tags[: number % 3],
        )
    return store


async def test_rows_have_values_of_their_related_rows(store: Store) -> None:
    """Counts and other functions, over relations back, links, and paths beyond them; over nothing they are 0 and null."""
    await Category.objects.create(name="empty")
    rows = Category.objects.annotate(
        n=("count", "tasks"),
        most=("max", "tasks__view_count"),
        all=("sum", "tasks__view_count"),
        tags=("count", "tasks__tags"),
    )
    found = {row.name: (row.n, row.most, row.all, row.tags) for row in await rows.order_by("name")}
    assert found == {"work": (3, 2, 3, 3), "home": (2, 4, 7, 1), "empty": (0, None, None, 0)}
    assert await rows.filter(name="work").values("name", "n") == [{"name": "work", "n": 3}]
    assert (await rows.filter(name="home").values())[0]["most"] == 4
    assert {row.title: row.n async for row in Task.objects.annotate(n=("count", "tags")).filter(view_count__lt=3)} == {
        "t0": 0,
        "t1": 1,
        "t2": 2,
    }
    (work,) = await rows.filter(name="work")
    work.name = "play"
    await work.save()
    assert (await Category.objects.get(pk=work.pk)).name == "play"


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"name": ("count", "tasks")}, "have an attribute 'name'"),
        ({"save": ("count", "tasks")}, "have an attribute 'save'"),
        ({"tasks": ("count", "tasks")}, "has a relation 'tasks'"),
        ({"n": ("cont", "tasks")}, "unknown function 'cont'; did you mean count"),
        ({"n": ("count", "task")}, "categories has no field 'task'; did you mean tasks"),
        ({"n": ("count", "name")}, "name does not lead to many rows"),
    ],
)
async def test_annotations_that_are_wrong(store: Store, functions: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Category.objects.annotate(**functions)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("order", [(), ("-title",), ("category", "-view_count"), ("due_date",)])
async def test_rows_are_read_in_chunks(store: Store, chunk: int, order: tuple[str, ...]) -> None:
    """All rows once, in the order of the query set, with what it loads; no statement reads more than a chunk."""
    rows = Task.objects.filter(view_count__gte=1).select_related("category").order_by(*order)
    before = store.database.statements
    found = [row async for row in rows.iterate(chunk)]
    assert store.database.statements - before == 6 // chunk + 1
    expected = await (rows if order else rows.order_by("pk"))
    assert [(row.title, row.category) for row in found] == [(row.title, row.category) for row in expected]
    names = [each["title"] async for each in rows.values("title").iterate(chunk)]
    assert names == [row.title for row in expected]


async def test_iteration_in_a_handler_and_in_a_transaction(store: Store) -> None:
    def titles() -> list[str]:
        return [row.title for row in Task.objects.order_by("title").iterate(2)]

    assert await spawn(titles) == [f"t{number}" for number in range(7)]
    async with transaction():
        async for row in Task.objects.select_for_update().iterate(3):
            row.title += "!"
            await row.save()
    assert await Task.objects.filter(title__endswith="!").count() == 7


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda: Task.objects.all().iterate(0), "a chunk has at least one row"),
        (lambda: Task.objects.all()[:3].iterate(), "iterate comes before the slice"),
        (lambda: Task.objects.order_by("category__name").iterate(), "sort by columns of the rows themselves"),
    ],
)
async def test_iterations_that_are_wrong(store: Store, rows: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rows()


async def test_query_sets_inside_filters(store: Store) -> None:
    """One statement, with the values of the inner query set in their places; ``not`` is the complement."""
    work = Category.objects.filter(name="work")
    before = store.database.statements
    rows = Task.objects.filter(
        view_count__gte=1, category__in=work, title__in=Task.objects.filter(view_count__lt=2).values("title")
    )
    assert [row.title for row in await rows] == ["t1"]
    assert store.database.statements - before == 1
    assert await Task.objects.filter(pk__in=Task.objects.filter(category__name="home")).count() == 2
    assert await Task.objects.exclude(category__in=work).count() == 4
    assert await Task.objects.filter(category__not_in=work).count() == 4
    assert await Task.objects.filter(~Q(category__in=Category.objects.filter(name__in=["work", "home"]))).count() == 2
    assert await Category.objects.filter(tasks__in=Task.objects.filter(tags__name="b")).count() == 1
    assert await Task.objects.filter(tags__in=Tag.objects.filter(name="b")).count() == 2
    author = await Category.objects.get(name="home")
    assert await Task.objects.filter(pk__in=author.tasks).count() == 2
    nested = Category.objects.filter(pk__in=Task.objects.filter(title="t4").values("category_id"))
    assert await Task.objects.filter(category__in=nested).count() == 2
    assert await Task.objects.filter(category__in=work).update(view_count=9) == 3
    assert await Task.objects.filter(category__in=work).delete() == 3


@pytest.mark.parametrize(
    ("lookups", "message"),
    [
        (lambda: {"category": Category.objects.all()}, "category: a query set has many values: use category__in"),
        (lambda: {"category__in": Category.objects.all()[:2]}, "inside a filter comes before the slice"),
        (lambda: {"category__in": Category.objects.values("id", "name")}, "the values of one column, not of 2"),
        (lambda: {"title__in": Category.objects.all()}, "id of categories has no values that title could have"),
    ],
)
async def test_query_sets_that_do_not_fit(store: Store, lookups: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        await Task.objects.filter(**lookups())


async def test_a_user_is_not_a_value(store: Store) -> None:
    """What Django's ``owner=request.user`` means is the mistake of the code, not a client's 400."""
    user = User("7")
    for write in (
        lambda: Task.objects.filter(title=user),
        lambda: Task.objects.filter(category__in=[user]),
        lambda: Task.objects.filter(category=user),
        lambda: Category.objects.create(name=user),
    ):
        with pytest.raises(TypeError, match=r"a user is not a value; give its id, such as request\.user\.id"):
            await write()
