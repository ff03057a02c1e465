"""``POST /batch/``: several changes in one transaction, each as if it had come alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rowcast.errors import ConfigurationError

from ..conftest import configure
from ..databases import Databases
from ..sse import listen
from .conftest import running
from .library import Service, check_problem
from .test_declared_scope import SECRET, bearer

SETTINGS = f"""
auth: {{jwt: {{secret: {SECRET}, audience: rowcast}}, default_permission_classes: [AllowAny]}}
throttle: {{rates: {{few: 3/min}}}}
server: {{batch_limit: 20}}
"""
KEY: dict[str, Any] = {"type": "integer", "primary_key": True}
NAME: dict[str, Any] = {"type": "string", "max_length": 20}
RESOURCES: dict[str, Any] = {
    "authors": {
        "fields": {"id": KEY, "name": {**NAME, "unique": True}},
        "viewset": {"class": "views:AuthorViewSet", "cache": "responses"},
    },
    "books": {
        "fields": {
            "id": KEY,
            "title": {**NAME, "min_length": 2},
            "author": {"type": "foreign_key", "to": "authors"},
            "tags": {"type": "many_to_many", "to": "tags"},
            "meta": {"type": "json", "null": True},
            "price": {"type": "decimal", "max_digits": 40, "decimal_places": 20, "null": True},
        },
    },
    "tags": {"fields": {"id": {"type": "uuid", "primary_key": True}, "slug": {**NAME, "unique": True}},
             "viewset": {"lookup_field": "slug"}},
    "lines": {"primary_key": ["book", "number"],
              "fields": {"book": {"type": "integer"}, "number": {"type": "integer"}, "text": {**NAME, "default": ""}}},
    "secrets": {"fields": {"id": KEY, "name": NAME}, "viewset": {"permission_classes": ["IsAuthenticated"]}},
    "notes": {"fields": {"id": KEY, "owner": NAME}, "viewset": {"scope": {"owner": "$user.id"}}},
    "slow": {"fields": {"id": KEY, "name": NAME},
             "viewset": {"throttle_classes": ["ScopedRateThrottle"], "throttle_scope": "few"}},
    "versions": {"fields": {"id": KEY, "name": NAME}, "viewset": {"require_if_match": True}},
}  # fmt: skip
VIEWS = """
from aiohttp import web

from rowcast import ModelViewSet, Response, action, model
from rowcast.query.store import STORE


class AuthorViewSet(ModelViewSet):
    @action(detail=True, methods=["POST"])
    async def shout(self, request, id):
        author = await self.get_object(id)
        author.name = author.name.upper()
        await author.save()
        return author

    @action(detail=False, methods=["POST"])
    async def refuse(self, request):
        await model("authors").objects.create(name="refused")
        return Response({"why": "teapot"}, status=418, headers={"X-Why": "tea"})

    @action(detail=False, methods=["POST"])
    async def crash(self, request):
        raise RuntimeError("broken")

    @action(detail=False, methods=["POST"])
    async def text(self, request):
        return Response("as it is", content_type="text/plain")

    @action(detail=False, methods=["POST"])
    async def octets(self, request):
        return Response(b"\\xff\\xfe", content_type="application/octet-stream")

    @action(detail=False, methods=["POST"])
    async def broken_json(self, request):
        return web.Response(body=b"{", content_type="application/json")

    @action(detail=False, methods=["POST"])
    async def streams(self, request):
        response = web.StreamResponse()
        await response.prepare(request.http)
        await response.write(b"HTTP")
        return response

    @action(detail=False, methods=["POST"])
    async def unprepared(self, request):
        return web.StreamResponse()

    @action(detail=False, methods=["POST"])
    async def upgrades(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request.http)
        return socket

    @action(detail=False, methods=["POST"])
    async def echo(self, request):
        return {"data": request.data, "id": request.headers.get("X-Request-ID"), "raw": (await request.text()), "query": dict(request.query_params)}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("batch")
    async with running(databases, directory, RESOURCES, SETTINGS, {"views": VIEWS}) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    """The resources, empty."""
    await _service.sql.execute(
        "TRUNCATE authors, books, tags, lines, secrets, notes, slow, versions RESTART IDENTITY CASCADE"
    )
    return _service


