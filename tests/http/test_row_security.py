"""Row-level security: statements run with settings and a role of their caller, and only for one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
from aiohttp.test_utils import TestServer

from rowcast.database.pool import Database
from rowcast.resources.tables import Tables
from rowcast.rest.plan import SERVICE
from rowcast.server.app import create_app
from rowcast.server.prepare import prepare
from tests import conftest
from tests.conftest import configure, rowcast
from tests.databases import Databases
from tests.sse import listen
from tests.stream.test_events import next_change, ready
from tests.waiting import until

from .library import Service

SECRET = "a shared secret of 32 bytes, or more"
DOCUMENTS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "org": {"type": "string", "max_length": 20},
        "title": {"type": "string", "max_length": 20, "unique": True},
    },
    "viewset": {"class": "views:DocumentViewSet", "count": "estimated", "cache": "responses"},
}
NOTES: dict[str, Any] = {
    **DOCUMENTS,
    "viewset": {"class": "views:NoteViewSet", "filterset_fields": {"title": ["regex"]}},
}
TAGS: dict[str, Any] = {"fields": {"name": {"type": "string", "max_length": 20}}, "viewset": {"stream_enabled": False}}
COMMENTS: dict[str, Any] = {
    "fields": {
        "document": {"type": "foreign_key", "to": "documents"},
        "others": {"type": "many_to_many", "to": "documents", "related_name": "quoted"},
    },
    "viewset": {"class": "views:CommentViewSet", "prefetch_related": ["others"]},
}
VIEWS = """
from aiohttp import web

from rowcast import ModelViewSet, ViewSet, action, model
from rowcast.query.store import STORE

Document = model("documents")


class DocumentViewSet(ModelViewSet):
    stream_enabled = False

    @action(detail=False)
    async def titles(self, request):
        return sorted([row.title async for row in Document.objects.all()])

    @action(detail=True, methods=["POST"])
    async def rename(self, request, id):
        row = await self.get_object(id)
        row.title = request.data["title"]
        await row.save()
        return {"title": row.title}


class CommentViewSet(ModelViewSet):
    stream_enabled = False

    @action(detail=False)
    async def joined(self, request):
        rows = await model("comments").objects.prefetch_related("document", "others")
        return [[row.document and row.document.title, [other.title for other in row.others]] for row in rows]


class OwnDispatchViewSet(ViewSet):
    async def dispatch(self, http):
        STORE.set(self.view_plan.service.store)
        return web.json_response(sorted([row.title async for row in Document.objects.all()]))

    async def list(self, request):
        return None


class NoteViewSet(ModelViewSet):
    def get_queryset(self):
        return model("notes").objects.filter(org__ne="secret")
"""
URLS = """
from rowcast import DefaultRouter
from views import OwnDispatchViewSet

router = DefaultRouter()
router.register("own", OwnDispatchViewSet, basename="own")
"""
POLICIES = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON {table} FOR SELECT USING (org = current_setting('app.org') OR current_setting('app.staff') = 'true');
CREATE POLICY made ON {table} FOR INSERT WITH CHECK (org = current_setting('app.org'));
CREATE POLICY changed ON {table} FOR UPDATE USING (org = current_setting('app.org') AND title <> 'locked');
CREATE POLICY gone ON {table} FOR DELETE USING (org = current_setting('app.org') AND title <> 'locked');
"""


def settings(**database: Any) -> str:
    """The settings of a service that accepts tokens of an issuer."""
    return json.dumps({
        "auth": {"default_permission_classes": ["AllowAny"], "jwt": {"secret": SECRET}},
        "database": {"session": {"app.org": "$claims.org", "app.user": "$user.id", "app.staff": "$user.is_staff"}, **database},
    })  # fmt: skip


