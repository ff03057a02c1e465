"""The ViewSets page of Aksara, sample by sample and row by row: each heading of the page begins a test's name."""

from __future__ import annotations

from typing import Any

import pytest

from ..sse import listen
from .conftest import Service, Start

PLAIN = """
class TaskViewSet(ModelViewSet):
    model = Task
"""


def plain(*lines: str) -> str:
    """``PLAIN`` with attributes."""
    return PLAIN + "".join(f"    {line}\n" for line in lines)


async def tasks(service: Service, *titles: str, **values: Any) -> list[str]:
    """Create tasks; their keys."""
    columns = ", ".join(["title", *values])
    marks = ", ".join(f"${place + 1}" for place in range(len(values) + 1))
    statement = f"INSERT INTO tasks ({columns}) VALUES ({marks}) RETURNING id"
    return [str(await service.sql.fetchval(statement, title, *values.values())) for title in titles]


# --- What is a ViewSet? -----------------------------------------------------------------------------------------------


async def test_what_is_a_viewset__with_viewsets(start: Start) -> None:
    """A class with a model alone has the CRUD routes and the stream."""
    service = await start(PLAIN)
    row = await service.post("/tasks/", {"title": "one"})
    async with listen(service.client, "/tasks/stream/") as stream:
        assert (await stream.next()).event == "ready"
    assert (await service.ask("PATCH", row_path := f"/tasks/{row['id']}/", {"title": "two"}))[0] == 200
    assert (await service.ask("DELETE", row_path))[0] == 204


# --- Creating a ViewSet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/tasks/", None, 200),
        ("POST", "/tasks/", {"title": "new"}, 201),
        ("GET", "/tasks/{id}/", None, 200),
        ("PUT", "/tasks/{id}/", {"title": "put"}, 200),
        ("PATCH", "/tasks/{id}/", {"completed": True}, 200),
        ("DELETE", "/tasks/{id}/", None, 204),
    ],
)
async def test_creating_a_viewset__basic_viewset(start: Start, method: str, path: str, body: Any, status: int) -> None:
    """Each row of "What you get" answers."""
    service = await start(PLAIN)
    (key,) = await tasks(service, "one")
    assert (await service.ask(method, path.format(id=key), body))[0] == status


async def test_creating_a_viewset__basic_viewset_stream(start: Start) -> None:
    """The stream of "What you get" sends INSERT, UPDATE and DELETE."""
    service = await start(PLAIN)
    async with listen(service.client, "/tasks/stream/") as stream:
        await stream.next()
        (key,) = await tasks(service, "one")
        await service.sql.execute("UPDATE tasks SET completed = true")
        await service.sql.execute("DELETE FROM tasks")
        events = [event.json() for event in await stream.take(3)]
    assert [(event["action"], event["id"]) for event in events] == [("INSERT", key), ("UPDATE", key), ("DELETE", key)]


async def test_creating_a_viewset__real_time_streams(start: Start) -> None:
    """``stream_enabled = False`` takes the route away."""
    service = await start(plain("stream_enabled = False"))
    assert (await service.ask("GET", "/tasks/stream/"))[0] == 404


async def test_creating_a_viewset__with_options(start: Start) -> None:
    """The sample with one attribute of each kind does what its comments say."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title", "priority", "completed")

        class TaskViewSet(ModelViewSet):
            \"\"\"API for managing tasks.\"\"\"

            # Required
            model = Task

            # Serialization (how data is converted)
            serializer_class = TaskSerializer

            # Security (who can access)
            permission_classes = [IsAuthenticated]

            # Pagination (how many items per page)
            page_size = 20

            # Filtering (which fields can be filtered)
            filterset_fields = ["completed", "priority"]

            # Searching (which fields are searchable)
            search_fields = ["title", "description"]

            # Ordering (default sort order)
            ordering = ["-created_at"]  # Newest first
        """)
    assert (await service.ask("GET", "/tasks/"))[0] == 401
    await tasks(service, *(f"t{n:02}" for n in range(25)))
    page = await service.get("/tasks/", "1")
    assert page["count"] == 25
    assert [row["title"] for row in page["results"]] == [f"t{n:02}" for n in range(24, 4, -1)]
    assert list(page["results"][0]) == ["id", "title", "priority", "completed"]
    assert await service.titles("/tasks/?completed=false&search=t07", "1") == ["t07"]


# --- ViewSet options reference ----------------------------------------------------------------------------------------