pytestmark = pytest.mark.asyncio(loop_scope="module")


def change(method: str, path: str, body: Any = None, **members: Any) -> dict[str, Any]:
    """An operation."""
    return {"method": method, "path": path, **({} if body is None else {"body": body}), **members}


async def send(service: Service, *operations: Any, status: int = 200, **options: Any) -> Any:
    """The results of a batch, or its problem document."""
    _, body = await service.ask("POST", "/batch/", {"operations": list(operations)}, status=status, **options)
    return body["results"] if status == 200 else body


async def count(service: Service, table: str = "authors") -> int:
    """The number of rows of a table."""
    found: int = await service.sql.fetchval(f"SELECT count(*) FROM {table}")
    return found


AUTHOR = change("POST", "/authors/", {"name": "eliot"}, ref="a")


# --- what is carried out


async def test_operations_run_in_order_with_references(service: Service) -> None:
    """Each result is what the operation alone is answered with: status, headers, body; keys of earlier rows are values."""
    results = await send(
        service,
        AUTHOR,
        change("POST", "/tags", {"slug": "a b/c", "id": "00000000-0000-4000-8000-000000000001"}, ref="tag"),
        change("POST", "/books/?", {"title": "one", "author_id": {"$ref": "a"}, "tags": [{"$ref": "tag"}]}, ref="b"),
        change("PATCH", "/authors/{a}/", {"name": "George"}),
        change("POST", "/authors/{a}/shout"),
        change("PATCH", "/tags/{tag}/", {"slug": "novel"}),
        change(
            "POST", "/books/", {"title": "two", "author_id": {"$ref": "a"}, "meta": {"of": [{"$ref": "b"}]}}, ref="c"
        ),
        change("DELETE", "/books/{b}/"),
    )
    assert [each["status"] for each in results] == [201, 201, 201, 200, 200, 200, 201, 204]
    assert results[0]["body"] == {"id": 1, "name": "eliot"}
    assert results[0]["headers"]["Location"].endswith("/authors/1/")
    assert results[0]["headers"]["ETag"]
    assert "Content-Type" not in results[0]["headers"]
    assert results[4]["body"]["name"] == "GEORGE"
    assert results[6]["body"]["meta"] == {"of": [1]}
    assert results[7] == {"status": 204, "headers": {}, "body": None}
    shown = await service.get("/authors/1/")
    assert shown == results[4]["body"]
    assert [row["title"] for row in await service.rows("/books/")] == ["two"]


async def test_key_of_several_fields_is_referred_to(service: Service) -> None:
    """In a path as its address, in a body as the text that events have."""
    results = await send(
        service,
        change("POST", "/lines/", {"book": 3, "number": 4}, ref="l"),
        change("PATCH", "/lines/{l}/", {"text": {"$ref": "l"}}),
    )
    assert results[1]["body"] == {"book": 3, "number": 4, "text": "3,4"}


async def test_operations_may_be_about_many_rows(service: Service) -> None:
    """Arrays, and keys of a query string; the errors of a row are under its place, and the operation's is beside them."""
    results = await send(
        service,
        AUTHOR,
        change("POST", "/authors/", [{"name": "two"}, {"name": "three"}]),
        change("PATCH", "/authors/", [{"id": {"$ref": "a"}, "name": "one"}]),
        change("DELETE", "/authors/?id__in={a},2"),
    )
    assert [each["status"] for each in results] == [201, 201, 200, 204]
    assert results[3]["headers"]["X-Deleted"] == "2"
    assert [row["name"] for row in await service.rows("/authors/")] == ["three"]
    batch = {"operations": [AUTHOR, change("POST", "/authors/", [{"name": "x"}, {"name": "three"}])]}
    response = await service.client.post("/batch/", json=batch)
    problem = await response.json()
    assert (response.status, problem["operation"], list(problem["errors"])) == (409, 1, ["1"])
    assert await count(service) == 1


