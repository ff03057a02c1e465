"""``Idempotency-Key``: a request that is sent again is answered as before, and its change is made once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse

from rowcast.changes import retention
from rowcast.identity.tokens import create_token

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESOURCES: dict[str, dict[str, Any]] = {
    "notes": {
        "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string", "unique": True}},
        "viewset": {"class": "viewsets:Notes", "permission_classes": ["AllowAny"]},
    },
    "plain": {
        "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string"}},
        "viewset": {"permission_classes": ["AllowAny"]},
    },
    "guarded": {
        "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string"}},
        "viewset": {"permission_classes": ["viewsets:Switch"]},
    },
    "strict": {
        "fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string"}},
        "viewset": {"permission_classes": ["AllowAny"], "require_idempotency_key": True},
    },
}
VIEWSETS = """
import asyncio
from aiohttp import web
from rowcast import BasePermission, ModelViewSet, Response, action, model
from rowcast.errors import Conflict

class Switch(BasePermission):
    allows = True

    def has_permission(self, request, view):
        return Switch.allows

class Notes(ModelViewSet):
    begun, waiting = asyncio.Event(), asyncio.Event()

    @action(detail=False, methods=["post"])
    async def slow(self, request):
        await model("plain").objects.create(text="slow")
        Notes.begun.set()
        await Notes.waiting.wait()
        return {"done": True}

    @action(detail=False, methods=["post"])
    async def refused(self, request):
        return Response({"refused": await model("plain").objects.count()}, status=409)

    @action(detail=False, methods=["post"])
    async def streamed(self, request):
        await model("plain").objects.create(text="streamed")
        response = web.StreamResponse()
        await response.prepare(request.http)
        await response.write(b"part")
        return response

    @action(detail=False, methods=["post"])
    async def cookies(self, request):
        response = web.json_response({"n": await model("plain").objects.count()}, status=202, headers={"X-Own": "yes"})
        response.set_cookie("seen", "1")
        return response

    @action(detail=False, methods=["post"])
    async def caught(self, request):
        try:
            await model("notes").objects.create(text=request.data["text"])
        except Conflict:
            return {"there": True}
        return {"there": False}