async def test_data_options__model(start: Start) -> None:
    """``model`` is which rows a viewset is about, whatever the resource of the file is called."""
    service = await start(PLAIN)
    await tasks(service, "one")
    assert await service.titles() == ["one"]


async def test_data_options__queryset(start: Start) -> None:
    """``queryset`` is the scope of every action: what it leaves out is not there."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            queryset = Task.objects.filter(deleted=False)
        """)
    await tasks(service, "kept")
    (gone,) = await tasks(service, "gone", deleted=True)
    assert await service.titles() == ["kept"]
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        body = {"title": "x"} if method in ("PUT", "PATCH") else None
        assert (await service.ask(method, f"/tasks/{gone}/", body))[0] == 404
    assert await service.sql.fetchval("SELECT count(*) FROM tasks WHERE title = 'gone'") == 1


async def test_data_options__serializer_class(start: Start) -> None:
    """``serializer_class`` decides which fields are shown and accepted."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title")

        class TaskViewSet(ModelViewSet):
            model = Task
            serializer_class = TaskSerializer
        """)
    row = await service.post("/tasks/", {"title": "one"})
    assert list(row) == ["id", "title"]
    status, problem = await service.ask("PATCH", f"/tasks/{row['id']}/", {"completed": True})
    assert (status, list(problem["errors"])) == (400, ["completed"])


async def test_data_options__list_serializer_class(start: Start) -> None:
    """``list_serializer_class`` shows lists, and ``serializer_class`` everything else."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title", "description")

        class TaskListSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title")

        class TaskViewSet(ModelViewSet):
            model = Task
            serializer_class = TaskSerializer
            list_serializer_class = TaskListSerializer
        """)
    row = await service.post("/tasks/", {"title": "one"})
    assert list(row) == ["id", "title", "description"]
    assert list(await service.get(f"/tasks/{row['id']}/")) == ["id", "title", "description"]
    assert list((await service.get("/tasks/"))["results"][0]) == ["id", "title"]


async def test_security_options__permission_classes(start: Start) -> None:
    """``permission_classes`` decides which callers are accepted."""
    service = await start(plain("permission_classes = [IsAuthenticated]"))
    assert (await service.ask("GET", "/tasks/"))[0] == 401
    assert (await service.ask("GET", "/tasks/", user="1"))[0] == 200


async def test_security_options__authentication_classes(start: Start) -> None:
    """``authentication_classes`` identify callers; without any, credentials are ignored."""
    keys = """
class Keys(BaseAuthentication):
    def authenticate(self, request):
        return (Caller(request.headers["X-Key"]), None) if "X-Key" in request.headers else None

class TaskViewSet(api.ModelViewSet):
    model = Task
    permission_classes = [IsAuthenticated]
    authentication_classes = [CLASSES]
"""
    header = {"X-Key": "7"}
    for classes, status in (("Keys", 200), ("TokenAuthentication", 401), ("TokenAuthentication, Keys", 200), ("", 403)):
        service = await start(keys.replace("CLASSES", classes))
        async with service.client.get("/tasks/", headers=header) as response:
            assert response.status == status


async def test_filtering_options__filterset_fields(start: Start) -> None:
    """Listed fields are filtered by; others are refused by name."""
    service = await start(plain('filterset_fields = ["completed", "priority"]'))
    await tasks(service, "done", completed=True)
    await tasks(service, "open")
    assert await service.titles("/tasks/?completed=true") == ["done"]
    status, problem = await service.ask("GET", "/tasks/?title=open")
    assert (status, problem["code"]) == (400, "unknown_parameter")


async def test_filtering_options__search_fields(start: Start) -> None:
    """Every word must be in one of the fields."""
    service = await start(plain('search_fields = ["title", "description"]'))
    await tasks(service, "Plan the meeting", description="soon")
    await tasks(service, "Plan", description="no one comes")
    assert await service.titles("/tasks/?search=plan meeting") == ["Plan the meeting"]


async def test_filtering_options__ordering_fields(start: Start) -> None:
    """Listed fields are sorted by; others are refused."""
    service = await start(plain('ordering_fields = ["created_at", "title"]'))
    await tasks(service, "b", "a", "c")
    assert await service.titles("/tasks/?ordering=-title") == ["c", "b", "a"]
    assert (await service.ask("GET", "/tasks/?ordering=priority"))[0] == 400