async def test_objects_that_look_like_references_can_be_written(service: Service) -> None:
    """One dollar sign more is the object itself; with other members it is no reference."""
    meta = [{"$$ref": "a"}, {"$$$ref": {"$ref": "a"}}, {"$ref": "x", "type": 1}, {"$id": 1}]
    results = await send(service, AUTHOR, change("POST", "/books/", {"title": "one", "author_id": 1, "meta": meta}))
    assert results[1]["body"]["meta"] == [{"$ref": "a"}, {"$$ref": 1}, {"$ref": "x", "type": 1}, {"$id": 1}]


async def test_numbers_keep_their_digits(service: Service) -> None:
    """Those of bodies, and those of answers."""
    price, big = "12345678901234567890.12345678901234567890", "123456789012345678901234567890.5"
    body = '{"operations": [{"method": "POST", "path": "/authors/", "body": {"name": "a"}}, {"method": "POST", "path": "/books/",'
    body += f' "body": {{"title": "one", "author_id": 1, "price": {price}, "meta": [{big}, 1e30]}}}}]}}'
    response = await service.client.post("/batch", data=body, headers={"Content-Type": "application/json"})
    text = await response.text()
    assert response.status == 200, text
    assert f'"price":"{price}"' in text
    assert big in text


async def test_query_strings_bodies_and_headers_are_the_operations_own(service: Service) -> None:
    """The body is read as JSON and as text; the request id is that of the batch."""
    results = await send(
        service,
        change("POST", "/authors/echo/?a=%C3%A9&b=%26", {"x": [1, None]}),
        change("POST", "/authors/echo/"),
        change("POST", "/authors/text/"),
        headers={"X-Request-ID": "request-of-mine"},
    )
    assert results[0]["body"] == {
        "data": {"x": [1, None]},
        "id": "request-of-mine",
        "raw": '{"x":[1,null]}',
        "query": {"a": "é", "b": "&"},
    }
    assert results[1]["body"] == {"data": {}, "id": "request-of-mine", "raw": "", "query": {}}
    assert results[2]["body"] == "as it is"
    assert results[2]["headers"]["Content-Type"].startswith("text/plain")


async def test_if_match_is_of_the_operation(service: Service) -> None:
    """A tag that is not current is the 412 of the operation; a tag of the batch itself is refused."""
    (made,) = await send(service, change("POST", "/versions/", {"name": "x"}))
    tag = made["headers"]["ETag"]
    problem = await send(service, change("PATCH", "/versions/1/", {"name": "y"}), status=428)
    assert problem["operation"] == 0
    await send(service, change("PATCH", "/versions/1/", {"name": "y"}, if_match=tag))
    problem = await send(service, AUTHOR, change("PATCH", "/versions/1/", {"name": "z"}, if_match=tag), status=412)
    assert problem["operation"] == 1
    assert await count(service) == 0
    await send(service, AUTHOR, status=412, headers={"If-Match": tag})


# --- all or nothing


@pytest.mark.parametrize(
    ("operation", "status", "code"),
    [
        (change("POST", "/books/", {"title": "x", "author_id": 1}), 400, "invalid"),
        (change("POST", "/books/", {"title": "good", "author_id": 99}), 400, "does_not_exist"),
        (change("POST", "/authors/", {"name": "eliot"}), 409, "unique"),
        (change("DELETE", "/books/77/"), 404, "not_found"),
        (change("POST", "/nowhere/"), 404, "not_found"),
        (change("POST", "/openapi.json"), 405, "method_not_allowed"),
        (change("PUT", "/authors/stream/"), 405, "method_not_allowed"),
        (change("POST", "/secrets/", {"name": "x"}), 401, "not_authenticated"),
        (change("POST", "/authors/refuse/"), 418, "operation_failed"),
        (change("POST", "/authors/streams/"), 400, "not_in_batch"),
        (change("POST", "/authors/unprepared/"), 400, "not_in_batch"),
        (change("POST", "/authors/octets/"), 400, "not_in_batch"),
        (change("POST", "/authors/broken_json/"), 400, "not_in_batch"),
        (change("POST", "/batch/", {"operations": []}), 400, "invalid"),
        (change("POST", "/b%61tch", {"operations": []}), 400, "invalid"),
        (change("POST", "/authors/", "x"), 400, None),
        (change("POST", "/books/", {"title": "xx", "author_id": {"$ref": "gone"}}), 400, "invalid"),
    ],
)  # fmt: skip
async def test_failure_in_the_middle_writes_nothing(service: Service, operation: Any, status: int, code: str) -> None:
    """The answer is the operation's problem document, status and headers, with its place in the batch."""
    await service.sql.execute("INSERT INTO tags (id, slug) VALUES ('00000000-0000-4000-8000-000000000001', 't')")
    before = [AUTHOR, change("DELETE", "/tags/t/", ref="gone")]
    response, body = await service.ask(
        "POST", "/batch/", {"operations": [*before, operation, change("POST", "/authors/", {"name": "never"})]}
    )
    assert response.status == status, body
    assert code is None or body["code"] == code
    assert body["operation"] == 2
    assert await count(service) == 0
    assert await count(service, "tags") == 1
    if status == 401:
        assert "WWW-Authenticate" in response.headers
    if status == 418:
        assert body["body"] == {"why": "teapot"}
        assert response.headers["X-Why"] == "tea"


