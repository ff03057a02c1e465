"""What each caller receives of a stream, in which form, and for how long."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import asyncpg
import jwt
import pytest

from rowcast.identity.tokens import create_token, list_tokens, revoke_token
from rowcast.rest.plan import SERVICE
from tests.conftest import Client, Serve
from tests.sse import EventSource, listen
from tests.stream.test_events import next_change, ready

SECRET = "a shared secret of 32 bytes or more"
JWT = f"auth: {{jwt: {{secret: {SECRET}, audience: rowcast}}}}"
TASKS = """
fields:
  id: {type: integer, primary_key: true}
  title: {type: string}
  user_id: {type: string, null: true}
  salary: {type: integer, default: 7}
  project: {type: foreign_key, to: projects, null: true, on_delete: cascade}
viewset:
  class: viewsets:TaskViewSet
  filterset_fields: {title: [exact], project__name: [exact]}
"""
PROJECTS = """
fields: {id: {type: integer, primary_key: true}, name: {type: string}}
viewset: {permission_classes: [AllowAny], search_fields: [name]}
"""
RESOURCES = {"tasks": TASKS, "projects": PROJECTS}
SCOPED = """
from rowcast import IsAuthenticated, ModelViewSet, model
Task = model("tasks")

class TaskViewSet(ModelViewSet):
    permission_classes = [IsAuthenticated]

    def get_queryset(self):
        return Task.objects.filter(user_id=self.request.user.id)
"""
COMPARED = """
from rowcast import AllowAny, F, ModelViewSet, model
Task = model("tasks")

class TaskViewSet(ModelViewSet):
    permission_classes = [AllowAny]

    def get_queryset(self):
        return Task.objects.filter(salary__gt=F("project_id") + 1)
"""
OWNED = """
from rowcast import IsOwner, ModelViewSet

class TaskViewSet(ModelViewSet):
    permission_classes = [IsOwner]
"""
PYTHON = """
from marshmallow import fields
from rowcast import AllowAny, ModelViewSet, Serializer, model
Task = model("tasks")

class TaskSerializer(Serializer):
    shout = fields.Method("get_shout")
    caller = fields.Method("get_caller")
    within = fields.Method("get_within")

    class Meta:
        model = Task
        fields = ("id", "title", "shout", "caller", "within", "project")

    def get_shout(self, task):
        if task.title == "boom":
            raise RuntimeError("no shout for this one")
        return task.title.upper()

    def get_caller(self, task):
        return self.context["request"].user.id

    def get_within(self, task):
        return task.project.name if task.project else None

class TaskViewSet(ModelViewSet):
    permission_classes = [AllowAny]
    serializer_class = TaskSerializer
"""


COUNTING = """
from itertools import count
from marshmallow import fields
from rowcast import AllowAny, ModelViewSet, Serializer, model
Task = model("tasks")
numbers = count(1)

class TaskSerializer(Serializer):
    count = fields.Function(lambda task: next(numbers))

    class Meta:
        model = Task

class TaskViewSet(ModelViewSet):
    permission_classes = [AllowAny]
    serializer_class = TaskSerializer
"""


pytestmark = pytest.mark.tables(RESOURCES)


def bearer(user: str, lifetime: float = 3600, **claims: object) -> dict[str, str]:
    """The header of a caller."""
    payload = {"sub": user, "aud": "rowcast", "exp": time.time() + lifetime, **claims}
    return {"Authorization": f"Bearer {jwt.encode(payload, SECRET, 'HS256')}"}


async def ended(source: EventSource) -> float:
    """Read a stream to its end; return the time of the end."""
    async for _ in source:
        pass
    return time.time()


async def test_scope_decides_on_the_row_before_and_after(serve: Serve, sql: asyncpg.Connection) -> None:
    """A row that changes hands leaves one caller's stream with its id alone, and enters the other's."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": SCOPED})
    async with (
        listen(client, "/tasks/stream/", headers=bearer("ann")) as ann,
        listen(client, "/tasks/stream/", headers=bearer("bob")) as bob,
    ):
        for source in (ann, bob):
            await ready(source)
        await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'plan', 'ann')")
        assert (await next_change(ann))["action"] == "INSERT"
        await sql.execute("UPDATE tasks SET user_id = 'bob', title = 'secret of bob'")
        event = await ann.next()
        assert "bob" not in event.data
        body = event.json()
        assert (body["action"], body["id"], body["data"], body["cause"]) == ("DELETE", 1, None, "UPDATE")
        assert "changed" not in body
        body = await next_change(bob)
        assert (body["action"], body["cause"], body["data"]["title"]) == ("INSERT", "UPDATE", "secret of bob")
        await sql.execute("DELETE FROM tasks; INSERT INTO tasks (id, title, user_id) VALUES (2, 'fence', 'ann')")
        body = await next_change(ann)
        assert body["id"] == 2, "the deletion of another user's row is not sent"
        assert (await next_change(bob))["action"] == "DELETE"
    assert (await client.get("/tasks/stream/")).status == 401