"""
KEY = "Idempotency-Key"
LONG = "0123456789abcdef"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(
        databases, tmp_path_factory.mktemp("keys"), RESOURCES, modules={"viewsets": VIEWSETS}
    ) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    """The service, without rows and answers."""
    await _service.sql.execute("TRUNCATE notes, plain, guarded, strict, rowcast.answer RESTART IDENTITY")
    return _service


async def content(response: ClientResponse) -> tuple[Any, ...]:
    names = ("Location", "ETag", "Content-Type", "X-Own")
    return response.status, await response.read(), *(response.headers.get(name) for name in names)


async def code(response: ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["code"]


@pytest.mark.parametrize("path", ["/notes/", "/plain/"])
async def test_the_same_request_has_the_same_answer(service: Service, path: str) -> None:
    """Status, headers and body of each method; the change is made once."""
    for method, address, body in (
        ("POST", path, {"text": "one"}),
        ("PATCH", f"{path}1/", {"text": "two"}),
        ("PUT", f"{path}1", {"text": "three"}),
        ("DELETE", f"{path}1/", None),
    ):
        headers = {KEY: f"{method} {LONG}".replace(" ", "-")}
        first = await service.client.request(method, address, json=body, headers=headers)
        assert first.status in (200, 201, 204)
        assert "Idempotency-Replayed" not in first.headers
        again = await service.client.request(method, address, json=body, headers=headers)
        assert again.headers["Idempotency-Replayed"] == "true"
        assert await content(again) == await content(first)
    last = await service.sql.fetchval(f"SELECT nextval(pg_get_serial_sequence('{path.strip('/')}', 'id'))")
    assert last == 2


async def test_a_precondition_is_judged_once(service: Service) -> None:
    """A change with ``If-Match`` that succeeded is not a 412 when it is sent again."""
    await service.client.post("/plain/", json={"text": "one"})
    tag = (await service.client.get("/plain/1/")).headers["ETag"]
    headers = {KEY: LONG, "If-Match": tag}
    for _ in range(2):
        assert (await service.client.patch("/plain/1/", json={"text": "two"}, headers=headers)).status == 200
    assert (await service.client.patch("/plain/1/", json={"text": "3"}, headers={"If-Match": tag})).status == 412


async def test_a_key_of_another_request_is_refused(service: Service) -> None:
    """Another method, path, query or body."""
    client, headers = service.client, {KEY: LONG}
    for text in "ab":
        await client.post("/notes/", json={"text": text})
    assert (await client.patch("/notes/1/", json={"text": "c"}, headers=headers)).status == 200
    for method, address, body in (
        ("PUT", "/notes/1/", {"text": "c"}),
        ("PATCH", "/notes/2/", {"text": "c"}),
        ("PATCH", "/notes/1/?fields=id", {"text": "c"}),
        ("PATCH", "/notes/1/", {"text": "d"}),
        ("DELETE", "/notes/1/", None),
    ):
        reused = await client.request(method, address, json=body, headers=headers)
        assert await code(reused) == (422, "idempotency_key_reused")
    assert (await client.patch("/notes/1", json={"text": "c"}, headers=headers)).status == 200
    assert (await client.patch("/plain/1/", json={"text": "c"}, headers=headers)).status == 404  # another route


async def test_a_running_request_is_not_waited_for(service: Service) -> None:
    """A 409 at once, and the answer once there is one."""
    headers = {KEY: LONG}
    first = asyncio.create_task(service.client.post("/notes/slow/", json={}, headers=headers))
    notes = service.service.plans["notes"].viewset
    await asyncio.wait_for(notes.begun.wait(), 10)
    again = await service.client.post("/notes/slow/", json={}, headers=headers)
    assert (await code(again), again.headers["Retry-After"]) == ((409, "idempotency_key_in_use"), "1")
    notes.waiting.set()
    assert (await first).status == 200
    replayed = await service.client.post("/notes/slow/", json={}, headers=headers)
    assert (replayed.status, replayed.headers["Idempotency-Replayed"]) == (200, "true")
    assert await service.sql.fetchval("SELECT count(*) FROM plain") == 1


async def test_requests_at_once_make_one_row(service: Service) -> None:
    """However many there are: each is answered with the row, or with the 409 of a request that is running."""
    headers = {KEY: LONG}
    answers = await asyncio.gather(
        *(service.client.post("/plain/", json={"text": "one"}, headers=headers) for _ in range(30))
    )
    assert {answer.status for answer in answers} <= {201, 409}
    assert {await answer.read() for answer in answers if answer.status == 201} == {b'{"id":1,"text":"one"}'}
    assert await service.sql.fetchval("SELECT count(*) FROM plain") == 1


async def test_a_refusal_is_judged_again(service: Service) -> None:
    """Errors, and errors that an action returns, are not recorded."""
    client, headers = service.client, {KEY: LONG}
    taken = await client.post("/notes/", json={"text": "one"})
    assert taken.status == 201
    assert await code(await client.post("/notes/", json={"text": "one"}, headers=headers)) == (409, "unique")
    assert await service.sql.fetchval("SELECT count(*) FROM rowcast.answer") == 0
    assert (await client.delete("/notes/1/")).status == 204
    assert (await client.post("/notes/", json={"text": "one"}, headers=headers)).status == 201
    for number in range(2):
        refused = await client.post("/notes/refused/", json={}, headers=headers)
        assert (refused.status, await refused.json()) == (409, {"refused": number})
        await client.post("/plain/", json={"text": "x"})


async def test_whatever_an_action_returns(service: Service) -> None:
    """Headers and cookies are kept; a stream is carried out once, and its answer is not there again."""
    client, headers = service.client, {KEY: LONG}
    first = await client.post("/notes/cookies/", json={}, headers=headers)
    again = await client.post("/notes/cookies/", json={}, headers=headers)
    assert await content(again) == await content(first)
    assert again.cookies["seen"].value == "1"
    assert (await client.post("/notes/streamed/", json={}, headers=headers)).status == 200
    lost = await client.post("/notes/streamed/", json={}, headers=headers)
    assert await code(lost) == (409, "idempotency_answer_not_kept")
    assert await service.sql.fetchval("SELECT count(*) FROM plain") == 1


async def test_a_failed_transaction_is_not_recorded(service: Service) -> None:
    """An action that catches an error of the database is answered, and nothing is committed."""
    await service.client.post("/notes/", json={"text": "one"})
    for _ in range(2):
        answer = await service.client.post("/notes/caught/", json={"text": "one"}, headers={KEY: LONG})
        assert (answer.status, await answer.json()) == (200, {"there": True})
        assert "Idempotency-Replayed" not in answer.headers


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("short", "at least 16"),
        ('"short"', "at least 16"),
        ("", "printable"),
        ('"' + LONG, "printable"),
        ("with space " + LONG, "printable"),
        ("é" * 20, "printable"),
        (f'"{LONG}"; a=1', "printable"),
        ("x" * 256, "at most 255"),
    ],
)
async def test_a_malformed_key_is_refused(service: Service, key: str, problem: str) -> None:
    """A 400 that says what is valid; nothing is written."""
    refused = await service.client.post("/plain/", json={"text": "one"}, headers={KEY: key})
    document = await refused.json()
    assert (refused.status, document["code"]) == (400, "invalid_idempotency_key")
    assert problem in document["detail"]
    assert await service.sql.fetchval("SELECT count(*) FROM plain") == 0


async def test_quotes_make_no_difference(service: Service) -> None:
    """A key with quotes is the same as without; 255 characters are valid."""
    key = "x" * 255
    first = await service.client.post("/plain/", json={"text": "one"}, headers={KEY: key})
    again = await service.client.post("/plain/", json={"text": "one"}, headers={KEY: f'"{key}"'})
    assert (first.status, again.status) == (201, 201)
    assert again.headers["Idempotency-Replayed"] == "true"
    twice = await service.client.post("/plain/", json={"text": "one"}, headers=[(KEY, key), (KEY, key)])
    assert await code(twice) == (400, "invalid_idempotency_key")


async def test_a_viewset_may_require_a_key(service: Service) -> None:
    """A 400 without it; safe methods ignore it."""
    missing = await service.client.post("/strict/", json={"text": "one"})
    assert await code(missing) == (400, "idempotency_key_required")
    assert (await service.client.post("/strict/", json={"text": "one"}, headers={KEY: LONG})).status == 201
    for key in ("x", LONG):
        assert (await service.client.get("/strict/1/", headers={KEY: key})).status == 200
    document = await (await service.client.get("/openapi.json")).json()
    for path, required in (("/strict/", True), ("/plain/", False)):
        (header,) = (each for each in document["paths"][path]["post"]["parameters"] if each["name"] == KEY)
        assert header.get("required", False) is required
        assert "422" in document["paths"][path]["post"]["responses"]


async def test_a_batch_has_one_key(service: Service) -> None:
    """All of it is made once, also where a viewset requires a key."""
    operations = [{"method": "POST", "path": f"/{name}/", "body": {"text": "x"}} for name in ("plain", "strict")]
    missing = await service.client.post("/batch/", json={"operations": operations})
    assert await code(missing) == (400, "idempotency_key_required")
    failing = [*operations, {"method": "DELETE", "path": "/plain/9/"}]
    assert (await service.client.post("/batch/", json={"operations": failing}, headers={KEY: LONG})).status == 404
    first, again = [
        await service.client.post("/batch/", json={"operations": operations}, headers={KEY: LONG}) for _ in range(2)
    ]
    assert (first.status, await content(first)) == (200, await content(again))
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await service.sql.fetchval("SELECT (SELECT count(*) FROM plain) + (SELECT count(*) FROM strict)") == 2
    other = await service.client.post("/batch/", json={"operations": operations[:1]}, headers={KEY: LONG})
    assert await code(other) == (422, "idempotency_key_reused")


async def test_callers_have_keys_of_their_own(service: Service) -> None:
    """The same key of two users is two keys; a user's may be short."""
    answers = []
    for user in ("ada", "bob"):
        token = await create_token(service.sql, user)
        headers = {KEY: "k", "Authorization": f"Bearer {token}"}
        answers += [await service.client.post("/plain/", json={"text": "x"}, headers=headers) for _ in range(2)]
    assert [(await answer.json())["id"] for answer in answers] == [1, 1, 2, 2]


async def test_a_replay_needs_the_permission(service: Service) -> None:
    """A caller who may not do it any more gets a 403, not the answer of before."""
    headers = {KEY: "k", "Authorization": f"Bearer {await create_token(service.sql, 'eve')}"}
    assert (await service.client.post("/guarded/", json={"text": "x"}, headers=headers)).status == 201
    permission: Any = service.service.plans["guarded"].permission_classes[0]
    permission.allows = False
    refused = await service.client.post("/guarded/", json={"text": "x"}, headers=headers)
    assert await code(refused) == (403, "permission_denied")


async def test_answers_are_removed_after_a_while(service: Service) -> None:
    """After that the key is a new one."""
    headers = {KEY: LONG}
    await service.client.post("/plain/", json={"text": "x"}, headers=headers)
    await retention.forget_answers(service.sql, 3600)
    assert await service.sql.fetchval("SELECT count(*) FROM rowcast.answer") == 1
    await service.sql.execute("UPDATE rowcast.answer SET at = at - interval '2 h'")
    await retention.forget_answers(service.sql, 3600)
    again = await service.client.post("/plain/", json={"text": "x"}, headers=headers)
    assert (await again.json())["id"] == 2