async def test_upgrade_is_refused(service: Service) -> None:
    """The connection stays a connection of HTTP."""
    headers = {
        "Connection": "upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "A" * 22 + "==",
    }
    problem = await send(service, AUTHOR, change("POST", "/authors/upgrades/"), status=400, headers=headers)
    assert problem["operation"] == 1
    assert await count(service) == 0


async def test_defect_is_a_500_that_names_the_operation(service: Service) -> None:
    """Nothing is written, and the service goes on."""
    response = await service.client.post("/batch/", json={"operations": [AUTHOR, change("POST", "/authors/crash/")]})
    assert response.status == 500
    assert (await response.json())["operation"] == 1
    assert await count(service) == 0


async def test_answers_from_memory_are_current_after_the_commit_only(service: Service) -> None:
    """A failed batch is never seen, and a successful one is seen by the next request."""
    await send(service, AUTHOR)
    assert len(await service.rows("/authors/")) == 1
    await send(service, change("PATCH", "/authors/1/", {"name": "other"}), change("DELETE", "/authors/9/"), status=404)
    assert [row["name"] for row in await service.rows("/authors/")] == ["eliot"]
    await send(service, change("PATCH", "/authors/1/", {"name": "other"}))
    assert [row["name"] for row in await service.rows("/authors/")] == ["other"]


async def test_streams_get_the_changes_together(service: Service) -> None:
    """The changes of two resources are in one tick, in their order."""
    async with listen(service.client, "/stream/?resources=authors,books") as source:
        await source.next()
        await send(service, AUTHOR, change("POST", "/books/", {"title": "one", "author_id": {"$ref": "a"}}))
        events = [await source.next(), await source.next()]
    assert [event.json()["resource"] for event in events] == ["authors", "books"]
    assert len({event.id.rpartition("-")[0] for event in events}) == 1, [event.id for event in events]


# --- who may


async def test_each_operation_is_authorised_within_its_scope(service: Service) -> None:
    """Credentials are those of the batch; rows of another caller do not exist."""
    await service.sql.execute("INSERT INTO notes (owner) VALUES ('bob')")
    results = await send(
        service,
        change("POST", "/secrets/", {"name": "x"}),
        change("POST", "/notes/", {}),
        headers=bearer("ann"),
    )
    assert results[1]["body"]["owner"] == "ann"
    problem = await send(
        service, change("POST", "/notes/", {}), change("DELETE", "/notes/1/"), status=404, headers=bearer("ann")
    )
    assert problem["operation"] == 1
    assert await count(service, "notes") == 2
    problem = await send(service, AUTHOR, status=401, headers={"Authorization": "Bearer nonsense"})
    assert problem["code"] == "authentication_failed"


async def test_each_operation_is_throttled(service: Service) -> None:
    """Operations count one by one, also those of a batch that fails."""
    caller = bearer("fast")
    operation = change("POST", "/slow/", {"name": "x"})
    results = await send(service, operation, operation, headers=caller)
    assert "r=1" in results[1]["headers"]["RateLimit"]
    response, problem = await service.ask(
        "POST", "/batch/", {"operations": [operation, operation]}, status=429, headers=caller
    )
    assert problem["operation"] == 1
    assert response.headers["Retry-After"]
    assert await count(service, "slow") == 2
    await service.ask("POST", "/slow/", {"name": "x"}, status=429, headers=caller)