async def test_object_permissions_decide_on_the_row_before_and_after(serve: Serve, sql: asyncpg.Connection) -> None:
    """A stream sends no row that retrieve would refuse, although the list includes it."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": OWNED})
    async with (
        listen(client, "/tasks/stream/", headers=bearer("ann")) as ann,
        listen(client, "/tasks/stream/?project__name=p", headers=bearer("bob")) as bob,
    ):
        for source in (ann, bob):
            await ready(source)
        await sql.execute("INSERT INTO projects (id, name) VALUES (1, 'p')")
        await sql.execute(
            "INSERT INTO tasks (id, title, user_id, project_id) VALUES (1, 'x', 'bob', 1), (2, 'y', 'ann', 1)"
        )
        assert (await next_change(ann))["id"] == 2
        assert (await next_change(bob))["id"] == 1
        await sql.execute("UPDATE tasks SET user_id = 'bob', title = 'z' WHERE id = 2")
        event = await next_change(ann)
        assert (event["action"], event["id"], event["data"]) == ("DELETE", 2, None)
        event = await next_change(bob)
        assert (event["action"], event["id"], event["data"]["title"]) == ("INSERT", 2, "z")
        await sql.execute("DELETE FROM tasks; INSERT INTO tasks (id, title, user_id) VALUES (3, 'fence', 'ann')")
        assert (await next_change(ann))["id"] == 3


@pytest.mark.parametrize("viewsets", [SCOPED, OWNED], ids=["scope", "permission"])
async def test_a_change_is_tested_for_its_owners_only(serve: Serve, sql: asyncpg.Connection, viewsets: str) -> None:
    """Of all users' streams a change is tested for that of the old owner and that of the new one."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": viewsets})
    site = client.app[SERVICE]
    tested: list[int] = []
    site.feed.subscribe(lambda batch: tested.append(len(site.hub.groups.candidates(batch))), lambda _: None)
    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(listen(client, "/tasks/stream/", headers=bearer(user)))
            for user in ("ann", "bob", "cy", "di")
        ]
        for source in sources:
            await ready(source)
        await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'x', 'ann')")
        assert (await next_change(sources[0]))["action"] == "INSERT"
        await sql.execute("UPDATE tasks SET user_id = 'bob'")
        assert [(await next_change(source))["action"] for source in sources[:2]] == ["DELETE", "INSERT"]
    assert tested == [1, 2]


