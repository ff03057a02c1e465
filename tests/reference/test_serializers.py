"""Serializers: what they show, what they take, and by which path; the two paths show the same."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.rest.serializers import Serializer

from .conftest import Service, Start

VIEW = """

class TaskViewSet(ModelViewSet):
    model = Task
    serializer_class = TaskSerializer
    select_related = ["category"]
    prefetch_related = ["tags"]
"""
PLAIN = """
class TaskSerializer(Serializer):
    class Meta:
        model = Task
"""
HOOKED = (
    PLAIN
    + """
    @post_dump
    def same(self, data, **kwargs):
        return data
"""
)
EXAMPLES = {
    "title": 'Zoë\'s "task" \\ \u2028',
    "description": "",
    "completed": True,
    "priority": "high",
    "due_date": "2026-01-31T12:00:00.120Z",
    "user_id": None,
}


def serializer_of(service: Service, resource: str = "tasks") -> Serializer:
    """The serializer that a resource's viewset shares among its requests."""
    return service.service.plans[resource].serializer


async def some_task(service: Service) -> dict[str, Any]:
    """A task with every kind of value and relation."""
    category = await service.sql.fetchval("INSERT INTO categories (name) VALUES ('work') RETURNING id")
    tags = [(await service.post("/tags/", {"name": name}))["id"] for name in ("x", "y")]
    row: dict[str, Any] = await service.post("/tasks/", {**EXAMPLES, "category_id": category, "tags": tags})
    return row


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "plain"), [(PLAIN, True), (HOOKED, False)])
async def test_plain_serializers_are_sql_and_others_python(start: Start, text: str, plain: bool) -> None:
    """A serializer of columns alone never sees a row; one with Python in it does. Both take one statement to read."""
    service = await start(text + VIEW)
    row = await some_task(service)
    assert serializer_of(service).plain is plain
    for path in ("/tasks/", f"/tasks/{row['id']}/"):
        count, _ = await service.statements("GET", path)
        assert count == 1


async def test_both_paths_show_the_same_document(start: Start) -> None:
    """Bytes of PostgreSQL and dumps of Python are one JSON, in lists, single rows, and answers to writes."""
    service = await start((PLAIN + VIEW) + (HOOKED + VIEW).replace("TaskSerializer", "HookedSerializer").replace(
        "TaskViewSet", "OtherViewSet"
    ), urls="""
        router = DefaultRouter()
        router.register("others", OtherViewSet, basename="other")
        """)  # fmt: skip
    row = await some_task(service)
    for query in ("", "?fields=title,tags,category", "?expand=comments,author", "?fields=id,due_date"):
        for path in ("tasks/{}", "others/{}"):
            assert (await service.ask("GET", "/" + path.format(query)))[0] == 200
        one, other = [await service.get(f"/{name}/{row['id']}/{query}") for name in ("tasks", "others")]
        assert list(one.items()) == list(other.items())
        assert [(await service.get(f"/{name}/{query}"))["results"] for name in ("tasks", "others")] == [[one], [one]]
    changed = {"title": "new", "tags": row["tags"][:1]}
    first = (await service.ask("PATCH", f"/tasks/{row['id']}/", changed))[1]
    second = (await service.ask("PATCH", f"/others/{row['id']}/", changed))[1]
    assert list(first.items()) == list(second.items())
    created = await service.post("/others/", {**EXAMPLES, "title": "created"})
    assert created == await service.get(f"/tasks/{created['id']}/")


# --- Meta -------------------------------------------------------------------------------------------------------------


async def test_meta_fields(start: Start) -> None:
    """``fields`` are those shown, in their order, and those taken; a relation among them is shown as rows."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("title", "id", "tags")

        class TaskViewSet(ModelViewSet):
            model = Task
            serializer_class = TaskSerializer
        """)
    assert serializer_of(service).plain
    tag = (await service.post("/tags/", {"name": "x"}))["id"]
    row = await service.post("/tasks/", {"title": "one", "tags": [tag]})
    assert list(row) == ["title", "id", "tags"]
    assert row["tags"] == [{"id": tag, "name": "x"}]
    assert (await service.ask("POST", "/tasks/", {"title": "one", "priority": "high"}))[0] == 400


async def test_meta_exclude_and_all(start: Start) -> None:
    """``exclude`` leaves fields out, and ``fields = "__all__"`` leaves out none."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task
                exclude = ("description", "user_id")

        class TaskViewSet(ModelViewSet):
            model = Task
            serializer_class = TaskSerializer

        class TagSerializer(Serializer):
            class Meta:
                model = Tag
                fields = "__all__"

        class TagViewSet(ModelViewSet):
            model = Tag
            serializer_class = TagSerializer
        """)
    row = await service.post("/tasks/", {"title": "one"})
    assert "title" in row
    assert not {"description", "user_id"} & set(row)
    assert (await service.ask("POST", "/tasks/", {"title": "one", "description": "x"}))[0] == 400
    assert await service.post("/tags/", {"name": "x"}) == {"id": 1, "name": "x"}