async def test_callers_are_followed_in_the_database(databases: Databases, tmp_path: Path) -> None:
    """Viewsets that recognise callers differently have each the settings of their own, in one transaction."""
    views = """
from rowcast import BaseAuthentication, PermissionDenied, User, ViewSet
from rowcast.query.store import STORE

SQL = "SELECT current_setting('app.user', true) AS name"

class ByHeader(BaseAuthentication):
    def authenticate(self, request):
        return (User(id=request.headers["X-Name"]), None)

class WhoViewSet(ViewSet):
    async def create(self, request):
        row = await STORE.get().database.fetch(SQL, ())
        try:
            async with STORE.get().database.transaction():
                with STORE.get().database.as_service():
                    await STORE.get().database.fetch(SQL, ())
                raise LookupError
        except LookupError:
            pass
        return {"name": row["name"], "again": (await STORE.get().database.fetch(SQL, ()))["name"]}

class OtherViewSet(WhoViewSet):
    authentication_classes = [ByHeader]
"""
    urls = """
from rowcast import DefaultRouter
from views import OtherViewSet, WhoViewSet

router = DefaultRouter()
router.register("who", WhoViewSet, basename="who")
router.register("other", OtherViewSet, basename="other")
"""
    settings = SETTINGS + 'database: {session: {app.user: "$user.id"}}'
    resources, modules = {"authors": {"fields": {"id": KEY, "name": NAME}}}, {"views": views, "urls": urls}
    who, other = change("POST", "/who/"), change("POST", "/other/")
    async with running(databases, tmp_path, resources, settings, modules) as service:
        for _ in range(2):
            results = await send(service, who, other, other, who, headers={**bearer("ann"), "X-Name": "bob"})
            assert [each["body"]["name"] for each in results] == ["ann", "bob", "bob", "ann"]
            assert [each["body"]["again"] for each in results] == ["ann", "bob", "bob", "ann"]
            assert (await send(service, who))[0]["body"]["name"] == ""


# --- bodies that are not batches


@pytest.mark.parametrize(
    ("operations", "operation", "path"),
    [
        ([], None, "operations"),
        ("x", None, "operations"),
        ([AUTHOR, 1], 1, "non_field_errors"),
        ([AUTHOR, {}], 1, "method"),
        ([change("GET", "/authors/")], 0, "method"),
        ([change("QUERY", "/authors/")], 0, "method"),
        ([change("OPTIONS", "/authors/")], 0, "method"),
        ([change("post", "/authors/")], 0, "method"),
        ([{"method": ["POST"], "path": "/authors/"}], 0, "method"),
        ([{"method": "POST"}], 0, "path"),
        ([change("POST", "authors/")], 0, "path"),
        ([change("POST", "//authors/")], 0, "path"),
        ([change("POST", "http://other/authors/")], 0, "path"),
        ([change("POST", "/authors/#x")], 0, "path"),
        ([change("POST", "/auth\r\nors/")], 0, "path"),
        ([change("POST", "/é/")], 0, "path"),
        ([change("POST", "/authors/", pth="x")], 0, "pth"),
        ([change("POST", "/authors/", ref="a.b")], 0, "ref"),
        ([change("POST", "/authors/", ref=None)], 0, "ref"),
        ([change("POST", "/authors/", if_match="a\nb: c")], 0, "if_match"),
        ([AUTHOR, AUTHOR], 1, "ref"),
        ([AUTHOR, change("POST", "/books/", {"tags": [1, {"$ref": "b"}]})], 1, "body.tags.1"),
        ([AUTHOR, change("POST", "/books/", {"author_id": {"$ref": ["a"]}})], 1, "body.author_id"),
        ([change("POST", "/authors/", {"name": {"$ref": "a"}}, ref="a")], 0, "body.name"),
        ([change("POST", "/authors/{b}/", ref="a")], 0, "path"),
        ([AUTHOR, change("POST", "/authors/{}/")], 1, "path"),
    ],
)
async def test_mistakes_name_the_operation_and_the_place(
    service: Service, operations: Any, operation: int | None, path: str
) -> None:
    """Before anything is carried out."""
    _, body = await service.ask("POST", "/batch/", {"operations": operations}, status=400)
    assert body.get("operation") == operation
    assert list(body["errors"]) == [path]
    assert await count(service) == 0


