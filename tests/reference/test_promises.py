"""Promises of viewsets beyond the two pages: scope, results, transactions, and errors that name their remedy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientError

from ..sse import listen
from .conftest import Service, Start

Refused = Callable[..., Awaitable[str]]
TASKS = """
class TaskViewSet(ModelViewSet):
    model = Task
"""


def having(body: str) -> str:
    """``TASKS`` with more in its class."""
    return TASKS + "\n".join(f"    {line}" for line in body.splitlines())


async def task(service: Service, **values: Any) -> str:
    """Create a task through SQL; its key."""
    values = {"title": "one", **values}
    marks = ", ".join(f"${place + 1}" for place in range(len(values)))
    statement = f"INSERT INTO tasks ({', '.join(values)}) VALUES ({marks}) RETURNING id"
    return str(await service.sql.fetchval(statement, *values.values()))


# --- definitions that cannot be meant ---------------------------------------------------------------------------------

WRONG = {
    "missing detail": ("@action(methods=['post'])\nasync def go(self, request): ...", "detail=True"),
    "no parentheses": ("@action\nasync def go(self, request): ...", "with parentheses"),
    "name and suffix": ("@action(detail=True, name='A', suffix='B')\nasync def go(self, request, id): ...", "not both"),
    "methods text": ("@action(detail=False, methods='post')\nasync def go(self, request): ...", "methods=['post']"),
    "methods none": ("@action(detail=False, methods=[])\nasync def go(self, request): ...", "at least one"),
    "verb unknown": ("@action(detail=False, methods=['pots'])\nasync def go(self, request): ...", "did you mean post"),
    "verb twice": (
        "@action(detail=False)\nasync def go(self, request): ...\n"
        "@go.mapping.get\nasync def come(self, request): ...",
        "GET of action 'go' is mapped to 'go' already",
    ),
    "verb mapped to itself": (
        "@action(detail=False)\nasync def go(self, request): ...\n@go.mapping.post\nasync def go(self, request): ...",
        "such as post_go",
    ),
    "mapping unknown": ("@action(detail=False)\nasync def go(self, request): ...\ngo.mapping.pots", "did you mean post"),
    "standard action": ("@action(detail=False)\nasync def create(self, request): ...", "standard action"),
    "attribute as action": ("@action(detail=False)\nasync def count(self, request): ...", "url_path='count'"),
    "stream as action": ("@action(detail=False)\nasync def stream(self, request): ...", "standard action"),
    "no key": ("@action(detail=True)\nasync def go(self, request): ...", "does not take 'id'"),
    "key too many": ("@action(detail=False)\nasync def go(self, request, id): ...", "takes 'id'"),
    "no request": ("@action(detail=False)\nasync def go(self): ...", "must take the request"),
    "standard without key": ("async def retrieve(self, request): ...", "write (self, request, id)"),
    "mapped without key": (
        "@action(detail=True)\nasync def go(self, request, id): ...\n@go.mapping.post\nasync def come(self, request): ...",
        "TaskViewSet.come",
    ),
    "near miss": ("search_field = ['title']", "did you mean search_fields"),
    "ignored": ("http_method_names = ['get']", "allowed_actions"),
    "near miss of an action's": (
        "@action(detail=False, permision_classes=[])\nasync def go(self, request): ...", "did you mean permission_classes"
    ),
    "allowed_actions": ("allowed_actions = ['list', 'retreive']", "did you mean retrieve"),
    "excluded_actions": ("excluded_actions = ['delete']", "unknown action 'delete'"),
    "both": ("allowed_actions = ['list']\nexcluded_actions = ['create']", "use one of them"),
    "filterset": ("filterset_fields = ['titel']", "did you mean title"),
    "search": ("search_fields = ['completed']", "only string fields can"),
    "ordering": ("ordering = ['-made_at']", "did you mean"),
    "page sizes": ("page_size = 50\nmax_page_size = 10", "larger than max_page_size"),
    "page size text": ("page_size = 'many'", "page_size"),
    "select many": ("select_related = ['tags']", "use prefetch_related"),
    "option of an action": ("@action(detail=False, search_fields=['x'])\nasync def go(self, request): ...", "search_fields"),
    "same address": (
        "@action(detail=False, url_path='x')\nasync def a(self, request): ...\n"
        "@action(detail=False, url_path='x', methods=['post'])\nasync def b(self, request): ...",
        "@a.mapping",
    ),
    "same name": (
        "@action(detail=False, url_name='x')\nasync def a(self, request): ...\n"
        "@action(detail=False, url_name='x')\nasync def b(self, request): ...",
        "another url_name",
    ),
    "the stream's address": ("@action(detail=False, url_path='stream')\nasync def a(self, request): ...", "same address"),
    "wrong pattern": ("@action(detail=False, url_path='(?P<x>[)')\nasync def a(self, request, x): ...", "not an address"),
    "wrong converter": ("@action(detail=False, url_path='<itn:x>')\nasync def a(self, request, x): ...", "did you mean int"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_definition_is_refused_with_its_remedy(refused: Refused, wrong: str) -> None:
    """The service does not start, and the message says what to write."""
    body, remedy = WRONG[wrong]
    message = await refused(having(body))
    assert remedy in message
    assert "viewsets" in message or "TaskViewSet" in message or "tasks" in message


async def test_unknown_yaml_key_is_refused(refused: Refused) -> None:
    """A viewset key of YAML that is none is an error with the nearest."""
    assert "search_fields" in await refused(TASKS, options={"tasks": "search_field: [title]"})


async def test_unknown_class_is_refused(refused: Refused) -> None:
    """``class`` must name a viewset that is there."""
    assert "did you mean TaskViewSet" in await refused(TASKS + "\n", options={"tags": "class: viewsets:TaskViewSets"})


async def test_module_that_does_not_import_is_refused(refused: Refused) -> None:
    """The message names the module and the error."""
    assert "ZeroDivisionError" in await refused(TASKS + "\n1 / 0\n")


async def test_unknown_model_is_refused(refused: Refused) -> None:
    """``model("task_s")`` is usable at import time, and an error when the service starts."""
    message = await refused("""
        class TaskViewSet(ModelViewSet):
            queryset = model("task_s").objects.all()
        """, urls="""
        router = DefaultRouter()
        router.register("others", TaskViewSet)
        """)  # fmt: skip
    assert "did you mean tasks" in message


async def test_two_resources_with_one_basename_are_refused(refused: Refused) -> None:
    """Route names would be ambiguous; the message names both and the way out."""
    message = await refused(TASKS, urls="""
        router = DefaultRouter()
        router.register("jobs", TaskViewSet)
        """)  # fmt: skip
    assert "/jobs/" in message
    assert "basename" in message


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("routes = []", "router = DefaultRouter()"),
        ("router = DefaultRouter()\nrouter.register('health', TaskViewSet, basename='x')", "own address"),
        ("router = DefaultRouter()\nrouter.register('tags', TaskViewSet, basename='x')", "same address"),
        ("router = DefaultRouter()\nrouter.register('people', PlainViewSet)", "basename="),
    ],
)
async def test_wrong_urls_are_refused(refused: Refused, urls: str, message: str) -> None:
    """``urls.py`` needs a router, addresses of its own, and names for what has no model."""
    plain = "\nclass PlainViewSet(ViewSet):\n    async def list(self, request): ...\n"
    assert message in await refused(TASKS + plain, urls=urls)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("as_view()", "needs actions"),
        ("as_view({'get': 'lst'})", "did you mean list"),
        ("as_view({'gte': 'list'})", "did you mean get"),
        ("as_view({'get': 'list'}, colour='red')", "has no attribute 'colour'"),
        ("as_view({'get': 'list'}, name='A', suffix='B')", "not both"),
        ("as_view({'get': 'list'}, get=1)", "has no attribute 'get'"),
    ],
)
async def test_as_view_refuses_what_makes_no_sense(refused: Refused, call: str, message: str) -> None:
    """The error names what is wrong and what is near."""
    assert message in await refused(TASKS + f"\nTaskViewSet.{call}\n")


async def test_subclass_that_maps_a_verb_leaves_its_parent_alone(start: Start) -> None:
    """The parent's action has the verbs it had."""
    service = await start("""
        class Base(ModelViewSet):
            @action(detail=False)
            async def thing(self, request):
                return "read"

        class TaskViewSet(Base):
            model = Task

            @Base.thing.mapping.post
            async def write_thing(self, request):
                return "written"

        class TagViewSet(Base):
            model = Tag
        """)
    assert await service.get("/tasks/thing/") == "read"
    assert await service.post("/tasks/thing/") == "written"
    assert await service.get("/tags/thing/") == "read"
    assert (await service.ask("POST", "/tags/thing/"))[0] == 405


