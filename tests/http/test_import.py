"""``POST /books/import/``: files of rows, through what a POST of each row goes through."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse

from rowcast.errors import ConfigurationError
from rowcast.identity.tokens import create_token

from ..databases import Databases
from ..waiting import until
from .conftest import Run, running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

CSV = "text/csv"
NDJSON = "application/x-ndjson"
BOOKS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "isbn": {"type": "string", "max_length": 20, "unique": True, "null": True},
    "title": {"type": "string", "max_length": 20},
    "pages": {"type": "integer", "min": 1, "null": True},
    "note": {"type": "text", "default": "none", "blank": True},
}
RESOURCES: dict[str, dict[str, Any]] = {
    "books": {"fields": BOOKS, "viewset": {"import": True}},
    "closed": {"fields": BOOKS},
    "versions": {"fields": BOOKS, "viewset": {"import": True, "require_if_match": True}},
    "hooked": {
        "fields": BOOKS | {"owner": {"type": "string", "read_only": True, "default": ""}},
        "viewset": {"class": "viewsets:Hooked"},
    },
    "owned": {
        "fields": BOOKS | {"owner": {"type": "string", "max_length": 40}},
        "viewset": {"import": True, "scope": {"owner": "$user.id"}},
    },
    "shelves": {
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "book": {"type": "foreign_key", "to": "owned", "null": True},
            "tags": {"type": "many_to_many", "to": "books"},
        },
        "viewset": {"import": True},
    },
    "guarded": {"fields": BOOKS, "viewset": {"import": True, "permission_classes": ["viewsets:ByAction"]}},
}
VIEWSETS = """
from rowcast import BasePermission, ModelViewSet, ValidationError

class Hooked(ModelViewSet):
    import_ = True

    async def perform_create(self, serializer):
        if serializer.validated_data["title"] == "refused":
            raise ValidationError({"title": ["Refused by a hook."]})
        await serializer.save(owner=f"created {self.action} {self.request.data['title']}")

    async def perform_update(self, serializer):
        await serializer.save(owner=f"updated {self.action}")

class ByAction(BasePermission):
    def has_permission(self, request, view):
        return view.action in request.headers.get("Actions", "").split(",")
"""
SERVICE = json.dumps({**json.loads(OPEN), "server": {"import_limit": "4MiB", "body_limit": "64KiB"}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("import")
    async with running(databases, directory, RESOURCES, service=SERVICE, modules={"viewsets": VIEWSETS}) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    await _service.sql.execute("TRUNCATE books, versions, hooked, owned, shelves, guarded RESTART IDENTITY CASCADE")
    return _service


async def send(
    service: Service, text: str | bytes, query: str = "", to: str = "books", type: str = CSV, **headers: str
) -> ClientResponse:
    sent = {"Content-Type": type, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return await service.client.post(f"/{to}/import/{query}", data=text, headers=sent)


async def titles(service: Service, table: str = "books") -> list[str]:
    return [row["title"] for row in await service.sql.fetch(f"SELECT title FROM {table} ORDER BY id")]


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (CSV, 'isbn,title,pages,note\r\na,"A, or ""B""",5,\r\n,Untitled,,""\r\n'),
        (
            NDJSON,
            '{"isbn": "a", "title": "A, or \\"B\\"", "pages": 5}\n\n{"title": "Untitled", "note": ""}\n',
        ),
        ("text/csv; charset=utf-8", '\ufeffisbn,title,pages,note\na,"A, or ""B""",5,\n,Untitled,,""'),
    ],
)
async def test_both_formats(service: Service, type: str, text: str) -> None:
    response = await send(service, text, type=type)
    assert response.status == 200, await response.text()
    assert await response.json() == {"created": 2, "updated": 0, "failed": 0, "errors": []}
    rows = await service.sql.fetch("SELECT isbn, title, pages, note FROM books ORDER BY id")
    assert list(map(tuple, rows)) == [("a", 'A, or "B"', 5, "none"), (None, "Untitled", None, "")]


MISTAKES = 'isbn,title,pages\na,A,1\nb,"two\nlines",0\na,again,2\nc,C,3\nd,D,x\n'


async def test_all_or_nothing_with_errors_by_physical_line(service: Service) -> None:
    response = await send(service, MISTAKES)
    problem = await response.json()
    assert (response.status, problem["code"]) == (400, "invalid")
    assert problem["errors"] == {
        "3": {"pages": ["Must be greater than or equal to 1."]},
        "5": {"isbn": ["Another row has this value."]},
        "7": {"pages": ["Not a valid integer."]},
    }
    assert await titles(service) == []