def caller(**claims: Any) -> dict[str, str]:
    """The headers of a caller with these claims."""
    token = jwt.encode({"sub": "u", "aud": "rowcast", "exp": time.time() + 86_400, **claims}, SECRET, "HS256")
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def roles(sql: asyncpg.Connection) -> AsyncIterator[tuple[str, str]]:
    """Two roles that are nobody's, and that the tables' rights are granted to."""
    names = [f"{await sql.fetchval('SELECT current_database()')}_{name}" for name in ("web", "staff")]
    for name in names:
        await sql.execute(f"CREATE ROLE {name}")
    yield names[0], names[1]
    for name in names:
        await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


@contextlib.asynccontextmanager
async def secured(
    database_url: str, sql: asyncpg.Connection, directory: Path, service: str, *grantees: str, url: str | None = None
) -> AsyncIterator[Service]:
    """A service on tables with policies."""
    resources = {"documents": json.dumps(DOCUMENTS), "notes": json.dumps(NOTES), "tags": json.dumps(TAGS)}
    resources["comments"] = json.dumps(COMMENTS)
    configuration = configure(directory / "config", resources, service, {"views": VIEWS, "urls": URLS})
    tables = Tables(configuration.resources)
    await prepare(configuration, tables, Database(database_url, tables.guards), migrate=True)
    for table in ("documents", "notes"):
        await sql.execute(POLICIES.format(table=table))
        for name in grantees:
            await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table}, comments, comments_others TO {name}")
    await sql.execute("INSERT INTO documents (org, title) VALUES ('a', 'one'), ('b', 'two'), ('a', 'locked')")
    async with conftest.running(configuration, url or database_url) as client:
        yield Service(client, sql, client.app[SERVICE])


async def titles(service: Service, path: str = "/documents/", **claims: Any) -> list[str]:
    """The titles in a list, as a caller with these claims reads it."""
    _, body = await service.ask("GET", path, status=200, headers=caller(**claims))
    return sorted(row["title"] for row in body["results"])