async def test_class_may_have_attributes_of_its_own(start: Start) -> None:
    """An attribute that is not a near miss of an option is the author's business."""
    service = await start(
        having("greeting = 'hi'\n@action(detail=False)\ndef greet(self, request): return self.greeting")
    )
    assert await service.get("/tasks/greet/") == "hi"


async def test_yaml_wins_over_the_class(start: Start) -> None:
    """An option of the resource file takes the place of the class's attribute."""
    service = await start(having("page_size = 5\nsearch_fields = ['title']"), options={"tasks": "page_size: 1"})
    for title in ("a", "b"):
        await task(service, title=title)
    assert await service.titles() == ["a"]
    assert await service.titles("/tasks/?search=b") == ["b"]


# --- results ----------------------------------------------------------------------------------------------------------

RESULTS = {
    "data": ("{'a': [1, None, True]}", 200, {"a": [1, None, True]}),
    "text": ("'text'", 200, "text"),
    "data and status": ("{'a': 1}, 202", 202, {"a": 1}),
    "data and HTTPStatus": ("[], HTTPStatus.ACCEPTED", 202, []),
    "none": ("None", 204, ""),
    "none and 204": ("None, 204", 204, ""),
    "response": ("Response({'a': 1}, status=201)", 201, {"a": 1}),
    "response without data": ("Response(status=204)", 204, ""),
    "aiohttp response": ("web.json_response({'a': 1}, status=203)", 203, {"a": 1}),
    "values": ("Task.objects.values('title')", 200, [{"title": "one"}]),
    "set": ("{'b', 'a'}", 200, ["a", "b"]),
    "decimal": ("__import__('decimal').Decimal('1.50')", 200, "1.50"),
    "times": (
        "[datetime.fromisoformat('2026-01-31T13:00:00.500+01:00'), datetime(2026, 1, 2).date(), datetime.max.time()]",
        200,
        ["2026-01-31T12:00:00.5+00:00", "2026-01-02", "23:59:59.999999"],
    ),
    "duration": ("datetime(2026, 1, 2) - datetime(2026, 1, 1)", 200, "P1D"),
}


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("blocking", [False, True])
async def test_handler_may_return(start: Start, result: str, blocking: bool) -> None:
    """Each form of a result, from a coroutine and from a plain function."""
    expression, status, body = RESULTS[result]
    word = "def" if blocking else "async def"
    service = await start(having(f"@action(detail=False)\n{word} go(self, request):\n    return {expression}"))
    await task(service)
    assert await service.ask("GET", "/tasks/go/") == (status, body)