async def test_filtering_options__ordering(start: Start) -> None:
    """``ordering`` is the order of a list when the request names none."""
    service = await start(plain('ordering = ["-created_at"]'))
    for title in "abc":
        await tasks(service, title)
    assert await service.titles() == ["c", "b", "a"]


async def test_pagination_options__page_size(start: Start) -> None:
    """``page_size`` is how many rows a page has."""
    service = await start(plain("page_size = 2"))
    await tasks(service, "a", "b", "c")
    assert len((await service.get("/tasks/"))["results"]) == 2


async def test_pagination_options__max_page_size(start: Start) -> None:
    """``max_page_size`` is the most that a client gets."""
    service = await start(plain("page_size = 1", "max_page_size = 2"))
    await tasks(service, "a", "b", "c")
    assert len((await service.get("/tasks/?page_size=50"))["results"]) == 2


async def test_query_optimization__select_related(start: Start) -> None:
    """``select_related`` shows the related row, in the list's own statement."""
    service = await start(plain('select_related = ["author"]'))
    author = await service.sql.fetchval("INSERT INTO users (name) VALUES ('ada') RETURNING id")
    await tasks(service, "a", "b", author_id=author)
    count, page = await service.statements("GET", "/tasks/")
    assert count == 1
    assert [row["author"]["name"] for row in page["results"]] == ["ada", "ada"]


async def test_query_optimization__prefetch_related(start: Start) -> None:
    """``prefetch_related`` shows lists of related rows, in the list's own statement."""
    service = await start(plain('prefetch_related = ["tags"]'))
    tags = [(await service.post("/tags/", {"name": name}))["id"] for name in ("x", "y")]
    await service.post("/tasks/", {"title": "one", "tags": tags})
    count, page = await service.statements("GET", "/tasks/")
    assert count == 1
    assert [tag["name"] for tag in page["results"][0]["tags"]] == ["x", "y"]


# --- Controlling which actions are available --------------------------------------------------------------------------


async def test_controlling_actions__only_allow_certain_actions(start: Start) -> None:
    """``allowed_actions`` leaves those alone; the others are 405, and ``Allow`` lists the rest."""
    service = await start(plain('allowed_actions = ["list", "retrieve"]'))
    (key,) = await tasks(service, "one")
    assert (await service.ask("GET", f"/tasks/{key}/"))[0] == 200
    async with service.client.post("/tasks/", json={"title": "x"}) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    assert (await service.ask("DELETE", f"/tasks/{key}/"))[0] == 405


ACTIONS = {
    "list": ("GET", "/tasks/"),
    "create": ("POST", "/tasks/"),
    "retrieve": ("GET", "/tasks/{id}/"),
    "update": ("PUT", "/tasks/{id}/"),
    "partial_update": ("PATCH", "/tasks/{id}/"),
    "destroy": ("DELETE", "/tasks/{id}/"),
}


@pytest.mark.parametrize("action", ACTIONS)
async def test_controlling_actions__available_actions(start: Start, action: str) -> None:
    """Each action of the table is at its endpoint and method, and alone when it alone is allowed."""
    service = await start(plain(f'allowed_actions = ["{action}"]'))
    (key,) = await tasks(service, "one")
    for name, (method, path) in ACTIONS.items():
        status, _ = await service.ask(method, path.format(id=key), {"title": "x"} if method[0] == "P" else None)
        assert status < 300 if name == action else status in (404, 405)


async def test_controlling_actions__exclude_certain_actions(start: Start) -> None:
    """``excluded_actions`` takes those away and nothing else."""
    service = await start(plain('excluded_actions = ["destroy"]'))
    (key,) = await tasks(service, "one")
    assert (await service.ask("DELETE", f"/tasks/{key}/"))[0] == 405
    assert (await service.ask("PATCH", f"/tasks/{key}/", {"title": "x"}))[0] == 200


# --- Customizing actions ----------------------------------------------------------------------------------------------

OWN_LIST = """
    class TaskViewSet(ModelViewSet):
        model = Task
        filterset_fields = ["completed"]
        page_size = 2

        async def list(self, request):
            # Get tasks for this user only
            queryset = Task.objects.filter(user_id=request.user.id)

            # Apply any filters from the URL
            queryset = self.filter_queryset(queryset)

            # Paginate
            page = {await_}self.paginate_queryset(queryset)

            # Convert to JSON
            data = [self.serialize(task) for task in page]

            return self.get_paginated_response(data)
    """


