"""One scope: ``get_queryset`` bounds what is written as well as what is read."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from .conftest import Run
from .library import Service

VIEWSETS = dedent("""
    from rowcast import BasePermission, ModelViewSet, Serializer, model, post_dump

    Ticket = model("tickets")

    class Scoped(ModelViewSet):
        model = Ticket

        def get_queryset(self):
            return Ticket.objects.filter(tenant=self.request.headers.get("Tenant", ""))

    class PlainViewSet(Scoped):
        pass

    class HookedViewSet(Scoped):
        async def perform_create(self, serializer):
            await serializer.save()

        async def perform_update(self, serializer):
            await serializer.save()

    class StaticViewSet(ModelViewSet):
        queryset = Ticket.objects.filter(tenant="a")

    class Everybody(BasePermission):
        def has_object_permission(self, request, view, row):
            return True

    class PermittedViewSet(Scoped):
        permission_classes = [Everybody]
    """).replace(", post_dump", "")
FIELDS = {
    "id": {"type": "integer", "primary_key": True},
    "tenant": {"type": "string", "max_length": 20},
    "text": {"type": "string", "max_length": 100, "default": ""},
    "labels": {"type": "many_to_many", "to": "labels"},
}
A = {"Tenant": "a"}


async def started(run: Run, viewset: str) -> Service:
    """A service with tickets of two tenants and one viewset for them."""
    labels = {"fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 9}}}
    tickets: dict[str, Any] = {"fields": FIELDS, "viewset": {"class": f"viewsets:{viewset}"}}
    service = await run({"labels": labels, "tickets": tickets}, modules={"viewsets": VIEWSETS})
    await service.sql.execute("INSERT INTO tickets (tenant, text) VALUES ('a', 'mine'), ('b', 'theirs')")
    await service.sql.execute("INSERT INTO labels (name) VALUES ('x')")
    return service


VIEWSET_NAMES = ["PlainViewSet", "HookedViewSet", "StaticViewSet", "PermittedViewSet"]


@pytest.mark.parametrize("viewset", VIEWSET_NAMES)
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_update_cannot_move_a_row_out_of_the_scope(run: Run, viewset: str, method: str) -> None:
    """A change that would take the row out of the scope is a 403 ``outside_scope``, and nothing is written."""
    service = await started(run, viewset)
    body = {"tenant": "b", "text": "moved", "labels": [1]}
    response, problem = await service.ask(method, "/tickets/1/", body, headers=A)
    assert (response.status, problem["code"]) == (403, "outside_scope")
    assert dict(await service.sql.fetchrow("SELECT tenant, text FROM tickets WHERE id = 1")) == {
        "tenant": "a", "text": "mine"
    }  # fmt: skip
    assert await service.sql.fetchval("SELECT count(*) FROM tickets_labels") == 0
    response, row = await service.ask("PATCH", "/tickets/1/", {"text": "new", "labels": [1]}, headers=A)
    assert (response.status, row["text"]) == (200, "new")


@pytest.mark.parametrize("viewset", VIEWSET_NAMES)
async def test_create_cannot_put_a_row_outside_the_scope(run: Run, viewset: str) -> None:
    """A new row outside the scope is a 403 ``outside_scope``, and is not there afterwards; one inside it is a 201."""
    service = await started(run, viewset)
    response, problem = await service.ask("POST", "/tickets/", {"tenant": "b", "labels": [1]}, headers=A)
    assert (response.status, problem["code"]) == (403, "outside_scope")
    assert await service.sql.fetchval("SELECT count(*) FROM tickets") == 2
    response, row = await service.ask("POST", "/tickets/", {"tenant": "a", "labels": [1]}, headers=A)
    assert (response.status, row["tenant"]) == (201, "a")


async def test_writes_without_a_scope_take_no_further_statement(run: Run) -> None:
    """The check costs one statement where there is a scope, and none where there is not."""
    fields = {name: FIELDS[name] for name in ("id", "tenant", "text")}
    resources = {
        "open": {"fields": fields, "table": "open"},
        "tickets": {"fields": fields, "viewset": {"class": "viewsets:PlainViewSet"}},
    }
    service = await run(resources, modules={"viewsets": VIEWSETS})

    async def cost(path: str) -> int:
        body = {"tenant": "a"}
        await service.ask("POST", path, body, headers=A, status=201)
        before = service.database.statements
        await service.ask("POST", path, body, headers=A, status=201)
        return service.database.statements - before

    assert await cost("/open/") == 1
    assert await cost("/tickets/") == 2