async def test_rows_that_a_handler_returns_are_as_retrieve_shows_them(start: Start) -> None:
    """An instance, a list of them, and a query set; ``write_only`` fields never appear."""
    service = await start("""
        class UserViewSet(ModelViewSet):
            model = User

            @action(detail=True)
            async def one(self, request, id):
                return await self.get_object(id)

            @action(detail=False)
            async def some(self, request):
                return {"rows": [await User.objects.first()]}

            @action(detail=False)
            async def all(self, request):
                return User.objects.all()

            @action(detail=False)
            async def new(self, request):
                return await User.objects.create(name="new"), 201
        """)
    key = await service.sql.fetchval("INSERT INTO users (name, password) VALUES ('ada', 'secret') RETURNING id")
    row = await service.get(f"/users/{key}/")
    assert "password" not in row
    assert await service.get(f"/users/{key}/one/") == row
    assert await service.get("/users/some/") == {"rows": [row]}
    assert await service.get("/users/all/") == [row]
    status, new = await service.ask("GET", "/users/new/")
    assert (status, new["name"], set(new)) == (201, "new", set(row))


async def test_result_without_a_json_form_is_a_logged_500(start: Start) -> None:
    """The client gets no details; the log names the value that cannot be shown."""
    service = await start(having("@action(detail=False)\nasync def go(self, request): return object()"))
    status, problem = await service.ask("GET", "/tasks/go/")
    assert (status, problem["code"]) == (500, "internal_error")


# --- handlers ---------------------------------------------------------------------------------------------------------