async def test_serializer_with_python_renders_the_data(serve: Serve, sql: asyncpg.Connection) -> None:
    """``data`` equals the response of retrieve, for each caller, with related rows as they are; hidden columns stay hidden."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": PYTHON})
    async with (
        listen(client, "/tasks/stream/", headers=bearer("ann")) as ann,
        listen(client, "/tasks/stream/?fields=id,shout", headers=bearer("bob")) as bob,
        listen(client, "/tasks/stream/?project__name=p") as anonymous,
    ):
        for source in (ann, bob, anonymous):
            await ready(source)
        await sql.execute("INSERT INTO projects (id, name) VALUES (1, 'p')")
        await sql.execute("INSERT INTO tasks (id, title, project_id) VALUES (1, 'plan', 1)")
        for source, headers in ((ann, bearer("ann")), (anonymous, {})):
            shown = await (await client.get("/tasks/1/", headers=headers)).json()
            shown.pop("project")  # an expansion
            assert (await next_change(source))["data"] == shown
            assert shown["shout"] == "PLAN"
        assert (await next_change(bob))["data"] == {"id": 1, "shout": "PLAN"}
        await sql.execute("UPDATE tasks SET salary = 8, title = 'plans'")
        event = await ann.next()
        assert "salary" not in event.data
        assert event.json()["changed"] == ["title"]
        assert event.json()["data"]["caller"] == "ann"


async def test_many_streams_are_evaluated_once(serve: Serve, sql: asyncpg.Connection) -> None:
    """A serializer runs once per event for all streams of a user, and one query serves all streams with a condition."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": COUNTING})
    database = client.app[SERVICE].store.judge
    async with AsyncExitStack() as stack:

        async def open_many(path: str, user: str) -> list[EventSource]:
            opened = [await stack.enter_async_context(listen(client, path, headers=bearer(user))) for _ in range(10)]
            for source in opened:
                await ready(source)
            return opened

        anns = await open_many("/tasks/stream/", "ann")
        bobs = await open_many("/tasks/stream/", "bob")
        filtered = await open_many("/projects/stream/?search=p", "ann")
        for n in range(3):
            await sql.execute("INSERT INTO tasks (id, title) VALUES ($1, 'x')", n)
            numbers = [{(await next_change(source))["data"]["count"] for source in sources} for sources in (anns, bobs)]
            assert sorted(number for (number,) in numbers) == [2 * n + 1, 2 * n + 2]
        for n in range(3):
            before = database.statements
            await sql.execute("INSERT INTO projects (id, name) VALUES ($1, 'P')", n)
            assert [(await next_change(source))["id"] for source in filtered] == [n] * 10
            assert database.statements == before + 1


@pytest.mark.parametrize("varies_on", ["[user.id, claims.org, header:X-Tenant]", None])
async def test_streams_are_shared_by_what_the_viewset_declares(
    serve: Serve, sql: asyncpg.Connection, varies_on: str | None
) -> None:
    """A header that a proxy adds does not count, unless it is declared; without a declaration every header counts."""
    option = "" if varies_on is None else f"  stream_varies_on: {varies_on}\n"
    client = await serve({**RESOURCES, "tasks": TASKS + option}, service=JWT, modules={"viewsets": COUNTING})
    callers = [
        bearer("ann") | {"X-Trace": "1", "X-Tenant": "a"},
        bearer("ann", lifetime=1800) | {"X-Trace": "2", "X-Tenant": "a"},
        bearer("ann") | {"X-Trace": "1", "X-Tenant": "b"},
        bearer("ann", org=1) | {"X-Trace": "1", "X-Tenant": "a"},
        bearer("bob") | {"X-Trace": "1", "X-Tenant": "a"},
    ]
    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(listen(client, path, headers=headers))
            for headers, path in [
                *((each, "/tasks/stream/") for each in callers),
                (callers[0], "/tasks/stream/?title=x"),
            ]
        ]
        for source in sources:
            await ready(source)
        await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'x')")
        counts = [(await next_change(source))["data"]["count"] for source in sources]
        assert (counts[0] == counts[1]) is (varies_on is not None)
        assert len(set(counts)) == (6 if varies_on is None else 5)


async def test_reset_of_a_stream_with_snapshot_sends_the_rows(serve: Serve, sql: asyncpg.Connection) -> None:
    """The rows follow the reset without a position, then ``ready`` with one, and then new changes."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": PYTHON})
    async with listen(client, "/tasks/stream/?snapshot=true") as source:
        start = (await ready(source)).id
        await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'boom'); UPDATE tasks SET title = 'fine'")
        blocks = await source.take(3)
        assert [block.event for block in blocks] == ["reset", "snapshot", "ready"]
        assert [block.id for block in blocks[:2]] == [start, start], "a client that leaves now gets the rows again"
        assert blocks[1].json()["rows"][0]["title"] == "fine"
        await sql.execute("INSERT INTO tasks (id, title) VALUES (2, 'fence')")
        assert (await next_change(source))["id"] == 2


async def test_row_that_cannot_be_rendered_resets_only_streams_that_match_it(
    serve: Serve, sql: asyncpg.Connection
) -> None:
    """A serializer that fails resets its own streams; others, and later events, are sent."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": PYTHON})
    async with (
        listen(client, "/tasks/stream/") as broken,
        listen(client, "/tasks/stream/?title=fence") as filtered,
        listen(client, "/projects/stream/") as projects,
    ):
        start = (await ready(broken)).id
        for source in (filtered, projects):
            await ready(source)
        await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'boom'); INSERT INTO projects VALUES (1, 'p')")
        event = await broken.next()
        assert (event.event, event.json()) == ("reset", {"resource": "tasks", "reason": "failed"})
        assert (await next_change(projects))["id"] == 1
        await sql.execute("INSERT INTO tasks (id, title) VALUES (2, 'fence')")
        assert (await next_change(broken))["id"] == 2
        assert (await next_change(filtered))["id"] == 2
    async with listen(client, "/tasks/stream/", last_id=start) as again:
        await ready(again)
        assert (await again.next()).json()["reason"] == "failed"
        assert (await next_change(again))["id"] == 2