@pytest.mark.parametrize("await_", ["", "await "])
async def test_customizing_actions__custom_list_action(start: Start, await_: str) -> None:
    """The sample lists the caller's rows, filtered and paged, with and without ``await``."""
    service = await start(OWN_LIST.replace("{await_}", await_))
    await tasks(service, "a", "b", "c", user_id="1")
    await tasks(service, "done", user_id="1", completed=True)
    await tasks(service, "other", user_id="2")
    page = await service.get("/tasks/?completed=false", "1")
    assert (page["count"], [row["title"] for row in page["results"]]) == (3, ["a", "b"])
    assert page["next"].endswith("/tasks/?completed=false&page=2")
    assert await service.titles("/tasks/?completed=false&page=2", "1") == ["c"]
    assert await service.titles("/tasks/") == []


async def test_customizing_actions__custom_list_action_is_strict(start: Start) -> None:
    """An overridden list refuses parameters that nobody reads, and honours ``fields``, as the built-in one."""
    service = await start(OWN_LIST.replace("{await_}", ""))
    await tasks(service, "a", user_id="1")
    assert (await service.ask("GET", "/tasks/?colour=red", user="1"))[0] == 400
    assert (await service.get("/tasks/?fields=title", "1"))["results"] == [{"title": "a"}]


async def test_customizing_actions__custom_create_action(start: Start) -> None:
    """The sample validates, gives the row to the caller, and answers 201."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            async def create(self, request):
                # Get data from request
                data = await self.get_request_data(request)

                # Automatically set the owner
                data["user_id"] = str(request.user.id)

                # Validate the data
                self.validate_data(data)

                # Create the task
                task = await Task.objects.create(**data)

                # Return the created task
                return self.serialize(task), 201  # 201 = Created
        """)
    status, row = await service.ask("POST", "/tasks/", {"title": "one", "due_date": "2026-01-31T12:00:00Z"}, "7")
    assert (status, row["user_id"], row["due_date"]) == (201, "7", "2026-01-31T12:00:00+00:00")
    status, problem = await service.ask("POST", "/tasks/", {"titel": "one", "priority": "top"}, "7")
    assert (status, set(problem["errors"])) == (400, {"title", "titel", "priority"})


async def test_customizing_actions__custom_retrieve_action(start: Start) -> None:
    """The sample counts views, although clients cannot set ``view_count``."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            async def retrieve(self, request, id: str):
                # Get the task
                task = await self.get_object(id)

                # Increment view count
                task.view_count += 1
                await task.save()

                # Return the task
                return self.serialize(task)
        """)
    (key,) = await tasks(service, "one")
    assert (await service.get(f"/tasks/{key}/"))["view_count"] == 1
    assert (await service.get(f"/tasks/{key}/"))["view_count"] == 2


async def test_customizing_actions__custom_update_action(start: Start) -> None:
    """The sample lets owners alone edit."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            async def update(self, request, id: str):
                task = await self.get_object(id)

                # Check ownership
                if task.user_id != request.user.id:
                    raise PermissionDenied("You can only edit your own tasks")

                # Get and validate data
                data = await self.get_request_data(request)
                self.validate_data(data)

                # Update fields
                for key, value in data.items():
                    setattr(task, key, value)

                await task.save()
                return self.serialize(task)
        """)
    (key,) = await tasks(service, "one", user_id="1")
    status, problem = await service.ask("PUT", f"/tasks/{key}/", {"title": "two"}, "2")
    assert (status, problem["detail"]) == (403, "You can only edit your own tasks")
    status, row = await service.ask("PUT", f"/tasks/{key}/", {"title": "two"}, "1")
    assert (status, row["title"]) == (200, "two")


async def test_customizing_actions__custom_delete_action(start: Start) -> None:
    """The sample marks the row and answers 204 without a body."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            async def destroy(self, request, id: str):
                task = await self.get_object(id)

                # Soft delete (mark as deleted instead of removing)
                task.deleted = True
                task.deleted_at = datetime.now()
                await task.save()

                return None, 204  # 204 = No Content
        """)
    (key,) = await tasks(service, "one")
    assert await service.ask("DELETE", f"/tasks/{key}/") == (204, "")
    assert await service.sql.fetchval("SELECT deleted AND abs(extract(epoch FROM deleted_at - now())) < 60 FROM tasks")


# --- Custom actions ---------------------------------------------------------------------------------------------------


