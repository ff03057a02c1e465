"""One scope: ``get_queryset`` bounds what is written as well as what is read."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from .conftest import Run
from .library import Service

VIEWSETS = dedent("""
    from rowcast import BasePermission, ModelViewSet, Serializer, model, wait, post_dump

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

    class HandlersViewSet(Scoped):
        async def create(self, request):
            serializer = self.get_serializer(data=request.data)
            serializer.is_valid(raise_exception=True)
            await self.perform_create(serializer)
            return serializer.data, 201

        def update(self, request, id):
            serializer = self.get_serializer(wait(self.get_object()), data=request.data)
            serializer.is_valid(raise_exception=True)
            wait(self.perform_update(serializer))
            return serializer.data

        async def partial_update(self, request, id):
            serializer = self.get_serializer(await self.get_object(), data=request.data, partial=True)
            serializer.is_valid(raise_exception=True)
            await serializer.save()
            return serializer.data

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


VIEWSET_NAMES = ["PlainViewSet", "HookedViewSet", "HandlersViewSet", "StaticViewSet", "PermittedViewSet"]


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


PEOPLE = dedent("""
    from rowcast import BasePermission, ModelViewSet, Serializer, model

    Person, Ticket = model("people"), model("tickets")

    class ScopedPeople(ModelViewSet):
        model = Person

        def get_queryset(self):
            return Person.objects.filter(tenant=self.request.headers.get("Tenant", ""))

    class SameTenant(BasePermission):
        def has_object_permission(self, request, view, row):
            return row.tenant == request.headers.get("Tenant", "")

    class PermittedPeople(ModelViewSet):
        model = Person
        permission_classes = [SameTenant]

    class ReadOnly(BasePermission):
        def has_object_permission(self, request, view, row):
            return request.method == view.request.method == "GET" and request.headers["Tenant"] == "a"

    class ReadablePeople(ModelViewSet):
        model = Person
        permission_classes = [ReadOnly]

    class HandlerTickets(ModelViewSet):
        model = Ticket

        async def save(self, serializer):
            serializer.is_valid(raise_exception=True)
            return self.serialize(await serializer.save())

        async def create(self, request):
            return await self.save(self.get_serializer(data=request.data)), 201

        async def update(self, request, id):
            return await self.save(self.get_serializer(await self.get_object(), data=request.data))

        async def partial_update(self, request, id):
            return await self.save(self.get_serializer(await self.get_object(), data=request.data, partial=True))

    class HookedTickets(ModelViewSet):
        model = Ticket

        async def perform_create(self, serializer):
            await serializer.save()

        async def perform_update(self, serializer):
            await serializer.save()
    """)


async def with_people(run: Run, people: str, tickets: str, **options: Any) -> Service:
    """People of two tenants, and tickets that refer to them by a foreign key and by links."""
    person = {"type": "foreign_key", "to": "people", "null": True, "on_delete": "set_null", **options}
    resources: dict[str, Any] = {
        "people": {
            "fields": {"id": {"type": "integer", "primary_key": True}, "tenant": {"type": "string", "max_length": 9}},
            "viewset": {"class": f"viewsets:{people}"},
        },
        "tickets": {
            "fields": {
                "id": {"type": "integer", "primary_key": True},
                "text": {"type": "string", "default": "", "max_length": 9},
                "assignee": person,
                "watchers": {"type": "many_to_many", "to": "people", "related_name": "watched", **options},
            },
            "viewset": {"class": tickets, "prefetch_related": ["watchers"]},
        },
    }
    resources["tickets"]["fields"]["assignee"]["related_name"] = "assigned"
    service = await run(resources, modules={"viewsets": PEOPLE})
    await service.sql.execute("INSERT INTO people (tenant) VALUES ('a'), ('b')")
    return service


@pytest.mark.parametrize("people", ["ScopedPeople", "PermittedPeople"])
@pytest.mark.parametrize("tickets", ["ModelViewSet", "viewsets:HookedTickets", "viewsets:HandlerTickets"])
async def test_keys_must_name_rows_that_the_caller_could_see(run: Run, people: str, tickets: str) -> None:
    """A key of a hidden row is refused in the words for a missing one, in every field and by every writing action."""
    service = await with_people(run, people, tickets)
    hidden, missing = [
        (await service.ask("POST", "/tickets/", {"assignee_id": key, "watchers": [1, key]}, headers=A))[1]
        for key in (2, 99)
    ]
    assert hidden["code"] == "does_not_exist"
    assert hidden["errors"] == {name: ["There is no row with this key."] for name in ("assignee_id", "watchers")}
    assert {**hidden, "request_id": ""} == {**missing, "request_id": ""}
    assert await service.sql.fetchval("SELECT count(*) FROM tickets") == 0
    response, row = await service.ask("POST", "/tickets/", {"assignee_id": 1, "watchers": [1]}, headers=A)
    assert (response.status, row["assignee_id"], [each["id"] for each in row["watchers"]]) == (201, 1, [1])
    for method in ("PATCH", "PUT"):
        for body in ({"assignee_id": 2}, {"watchers": [1, 2]}):
            response, problem = await service.ask(method, f"/tickets/{row['id']}/", body, headers=A)
            assert (response.status, problem["code"]) == (400, "does_not_exist")
    assert await service.sql.fetchval("SELECT assignee_id FROM tickets") == 1


async def test_keys_may_name_rows_that_the_caller_can_only_read(run: Run) -> None:
    """Permissions that differ between reading and writing are those of reading."""
    service = await with_people(run, "ReadablePeople", "ModelViewSet")
    assert (await service.ask("PATCH", "/people/1/", {"tenant": "x"}, headers=A))[0].status == 401
    response, row = await service.ask("POST", "/tickets/", {"assignee_id": 1, "watchers": [1, 2]}, headers=A)
    assert (response.status, row["assignee_id"]) == (201, 1)
    response, row = await service.ask("POST", "/tickets/", {"assignee_id": 1}, headers={"Tenant": "b"})
    assert (response.status, row["code"]) == (400, "does_not_exist")


async def test_keys_that_a_row_has_already_may_stay(run: Run) -> None:
    """An object that was read can be sent back, with keys of rows that its caller could not see."""
    service = await with_people(run, "ScopedPeople", "ModelViewSet")
    await service.sql.execute("INSERT INTO tickets (assignee_id) VALUES (2)")
    await service.sql.execute("INSERT INTO tickets_watchers (ticket_id, person_id) VALUES (1, 2)")
    body = {"text": "new", "assignee_id": 2, "watchers": [2, 1]}
    response, row = await service.ask("PUT", "/tickets/1/", body, headers=A)
    assert (response.status, row["text"], row["assignee_id"]) == (200, "new", 2)
    response, problem = await service.ask("PATCH", "/tickets/1/", {"assignee_id": None}, headers=A)
    assert response.status == 200
    response, problem = await service.ask("PATCH", "/tickets/1/", {"assignee_id": 2}, headers=A)
    assert (response.status, problem["code"]) == (400, "does_not_exist")


async def test_any_key_switches_the_check_off(run: Run) -> None:
    """``any_key: true`` lets a body name any row."""
    service = await with_people(run, "ScopedPeople", "ModelViewSet", any_key=True)
    response, row = await service.ask("POST", "/tickets/", {"assignee_id": 2, "watchers": [2]}, headers=A)
    assert (response.status, row["assignee_id"]) == (201, 2)
