"""`server.list_size_limit`: the rows of a page have a bound in bytes."""

from __future__ import annotations

import json
from typing import Any

from ..sse import listen
from .conftest import Run
from .library import check_problem

FIELDS: dict[str, Any] = {"id": {"type": "integer", "primary_key": True}, "text": {"type": "text"}}
VIEWSETS: dict[str, dict[str, Any]] = {
    "numbers": {},
    "uncounted": {"count": "none", "cache": "responses"},
    "cursors": {"pagination_class": "CursorPagination"},
    "plain": {"pagination_class": None},
    "own": {"class": "views:Own"},
}
VIEWS = """
from rowcast import ModelViewSet

class Own(ModelViewSet):
    async def list(self, request):
        rows = await self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response([{"id": row.id} for row in rows])
"""
SETTINGS = json.dumps({
    "auth": {"default_permission_classes": ["AllowAny"]}, "server": {"list_size_limit": "64KiB"},
})  # fmt: skip


async def test_rows_of_a_page_have_a_bound_in_bytes(run: Run) -> None:
    """More are a 400 that says what to do, also by QUERY; smaller pages, fewer fields and whole lists are sent."""
    resources = {name: {"fields": FIELDS, "viewset": viewset} for name, viewset in VIEWSETS.items()}
    service = await run(resources, SETTINGS, {"views": VIEWS})
    for name in resources:
        await service.sql.execute(f"INSERT INTO {name} (text) SELECT repeat('é', 1000) FROM generate_series(1, 40)")
        size = "" if name == "plain" else "page_size=40"
        response, problem = await service.ask("GET", f"/{name}/?{size}")
        assert (response.status, problem["code"]) == (400, "list_too_large"), name
        check_problem(response, problem)
        assert "fewer fields" in problem["detail"]
        if name != "own":
            assert len(await service.get(f"/{name}/?{size}&fields=id")) in (4, 40)
            exported = await service.client.get(f"/{name}/", headers={"Accept": "application/x-ndjson"})
            assert len((await exported.text()).splitlines()) == 40
        if size:
            assert len((await service.get(f"/{name}/?page_size=20"))["results"]) == 20
    body = {"page_size": 40, "fields": ["id", "text"]}
    _, problem = await service.ask("QUERY", "/numbers/", body, status=400)
    assert problem["code"] == "list_too_large"
    async with listen(service.client, "/numbers/stream/?snapshot=true") as stream:
        found: list[Any] = []
        while (event := await stream.next()).event == "snapshot":
            found += event.json()["rows"]
        assert len(found) == 40, "a snapshot is read in parts, with a bound of its own"
    assert len((await service.get("/numbers/1/"))["text"]) == 1000