async def test_request_has_what_a_handler_needs(start: Start) -> None:
    """``data``, ``query_params``, ``user`` and aiohttp's attributes are there before the handler runs."""
    service = await start(
        having("""
@action(detail=False, methods=["post"])
def go(self, request):
    return [request.data, request.query_params, request.user.id, request.method, request.path, request.headers["X-User"]]
""")
    )
    assert await service.post("/tasks/go/?a=1", {"b": 2}, "7") == [{"b": 2}, {"a": "1"}, "7", "POST", "/tasks/go/", "7"]


@pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
async def test_request_carries_what_initial_puts_on_it(start: Start) -> None:
    """As an attribute, or as an item, which is aiohttp's."""
    service = await start(
        having("""
async def initial(self, request):
    await super().initial(request)
    request.tenant, request["plan"] = "acme", "gold"

@action(detail=False)
def go(self, request):
    assert "plan" in request and "plan" in list(request) and "color" not in request
    found = [request.tenant, self.request["plan"], request.http["plan"], hasattr(request, "color")]
    del request["plan"]
    return [*found, "plan" in request.http]
""")
    )
    assert await service.get("/tasks/go/") == ["acme", "gold", "gold", False, False]


@pytest.mark.parametrize("made", ["", "()"])
async def test_overridden_policies_are_instances_or_classes(start: Start, made: str) -> None:
    """``get_permissions``, ``get_authenticators`` and ``get_throttles`` may return either."""
    service = await start(f"""
        class Keys(BaseAuthentication):
            def authenticate(self, request):
                return (Caller("k"), None) if "X-Key" in request.headers else None

            def authenticate_header(self, request):
                return "Key"

        class Never(BaseThrottle):
            def allow_request(self, request, view):
                return "X-Often" not in request.headers

        class TagViewSet(api.ModelViewSet):
            model = Tag

            def get_authenticators(self):
                return [Keys{made}]

            def get_permissions(self):
                return [IsAuthenticated{made}]

            def get_throttles(self):
                return [Never{made}]
        """)
    for headers, status in (({}, 401), ({"X-Key": "k"}, 200), ({"X-Key": "k", "X-Often": "1"}, 429)):
        async with service.client.get("/tags/", headers=headers) as response:
            assert response.status == status
            assert response.headers.get("WWW-Authenticate") == ("Key" if status == 401 else None)


@pytest.mark.parametrize("signature", ["id", "pk", "id: str", "pk=None", "id=None", "**kwargs", "*args, **kwargs"])
async def test_key_has_the_name_that_the_handler_gives_it(start: Start, signature: str) -> None:
    """Handlers of either page's form take the key."""
    name = signature.split(":")[0].split("=")[0] if "*" not in signature else "kwargs['id']"
    service = await start(having(f"async def retrieve(self, request, {signature}):\n    return {name}"))
    assert await service.get("/tasks/7/") == "7"


async def test_blocking_handler_does_not_block_the_others(start: Start) -> None:
    """While a plain handler waits, other requests are answered."""
    service = await start(
        having("""
@action(detail=False)
def slow(self, request):
    wait(TaskViewSet.gate.wait())
    return "slow"

@action(detail=False)
def quick(self, request):
    TaskViewSet.gate.set()
    return "quick"

gate = asyncio.Event()
""")
    )
    slow = asyncio.create_task(service.get("/tasks/slow/"))
    assert await service.get("/tasks/quick/") == "quick"
    async with asyncio.timeout(30):
        assert await slow == "slow"


# --- scope ------------------------------------------------------------------------------------------------------------

SCOPES = {
    "plain": "def get_queryset(self):\n    return Task.objects.filter(user_id=self.request.user.id)",
    "coroutine": "async def get_queryset(self):\n    return Task.objects.filter(user_id=self.request.user.id)",
    "reading": "def get_queryset(self):\n    wait(Task.objects.count())\n    return Task.objects.filter(user_id=self.request.user.id)",
    "super": "def get_queryset(self):\n    return super().get_queryset().filter(Q(user_id=self.request.user.id) & ~Q(title='x'))",
}