async def test_messages_say_what_is_valid(service: Service) -> None:
    """The nearest name, or the methods."""
    problem = await send(service, change("POST", "/authors/", bdoy={}), status=400)
    assert problem["errors"] == {"bdoy": ["Unknown member; did you mean body?"]}
    problem = await send(service, AUTHOR, change("POST", "/books/", {"author_id": {"$ref": "aa"}}), status=400)
    assert problem["errors"] == {"body.author_id": ["No earlier operation has the ref 'aa'; did you mean a?"]}
    problem = await send(service, change("GET", "/authors/"), status=400)
    assert problem["errors"] == {"method": ["Must be one of POST, PUT, PATCH, DELETE: a batch has changes alone."]}
    problem = await send(
        service, change("POST", "/authors/text/", ref="t"), change("DELETE", "/authors/{t}/"), status=400
    )
    assert problem["errors"] == {"path": ["The operation 't' is not answered with a row."]}
    problem = await send(
        service,
        change("POST", "/authors/echo/", ref="t"),
        change("POST", "/books/", {"author_id": {"$ref": "t"}}),
        status=400,
    )
    assert problem["operation"] == 1


async def test_limits(service: Service) -> None:
    """Of operations, of the body as a whole, and of nesting."""
    await send(service, *(change("POST", "/authors/", {"name": str(n)}) for n in range(20)))
    problem = await send(service, *(change("POST", "/authors/", {"name": f"x{n}"}) for n in range(21)), status=413)
    assert problem["detail"] == "A batch may have 20 operations, and this one has 21."
    await send(service, change("POST", "/authors/", {"name": "x" * 2_000_000}), status=413)
    deep: Any = 1
    for _ in range(230):
        deep = [deep]
    problem = await send(
        service, AUTHOR, change("POST", "/books/", {"title": "xx", "author_id": 1, "meta": deep}), status=400
    )
    assert problem["operation"] == 1
    assert await count(service) == 20


async def test_other_requests_are_refused(service: Service) -> None:
    """Methods, parameters, media types, and other members than operations."""
    await service.ask("GET", "/batch/", status=405)
    await service.ask("POST", "/batch/?x=1", {"operations": [AUTHOR]}, status=400)
    await service.ask("POST", "/batch/", [AUTHOR], status=400)
    await service.ask("POST", "/batch/", {"operations": [AUTHOR], "atomic": False}, status=400)
    await service.ask("POST", "/batch/", {"operations": [AUTHOR]}, status=406, headers={"Accept": "text/csv"})
    response = await service.client.post("/batch/", data="x", headers={"Content-Type": "text/plain"})
    assert response.status == 415
    check_problem(response, await response.json())


async def test_batches_at_the_same_time(service: Service) -> None:
    """Each has its connection, and none sees another one's references."""

    async def one(number: int) -> Any:
        author = change("POST", "/authors/", {"name": f"a{number}"}, ref="a")
        return await send(
            service, author, change("POST", "/books/", {"title": f"b{number}", "author_id": {"$ref": "a"}})
        )

    for author, book in await asyncio.gather(*map(one, range(30))):
        assert book["body"]["author_id"] == author["body"]["id"]


async def test_name_is_reserved(tmp_path: Path) -> None:
    """No resource is called batch."""
    with pytest.raises(ConfigurationError, match="'batch' is a route of the service itself; choose another name"):
        configure(tmp_path, {"batch": json.dumps({"fields": {"id": KEY}})})


async def test_headers_that_are_not_text(service: Service) -> None:
    """A header with other bytes than UTF-8 reaches the operations as it would alone."""
    body = json.dumps({"operations": [AUTHOR]}).encode()
    url = service.client.make_url("/")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /batch/ HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"X-Other: \xff\xfe\r\nConnection: close\r\n\r\n" + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()
    assert await count(service) == 1