async def test_custom_actions__detail_actions(start: Start) -> None:
    """``complete`` and ``assign`` have their addresses under the row's, and other methods are refused there."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            @action(detail=True, methods=["POST"])
            async def complete(self, request, id: str):
                task = await self.get_object(id)
                task.completed = True
                task.completed_at = datetime.now()
                await task.save()
                return {"status": "completed", "completed_at": task.completed_at}

            @action(detail=True, methods=["POST"])
            async def assign(self, request, id: str):
                task = await self.get_object(id)
                data = await self.get_request_data(request)

                task.assigned_to_id = data["user_id"]
                await task.save()

                return {"assigned_to": task.assigned_to_id}
        """)
    (key,) = await tasks(service, "one")
    answer = await service.post(f"/tasks/{key}/complete/")
    row = await service.get(f"/tasks/{key}/")
    assert answer == {"status": "completed", "completed_at": row["completed_at"]}
    assert await service.post(f"/tasks/{key}/assign/", {"user_id": "abc123"}) == {"assigned_to": "abc123"}
    assert (await service.ask("GET", f"/tasks/{key}/complete/"))[0] == 405
    assert (await service.ask("POST", "/tasks/00000000-0000-7000-8000-000000000000/complete/"))[0] == 404


async def test_custom_actions__collection_actions(start: Start) -> None:
    """``complete_all`` and ``stats`` have their addresses under the list's."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            @action(detail=False, methods=["POST"])
            async def complete_all(self, request):
                count = await Task.objects.filter(
                    user_id=request.user.id,
                    completed=False
                ).update(completed=True)

                return {"completed_count": count}

            @action(detail=False, methods=["GET"])
            async def stats(self, request):
                total = await Task.objects.filter(user_id=request.user.id).count()
                completed = await Task.objects.filter(
                    user_id=request.user.id,
                    completed=True
                ).count()

                return {
                    "total": total,
                    "completed": completed,
                    "remaining": total - completed,
                    "completion_rate": completed / total if total > 0 else 0
                }
        """)
    await tasks(service, "a", "b", user_id="1")
    await tasks(service, "other", user_id="2")
    await tasks(service, "c", user_id="1", completed=True)
    assert await service.get("/tasks/stats/", "1") == {
        "total": 3, "completed": 1, "remaining": 2, "completion_rate": 1 / 3
    }  # fmt: skip
    assert await service.post("/tasks/complete_all/", user="1") == {"completed_count": 2}
    assert (await service.get("/tasks/stats/", "3"))["completion_rate"] == 0


async def test_custom_actions__action_options(start: Start) -> None:
    """``url_path``, ``url_name`` and ``permission_classes`` of an action are its own."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            @action(
                detail=True,           # True = one item, False = collection
                methods=["POST"],      # HTTP methods allowed
                url_path="my-action",  # Custom URL (default: action name)
                url_name="task-action", # Name for URL reversal
                permission_classes=[IsAdminUser],  # Override ViewSet permissions
            )
            async def my_action(self, request, id: str):
                return {"at": self.reverse_action("task-action", args=[id])}
        """)
    (key,) = await tasks(service, "one")
    assert (await service.ask("POST", f"/tasks/{key}/my-action/", user="1"))[0] == 403
    answer = await service.post(f"/tasks/{key}/my-action/", user="root")
    assert answer["at"].endswith(f"/tasks/{key}/my-action/")
    assert (await service.ask("POST", f"/tasks/{key}/my_action/"))[0] == 404
    assert (await service.ask("GET", f"/tasks/{key}/"))[0] == 200


# --- Filtering --------------------------------------------------------------------------------------------------------


async def test_filtering__basic_filtering(start: Start) -> None:
    """The page's three addresses; a foreign key is filtered by its key."""
    service = await start(plain('filterset_fields = ["completed", "priority", "category"]'))
    category = await service.sql.fetchval("INSERT INTO categories (name) VALUES ('work') RETURNING id")
    await tasks(service, "a", completed=True, priority="high", category_id=category)
    await tasks(service, "b", completed=True)
    await tasks(service, "c", priority="high")
    assert await service.titles("/tasks/?completed=true") == ["a", "b"]
    assert await service.titles("/tasks/?priority=high") == ["a", "c"]
    assert await service.titles("/tasks/?completed=true&priority=high") == ["a"]
    assert await service.titles(f"/tasks/?category={category}") == ["a"]