@pytest.mark.parametrize("scope", SCOPES)
async def test_scope_bounds_everything(start: Start, scope: str) -> None:
    """List, retrieve, writes, detail actions and the stream: rows outside the scope do not exist."""
    service = await start(
        having(
            SCOPES[scope]
            + """
@action(detail=True, methods=["post"])
async def touch(self, request, id):
    return (await self.get_object(id)).title
"""
        )
    )
    mine, other = await task(service, user_id="1"), await task(service, title="other", user_id="2")
    assert await service.titles(user="1") == ["one"]
    for method, path in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("POST", "touch/"), ("DELETE", "")):
        body = {"title": "new"} if method in ("PUT", "PATCH") else None
        assert (await service.ask(method, f"/tasks/{other}/{path}", body, "1"))[0] == 404
        assert (await service.ask(method, f"/tasks/{mine}/{path}", body, "1"))[0] < 300
    assert await service.sql.fetchval("SELECT title FROM tasks") == "other"
    async with listen(service.client, "/tasks/stream/", headers={"X-User": "1"}) as stream:
        await stream.next()
        await task(service, user_id="2")
        mine = await task(service, user_id="1")
        assert (await stream.next()).json()["id"] == mine


async def test_scope_that_is_not_a_whole_query_set_is_an_error(start: Start) -> None:
    """A slice or a list would silently leave rows out."""
    service = await start(having("def get_queryset(self):\n    return Task.objects.all()[:1]"))
    assert (await service.ask("GET", "/tasks/"))[0] == 500


@pytest.mark.parametrize("form", ["def", "async def"])
async def test_object_permissions_are_checked_by_every_detail_action(start: Start, form: str) -> None:
    """Retrieve, update, destroy and extra actions; with a permission's own words."""
    service = await start(
        """
        class Mine(BasePermission):
            message = "Not yours."
            code = "not_yours"

            FORM has_object_permission(self, request, view, obj):
                return obj.user_id == request.user.id

        class TaskViewSet(ModelViewSet):
            model = Task
            permission_classes = [Mine]

            @action(detail=True, methods=["post"])
            async def touch(self, request, id):
                return (await self.get_object()).title
        """.replace("FORM", form)
    )
    key = await task(service, user_id="1")
    for method, path in (("GET", ""), ("PUT", ""), ("PATCH", ""), ("POST", "touch/"), ("DELETE", "")):
        body = {"title": "new"} if method in ("PUT", "PATCH") else None
        status, problem = await service.ask(method, f"/tasks/{key}/{path}", body, "2")
        assert (status, problem["detail"], problem["code"]) == (403, "Not yours.", "not_yours")
        assert (await service.ask(method, f"/tasks/{key}/{path}", body))[0] == 401
        assert (await service.ask(method, f"/tasks/{key}/{path}", body, "1"))[0] < 300


async def test_overridden_get_object_and_get_permissions_are_used_by_the_mixins(start: Start) -> None:
    """The default retrieve, update and destroy call them."""
    service = await start("""
        class Never(BasePermission):
            def has_object_permission(self, request, view, obj):
                return False

        class TaskViewSet(ModelViewSet):
            model = Task

            async def get_object(self, id=None):
                return await get_object_or_404(self.get_queryset(), title=self.kwargs["id"])

        class TagViewSet(ModelViewSet):
            model = Tag

            def get_permissions(self):
                return [Never()]
        """)
    await task(service)
    assert (await service.get("/tasks/one/"))["title"] == "one"
    assert (await service.ask("PATCH", "/tasks/one/", {"completed": True}))[1]["completed"] is True
    assert (await service.ask("GET", "/tasks/two/"))[0] == 404
    assert (await service.ask("DELETE", "/tasks/one/"))[0] == 204
    await service.post("/tags/", {"name": "x"})
    for method in ("GET", "PATCH", "DELETE"):
        assert (await service.ask(method, "/tags/1/", {} if method == "PATCH" else None))[0] == 401


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [False, True])
async def test_perform_hooks_of_the_mixins(start: Start, blocking: bool) -> None:
    """``perform_create``, ``perform_update`` and ``perform_destroy`` save in their own way."""
    text = """
        class TaskViewSet(ModelViewSet):
            model = Task

            async def perform_create(self, serializer):
                await serializer.save(user_id=self.request.user.id)

            async def perform_update(self, serializer):
                await serializer.save(description=f"was {serializer.instance.title}")

            async def perform_destroy(self, instance):
                instance.deleted = True
                await instance.save()
        """
    if blocking:
        text = re.sub(r"await ((?:serializer|instance)\.save\(.*\))", r"wait(\1)", text.replace("async def", "def"))
    service = await start(text)
    tag = (await service.post("/tags/", {"name": "t"}))["id"]
    async with service.client.post("/tasks/", json={"title": "a", "tags": [tag]}, headers={"X-User": "7"}) as response:
        row = await response.json()
        assert (response.status, row["user_id"]) == (201, "7")
        assert response.headers["Location"].endswith(f"/tasks/{row['id']}/")
    status, row = await service.ask("PATCH", f"/tasks/{row['id']}/", {"title": "b"})
    assert (status, row["title"], row["description"]) == (200, "b", "was a")
    assert (await service.ask("POST", "/tasks/", {"titel": "a"}))[0] == 400
    assert await service.ask("DELETE", f"/tasks/{row['id']}/") == (204, "")
    assert await service.sql.fetchval("SELECT deleted FROM tasks") is True
    assert (await service.get(f"/tasks/{row['id']}/?expand=tags"))["tags"] == [{"id": tag, "name": "t"}]