async def test_wrong_records_can_be_skipped(service: Service) -> None:
    response = await send(service, MISTAKES, "?errors=skip&max_errors=3")
    report = await response.json()
    assert (response.status, report["created"], report["failed"]) == (200, 2, 3)
    assert [each["line"] for each in report["errors"]] == [3, 5, 7]
    assert report["errors"][1]["errors"] == {"isbn": ["Another row has this value."]}
    assert await titles(service) == ["A", "C"]


async def test_more_errors_than_allowed(service: Service) -> None:
    response = await send(service, MISTAKES, "?errors=skip&max_errors=2")
    problem = await response.json()
    assert response.status == 400
    assert problem["errors"]["non_field_errors"] == ["More than 2 records have failed; the rest was not read."]
    assert len(problem["errors"]) == 3
    assert await titles(service) == []


@pytest.mark.parametrize("query", ["?dry_run=true", "?dry_run=true&errors=skip", "?dry_run=true&max_errors=0"])
async def test_dry_run_reports_and_writes_nothing(service: Service, query: str) -> None:
    response = await send(service, MISTAKES, query)
    report = await response.json()
    assert (response.status, await titles(service)) == (200, [])
    if "max_errors" not in query:
        assert (report["created"], report["failed"]) == (2, 3)


async def test_rows_that_exist_are_changed(service: Service) -> None:
    await send(service, "isbn,title,pages\na,A,1\nb,B,2\n")
    response = await send(service, "isbn,title\nb,BB\nc,C\nb,BBB\n", "?on=isbn")
    assert await response.json() == {"created": 1, "updated": 2, "failed": 0, "errors": []}
    rows = await service.sql.fetch("SELECT isbn, title, pages FROM books ORDER BY isbn")
    assert list(map(tuple, rows)) == [("a", "A", 1), ("b", "BBB", 2), ("c", "C", None)]
    response = await send(service, "title\nD\n", "?on=isbn")
    assert (response.status, (await response.json())["errors"]) == (
        400,
        {"2": {"isbn": ["Is needed to find the row."]}},
    )


@pytest.mark.parametrize(("empty", "note"), [("default", "none"), ("text", "")])
async def test_empty_cells(service: Service, empty: str, note: str) -> None:
    response = await send(service, "title,note\nA,\n", f"?empty={empty}")
    assert response.status == 200, await response.text()
    assert await service.sql.fetchval("SELECT note FROM books") == note


async def test_empty_cells_as_null(service: Service) -> None:
    response = await send(service, "title,note\nA,\n", "?empty=null")
    assert (response.status, list((await response.json())["errors"])) == (400, ["2"])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?onn=isbn", "onn: unknown parameter; did you mean on?"),
        ("?on=title", "on: 'title' is not a unique rule"),
        ("?on=", "on: '' is not a unique rule"),
        ("?dry_run=yes", "dry_run: "),
        ("?errors=skipp", "errors: did you mean skip?"),
        ("?max_errors=-1", "max_errors: use a number from 0 to 10000."),
        ("?max_errors=10001", "max_errors: use a number from 0 to 10000."),
        ("?empty=nul", "empty: did you mean null?"),
        ("?errors=skip&errors=fail", "errors: is given twice."),
    ],
)
async def test_wrong_parameters(service: Service, query: str, message: str) -> None:
    response = await send(service, "title\nA\n", query)
    assert (response.status, (await response.json())["detail"][: len(message)]) == (400, message)
    assert await titles(service) == []


@pytest.mark.parametrize(
    ("type", "text", "line"),
    [
        (CSV, "", "1"),
        (CSV, "title,title\nA,B\n", "1"),
        (CSV, 'title\nA\n"B\nC\n', "3"),
        (CSV, "titel\nA\n", "2"),
        (CSV, b"title\n\xff\n", "2"),
        (NDJSON, '{"title": "A"}\n[1]\n', "2"),
        (NDJSON, '{"title": "A"}\n{"title": "B"', "2"),
        (NDJSON, '{"title": "A", "title": "B"}', "1"),
        (NDJSON, '{"title": "A"}\n{"title": 1e400}', "2"),
    ],
)
async def test_files_that_cannot_be_read(service: Service, type: str, text: str | bytes, line: str) -> None:
    response = await send(service, text, type=type)
    assert response.status == 400, await response.text()
    assert list((await response.json())["errors"]) == [line]
    assert await titles(service) == []


async def test_rest_of_a_file_is_not_skipped(service: Service) -> None:
    """An open quote hides all records after it, so they are not one wrong record."""
    response = await send(service, 'title\nA\n"B\nC\n', "?errors=skip")
    assert (response.status, await titles(service)) == (400, [])