async def test_filtering__search(start: Start) -> None:
    """The page's two searches: case does not matter, and two words must both be there."""
    service = await start(plain('search_fields = ["title", "description"]'))
    await tasks(service, "Meeting", description="an important DEADLINE")
    await tasks(service, "deadline")
    assert await service.titles("/tasks/?search=meeting") == ["Meeting"]
    assert await service.titles("/tasks/?search=important deadline") == ["Meeting"]


async def test_filtering__ordering(start: Start) -> None:
    """The page's four orders, and newest first without one."""
    service = await start(
        plain('ordering_fields = ["created_at", "title", "priority"]', 'ordering = ["-created_at"]  # newest first')
    )
    for title, priority in (("b", "low"), ("a", "high"), ("c", "high")):
        await tasks(service, title, priority=priority)
    assert await service.titles("/tasks/?ordering=title") == ["a", "b", "c"]
    assert await service.titles("/tasks/?ordering=-title") == ["c", "b", "a"]
    assert await service.titles("/tasks/?ordering=-created_at") == ["c", "a", "b"] == await service.titles()
    assert await service.titles("/tasks/?ordering=priority,-created_at") == ["c", "a", "b"]


# --- Pagination -------------------------------------------------------------------------------------------------------


async def test_pagination__response_format(start: Start) -> None:
    """``count``, ``next``, ``previous`` and ``results``, with absolute links; and the page's three addresses."""
    service = await start(plain("page_size = 20", "max_page_size = 100"))
    await tasks(service, *(f"t{n:03}" for n in range(150)))
    page = await service.get("/tasks/")
    assert (page["count"], page["previous"], len(page["results"])) == (150, None, 20)
    assert page["next"] == str(service.client.make_url("/tasks/?page=2"))
    assert (await service.get("/tasks/?page=1"))["results"] == page["results"]
    assert (await service.titles("/tasks/?page=2"))[0] == "t020"
    assert (await service.titles("/tasks/?page=3&page_size=50"))[-1] == "t149"


# --- Query optimization -----------------------------------------------------------------------------------------------


async def test_query_optimization__the_problem(start: Start) -> None:
    """Reading a related row that is not loaded is an error that names the remedy, never a hidden query."""
    service = await start("""
        class TaskViewSet(ModelViewSet):
            model = Task

            @action(detail=False)
            async def authors(self, request):
                tasks = await Task.objects.all()
                try:
                    return [task.author.name for task in tasks]
                except RelationNotLoaded as error:
                    tasks = await Task.objects.select_related("author")
                    return {"error": str(error), "names": [task.author.name for task in tasks]}
        """)
    author = await service.sql.fetchval("INSERT INTO users (name) VALUES ('ada') RETURNING id")
    await tasks(service, "a", author_id=author)
    answer = await service.get("/tasks/authors/")
    assert answer["names"] == ["ada"]
    assert "select_related('author')" in answer["error"]


async def test_query_optimization__the_solution(start: Start) -> None:
    """With the sample's options a list of any length takes one statement."""
    service = await start(plain('select_related = ["author", "category"]', 'prefetch_related = ["tags", "comments"]'))
    for n in range(3):
        (key,) = await tasks(service, f"t{n}")
        await service.post("/comments/", {"task_id": key, "body": "hm"})
    count, page = await service.statements("GET", "/tasks/")
    assert count == 1
    shown = [(row["author"], row["tags"], row["comments"][0]["body"]) for row in page["results"]]
    assert shown == [(None, [], "hm")] * 3


# --- Helper methods ---------------------------------------------------------------------------------------------------

HELPERS = {
    "get_queryset": "return await self.get_queryset().values('title')",
    "get_object": "return (await self.get_object(request.query_params['id'])).title",
    "filter_queryset": "return await self.filter_queryset(self.get_queryset()).values('title')",
    "paginate_queryset": "return [row.title for row in self.paginate_queryset(self.get_queryset())]",
    "serialize": "return self.serialize(await self.get_queryset().first())",
    "get_request_data": "return await self.get_request_data(request)",
    "validate_data": "return self.validate_data(await self.get_request_data(request))",
    "check_permissions": "await self.check_permissions(request)",
}