async def test_writes_of_a_hook_that_raises_are_rolled_back(start: Start) -> None:
    """Rows that a hook has saved before it raises are rolled back."""
    service = await start(
        having("""
async def perform_create(self, serializer):
    await serializer.save()
    raise PermissionDenied("no")
""")
    )
    assert (await service.ask("POST", "/tasks/", {"title": "a"}))[0] == 403
    assert await service.sql.fetchval("SELECT count(*) FROM tasks") == 0


async def test_overridden_filter_queryset_narrows_the_default_list(start: Start) -> None:
    """``super().filter_queryset(…)`` gives a query set to go on with."""
    service = await start(
        having("""
search_fields = ["title"]

def filter_queryset(self, queryset):
    return super().filter_queryset(queryset).filter(completed=False).order_by("-title")
""")
    )
    for title, completed in (("aa", False), ("ab", False), ("ac", True), ("b", False)):
        await task(service, title=title, completed=completed)
    assert await service.titles("/tasks/?search=a") == ["ab", "aa"]


async def test_filter_backend_of_ones_own(start: Start) -> None:
    """It narrows lists in addition to the built-in ones, and its parameters are accepted; in YAML it is named by module."""
    backend = """
        class Mine(BaseFilterBackend):
            query_parameters = ("mine",)

            def filter_queryset(self, request, queryset, view):
                if "mine" in request.query_params:
                    return queryset.filter(user_id=request.user.id)
                return queryset

        class TaskViewSet(ModelViewSet):
            model = Task
            search_fields = ["title"]
            filter_backends = [SearchFilter, Mine]
        """
    service = await start(backend)
    await task(service, title="a", user_id="1")
    await task(service, title="ab", user_id="2")
    assert await service.titles("/tasks/?mine=1", "1") == ["a"]
    assert await service.titles("/tasks/?mine=1&search=b", "1") == []
    assert await service.titles("/tasks/?search=b") == ["ab"]
    assert (await service.ask("GET", "/tasks/?yours=1"))[0] == 400
    named = {"tasks": "filter_backends: ['viewsets:Mine']"}
    service = await start(backend.replace("filter_backends = [SearchFilter, Mine]", ""), options=named)
    assert await service.titles("/tasks/?mine=1", "1") == ["a"]


async def test_pagination_class_of_ones_own(start: Start) -> None:
    """A subclass sets sizes, and the config beats it."""
    text = """
        class Small(PageNumberPagination):
            page_size = 1
            max_page_size = 2

        class TaskViewSet(ModelViewSet):
            model = Task
            pagination_class = Small
        """
    service = await start(text)
    for title in "abc":
        await task(service, title=title)
    assert await service.titles() == ["a"]
    assert await service.titles("/tasks/?page_size=9") == ["a", "b"]
    service = await start(text, options={"tasks": "page_size: 2; max_page_size: 3"})
    assert await service.titles() == ["a", "b"]


# --- transactions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["def", "async def"])
async def test_unsafe_handler_is_one_transaction(start: Start, form: str) -> None:
    """An error, the service's or any other, rolls back what the handler has written."""
    text = """
@action(detail=False, methods=["post"])
FORM go(self, request):
    WAIT(Tag.objects.create(name="a"))
    raise {"denied": PermissionDenied(), "broken": RuntimeError()}[request.data["how"]]
""".replace("FORM", form).replace("WAIT", "wait" if form == "def" else "await ")
    service = await start(having(text))
    for how, status in (("denied", 403), ("broken", 500)):
        assert (await service.ask("POST", "/tasks/go/", {"how": how}, "1"))[0] == status
        assert await service.sql.fetchval("SELECT count(*) FROM tags") == 0


