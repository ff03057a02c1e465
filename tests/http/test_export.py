"""All rows of a list as CSV and NDJSON: from one snapshot, within the rights of the list, and never a part that looks whole."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rowcast.rest.records import RecordWriter, read_records, with_crlf

from ..databases import Databases
from ..sse import listen
from ..stream.test_events import next_change, ready
from ..waiting import until
from .conftest import running
from .library import KINDS, NO_QUERY, Service
from .test_declared_scope import SECRET, bearer

CSV, NDJSON = "text/csv", "application/x-ndjson"
SETTINGS = json.dumps(
    {
        "auth": {"jwt": {"secret": SECRET, "audience": "rowcast"}, "default_permission_classes": ["AllowAny"]},
        "server": {"send_timeout": "500ms"},
        "database": {"export_connections": 2},
    }
)
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "author": {"type": "foreign_key", "to": "authors", "null": True},
    "title": {"type": "text", "default": ""},
    "price": {"type": "decimal", "max_digits": 8, "decimal_places": 2, "null": True},
    "tags": {"type": "array", "of": "string", "default": []},
    "secret": {"type": "text", "default": "", "write_only": True},
}
VIEWSET: dict[str, Any] = {
    "filterset_fields": {
        "title": ["exact", "regex", "icontains", "in"],
        "author": ["exact"],
        "price": ["gte", "isnull"],
    },
    "search_fields": ["title", "author__name"],
    "ordering_fields": ["title", "author__name"],
    "page_size": 2,
}
AUTHORS: dict[str, Any] = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 20}}
}


def books(table: str, **viewset: Any) -> dict[str, Any]:
    """The books with other options."""
    author = {**FIELDS["author"], "related_name": table}
    return {"table": table, "fields": {**FIELDS, "author": author}, "viewset": {**VIEWSET, **viewset}}


VIEWS = """
from marshmallow import fields
from rowcast import ModelViewSet, Serializer, model

class Shouted(Serializer):
    loud = fields.Method("shout")

    class Meta:
        model = model("python")

    def shout(self, row):
        if row.title == "broken":
            raise RuntimeError("this row cannot be shown")
        return row.title.upper()

class Python(ModelViewSet):
    serializer_class = Shouted

class Own(ModelViewSet):
    async def list(self, request):
        return [{"mine": True}]

class Mixed(ModelViewSet):
    async def list(self, request):
        return await super().list(request)
