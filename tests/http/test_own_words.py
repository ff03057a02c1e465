"""Columns may have the names that statements give to their own values."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Run
from .library import Service

NAMES = (
    "bytes", "c", "c0", "cell", "count", "created", "deleted", "document", "given", "item", "items", "key", "keys", "line", "n",
    "new", "old", "place", "q", "result", "results", "row", "rows", "set0", "size", "snapshot", "total", "transaction", "tx",
    "value", "version", "xact_id",
)  # fmt: skip
"""Words that are labels, aliases and names of values in the service's statements."""

ODD: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True}, "code": {"type": "string", "max_length": 10, "unique": True},
        **{name: {"type": "integer", "null": True} for name in NAMES}, "parent": {"type": "foreign_key", "to": "odd", "null": True},
        "gone": {"type": "datetime", "null": True, "read_only": True},
    },
    "viewset": {
        "bulk": ["update", "destroy"], "import": True, "search_fields": ["code"], "ordering_fields": [*NAMES],
        "filterset_fields": {"code": ["exact"], **{name: ["exact", "gt"] for name in NAMES if name not in ("count", "deleted", "snapshot")}},
        "aggregates": {"group_by": [*NAMES], "sum": [*NAMES], "max": [*NAMES], "count_distinct": [*NAMES]},
    },
}  # fmt: skip


@pytest.mark.parametrize("deletion", ["soft_delete", "delete"])
async def test_columns_may_have_any_name(run: Run, deletion: str) -> None:
    """Every kind of request reads and writes them, and their streams send them."""
    resource = {**ODD, "soft_delete": "gone"} if deletion == "soft_delete" else ODD
    service = await run({"odd": resource})
    numbers = {name: place for place, name in enumerate(NAMES)}
    async with service.client.stream("/odd/stream/") as stream:
        await _all_requests(service, numbers)
        event = await stream.next()
        assert {name: event["data"][name] for name in NAMES} == numbers


async def _all_requests(service: Service, numbers: dict[str, int]) -> None:
    ask = service.ask
    _, row = await ask("POST", "/odd/", {"code": "a", **numbers}, status=201)
    assert numbers.items() <= row.items()
    at = f"/odd/{row['id']}/"
    for method in ("PUT", "PATCH"):
        _, changed = await ask(method, at, {**numbers, "code": "a", "parent_id": row["id"]}, status=200)
        assert numbers.items() <= changed.items()
    many = [{"code": code, **numbers} for code in "bc"]
    for method, path, status in (
        ("POST", "/odd/", 201),
        ("PUT", "/odd/?on=code", 200),
        ("PUT", "/odd/?on=code&existing=keep", 200),
    ):
        _, rows = await ask(method, path, many, status=status)
        assert all(numbers.items() <= one.items() for one in rows)
    await ask("PATCH", "/odd/?code=b", {**numbers}, status=200)
    await ask("PATCH", "/odd/", [{"id": row["id"], **numbers}], status=200)
    for path in (
        "/odd/",
        "/odd/?expand=parent",
        "/odd/?search=a",
        f"{at}?expand=odd",
        "/odd/?key=11&ordering=-rows,size",
    ):
        await service.get(path)
    for name in NAMES:
        found = await service.get(f"/odd/aggregate/?group_by={name}&sum={name}&max={name}&count_distinct={name}&count")
        assert len(found["results"]) == 1, found
    for media_type in ("text/csv", "application/x-ndjson"):
        response = await service.client.get("/odd/", headers={"Accept": media_type})
        assert response.status == 200
        text = await response.text()
        assert len(text.splitlines()) == (4 if media_type == "text/csv" else 3), text
    response = await service.client.post(
        "/odd/import/",
        data=f"code,{','.join(NAMES)}\nd,{','.join(map(str, numbers.values()))}\n",
        headers={"Content-Type": "text/csv"},
    )
    assert response.status in (200, 201), await response.text()
    await ask("DELETE", "/odd/?code=b", status=204)
    await ask("DELETE", at, status=204)