async def test_cancelled_request_is_rolled_back(start: Start) -> None:
    """A client that leaves before its handler is done leaves nothing behind, not even a busy connection."""
    service = await start(
        having("""
@action(detail=False, methods=["post"])
def go(self, request):
    wait(Tag.objects.create(name="a"))
    TaskViewSet.written.set()
    wait(asyncio.Event().wait())

written = asyncio.Event()
""")
    )
    import viewsets  # type: ignore[import-not-found]

    request = asyncio.create_task(service.ask("POST", "/tasks/go/"))
    async with asyncio.timeout(30):
        await viewsets.TaskViewSet.written.wait()
    (handler,) = [each for each in asyncio.all_tasks() if each.get_coro().__qualname__ == "Connection.start"]  # type: ignore[union-attr]
    handler.cancel()
    with pytest.raises(ClientError):
        await request
    async with asyncio.timeout(30):
        await service.post("/tags/", {"name": "a"})
    assert await service.sql.fetchval("SELECT count(*) FROM tags") == 1


async def test_commit_comes_before_the_response(start: Start) -> None:
    """After the response the row is visible, on any connection."""
    service = await start(
        having("""
@action(detail=False, methods=["post"])
async def go(self, request):
    return await Tag.objects.create(name=request.data["name"]), 201
""")
    )
    for n in range(20):
        row = await service.post("/tasks/go/", {"name": f"t{n}"})
        assert await service.sql.fetchval("SELECT name FROM tags WHERE id = $1", row["id"]) == f"t{n}"


async def test_racing_creates_make_one_row(start: Start) -> None:
    """Of 36 creates of one unique name through a handler of one's own, one is 201, the others 409, and none 500."""
    service = await start("""
        class TagViewSet(ModelViewSet):
            model = Tag

            async def create(self, request):
                data = self.validate_data(await self.get_request_data(request))
                return self.serialize(await Tag.objects.create(**data)), 201
        """)
    answers = await asyncio.gather(*(service.ask("POST", "/tags/", {"name": "same"}) for _ in range(36)))
    assert sorted(status for status, _ in answers) == [201] + [409] * 35
    assert all(list(body["errors"]) == ["name"] for status, body in answers if status == 409)


async def test_racing_increments_are_all_counted(start: Start) -> None:
    """``F`` in a handler adds to what the row holds then."""
    service = await start(
        having("""
@action(detail=True, methods=["post"])
async def view(self, request, id):
    await self.get_queryset().filter(pk=id).update(view_count=F("view_count") + 1)
""")
    )
    key = await task(service)
    await asyncio.gather(*(service.ask("POST", f"/tasks/{key}/view/") for _ in range(30)))
    assert (await service.get(f"/tasks/{key}/"))["view_count"] == 30


async def test_value_that_does_not_fit_is_a_400_when_a_handler_supplies_it(start: Start) -> None:
    """In an assignment, in ``create`` and in ``filter``: the field is named."""
    service = await start(
        having("""
@action(detail=False, methods=["post"])
async def go(self, request):
    match request.data["how"]:
        case "create": await Task.objects.create(title=["no"])
        case "long": await Task.objects.create(title="x" * 201)
        case "large": await Task.objects.create(title="x", view_count=2**31)
        case "longer": await Task.objects.filter(title="x" * 201).update(title="x" * 201)
        case "choice": await Task.objects.create(title="x", priority="top")
        case "filter": await Task.objects.filter(title="x", created_at="soon").count()
        case "update": await Task.objects.filter(title="x").update(view_count="many")
        case "null": await Task.objects.create()
        case "key": await Task.objects.create(title="x", category_id="work")
        case "row": await Task.objects.filter(category="work").count()
        case "rows": await Task.objects.all().update(category="work")
""")
    )
    fields = {
        "create": "title", "long": "title", "large": "view_count", "longer": "title", "choice": "priority", "filter": "created_at",
        "update": "view_count", "null": "title", "key": "category_id", "row": "category_id", "rows": "category_id",
    }  # fmt: skip
    for how, name in fields.items():
        status, problem = await service.ask("POST", "/tasks/go/", {"how": how})
        assert (status, list(problem.get("errors") or {})) == (400, [name]), how