async def test_revoked_token_ends_its_streams(serve: Serve, sql: asyncpg.Connection) -> None:
    """Within 15 seconds of the revocation, and no other stream ends."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": SCOPED})
    tokens = {user: await create_token(sql, user) for user in ("ann", "bob")}
    async with (
        listen(client, f"/tasks/stream/?access_token={tokens['ann']}", deadline=20) as ann,
        listen(client, f"/tasks/stream/?project__name=p&access_token={tokens['ann']}", deadline=20) as narrow,
        listen(client, f"/tasks/stream/?access_token={tokens['bob']}") as bob,
    ):
        for source in (ann, narrow, bob):
            await ready(source)
        (token,) = [each.id for each in await list_tokens(sql) if each.user_id == "ann"]
        await revoke_token(sql, token)
        revoked = time.time()
        assert max(await asyncio.gather(ended(ann), ended(narrow))) - revoked < 15
        await sql.execute("INSERT INTO tasks (id, title, user_id) VALUES (1, 'plan', 'bob')")
        assert (await next_change(bob))["id"] == 1
    assert (await client.get(f"/tasks/stream/?access_token={tokens['ann']}")).status == 401


@pytest.mark.parametrize("path", ["/tasks/stream/", "/tasks/stream/?project__name=p"])
async def test_expired_token_ends_its_stream(serve: Serve, sql: asyncpg.Connection, path: str) -> None:
    """The stream ends at the expiry of the token, and not before."""
    client = await serve(RESOURCES, service=JWT, modules={"viewsets": SCOPED})
    token = await create_token(sql, "ann", lifetime=3)
    (expires_at,) = [each.expires_at.timestamp() for each in await list_tokens(sql) if each.expires_at is not None]
    async with listen(client, path, headers={"Authorization": f"Token {token}"}) as source:
        await ready(source)
        assert 0 <= await ended(source) - expires_at < 2


async def test_streams_are_open_to_pages_of_allowed_origins(serve: Serve) -> None:
    """A stream carries the CORS headers that let a page of another origin read it, and no other page."""
    client = await serve(
        RESOURCES, service="server: {cors_origins: ['https://app.example']}", modules={"viewsets": PYTHON}
    )
    origin = {"Origin": "https://app.example"}
    async with listen(client, "/tasks/stream/", headers=origin) as source:
        await ready(source)
        assert source.response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    async with listen(client, "/tasks/stream/", headers={"Origin": "https://evil.example"}) as source:
        assert "Access-Control-Allow-Origin" not in source.response.headers
    response = await allowed(client, origin)
    assert "last-event-id" in response.lower()
    assert "x-read-after" in response.lower()  # for later requests, which then need no preflight of their own


async def allowed(client: Client, origin: dict[str, str]) -> str:
    """The headers that a preflight for a stream allows."""
    preflight = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "Last-Event-ID"}
    response = await client.options("/tasks/stream/", headers={**origin, **preflight})
    return response.headers["Access-Control-Allow-Headers"]


async def test_scope_may_compare_columns(serve: Serve, sql: asyncpg.Connection) -> None:
    """A scope with an F expression sends the rows that the list shows."""
    client = await serve(RESOURCES, modules={"viewsets": COMPARED})
    await sql.execute("INSERT INTO projects (id, name) VALUES (1, 'a'), (5, 'b')")
    async with listen(client, "/tasks/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO tasks (id, title, salary, project_id) VALUES (1, 'no', 6, 5), (2, 'yes', 7, 5)")
        assert (await next_change(source))["id"] == 2
        await sql.execute("UPDATE tasks SET project_id = 1 WHERE id = 1")
        event = await next_change(source)
        assert (event["action"], event["id"], event["cause"]) == ("INSERT", 1, "UPDATE")
        assert [row["id"] for row in (await (await client.get("/tasks/")).json())["results"]] == [1, 2]


async def test_update_of_which_nothing_is_seen_is_no_event(serve: Serve, sql: asyncpg.Connection) -> None:
    """Python streams compare what they render, and the position moves on."""
    module = PYTHON.replace("task.title.upper()", 'task.title.upper() + "!" * (task.salary // 100)')
    client = await serve(RESOURCES, modules={"viewsets": module})
    async with listen(client, "/tasks/stream/") as source:
        await ready(source)
        await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'plan')")
        await next_change(source)
        await sql.execute("UPDATE tasks SET salary = 8")
        await sql.execute("UPDATE tasks SET salary = 100")
        event = await next_change(source)
        assert (event["action"], event["changed"], event["data"]["shout"]) == ("UPDATE", [], "PLAN!")
        await sql.execute("UPDATE tasks SET user_id = 'ann'")
        await sql.execute("UPDATE tasks SET title = 'b'")
        assert (await next_change(source))["changed"] == ["title"]


async def test_update_of_a_hidden_column_is_no_event(serve: Serve, sql: asyncpg.Connection) -> None:
    """A plain stream does not show when a column changes that its serializer leaves out."""
    module = """
