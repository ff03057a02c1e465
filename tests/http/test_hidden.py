"""A row that the scope hides is answered as one that does not exist: on every route, with every method, body and header."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWSETS = dedent("""
    from rowcast import BasePermission, ModelViewSet, action, model

    class Anybody(BasePermission):
        def has_object_permission(self, request, view, row):
            return True

    class Plain(ModelViewSet):
        def get_queryset(self):
            return self.model.objects.filter(tenant="a")

        @action(detail=True, methods=["GET", "POST", "PATCH"])
        async def close(self, request, id):
            row = await self.get_object(id)
            return {"closed": row.id}

    class Hooked(Plain):
        async def perform_update(self, serializer):
            await serializer.save()

        async def perform_destroy(self, instance):
            await instance.delete()

    class Permitted(Plain):
        permission_classes = [Anybody]

    class Own(Plain):
        async def retrieve(self, request, id):
            return await self.get_object(id)

        async def update(self, request, id):
            return await self.get_object(id)

        async def partial_update(self, request, id):
            return await self.get_object(id)

        async def destroy(self, request, id):
            await (await self.get_object(id)).delete()
    """)
NAMES = ["Plain", "Hooked", "Permitted", "Own"]
FIELDS: dict[str, Any] = {
    "id": {"type": "integer", "primary_key": True},
    "tenant": {"type": "string", "max_length": 20, "read_only": True, "default": "a"},
    "name": {"type": "string", "max_length": 10, "unique": True},
    "parent": {"type": "foreign_key", "to": "plain", "null": True},
}
RESOURCES = {
    name.lower(): {"fields": FIELDS, "viewset": {"class": f"viewsets:{name}"}} for name in NAMES
}  # 1 is shown, 2 is hidden, 3 refers to 2 and is hidden as well, 9 does not exist
BODIES: dict[str, Any] = {
    "valid": {"name": "new"},
    "taken": {"name": "one"},
    "taken by a hidden row": {"name": "three"},
    "too long": {"name": "x" * 11},
    "unknown key": {"nme": "new"},
    "hidden key": {"name": "new", "parent_id": 2},
    "empty": {},
    "list": [],
}
HEADERS: dict[str, dict[str, str]] = {
    "none": {},
    "If-Match": {"If-Match": '"1-x"'},
    "If-Match any": {"If-Match": "*"},
    "If-None-Match any": {"If-None-Match": "*"},
    "events": {"Accept": "text/event-stream"},
    "html": {"Accept": "text/html"},
    "no JSON": {"Content-Type": "text/plain"},
    "encoding": {"Content-Encoding": "br"},
    "expired": {"Authorization": "Bearer rc_no"},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("hidden")
    modules = {"viewsets": VIEWSETS}
    async with running(databases, directory, RESOURCES, modules=modules) as service:
        for table in RESOURCES:
            await service.sql.execute(
                f"INSERT INTO {table} (id, tenant, name, parent_id) OVERRIDING SYSTEM VALUE"
                " VALUES (1, 'a', 'one', NULL), (2, 'b', 'two', NULL), (3, 'b', 'three', NULL)"
            )
            await service.sql.execute(f"UPDATE {table} SET parent_id = 2 WHERE id = 3")
        yield service


async def outcome(service: Service, method: str, path: str, **options: Any) -> tuple[int, dict[str, str], Any]:
    """The status, the headers and the body of a response, without what differs between two requests of the same kind."""
    async with service.client.request(method, path, **options) as response:
        headers = {
            name: text
            for name, text in response.headers.items()
            if name not in ("Date", "X-Request-ID", "Server", "Retry-After")
        }
        if response.status == 200 and response.content_type == "text/event-stream":
            return response.status, headers, None
        body = await response.json(content_type=None) if await response.read() else None
    if isinstance(body, dict):
        body.pop("request_id", None)
        if response.status == HTTPStatus.TOO_MANY_REQUESTS:
            body["detail"] = re.sub(r"\d+ seconds?", "", body["detail"])  # a second may have passed
    return response.status, headers, body


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "POST"])
@pytest.mark.parametrize("suffix", ["", "stream/", "close/", "?fields=id", "?fields=nope", "?expand=parent", "?nope=1"])
async def test_hidden_and_missing_rows_are_the_same(service: Service, name: str, method: str, suffix: str) -> None:
    """The same status, headers and words; and nothing is written."""
    writes = method in ("PUT", "PATCH", "POST", "DELETE")
    before = await service.sql.fetch(f"SELECT * FROM {name.lower()} ORDER BY id")
    for (body_name, body), (header_name, headers) in itertools.product(
        BODIES.items() if writes else [("valid", None)], HEADERS.items()
    ):
        if body_name != "valid" and header_name not in ("none", "If-Match"):
            continue
        options: dict[str, Any] = {"headers": headers} if body is None else {"headers": headers, "json": body}
        if "Content-Type" in headers and body is not None:
            options = {"headers": headers, "data": b"{}"}
        hidden = await outcome(service, method, f"/{name.lower()}/2/{suffix}", **options)
        missing = await outcome(service, method, f"/{name.lower()}/9/{suffix}", **options)
        assert hidden == missing, (body_name, header_name)
        assert hidden[0] != 200 or method == "OPTIONS", (body_name, header_name)
        assert hidden[0] < 500
    assert await service.sql.fetch(f"SELECT * FROM {name.lower()} ORDER BY id") == before


@pytest.mark.parametrize("name", NAMES)
async def test_integers_have_one_form_in_addresses(service: Service, name: str) -> None:
    """Any other spelling is a 404 with every method, on every route of a row."""
    for key in ("%2B1", "01", "-0", "1%20", "1.0", "%EF%BC%91", "1_0", "+1", "0x1", "%31%00"):
        for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
            path = f"/{name.lower()}/{key}/"
            status, _, _ = await outcome(
                service, method, path, json={"name": "one"} if method.startswith("P") else None
            )
            assert status == (200 if method == "OPTIONS" and name == "Own" else 404), (key, method)
        assert (await outcome(service, "GET", f"/{name.lower()}/{key}/stream/"))[0] == 404
        assert (await outcome(service, "POST", f"/{name.lower()}/{key}/close/", json={}))[0] == 404
    assert (await outcome(service, "GET", f"/{name.lower()}/1/"))[0] == 200


async def test_what_a_unique_value_tells_is_known(service: Service) -> None:
    """A value that a hidden row has cannot be written: a 409, with the words of any other, and without the row.

    docs/security.md names this limit. Uniqueness holds for the whole table.
    """
    for value in ("two", "one"):
        status, _, problem = await outcome(service, "POST", "/plain/", json={"name": value})
        assert (status, problem["code"]) == (409, "unique")
        assert problem["errors"] == {"name": ["Another row has this value."]}