async def test_reads_show_what_policies_show(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """Lists, counts, single rows and query sets of Python; nobody gets another caller's from a cache or a connection."""
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        for _ in range(3):
            assert await titles(service, org="a") == ["locked", "one"]
            assert await titles(service, org="b") == ["two"]
            assert await titles(service) == []
            assert (await service.ask("GET", "/documents/", status=200))[1]["results"] == []
            _, body = await service.ask("GET", "/documents/", headers=caller(org="a"))
            assert body["count"] == 2
            assert (await service.ask("GET", "/documents/titles/", headers=caller(org="b")))[1] == ["two"]
        assert await titles(service, org="b", is_staff=True) == ["locked", "one", "two"]
        for org, expected in (("a", [1, 3]), ("b", [2])):
            headers = {"Accept": "application/x-ndjson", **caller(org=org)}
            async with service.client.get("/documents/", headers=headers) as exported:
                assert [json.loads(line)["id"] for line in (await exported.text()).splitlines()] == expected
        response, _ = await service.ask("GET", "/documents/1/", status=200, headers=caller(org="a"))
        tag = {"If-None-Match": response.headers["ETag"]}
        await service.ask("GET", "/documents/1/", status=304, headers={**caller(org="a"), **tag})
        await service.ask("GET", "/documents/1/", status=404, headers={**caller(org="b"), **tag})
        found = await asyncio.gather(*(titles(service, org=org) for org in "ab" * 20))
        assert found == [["locked", "one"], ["two"]] * 20


async def test_own_dispatch_runs_as_nobody(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """A class that replaces what recognises callers gets nobody's rows, not those of the caller before it."""
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        assert await titles(service, org="a") == ["locked", "one"]
        assert (await service.ask("GET", "/own/", status=200, headers=caller(org="a")))[1] == []


async def test_the_record_of_a_key_is_written_by_the_service(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """A role without rights on Rowcast's own tables may send ``Idempotency-Key``; the change itself runs as the role."""
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        headers = {**caller(org="a"), "Idempotency-Key": "0123456789abcdef"}
        for org, status in (("b", 403), ("a", 201), ("a", 201)):
            body = {"org": org, "title": "new"}
            response, _ = await service.ask("POST", "/documents/", json=body, status=status, headers=headers)
        assert response.headers["Idempotency-Replayed"] == "true"
        assert await titles(service, org="a") == ["locked", "new", "one"]
        assert await sql.fetchval("SELECT count(*) FROM rowcast.answer") == 1


async def test_row_that_a_policy_refuses_is_403(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """A row that the caller sees; one that the caller does not see is a 404. Nothing is written."""
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        before = await sql.fetch("SELECT * FROM documents ORDER BY id")
        headers = caller(org="a")
        for method, path, body, status in (
            ("POST", "/documents/", {"org": "b", "title": "n"}, 403),
            ("PATCH", "/documents/1/", {"org": "b"}, 403),
            ("PUT", "/documents/1/", {"org": "b", "title": "n"}, 403),
            ("PATCH", "/documents/3/", {"title": "n"}, 403),
            ("DELETE", "/documents/3/", None, 403),
            ("POST", "/documents/3/rename/", {"title": "n"}, 403),
            ("PATCH", "/documents/2/", {"title": "n"}, 404),
            ("DELETE", "/documents/2/", None, 404),
            ("POST", "/documents/2/rename/", {"title": "n"}, 404),
            ("POST", "/notes/", {"org": "b", "title": "n"}, 403),
        ):  # fmt: skip
            response, problem = await service.ask(method, path, body, headers=headers)
            assert response.status == status, (method, path, problem)
        assert await sql.fetch("SELECT * FROM documents ORDER BY id") == before
        _, row = await service.ask("POST", "/documents/", {"org": "a", "title": "new"}, status=201, headers=headers)
        _, changed = await service.ask(
            "PATCH", f"/documents/{row['id']}/", {"title": "newer"}, status=200, headers=headers
        )
        assert changed == {**row, "title": "newer"}
        await service.ask("POST", f"/documents/{row['id']}/rename/", {"title": "newest"}, status=200, headers=headers)
        await service.ask("DELETE", f"/documents/{row['id']}/", status=204, headers=headers)
        assert await sql.fetch("SELECT * FROM documents ORDER BY id") == before


async def test_key_of_a_row_that_a_policy_hides_is_that_of_no_row(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """PostgreSQL checks foreign keys without policies, so the service does with them."""
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        headers = caller(org="a")
        bodies: list[dict[str, Any]] = [
            {"document_id": 2}, {"document_id": 99}, {"document_id": 1, "others": [3, 2]}, {"document_id": 1, "others": [99]},
        ]  # fmt: skip
        for body in bodies:
            _, problem = await service.ask("POST", "/comments/", body, status=400, headers=headers)
            assert problem["code"] == "does_not_exist", body
        _, row = await service.ask("POST", "/comments/", {"document_id": 1, "others": [3]}, status=201, headers=headers)
        await service.ask("PATCH", f"/comments/{row['id']}/", {"document_id": 2}, status=400, headers=headers)
        assert await sql.fetchval("SELECT count(*) FROM comments") == 1
        await sql.execute("INSERT INTO comments_others (comment_id, document_id) SELECT id, 2 FROM comments")
        for org, seen in (("a", ["one", ["locked"]]), ("b", [None, ["two"]])):  # of related rows, too
            assert (await service.ask("GET", "/comments/joined/", headers=caller(org=org)))[1] == [seen]
            _, body = await service.ask("GET", "/comments/", headers=caller(org=org))
            assert [other["title"] for other in body["results"][0]["others"]] == seen[1]


HOSTILE = [
    "'; DROP TABLE documents; --",
    "a\\' OR true --",
    "a\\",
    "$1",
    "a' || 'b",
    "\u0000",
    "\ud800",
    "é",
    {"a": 1},
    ["a"],
    7,
    None,
]


async def test_claims_are_values_and_settings_end_with_the_transaction(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """No claim is SQL. A connection that comes back to the pool has no setting and no role of a caller."""
    one = settings(default_role=roles[0], pool_size=1)
    async with secured(database_url, sql, tmp_path, one, roles[0]) as service:
        for claim in HOSTILE:
            response, _ = await service.ask("GET", "/documents/", headers=caller(org=claim))
            assert response.status == {"\u0000": 403, "\ud800": 401}.get(str(claim), 200), repr(claim)
            assert await titles(service, org="a") == ["locked", "one"]
            await service.ask("POST", "/documents/", {"org": "a", "title": "one"}, status=409, headers=caller(org="a"))
            (row,) = await service.database.fetch_outside(
                "SELECT current_user::text, current_setting('app.org', true) AS org"
            )
            assert (row["current_user"], row["org"] or "") == ("postgres", ""), claim


async def test_role_is_that_of_a_claim(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """The role must be a configured one, and exist; without the claim nothing is done as the service's own role."""
    web, staff = roles
    await sql.execute(f"ALTER ROLE {staff} BYPASSRLS")
    configured = settings(role_claim="db.role", roles=[web, staff, "nonesuch"])
    async with secured(database_url, sql, tmp_path, configured, web, staff) as service:
        assert await titles(service, org="a", db={"role": web}) == ["locked", "one"]
        assert await titles(service, db={"role": staff}) == ["locked", "one", "two"]
        refused: list[dict[str, Any]] = [
            {}, {"db": {}}, {"db": web}, {"db": {"role": "postgres"}}, {"db": {"role": "none"}}, {"db": {"role": "None"}},
            {"db": {"role": ""}}, {"db": {"role": "nonesuch"}}, {"db": {"role": 7}}, {"db": {"role": f"{web}; RESET ROLE"}},
            {"db": {"role": [web]}},
        ]  # fmt: skip
        for claims in refused:
            _, problem = await service.ask("GET", "/documents/", status=403, headers=caller(org="a", **claims))
            assert problem["code"] == "database_role", claims
            await service.ask(
                "POST", "/documents/", {"org": "a", "title": "x"}, status=403, headers=caller(org="a", **claims)
            )
        await service.ask("GET", "/documents/", status=403)
        _, problem = await service.ask("GET", "/tags/", status=403, headers=caller(db={"role": web}))
        assert problem["code"] == "database_role"  # which lacks a right


async def test_role_without_a_list_must_be_one_that_the_service_may_take(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """The service connects as a role that is a member of one of them."""
    web, staff = roles
    owner = f"{web}_owner"
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(
        f"CREATE ROLE {owner} LOGIN; GRANT {web} TO {owner}; GRANT ALL ON DATABASE {name} TO {owner}; GRANT ALL ON SCHEMA public TO {owner}"
    )
    try:
        url = database_url.replace("postgres@", f"{owner}@", 1)
        await sql.execute(f"ALTER SCHEMA rowcast OWNER TO {owner}")
        await sql.execute(
            "DO $$ DECLARE r record; BEGIN FOR r IN SELECT oid::regclass AS name, relkind FROM pg_class"
            " WHERE relnamespace = 'rowcast'::regnamespace AND relkind IN ('r', 'p', 'S')"
            " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = pg_class.oid AND d.deptype IN ('a', 'i') AND relkind = 'S')"
            f" LOOP EXECUTE format('ALTER TABLE %s OWNER TO {owner}', r.name); END LOOP;"
            " FOR r IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'rowcast'::regnamespace"
            f" LOOP EXECUTE format('ALTER FUNCTION %s OWNER TO {owner}', r.name); END LOOP; END $$"
        )
        async with secured(url, sql, tmp_path, settings(role_claim="role"), web, staff) as service:
            assert await titles(service, org="a", role=web) == ["locked", "one"]
            arguments = ("doctor", "--database-url", url)
            assert "row-level security" not in rowcast(tmp_path, *arguments)[1]
            await sql.execute("ALTER TABLE documents FORCE ROW LEVEL SECURITY")
            code, output = rowcast(tmp_path, *arguments)
            assert (code, "WRONG policies   row-level security of documents" in output) == (1, True), output
            for role in (staff, "postgres", "nonesuch"):
                await service.ask("GET", "/documents/", status=403, headers=caller(org="a", role=role))
    finally:
        await sql.execute(f"REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}")


async def test_read_takes_one_round_trip_more(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """The response does not wait for the end of the transaction. A write waits for its commit."""
    fresh = {**caller(org="a"), "Cache-Control": "no-cache"}  # from the primary, if there is a standby
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        await service.ask("GET", "/documents/", status=200, headers=fresh)
        await until(lambda: bool(service.database._idle))  # the transaction is ended after the response
        exchanges: list[str] = []
        service.database._idle[-1].add_query_logger(
            lambda record: exchanges.append(record.query.split(";")[0].split()[0])
        )
        await service.ask("GET", "/documents/", status=200, headers=fresh)
        assert exchanges[:2] == ["BEGIN", "SELECT"]
        assert exchanges[2:] in ([], ["COMMIT"])


async def test_stream_of_a_table_with_policies_is_bounded_by_its_scope(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """Its snapshot is read as the caller, and its events are those of the scope; also where the database decides."""
    async with secured(database_url, sql, tmp_path, settings(default_role=roles[0]), roles[0]) as service:
        await sql.execute("INSERT INTO notes (org, title) VALUES ('a', 'one'), ('b', 'two')")
        a, b = caller(org="a"), caller(org="b")
        path = "/notes/stream/?title__regex=t"
        async with listen(service.client, path, headers=a) as one, listen(service.client, path, headers=b) as two:
            await ready(one)
            await ready(two)
            await sql.execute("INSERT INTO notes (org, title) VALUES ('secret', 'three'), ('a', 'four t')")
            assert [(await next_change(each))["data"]["title"] for each in (one, two)] == ["four t", "four t"]
        async with listen(service.client, "/notes/stream/?snapshot=true", headers=b) as stream:
            rows = []
            while (event := await stream.next()).event != "ready":
                if event.event == "snapshot":
                    rows += event.json()["rows"]
            assert [row["title"] for row in rows] == ["two"]


async def test_stream_without_a_scope_is_refused(
    database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """`check` refuses it where callers have settings, and a start on a table with policies says so until it is mended."""
    plain = {"fields": DOCUMENTS["fields"]}
    service = settings(default_role=roles[0])
    configure(tmp_path / "config", {"documents": json.dumps(plain)}, service)
    code, output = rowcast(tmp_path, "check")
    assert code == 1
    assert output.startswith(f"{tmp_path}/config/resources/documents.yaml:1:1: documents has a stream of all rows")
    assert "database.session" in output
    scoped = {"scope": {"org": "$claims.org"}}
    for viewset in ({"stream_enabled": False}, {"class": "views:NoteViewSet"}, scoped):
        configure(
            tmp_path / "config",
            {"documents": json.dumps({**plain, "viewset": viewset})},
            service,
            {"views": VIEWS.replace('"notes"', '"documents"')},
        )
        code, output = rowcast(tmp_path, "check")
        assert code == 0, output


async def test_service_does_not_start_with_such_a_stream(
    databases: Databases, database_url: str, sql: asyncpg.Connection, tmp_path: Path, roles: tuple[str, str]
) -> None:
    """A table without policies is no reason; with them, the service is not ready, and says why."""
    configuration = configure(
        tmp_path / "config", {"documents": json.dumps({"fields": DOCUMENTS["fields"]})}, settings(default_role=roles[0])
    )
    async with conftest.running(configuration, database_url) as client, client.get("/health/ready") as response:
        assert response.status == 200
    await sql.execute("ALTER TABLE documents ENABLE ROW LEVEL SECURITY")
    async with conftest.Client(TestServer(create_app(configuration, database_url))) as client:

        async def says_why() -> bool:
            async with client.get("/health/ready") as response:
                return "row-level security" in (await response.json()).get("reason", "")

        await until(says_why)
        await sql.execute("ALTER TABLE documents DISABLE ROW LEVEL SECURITY")

        async def is_ready() -> bool:
            async with client.get("/health/ready") as response:
                return response.status == 200

        await until(is_ready)