@pytest.mark.parametrize("helper", HELPERS)
async def test_helper_methods(start: Start, helper: str) -> None:
    """Each helper of the table works in a handler."""
    service = await start(f"""
        class TaskViewSet(ModelViewSet):
            model = Task
            filterset_fields = ["title"]

            @action(detail=False, methods=["post"])
            async def call(self, request):
                {HELPERS[helper]}
        """)
    (key, _) = await tasks(service, "one", "two")
    path, body = "/tasks/call/", {"title": "new"}
    match helper:
        case "get_queryset":
            assert await service.post(path) == [{"title": "one"}, {"title": "two"}]
        case "get_object":
            assert await service.post(f"{path}?id={key}") == "one"
        case "filter_queryset":
            assert await service.post(f"{path}?title=two") == [{"title": "two"}]
        case "paginate_queryset":
            assert await service.post(f"{path}?page=2&page_size=1") == ["two"]
        case "serialize":
            assert await service.post(path) == await service.get(f"/tasks/{key}/")
        case "get_request_data" | "validate_data":
            assert await service.post(path, body) == body
        case "check_permissions":
            assert await service.ask("POST", path) == (204, "")


# --- Complete example -------------------------------------------------------------------------------------------------


async def test_complete_example(start: Start) -> None:
    """The page's last sample, whole: every row belongs to its caller, and no one else sees it, in a stream neither."""
    service = await start("""
        class TaskSerializer(Serializer):
            class Meta:
                model = Task

        class TaskListSerializer(Serializer):
            class Meta:
                model = Task
                fields = ("id", "title", "completed", "author", "tags")

        class TaskViewSet(ModelViewSet):
            \"\"\"
            API endpoint for managing tasks.

            Provides CRUD operations plus custom actions for
            task completion and statistics.
            \"\"\"
            model = Task
            serializer_class = TaskSerializer
            list_serializer_class = TaskListSerializer
            permission_classes = [IsAuthenticated]

            # Filtering
            filterset_fields = ["completed", "priority", "category"]
            search_fields = ["title", "description"]
            ordering_fields = ["created_at", "due_date", "priority"]
            ordering = ["-created_at"]

            # Pagination
            page_size = 20
            max_page_size = 100

            # Optimization
            select_related = ["author", "category"]
            prefetch_related = ["tags"]

            def get_queryset(self):
                \"\"\"Only show tasks belonging to the current user.\"\"\"
                return Task.objects.filter(user_id=self.request.user.id)

            async def create(self, request):
                \"\"\"Create a task for the current user.\"\"\"
                data = await self.get_request_data(request)
                data["user_id"] = str(request.user.id)
                self.validate_data(data)
                task = await Task.objects.create(**data)
                return self.serialize(task), 201

            @action(detail=True, methods=["POST"])
            async def complete(self, request, id: str):
                \"\"\"Mark a task as complete.\"\"\"
                task = await self.get_object(id)
                task.completed = True
                task.completed_at = datetime.now()
                await task.save()
                return {"status": "completed"}

            @action(detail=False, methods=["GET"])
            async def stats(self, request):
                \"\"\"Get task statistics for the current user.\"\"\"
                qs = self.get_queryset()
                total = await qs.count()
                completed = await qs.filter(completed=True).count()

                return {
                    "total": total,
                    "completed": completed,
                    "remaining": total - completed
                }
        """)
    assert (await service.ask("POST", "/tasks/", {"title": "x"}))[0] == 401
    tag = (await service.post("/tags/", {"name": "home"}))["id"]
    async with listen(service.client, "/tasks/stream/", headers={"X-User": "1"}) as stream:
        await stream.next()
        other = await service.post("/tasks/", {"title": "other"}, "2")
        mine = await service.post("/tasks/", {"title": "mine", "tags": [tag]}, "1")
        event = (await stream.next()).json()
        assert (event["action"], event["id"]) == ("INSERT", mine["id"])
    assert (mine["user_id"], mine["author"], [row["name"] for row in mine["tags"]]) == ("1", None, ["home"])
    assert await service.post(f"/tasks/{mine['id']}/complete/", user="1") == {"status": "completed"}
    assert (await service.ask("POST", f"/tasks/{other['id']}/complete/", user="1"))[0] == 404
    assert await service.get("/tasks/stats/", "1") == {"total": 1, "completed": 1, "remaining": 0}
    (row,) = (await service.get("/tasks/?completed=true", "1"))["results"]
    assert list(row) == ["id", "title", "completed", "author", "tags"]
    assert [row["title"] for row in (await service.get("/tasks/", "2"))["results"]] == ["other"]