from rowcast import AllowAny, ModelViewSet, Serializer, model

class TaskSerializer(Serializer):
    class Meta:
        model = model("tasks")
        fields = ("id", "title")

class TaskViewSet(ModelViewSet):
    permission_classes = [AllowAny]
    serializer_class = TaskSerializer
"""
    client = await serve(RESOURCES, modules={"viewsets": module})
    await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'a')")
    async with listen(client, "/tasks/stream/") as source:
        await ready(source)
        await sql.execute("UPDATE tasks SET salary = 8")
        await sql.execute("UPDATE tasks SET title = 'b'")
        assert (await next_change(source))["changed"] == ["title"]


GRANTS = """
from marshmallow import fields
from rowcast import AllowAny, BaseAuthentication, ModelViewSet, Serializer, User, model

class Key(BaseAuthentication):
    def authenticate(self, request):
        key = request.http.query.get("access_token")
        return key and (User(id="machine"), key)

class TaskSerializer(Serializer):
    sent = fields.Method("get_sent")

    class Meta:
        model = model("tasks")
        fields = ("id", "sent")

    def get_sent(self, task):
        request = self.context["request"]
        return [request.http.cookies.get("team"), str(getattr(request.auth, "token", request.auth))]

class TaskViewSet(ModelViewSet):
    permission_classes = [AllowAny]
    serializer_class = TaskSerializer
"""


@pytest.mark.parametrize("custom", [False, True])
async def test_callers_whom_python_tells_apart_share_nothing(
    serve: Serve, sql: asyncpg.Connection, custom: bool
) -> None:
    """Two cookies, two tokens of one user, and two keys of a custom authentication get rows of their own."""
    module = GRANTS + ("    authentication_classes = [Key]\n" if custom else "")
    client = await serve(RESOURCES, modules={"viewsets": module})
    keys = ["1", "9"] if custom else [await create_token(sql, "ann"), await create_token(sql, "ann")]
    async with AsyncExitStack() as stack:
        sources = [
            await stack.enter_async_context(
                listen(client, f"/tasks/stream/?access_token={key}", headers={"Cookie": f"team={team}"})
            )
            for key in keys
            for team in "ab"
        ]
        for source in sources:
            await ready(source)
        await sql.execute("INSERT INTO tasks (id, title) VALUES (1, 'x')")
        shown = [tuple((await next_change(source))["data"]["sent"]) for source in sources]
    assert len(set(shown)) == 4