async def test_meta_read_only_fields_and_extra(start: Start) -> None:
    """Read-only fields are shown, and ignored in bodies; ``extra`` has arguments for marshmallow, and additional validators."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title", "priority", "description")
                read_only_fields = ("priority",)
                extra = {
                    "title": {"validate": validate.Length(min=3)},
                    "description": {"required": True},
                }

        class TaskViewSet(ModelViewSet):
            model = Task
            serializer_class = TaskSerializer
        """)
    row = await service.post("/tasks/", {"title": "one", "priority": "high", "description": "d"})
    assert row["priority"] == "normal"
    assert (await service.ask("PUT", f"/tasks/{row['id']}/", row))[0] == 200
    status, problem = await service.ask("POST", "/tasks/", {"title": "x"})
    assert (status, set(problem["errors"])) == (400, {"title", "description"})
    status, problem = await service.ask("POST", "/tasks/", {"title": "x" * 201, "description": "d"})
    assert (status, set(problem["errors"])) == (400, {"title"})


WRONG = {
    "fields = ('titel',)": "did you mean title",
    "exclude = ('titel',)": "did you mean title",
    "read_only_fields = ('titel',)": "did you mean title",
    "extra = {'titel': {}}": "did you mean title",
}


@pytest.mark.parametrize("line", WRONG)
async def test_meta_that_names_no_field_is_refused(refused: Any, line: str) -> None:
    """At start-up, with the nearest name."""
    message = await refused(PLAIN + f"        {line}\n" + VIEW)
    assert WRONG[line] in message
    assert "TaskSerializer" in message


async def test_serializer_of_another_model_is_refused(refused: Any) -> None:
    """A viewset's serializer is of its own rows."""
    assert "is of tags, not of tasks" in await refused(PLAIN.replace("model = Task", "model = Tag") + VIEW)


# --- fields and hooks of one's own ------------------------------------------------------------------------------------

RICH = (
    """
class CategorySerializer(Serializer):
    shout = fields.Method("get_shout")

    class Meta:
        model = Category
        fields = ("name", "shout")

    def get_shout(self, row):
        return row.name.upper()


class TaskSerializer(Serializer):
    words = fields.Method("get_words")
    asker = fields.Method("get_asker")
    category = fields.Nested(CategorySerializer, dump_only=True)

    class Meta:
        model = Task
        fields = ("id", "title", "description", "due_date", "category_id", "words", "asker", "category")

    def get_words(self, task):
        return len(task.title.split())

    def get_asker(self, task):
        return self.context["request"].user.id

    @pre_load
    def strip(self, data, **kwargs):
        return {name: value.strip() if isinstance(value, str) else value for name, value in data.items()}

    @validates("title")
    def no_shouting(self, value, **kwargs):
        if value.isupper():
            raise Invalid("Do not shout.")

    @validates_schema
    def described(self, data, **kwargs):
        if data.get("description") == data.get("title", ""):
            raise Invalid("Say more than the title.", "description")

    @post_dump
    def mark(self, data, **kwargs):
        data["title"] = f"* {data['title']}"
        return data
"""
    + VIEW
)


async def test_fields_and_hooks_of_ones_own(start: Start) -> None:
    """Method and Nested fields, hooks before and after, validators of a field and of all, and the context."""
    service = await start(RICH)
    assert not serializer_of(service).plain
    category = await service.sql.fetchval("INSERT INTO categories (name) VALUES ('work') RETURNING id")
    row = await service.post("/tasks/", {"title": " two words ", "category_id": category}, "7")
    shown = {
        "id": row["id"], "title": "* two words", "description": "", "due_date": None, "category_id": category,
        "words": 2, "asker": "7", "category": {"name": "work", "shout": "WORK"},
    }  # fmt: skip
    assert {name: row[name] for name in shown} == shown
    assert await service.get(f"/tasks/{row['id']}/", "7") == row
    assert (await service.get("/tasks/", "7"))["results"] == [row]
    assert await service.get(f"/tasks/{row['id']}/?fields=words,title") == {"title": "* two words", "words": 2}
    for body, errors in (
        ({"title": "LOUD"}, {"title": ["Do not shout."]}),
        ({"title": "same", "description": "same "}, {"description": ["Say more than the title."]}),
    ):
        status, problem = await service.ask("POST", "/tasks/", body)
        assert (status, problem["errors"]) == (400, errors)