@pytest.mark.parametrize("type", ["application/json", "text/plain", "text/csv; charset=latin-1"])
async def test_other_media_types(service: Service, type: str) -> None:
    response = await send(service, "title\nA\n", type=type)
    assert (response.status, "text/csv or application/x-ndjson" in await response.text()) == (415, True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_compressed(service: Service, encoding: str) -> None:
    text = ("title\n" + "".join(f"title {n}\n" for n in range(20_000))).encode()
    packed = gzip.compress(text) if encoding == "gzip" else zlib.compress(text)
    response = await send(service, packed, Content_Encoding=encoding)
    assert (response.status, await response.json()) == (
        200,
        {"created": 20_000, "updated": 0, "failed": 0, "errors": []},
    )
    cut = await send(service, packed[:-9], Content_Encoding=encoding)
    longer = await send(service, packed + b"x", Content_Encoding=encoding)
    unknown = await send(service, packed, Content_Encoding="br")
    bomb = await send(service, gzip.compress(b"title\n" + b"x" * (5 << 20)), Content_Encoding="gzip")
    assert [each.status for each in (cut, longer, unknown, bomb)] == [400, 400, 415, 413]
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 20_000


async def test_limit_is_its_own(service: Service) -> None:
    """Bodies of imports may be longer than others, up to ``server.import_limit``."""

    async def pieces(size: int) -> AsyncIterator[bytes]:
        yield b"title,note\n"
        for _ in range(size // 1024):
            yield b"A," + b"x" * 1021 + b"\n"

    sent = {"Content-Type": CSV}
    response = await service.client.post("/books/import/", data=pieces(1 << 20), headers=sent)
    assert (response.status, (await response.json())["created"]) == (200, 1024)
    for body in (pieces(5 << 20), b"title\n" + b"x" * (5 << 20)):
        response = await service.client.post("/books/import/", data=body, headers=sent)
        assert (response.status, (await response.json())["code"]) == (413, "payload_too_large")
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 1024


async def test_hooks_of_python(service: Service) -> None:
    response = await send(service, "isbn,title\na,A\nb,refused\nc,C\n", to="hooked")
    assert (response.status, await titles(service, "hooked")) == (400, [])
    assert (await response.json())["errors"] == {"3": {"title": ["Refused by a hook."]}}
    response = await send(service, "isbn,title\na,A\nb,refused\nc,C\n", "?errors=skip", to="hooked")
    assert (await response.json())["created"] == 2
    response = await send(service, "isbn,title\na,AA\nd,D\n", "?on=isbn", to="hooked")
    assert await response.json() == {"created": 1, "updated": 1, "failed": 0, "errors": []}
    rows = await service.sql.fetch("SELECT title, owner FROM hooked ORDER BY isbn")
    assert list(map(tuple, rows)) == [
        ("AA", "updated update"),
        ("C", "created create C"),
        ("D", "created create D"),
    ]


async def bearer(service: Service, user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {await create_token(service.sql, user)}"}


async def test_scope_and_keys_that_the_caller_sees(service: Service) -> None:
    ada, bob = await bearer(service, "ada"), await bearer(service, "bob")
    response = await send(service, "isbn,title\na,A\n", to="owned", **ada)
    assert (response.status, (await response.json()).get("created")) == (200, 1)
    assert await service.sql.fetchval("SELECT owner FROM owned") == "ada"
    outside = await send(service, "isbn,title,owner\nb,B,ada\n", to="owned", **bob)
    taken = await send(service, "isbn,title\nb,B\na,mine\n", "?on=isbn", to="owned", **bob)
    assert (outside.status, list((await outside.json())["errors"])) == (400, ["2"])
    assert (taken.status, (await taken.json())["errors"]) == (400, {"3": {"isbn": ["Another row has this value."]}})
    assert await titles(service, "owned") == ["A"]
    key = await service.sql.fetchval("SELECT id FROM owned")
    hidden = await send(service, f"book_id\n\n{key}\n", to="shelves", **bob)
    assert (hidden.status, list((await hidden.json())["errors"]["3"])) == (400, ["book_id"])
    await send(service, "title\nlinked\n")
    visible = await send(service, f"book_id,tags\n{key},1\n", to="shelves", **ada)
    assert (visible.status, await visible.json()) == (200, {"created": 1, "updated": 0, "failed": 0, "errors": []})
    assert await service.sql.fetchval("SELECT count(*) FROM shelves_tags") == 1


@pytest.mark.parametrize(
    ("actions", "query", "status"),
    [("create", "", 200), ("update", "", 401), ("create", "?on=isbn", 401), ("create,update", "?on=isbn", 200)],
)
async def test_rights_are_those_of_create_and_update(service: Service, actions: str, query: str, status: int) -> None:
    response = await send(service, "isbn,title\na,A\n", query, to="guarded", Actions=actions)
    assert response.status == status


async def test_closed_until_opened(service: Service) -> None:
    assert (await send(service, "title\nA\n", to="closed")).status in (404, 405)


async def test_if_match(service: Service) -> None:
    assert (await send(service, "isbn,title\na,A\n", to="versions")).status == 200
    assert (await send(service, "isbn,title\na,A\n", "?on=isbn", to="versions")).status == 428
    assert (await send(service, "isbn,title\nb,A\n", If_Match='"x"')).status == 412


async def test_max_affected(service: Service) -> None:
    response = await send(service, "title\nA\nB\n", Prefer="max-affected=1")
    assert (response.status, (await response.json())["code"], await titles(service)) == (400, "too_many_rows", [])
    response = await send(service, "title\nA\nB\n", Prefer="max-affected=2")
    assert (response.status, response.headers["Preference-Applied"]) == (200, "max-affected=2")


async def test_idempotency_key(service: Service) -> None:
    """The whole file is what must be the same; it may be longer than other bodies."""
    text = "title,note\n" + "".join(f"{n},{'x' * 1000}\n" for n in range(200))
    key = {"Idempotency_Key": "0123456789-import"}
    first = await send(service, text, **key)
    again = await send(service, text, **key)
    other = await send(service, f"{text}more,\n", **key)
    assert (first.status, again.status, other.status) == (200, 200, 422)
    assert (again.headers["Idempotency-Replayed"], await again.json()) == ("true", await first.json())
    assert await service.sql.fetchval("SELECT count(*) FROM books") == 200
    dry = await send(service, "title\nA\n", "?dry_run=true", Idempotency_Key="0123456789-dry-run")
    assert (dry.status, await service.sql.fetchval("SELECT count(*) FROM books")) == (200, 200)


async def test_batches_with_errors_and_different_columns(service: Service) -> None:
    """Every record that is valid is written once, whatever is beside it in its batch."""
    lines = []
    for n in range(1, 2001):
        record: dict[str, Any] = {"isbn": f"i{n % 1990}", "title": f"t{n}"}
        lines.append(json.dumps(record | ({"pages": n} if n % 3 else {})))
    response = await send(service, "\n".join(lines), "?errors=skip", type=NDJSON)
    report = await response.json()
    assert (report["created"], report["failed"]) == (1990, 10)
    assert [each["line"] for each in report["errors"]] == list(range(1991, 2001))
    assert await service.sql.fetchval("SELECT count(*) FROM books WHERE title = 't' || (substr(isbn, 2))") == 1989


async def test_options_and_openapi(service: Service) -> None:
    description = await (await service.client.options("/books/import/")).json()
    assert (description["methods"], description["parses"]) == (["OPTIONS", "POST"], [CSV, NDJSON])
    assert description["import"]["on"] == ["isbn"]
    assert "title" in description["actions"]["POST"]
    document = await (await service.client.get("/openapi.json")).json()
    operation = document["paths"]["/books/import/"]["post"]
    assert sorted(operation["requestBody"]["content"]) == [NDJSON, CSV]
    assert {each.get("name") for each in operation["parameters"]} >= {"on", "dry_run", "errors", "max_errors", "empty"}
    assert "/closed/import/" not in document["paths"]


async def test_not_in_a_batch(service: Service) -> None:
    operation = {"method": "POST", "path": "/books/import/", "body": [{"title": "A"}]}
    response = await service.client.post("/batch/", json={"operations": [operation]})
    assert (response.status, await titles(service)) == (415, [])


async def test_imports_leave_connections_to_others(service: Service) -> None:
    """Half of the pool at most; one more import is asked to wait."""
    await service.sql.execute("BEGIN; LOCK TABLE books IN ACCESS EXCLUSIVE MODE")
    try:
        most = service.service.settings.database.pool_size // 2
        running = [asyncio.create_task(send(service, "title\nA\n")) for _ in range(most)]
        await until(lambda: service.service.imports == most)
        refused = await send(service, "title\nA\n")
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
    finally:
        await service.sql.execute("ROLLBACK")
    assert [(await each).status for each in running] == [200] * most


@pytest.mark.parametrize(
    ("viewset", "message"),
    [
        ({"import": True, "excluded_actions": ["create"]}, "import: needs the action 'create'"),
        ({"import": True, "class": "viewsets:Own"}, "import: the class has a method 'create' of its own"),
        ({"import": "yes"}, "import"),
    ],
)
@pytest.mark.asyncio(loop_scope="function")
async def test_mistakes_at_start(run: Run, viewset: dict[str, Any], message: str) -> None:
    own = "from rowcast import ModelViewSet\nclass Own(ModelViewSet):\n    async def create(self, request):\n        return {}\n"
    with pytest.raises(ConfigurationError, match=message):
        await run({"books": {"fields": BOOKS, "viewset": viewset}}, modules={"viewsets": own})