"""
RESOURCES: dict[str, Any] = {
    "authors": AUTHORS,
    "books": books("books"),
    "kinds": {"fields": KINDS},
    "held": books("held", scope={"title": "$user.id"}),
    "staff": books("staff", permission_classes=["IsAdminUser"]),
    "shelves": books("shelves", select_related=["author"]),
    "python": books("python", **{"class": "views:Python"}),
    "own": books("own", **{"class": "views:Own"}),
    "mixed": books("mixed", **{"class": "views:Mixed"}),
    "cursor": books("cursor", pagination_class="CursorPagination"),
    "kept": books("kept", cache="responses"),
    "large": books("large"),
}  # fmt: skip
ROWS = [
    (1, "Middlemarch", "12.50", ["long"]),
    (1, 'a "quoted", title\nof two lines', None, []),
    (2, "", "-1.00", ["a,b", 'c"']),
    (None, "=1+1", "0.10", []),
    (None, "back\\slash \\\\ \u00e9\U0001f600", "3.00", ["\\"]),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """Some books, and a large table."""
    directory = tmp_path_factory.mktemp("export")
    async with running(databases, directory, RESOURCES, SETTINGS, {"views": VIEWS}) as service:
        await service.sql.execute("INSERT INTO authors (name) VALUES ('eliot'), ('hardy')")
        for table in [name for name in RESOURCES if name not in ("authors", "kinds", "large")]:
            await service.sql.executemany(
                f"INSERT INTO {table} (author_id, title, price, tags) VALUES ($1, $2, $3::text::numeric, $4)", ROWS
            )
        await service.sql.execute(
            "INSERT INTO large (title) SELECT repeat('x', 1000) || n FROM generate_series(1, 30000) n"
        )
        yield service


async def export(
    service: Service,
    path: str,
    accept: str = NDJSON,
    status: int = 200,
    params: Mapping[str, str] = NO_QUERY,
    headers: Mapping[str, str] = NO_QUERY,
) -> tuple[aiohttp.ClientResponse, bytes]:
    """A response as it was sent."""
    sent = {"Accept": accept, "Accept-Encoding": "identity", **headers}
    async with service.client.get(path, headers=sent, params=params) as response:
        body = await response.read()
        assert response.status == status, body
        return response, body


def objects(body: bytes) -> list[Any]:
    """The rows of NDJSON."""
    assert not body or body.endswith(b"\n")
    return [json.loads(line) for line in body.split(b"\n")[:-1]]


def table(body: bytes) -> list[dict[str, str]]:
    """The rows of CSV."""
    return list(csv.DictReader(io.StringIO(body.decode(), newline="")))


async def in_use(service: Service) -> int:
    """How many exports are under way."""
    return service.service.exports.load.in_use


QUERIES = [
    {},
    {"ordering": "-title"},
    {"ordering": "author__name"},
    {"title": "=1+1"},
    {"title__in": '"a","=1+1",Middlemarch'},
    {"title__regex": "^[a-z]"},
    {"title__icontains": "$1 ' \" \\"},
    {"price__isnull": "true"},
    {"search": "eliot"},
    {"fields": "title,id"},
    {"author": "1", "price__gte": "1.5", "ordering": "title", "fields": "price"},
    {"filter": '{"or": [{"title": "=1+1"}, {"author": 2}]}'},
    {"expand": "author"},
]


@pytest.mark.asyncio(loop_scope="module")
async def test_cells_have_the_text_of_their_json(databases: Databases, tmp_path: Path) -> None:
    """In columns of each type that is not quoted and parsed, and of character(n), which keeps its blanks."""
    columns = {
        "code": ("string", "character(5)", "'ab'"), "note": ("text", "bpchar", "'c '"), "name": ("string", "varchar", "'\"x\\'"),
        "yes": ("boolean", "boolean", "true"), "weight": ("float", "float8", "1e300"), "least": ("float", "float8", "-0.1"),
        "born": ("date", "date", "'infinity'"), "at": ("datetime", "timestamptz", "'2024-02-29 23:30:00.5+02'"),
        "early": ("datetime", "timestamptz", "'0044-03-15 00:00Z BC'"), "hour": ("time", "time", "'01:02:03.5'"),
        "token": ("uuid", "uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"), "old": ("datetime", "timestamp", "'2024-01-01'"),
    }  # fmt: skip
    fields = {name: {"type": type_, "null": True} for name, (type_, _, _) in columns.items()}
    resource = {
        "managed": False,
        "fields": {"id": {"type": "integer", "primary_key": True, "required": True}, **fields},
    }
    made = ", ".join(f"{name} {printed}" for name, (_, printed, _) in columns.items())
    values = ", ".join(value for _, _, value in columns.values())
    prepare = f"CREATE TABLE things (id integer PRIMARY KEY, {made}); INSERT INTO things VALUES (1, {values}); INSERT INTO things VALUES (2)"
    async with running(databases, tmp_path, {"things": resource}, prepare=prepare) as service:
        rows = objects((await export(service, "/things/"))[1])
        cells = table((await export(service, "/things/", CSV))[1])
        assert cells[0]["code"] == "ab   "
        assert cells == [
            {
                name: "" if value is None else value if isinstance(value, str) else json.dumps(value)
                for name, value in row.items()
            }
            for row in rows
        ]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("params", QUERIES, ids=str)
@pytest.mark.parametrize("resource", ["books", "shelves", "python", "cursor", "kept"])
async def test_rows_are_those_of_the_list(service: Service, resource: str, params: dict[str, str]) -> None:
    """The same rows in the same order, with the same values, in both forms."""
    paged = params if resource == "cursor" else {**params, "page_size": "100"}
    found = await service.get(f"/{resource}/", query={**paged, "page_size": "100"})
    response, body = await export(service, f"/{resource}/", params=params)
    assert response.headers["Content-Type"] == NDJSON
    assert objects(body) == found["results"]
    response, body = await export(service, f"/{resource}/", CSV, params=params)
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    records = [dict(each.values) for each in read_records(io.BytesIO(body), "csv")]
    names = list(found["results"][0]) if found["results"] else body.decode().strip().split(",")
    assert body.split(b"\r\n")[0].decode() == ",".join(names)
    assert [
        {
            name: json.loads(cell) if cell and isinstance(row[name], list | dict | int) else cell
            for name, cell in each.items()
        }
        for row, each in zip(found["results"], records, strict=True)
    ] == found["results"]


@pytest.mark.asyncio(loop_scope="module")
async def test_csv_has_the_form_of_a_dump(service: Service) -> None:
    """Every type of field, with its edge values and nulls: the cells that ``rowcast dump`` writes."""
    await service.sql.execute("DELETE FROM kinds")
    values = {
        "string": "a,b", "text": '"\r\n', "email": "a@example.com", "url": "https://example.com/a", "slug": "a-b",
        "uuid": "0190f0a4-7a5c-7000-8000-000000000000", "integer": -1, "big_integer": 2**63 - 1, "float": 0.1,
        "decimal": "-1.50", "boolean": True, "date": "2024-02-29", "time": "10:00:00.5", "datetime": "2024-02-29T23:30:00.25+02:00",
        "duration": "P1DT2H", "json": {"a": [1.5, "ü", None]}, "words": ["a", 'b"c', "d,e"], "amounts": ["1.10"],
    }  # fmt: skip
    texts = [
        {"text": "", "string": "\\."},
        {"json": "text"},
        {"json": "5"},
        {"json": 12345678901234567890123},
        {"json": []},
        {"words": []},
    ]
    for body in [values, {}, *texts]:
        await service.post("/kinds/", body)
    _, body = await export(service, "/kinds/")
    lines = body.split(b"\n")[:-1]
    writer = RecordWriter("csv", json.loads(lines[0]), as_json=["json"])
    expected = (writer.start() + writer.rows(lines)).decode()
    _, body = await export(service, "/kinds/", CSV)
    # PostgreSQL writes a space inside objects, and a dump none
    assert body.decode().replace('""a"": [1.5, ""ü"", null]', '""a"":[1.5,""ü"",null]') == expected
    _, body = await export(service, "/kinds/", CSV, params={"fields": "string"})
    assert set(body.split(b"\r\n")) == {b"", b'"\\."', b'"a,b"', b"string"}


@pytest.mark.asyncio(loop_scope="module")
async def test_formulas_are_escaped_on_request_alone(service: Service) -> None:
    """With ``excel=true`` a spreadsheet sees text; numbers with a sign stay numbers."""
    _, body = await export(service, "/books/", CSV)
    assert "=1+1" in [row["title"] for row in table(body)]
    for resource in ("books", "python"):
        _, body = await export(service, f"/{resource}/", CSV, params={"excel": "true"})
        found = table(body)
        assert "'=1+1" in [row["title"] for row in found]
        assert "-1.00" in [row["price"] for row in found]
        assert [row["id"] for row in found] == ["1", "2", "3", "4", "5"]
    _, body = await export(service, "/books/", CSV, params={"excel": "false"})
    assert b"'=" not in body


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("text/csv", CSV),
        ("TEXT/CSV; charset=utf-8", CSV),
        ("text/csv, application/json", "application/json"),
        ("text/csv, application/json;q=0.9", CSV),
        ("text/csv, */*;q=0.1", CSV),
        ("text/csv;q=0.1, application/x-ndjson;q=0.2", NDJSON),
        ("application/problem+json, text/csv", CSV),
        ("text/csv;q=0, */*", "application/json"),
        ("text/csv;q=x", CSV),
    ],
)
async def test_the_preferred_media_type_is_sent(service: Service, accept: str, expected: str) -> None:
    """JSON wherever it is as welcome as another form."""
    response, _ = await export(service, "/books/", accept)
    assert response.content_type == expected
    assert "Accept" in response.headers["Vary"]
    assert response.headers["Accept-Query"] == "application/json"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "accept", "status", "message"),
    [
        ("/books/", "text/html", 406, "This route returns application/json, text/csv or application/x-ndjson."),
        ("/books/", "text/*", 406, "application/json, text/csv or application/x-ndjson"),
        ("/books/", "text/csv;q=0", 406, "application/json, text/csv or application/x-ndjson"),
        ("/own/", CSV, 406, "Python code of the service makes its list, which has no form as text/csv"),
        ("/mixed/", NDJSON, 406, "Python code of the service makes its list"),
        ("/books/1/", CSV, 406, "This route returns application/json."),
        ("/books/999/", CSV, 404, "Not found."),
        ("/books/?page=2", CSV, 400, "page: text/csv has all rows and no pages; leave it out."),
        ("/cursor/?cursor=x", NDJSON, 400, "cursor: application/x-ndjson has all rows"),
        ("/books/?excel=yes", CSV, 400, "excel: use true or false."),
        ("/books/?excel=true", NDJSON, 400, "excel: is for text/csv"),
        ("/books/?excel=true", "application/json", 400, "excel: unknown parameter"),
        ("/books/?titel=x", CSV, 400, "titel: unknown parameter; did you mean title?"),
        ("/books/?fields=secret", CSV, 400, "secret"),
        ("/books/?title__regex=(", CSV, 400, "title__regex: not a valid regular expression."),
        ("/books/?price__gte=x", NDJSON, 400, "price__gte"),
        ("/authors/?expand=books", NDJSON, 400, "expand: application/x-ndjson has no lists of related rows"),
        ("/staff/", CSV, 401, "credentials"),
    ],
)
async def test_mistakes_are_problems(service: Service, path: str, accept: str, status: int, message: str) -> None:
    """Before the first byte there is a status, and a sentence."""
    response, body = await export(service, path, accept, status)
    assert message in json.loads(body)["detail"]
    assert response.content_type == "application/problem+json"
    assert await in_use(service) == 0


@pytest.mark.asyncio(loop_scope="module")
async def test_rights_are_those_of_the_list(service: Service) -> None:
    """Scope and permissions, without which there are no rows."""
    _, body = await export(service, "/held/", headers=bearer("Middlemarch"))
    assert [row["title"] for row in objects(body)] == ["Middlemarch"]
    _, body = await export(service, "/held/", CSV, headers=bearer("nobody"))
    assert body == b"id,author_id,title,price,tags\r\n"
    _, body = await export(service, "/held/", NDJSON, headers=bearer("nobody"))
    assert body == b""
    await export(service, "/staff/", CSV, 403, headers=bearer("ann"))
    _, body = await export(service, "/staff/", headers=bearer("ann", is_staff=True))
    assert len(objects(body)) == len(ROWS)
    assert b"secret" not in body


@pytest.mark.asyncio(loop_scope="module")
async def test_a_list_of_python_goes_on_in_json(service: Service) -> None:
    """Where the class decides what the list is, CSV is not preferred to it."""
    response, body = await export(service, "/mixed/", "text/csv, application/json;q=0.5")
    assert response.content_type == "application/json"
    assert json.loads(body)["count"] == len(ROWS)


@pytest.mark.asyncio(loop_scope="module")
async def test_other_methods(service: Service) -> None:
    """HEAD has the headers of GET; QUERY has its parameters in a body; OPTIONS lists the media types."""
    async with service.client.request("HEAD", "/books/", headers={"Accept": CSV}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith(CSV)
        assert response.headers["X-Stream-Position"]
        assert await response.read() == b""
    headers = {"Accept": NDJSON}
    async with service.client.request("QUERY", "/books/", json={"filter": {"author": 1}}, headers=headers) as response:
        assert response.status == 200
        assert [row["id"] for row in objects(await response.read())] == [1, 2]
    _, described = await service.ask("OPTIONS", "/books/", status=200)
    assert described["renders"] == ["application/json", CSV, NDJSON]
    _, described = await service.ask("OPTIONS", "/own/", status=200)
    assert described["renders"] == ["application/json"]
    await export(service, "/books/", CSV, 412, headers={"If-Match": '"x"'})
    await export(service, "/books/", CSV, headers={"If-Match": "*"})


@pytest.mark.asyncio(loop_scope="module")
async def test_a_precondition_is_about_json(service: Service) -> None:
    """The representation that a POST depends on is the page, whatever else its client would take."""
    headers = {"Accept": "text/csv, application/json;q=0.5", "If-None-Match": "*"}
    _, body = await service.ask("POST", "/books/", {"title": "x"}, status=412, headers=headers)
    assert body["code"] == "precondition_failed"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("encodings", "packed"), [("gzip", True), ("br, *", True), ("gzip;q=0", False), ("br", False)])
async def test_compressed_on_request(service: Service, encodings: str, packed: bool) -> None:
    """gzip, if it is accepted."""
    headers = {"Accept": NDJSON, "Accept-Encoding": encodings}
    async with service.client.session.get(service.client.make_url("/large/"), headers=headers, auto_decompress=False) as response:  # fmt: skip
        body = await response.read()
    assert response.headers.get("Content-Encoding") == ("gzip" if packed else None)
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    rows = objects(gzip.decompress(body) if packed else body)
    assert [row["id"] for row in rows] == list(range(1, 30001))


@pytest.mark.asyncio(loop_scope="module")
async def test_export_then_watch_is_exact(service: Service) -> None:
    """All rows are of one moment, and a stream from its position has every change after it, and no other."""
    headers = {"Accept": NDJSON, "Accept-Encoding": "identity"}
    async with service.client.get("/large/", headers=headers) as response:
        position = response.headers["X-Stream-Position"]
        first = await response.content.readline()
        await service.sql.execute("UPDATE large SET title = 'changed' WHERE id = 30000")
        await service.sql.execute("INSERT INTO large (id, title) VALUES (40000, 'new')")
        rest = objects(first + await response.content.read())
    try:
        assert len(rest) == 30000
        assert rest[-1]["title"].startswith("xxx")
        async with listen(service.client, "/large/stream/", last_id=position) as events:
            await ready(events)
            seen = [await next_change(events) for _ in range(2)]
        assert [(each["action"], each["id"]) for each in seen] == [("UPDATE", 30000), ("INSERT", 40000)]
    finally:
        await service.sql.execute("DELETE FROM large WHERE id >= 30000")
        await service.sql.execute("INSERT INTO large (id, title) VALUES (30000, repeat('x', 1000))")


async def opened(service: Service, path: str = "/large/", version: str = "1.1") -> tuple[Any, Any]:
    """A connection that has requested an export and reads only its first bytes."""
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port, limit=1024)
    writer.write(f"GET {path} HTTP/{version}\r\nHost: 127.0.0.1\r\nAccept: {NDJSON}\r\n\r\n".encode())
    assert await reader.readexactly(12) == f"HTTP/{version} 200".encode()
    return reader, writer


async def backends(service: Service) -> int:
    """How many statements of exports PostgreSQL runs."""
    return int(
        await service.sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY %'"
        )
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_few_at_once_and_slow_clients_end(service: Service) -> None:
    """Clients that do not read hold the connections of exports alone, and not for long."""
    readers = [await opened(service, path="/large/") for _ in range(2)]
    response, body = await export(service, "/books/", CSV, 503)
    assert (json.loads(body)["code"], response.headers["Retry-After"]) == ("overloaded", "10")
    assert "2 exports are under way" in json.loads(body)["detail"]
    assert len((await service.get("/books/"))["results"]) == 2
    await until(lambda: service.service.exports.load.in_use == 0)
    await export(service, "/books/", CSV)
    for _, writer in readers:
        writer.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_client_that_leaves_ends_the_query(service: Service) -> None:
    """Also while the database has nothing to send yet."""
    await service.sql.execute(
        "CREATE OR REPLACE FUNCTION slow(text) RETURNS text LANGUAGE sql AS $$ SELECT $1 FROM pg_sleep(60) $$"
    )
    _, writer = await opened(service)
    writer.transport.abort()
    await until(lambda: service.service.exports.load.in_use == 0)
    assert await backends(service) == 0
    await service.sql.execute("BEGIN; LOCK TABLE books")
    try:
        _, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(f"GET /books/ HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {NDJSON}\r\n\r\n".encode())
        await until(lambda: service.service.exports.load.in_use == 1)
        writer.transport.abort()
        await until(lambda: service.service.exports.load.in_use == 0)
        assert await backends(service) == 0
    finally:
        await service.sql.execute("ROLLBACK")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_failure_in_mid_stream_is_no_success(service: Service, version: str) -> None:
    """A row that cannot be shown after many that can: the connection is reset, in HTTP/1.0 as well."""
    await service.sql.execute(
        "INSERT INTO python (id, title) SELECT 1000 + n, CASE n WHEN 4000 THEN 'broken' ELSE repeat('x', 1000) END "
        "FROM generate_series(1, 4000) n"
    )
    try:
        reader, writer = await opened(service, "/python/", version)
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()
        await until(lambda: service.service.exports.load.in_use == 0)
        with pytest.raises(aiohttp.ClientPayloadError):
            await export(service, "/python/")
    finally:
        await service.sql.execute("DELETE FROM python WHERE id > 1000")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_the_end_of_the_connection_is_that_of_a_response_in_http_1_0(service: Service, coding: str) -> None:
    """Also for a client, or a proxy, that asks for the connection to be kept: a response without a length has no other end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.client.port)
    headers = f"Host: localhost\r\nAccept: {CSV}\r\nAccept-Encoding: {coding}\r\nConnection: keep-alive"
    writer.write(f"GET /books/?fields=id HTTP/1.0\r\n{headers}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b"keep-alive" not in head
    assert (gzip.decompress(body) if coding == "gzip" else body).startswith(b"id\r\n")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_failure_before_the_first_row_is_an_error(service: Service) -> None:
    """As long as nothing is sent, the status can still say it."""
    await service.sql.execute("INSERT INTO python (id, title) VALUES (1000, 'broken')")
    try:
        await export(service, "/python/", status=500)
        await export(service, "/python/", CSV, status=500)
    finally:
        await service.sql.execute("DELETE FROM python WHERE id = 1000")


def test_line_ends_outside_of_quotes() -> None:
    """PostgreSQL ends records with a line feed, and a dump with both characters."""
    assert with_crlf(b'a,b\n1,"x\ny ""z""\n"\n"",\n') == b'a,b\r\n1,"x\ny ""z""\n"\r\n"",\r\n'
    assert with_crlf(b"a\nb\n") == b"a\r\nb\r\n"