async def test_serialize_in_a_handler_uses_the_serializer(start: Start) -> None:
    """``serialize`` shows a row as ``retrieve`` does, with its hooks and related rows."""
    service = await start(
        RICH
        + """
    @action(detail=True)
    async def show(self, request, id):
        return self.serialize(await self.get_object(id))

    @action(detail=True)
    async def fresh(self, request, id):
        return self.serialize(await Task.objects.get(pk=id))
"""
    )
    category = await service.sql.fetchval("INSERT INTO categories (name) VALUES ('work') RETURNING id")
    row = await service.post("/tasks/", {"title": "one", "category_id": category})
    assert await service.get(f"/tasks/{row['id']}/show/") == row
    assert await service.get(f"/tasks/{row['id']}/fresh/") == row


async def test_create_update_and_save_of_ones_own(start: Start) -> None:
    """A serializer's ``create`` and ``update`` are used by the mixins."""
    service = await start(
        PLAIN
        + """
    async def create(self, validated_data):
        return await super().create({**validated_data, "user_id": "made"})

    async def update(self, instance, validated_data):
        return await super().update(instance, {**validated_data, "user_id": "changed"})
"""
        + VIEW
    )
    row = await service.post("/tasks/", {"title": "one"})
    assert row["user_id"] == "made"
    assert (await service.ask("PATCH", f"/tasks/{row['id']}/", {"title": "two"}))[1]["user_id"] == "changed"


async def test_get_serializer_class_by_action(start: Start) -> None:
    """An overridden ``get_serializer_class`` decides which fields are shown and accepted."""
    service = await start("""
        class Short(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title")

        class New(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title", "priority")

        class TaskViewSet(ModelViewSet):
            model = Task

            def get_serializer_class(self):
                return New if self.action == "create" else Short
        """)
    row = await service.post("/tasks/", {"title": "one", "priority": "high"})
    assert list(row) == ["id", "title", "priority"]
    assert list(await service.get(f"/tasks/{row['id']}/")) == ["id", "title"]
    assert list((await service.get("/tasks/"))["results"][0]) == ["id", "title"]
    assert (await service.ask("PATCH", f"/tasks/{row['id']}/", {"priority": "low"}))[0] == 400


# --- Django REST framework's calls ------------------------------------------------------------------------------------


async def test_calls_of_a_serializer(start: Start) -> None:
    """``data``, ``many``, ``is_valid``, ``errors``, ``validated_data`` and ``save``, for new rows and old ones."""
    service = await start(PLAIN + VIEW)
    import viewsets  # type: ignore[import-not-found]

    make, task_model = viewsets.TaskSerializer, viewsets.Task
    new = make(data={"title": "one", "due_date": "2026-01-31T12:00:00Z"})
    assert new.is_valid()
    assert new.errors == {}
    assert new.validated_data["due_date"].year == 2026
    task = await new.save(user_id="7")
    assert (task.title, new.instance.user_id) == ("one", "7")
    assert new.data["title"] == "one"
    wrong = make(data={"titel": "one"})
    assert not wrong.is_valid()
    assert set(wrong.errors) == {"title", "titel"}
    with pytest.raises(AttributeError, match="is_valid"):
        _ = wrong.validated_data
    with pytest.raises(viewsets.ValidationError):
        wrong.is_valid(raise_exception=True)
    old = make(task, data={"priority": "high"}, partial=True)
    assert old.is_valid()
    await old.save()
    assert [row["priority"] for row in make(await task_model.objects.all(), many=True).data] == ["high"]
    several = make(data=[{"title": "a"}, {"title": "b"}], many=True)
    assert several.is_valid()
    assert [row.title for row in await several.save()] == ["a", "b"]
    assert not make(data=[{"title": "a"}, {}], many=True).is_valid()
    assert await service.titles("/tasks/") == ["one", "a", "b"]


async def test_serializer_without_a_model_is_a_schema(start: Start) -> None:
    """It takes and shows the fields that it declares, of anything; saving asks for ``create``."""
    await start("""
        class Login(Serializer):
            name = fields.String(required=True)
            age = fields.Integer()

        class Name(Login):
            class Meta:
                fields = ("name",)
        """)
    import viewsets

    login = viewsets.Login(data={"name": "ada", "age": 3})
    assert login.is_valid()
    assert login.validated_data == {"name": "ada", "age": 3}
    assert viewsets.Login({"name": "ada", "other": 1}).data == {"name": "ada"}
    assert viewsets.Name({"name": "ada", "age": 1}).data == {"name": "ada"}
    assert not viewsets.Login(data={"name": "ada", "x": 1}).is_valid()
    assert not viewsets.Name(data={"name": "ada", "age": 1}).is_valid()
    with pytest.raises(TypeError, match=r"override create\(\)"):
        await login.save()
