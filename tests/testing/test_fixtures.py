"""The fixtures of ``rowcast.testing``, with the demo's config: it is the ``config`` of this project."""

from __future__ import annotations

import subprocess
import sys
import time

import asyncpg
import pytest

from rowcast.orm.model import model
from rowcast.rest.plan import SERVICE
from rowcast.testing import Client, Factory, StreamReset

from ..conftest import ROOT, Serve


@pytest.fixture
def database_url(rowcast_database: str) -> str:
    """The test's database, for the ``sql`` of these tests."""
    return rowcast_database


async def test_each_test_has_a_database_of_its_own(client: Client, make: Factory) -> None:
    """A row of this test is nobody else's."""
    await make("categories", name="first")
    assert (await (await client.get("/categories/")).json())["count"] == 1


async def test_rows_of_another_test_are_not_there(client: Client) -> None:
    """Whatever the order in which the tests run."""
    assert (await (await client.get("/categories/")).json())["count"] == 0


async def test_a_test_after_the_first_takes_less_than_300_ms(
    rowcast_database: str, client: Client, request: pytest.FixtureRequest
) -> None:
    """The database, the service and the client, of which the fixture above has made one already."""
    from rowcast.testing.client import running

    server, template = request.getfixturevalue("rowcast_server"), request.getfixturevalue("rowcast_template")
    times: list[float] = []
    while len(times) < 20 and min(times, default=1) >= 0.3:  # other processes may be busy
        begin = time.perf_counter()
        async with (
            server.copy(template) as url,
            running(request.getfixturevalue("rowcast_config"), url, migrated=True) as other,
            other.get("/tasks/") as response,
        ):
            assert response.status == 200
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.3, times


async def test_rows_are_valid_and_differ(client: Client, make: Factory) -> None:
    """What a row needs is made up; a foreign key leads to a new row."""
    comments = await make.many("comments", 2, body="Good")
    assert comments[0].author != comments[1].author
    assert comments[0].task_id != comments[1].task_id
    for comment in comments:
        async with client.get(f"/comments/{comment.id}/?expand=task") as response:
            body = await response.json()
        assert (body["author"], body["body"], body["task"]["id"]) == (comment.author, "Good", str(comment.task_id))
    task = await make("tasks", category=await make("categories"), tags=[(await make("tags")).id])
    async with client.get(f"/tasks/{task.id}/?expand=tags") as response:
        body = await response.json()
    assert body["category_id"] == str(task.category_id)
    assert len(body["tags"]) == 1
    with pytest.raises(LookupError, match=r"no resource 'task'; did you mean tasks\?"):
        await make("task")
    with pytest.raises(LookupError, match=r"tasks has no field 'titel'; did you mean title\?"):
        await make("tasks", titel="x")


async def test_models_work_in_a_test(client: Client, make: Factory) -> None:
    """They find the database of the test's service."""
    await make.many("categories", 3)
    assert await model("categories").objects.count() == 3


async def test_users_come_with_either_kind_of_credentials(serve: Serve) -> None:
    """Whatever built-in authentication a viewset has. The client itself stays anonymous."""
    fields = "fields: {name: {type: string}, owner: {type: string}}\n"
    client = await serve(
        {
            name: f"{fields}viewset: {{authentication_classes: [{kind}Authentication], {options}}}"
            for name, kind, options in (
                ("bills", "Token", "permission_classes: [IsAuthenticated], scope: {owner: $user.id}"),
                ("letters", "JWT", "permission_classes: [IsAdminUser], scope: {owner: $claims.org}"),
            )
        }
    )
    make = Factory(client.app[SERVICE])
    await make("bills", owner="ann")
    await make("letters", owner="acme")
    ann, bob = client.as_user("ann"), client.as_user("bob", staff=True, claims={"org": "acme"})
    for caller, path, expected in (
        (client, "/bills/", 401), (ann, "/bills/", 1), (bob, "/bills/", 0),
        (client, "/letters/", 401), (ann, "/letters/", 403), (bob, "/letters/", 1),
    ):  # fmt: skip
        async with caller.get(path) as response:
            body = await response.json()
            assert (body["count"] if response.status == 200 else response.status) == expected, path
    async with client.get("/bills/", headers={"Authorization": "Bearer rc_test.1.0"}) as response:
        assert response.status == 401


async def test_streams_send_what_a_test_and_other_programs_write(
    client: Client, make: Factory, sql: asyncpg.Connection
) -> None:
    """From when the stream is open; changes that were read are collected."""
    category = await make("categories", name="before")
    async with client.as_user("ann").stream("/categories/stream/?name__icontains=r") as changes:
        await make("categories", name="other")
        change = await changes.next()
        assert (change["action"], change["data"]["name"]) == ("INSERT", "other")
        await sql.execute("UPDATE categories SET name = 'here' WHERE id = $1", category.id)
        await sql.execute("DELETE FROM categories WHERE id = $1", category.id)
        assert [each["action"] for each in await changes.take(2)] == ["UPDATE", "DELETE"]
        assert len(changes.received) == 3
        position = changes.position
        await sql.execute("TRUNCATE categories CASCADE")
        with pytest.raises(StreamReset, match="truncated"):
            await changes.next()
    async with client.stream("/categories/stream/", last_event_id=position) as changes:
        with pytest.raises(StreamReset):
            await changes.next()


async def test_a_stream_resumes_after_the_last_change_that_was_read(client: Client, sql: asyncpg.Connection) -> None:
    """Also if others have arrived together with it."""
    async with client.stream("/categories/stream/") as changes:
        await sql.execute("INSERT INTO categories (name) VALUES ('a'), ('b'), ('c')")
        assert (await changes.next())["data"]["name"] == "a"
        position = changes.position
    async with client.stream("/categories/stream/", last_event_id=position) as changes:
        assert [each["data"]["name"] for each in await changes.take(2)] == ["b", "c"]


def test_a_project_without_a_config_directory_pays_nothing() -> None:
    """The plugin imports neither the service nor a fixture."""
    code = "import rowcast.testing, sys; print([n for n in sys.modules if n.startswith(('rowcast.', 'aiohttp', 'pytest'))])"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT / "service"
    )
    assert done.stdout == "['rowcast.testing']\n"
