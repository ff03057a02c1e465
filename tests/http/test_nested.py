"""Parents with their children in one body: the option ``nested``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from rowcast.errors import ConfigurationError

from ..databases import Databases
from .conftest import Run, running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY: dict[str, Any] = {"type": "integer", "primary_key": True}
ALL = {"create": True, "update": True, "delete": "missing"}
ORDERS: dict[str, Any] = {
    "fields": {
        "id": KEY,
        "number": {"type": "string", "max_length": 20, "unique": True},
        "note": {"type": "string", "default": "", "blank": True},
    },
    "viewset": {"nested": {"lines": ALL}, "max_bulk": 50},
}
LINES: dict[str, Any] = {
    "fields": {
        "id": KEY,
        "order": {"type": "foreign_key", "to": "orders", "on_delete": "cascade"},
        "sku": {"type": "string", "max_length": 10},
        "qty": {"type": "integer", "min": 1, "default": 1},
        "tags": {"type": "many_to_many", "to": "tags"},
    },
    "unique": [["order", "sku"]],
    "viewset": {"nested": {"serials": ALL}, "max_bulk": 20, "filterset_fields": ["order"]},
}
RESOURCES: dict[str, Any] = {
    "orders": ORDERS,
    "lines": LINES,
    "serials": {
        "fields": {
            "id": {"type": "uuid", "primary_key": True},
            "line": {"type": "foreign_key", "to": "lines", "on_delete": "cascade"},
            "text": {"type": "string", "max_length": 10, "unique": True},
        }
    },
    "tags": {"fields": {"id": KEY, "name": {"type": "string"}}},
    "shelves": {  # children whose keys clients choose, with the key of the parent in them
        "fields": {"code": {"type": "string", "max_length": 10, "primary_key": True}},
        "viewset": {"nested": {"places": ALL, "boxes": {"create": True}}, "put_creates": True, "import": True},
    },
    "places": {
        "fields": {
            "shelf": {"type": "foreign_key", "to": "shelves", "on_delete": "cascade"},
            "number": {"type": "integer"},
            "what": {"type": "string", "null": True},
        },
        "primary_key": ["shelf", "number"],
    },
    "boxes": {
        "fields": {
            "code": {"type": "string", "max_length": 10, "primary_key": True},
            "shelf": {"type": "foreign_key", "to": "shelves", "on_delete": "cascade"},
        }
    },
    "albums": {  # only what is open
        "fields": {"id": KEY, "name": {"type": "string"}},
        "viewset": {"nested": {"songs": {"create": True}}},
    },
    "songs": {
        "fields": {
            "id": KEY,
            "album": {"type": "foreign_key", "to": "albums", "on_delete": "cascade"},
            "name": {"type": "string"},
        }
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with running(databases, tmp_path_factory.mktemp("nested"), RESOURCES) as service:
        yield service


@pytest_asyncio.fixture(loop_scope="module")
async def service(_service: Service) -> Service:
    await _service.sql.execute(
        "TRUNCATE orders, lines, serials, tags, lines_tags, shelves, places, boxes, albums, songs RESTART IDENTITY"
    )
    return _service


async def lines(service: Service) -> list[tuple[Any, ...]]:
    """The stored lines: order, sku, quantity."""
    rows = await service.sql.fetch("SELECT order_id, sku, qty FROM lines ORDER BY order_id, sku")
    return [tuple(row) for row in rows]


def line(number: int, order: int, sku: str, qty: int = 1) -> dict[str, Any]:
    return {"id": number, "order_id": order, "sku": sku, "qty": qty}


async def test_a_row_is_created_with_its_children(service: Service) -> None:
    """201, ``Location``, ``ETag`` of the row alone, and the children under their name."""
    await service.sql.execute("INSERT INTO tags (id, name) VALUES (1, 'a')")
    body = {"number": "A1", "lines": [{"sku": "a", "qty": 2}, {"sku": "b", "tags": [1]}]}
    response, row = await service.ask("POST", "/orders/", body, status=201)
    assert row == {"id": 1, "number": "A1", "note": "", "lines": [line(1, 1, "a", 2), line(2, 1, "b")]}
    assert response.headers["Location"].endswith("/orders/1/")
    got, _ = await service.ask("GET", "/orders/1/", status=200)
    assert got.headers["ETag"] == response.headers["ETag"]
    assert row == await service.get("/orders/1/", query={"expand": "lines"})
    assert await service.sql.fetchval("SELECT count(*) FROM lines_tags") == 1


async def test_without_children_nothing_is_different(service: Service) -> None:
    row = await service.post("/orders/", {"number": "A1"})
    assert row == {"id": 1, "number": "A1", "note": ""}
    assert await service.patch("/orders/1/", {"lines": []}) == {**row, "lines": []}


async def test_children_of_a_request_are_one_statement_of_each_kind(service: Service) -> None:
    """Whatever their number, and that of the parents."""
    counts = []
    for some in (1, 15):
        before = service.database.statements
        await service.post("/orders/", {"number": f"A{some}", "lines": [{"sku": f"s{n}"} for n in range(some)]})
        counts.append(service.database.statements - before)
    assert counts[0] == counts[1]


async def test_a_list_replaces(service: Service) -> None:
    """Children with a key are changed, others created, and those left out deleted; unique values may move."""
    await service.post("/orders/", {"number": "A1", "lines": [{"sku": "a"}, {"sku": "b"}, {"sku": "c"}]})
    await service.post("/orders/", {"number": "A2", "lines": [{"sku": "a"}]})
    row = await service.patch(
        "/orders/1/", {"note": "new", "lines": [{"id": 2, "sku": "a", "qty": 5}, {"sku": "d"}, {"id": 3}]}
    )
    assert row == {
        "id": 1,
        "number": "A1",
        "note": "new",
        "lines": [line(2, 1, "a", 5), line(3, 1, "c"), line(5, 1, "d")],
    }
    assert await lines(service) == [(1, "a", 5), (1, "c", 1), (1, "d", 1), (2, "a", 1)]
    read = await service.get("/orders/1/", query={"expand": "lines"})
    assert await service.put("/orders/1/", read) == read  # an object that was read can be sent back
    assert (await service.put("/orders/1/", {"number": "A1", "lines": []}))["lines"] == []
    assert await lines(service) == [(2, "a", 1)]


async def test_an_object_leaves_other_children_alone(service: Service) -> None:
    await service.post("/orders/", {"number": "A1", "lines": {"create": [{"sku": "a"}, {"sku": "b"}, {"sku": "c"}]}})
    row = await service.patch(
        "/orders/1/",
        {"lines": {"create": [{"sku": "b"}], "update": [{"id": 1, "qty": 9}], "delete": [2]}},
    )
    assert row["lines"] == [line(1, 1, "a", 9), line(3, 1, "c"), line(4, 1, "b")]
    assert (await service.patch("/orders/1/", {"lines": {"delete": [{"id": 1}, 3]}}))["lines"] == [line(4, 1, "b")]
    assert (await service.patch("/orders/1/", {"lines": {}}))["lines"] == [line(4, 1, "b")]


async def test_errors_have_paths_and_nothing_is_written(service: Service) -> None:
    """Those of the row and of all its children are in one answer."""
    body = {"number": "x" * 30, "lines": [{"sku": "a"}, {"sku": "b", "qty": 0}, 5, {"qty": 1}]}
    problem = await service.post("/orders/", body, status=400)
    assert {"number", "lines"} == problem["errors"].keys()
    assert problem["errors"]["lines"]["1"].keys() == {"qty"}
    assert problem["errors"]["lines"]["3"].keys() == {"sku"}
    assert await service.sql.fetchval("SELECT count(*) FROM orders") == 0


async def test_violations_in_the_database_have_paths(service: Service) -> None:
    problem = await service.post("/orders/", {"number": "A1", "lines": [{"sku": "a"}, {"sku": "a"}]}, status=409)
    assert (problem["code"], list(problem["errors"]["lines"])) == ("unique", ["1"])
    row = await service.post("/orders/", {"number": "A1", "lines": [{"sku": "a"}, {"sku": "b"}]})
    taken = {"update": [{"id": row["lines"][1]["id"], "sku": "a"}]}
    problem = await service.patch(f"/orders/{row['id']}/", {"note": "x", "lines": taken}, status=409)
    assert list(problem["errors"]["lines"]["update"]) == ["0"]
    assert (await service.get(f"/orders/{row['id']}/"))["note"] == ""
    problem = await service.post("/orders/", {"number": "A1", "lines": [{"sku": "a"}]}, status=409)
    assert list(problem["errors"]) == ["number"]


@pytest.mark.parametrize(
    ("value", "errors"),
    [
        (None, {"non_field_errors": ["Must be a list of objects, or an object with create, update or delete."]}),
        ("x", {"non_field_errors": ["Must be a list of objects, or an object with create, update or delete."]}),
        ({"creat": []}, {"creat": {"non_field_errors": ["Unknown member; did you mean create?"]}}),
        ({"create": {}}, {"create": {"non_field_errors": ["Must be a list."]}}),
        ([{"id": "x"}], {"0": {"id": ["Not a valid integer."]}}),
        ([{"id": 1}, {"id": 1}], {"1": {"id": ["The same key as at lines.0."]}}),
        ({"update": [{"qty": 3}]}, {"update": {"0": {"id": ["This field is required."]}}}),
        ({"update": [{"id": 1}], "delete": [1]}, {"delete": {"0": {"id": ["The same key as at lines.update.0."]}}}),
        ({"delete": [None]}, {"delete": {"0": {"id": ["This field is required."]}}}),
        ([{"skuu": "x"}], {"0": {"skuu": ["Unknown field; did you mean sku?"], "sku": ["This field is required."]}}),
        ([{"sku": "x", "order_id": 2}], {"0": {"order_id": ["It belongs to the row that it is in: leave this out."]}}),
    ],
)
async def test_wrong_forms(service: Service, value: Any, errors: Any) -> None:
    await service.post("/orders/", {"number": "A1", "lines": [{"sku": "a"}]})
    problem = await service.patch("/orders/1/", {"note": "x", "lines": value}, status=400)
    assert problem["errors"] == {"lines": errors}
    assert (await lines(service), (await service.get("/orders/1/"))["note"]) == ([(1, "a", 1)], "")


@pytest.mark.parametrize("number", [3, 99])
async def test_a_child_of_another_parent_is_refused(service: Service, number: int) -> None:
    """As if there were no such row, whether there is one or not; and it stays where it is."""
    await service.post("/orders/", {"number": "A1", "lines": [{"sku": "a"}, {"sku": "b"}]})
    await service.post("/orders/", {"number": "A2", "lines": [{"sku": "a"}]})
    before = await lines(service)
    for body, path in (
        ([{"id": 1}, {"id": number, "qty": 5}], ["1"]),
        ({"update": [{"id": number, "qty": 5}]}, ["update", "0"]),
        ({"delete": [number]}, ["delete", "0"]),
    ):
        problem = await service.patch("/orders/1/", {"lines": body}, status=400)
        errors = problem["errors"]["lines"]
        for step in path:
            errors = errors[step]
        assert (problem["code"], errors) == ("does_not_exist", {"id": ["There is no row with this key."]})
    problem = await service.post("/orders/", {"number": "A3", "lines": [{"id": 3, "sku": "z"}]}, status=400)
    assert problem["errors"] == {"lines": {"0": {"id": ["There is no row with this key."]}}}
    assert await lines(service) == before


async def test_only_what_is_open(service: Service) -> None:
    """A list deletes nothing unless ``delete: missing`` is open."""
    await service.post("/albums/", {"name": "A", "songs": [{"name": "one"}]})
    row = await service.patch("/albums/1/", {"songs": [{"name": "two"}]})
    assert [each["name"] for each in row["songs"]] == ["one", "two"]
    for body, place, what in (
        ([{"id": 1, "name": "x"}], ["0"], "update"),
        ({"update": [{"id": 1}]}, ["update", "0"], "update"),
        ({"delete": [1]}, ["delete", "0"], "delete"),
    ):
        problem = await service.patch("/albums/1/", {"songs": body}, status=400)
        errors = problem["errors"]["songs"]
        for step in place:
            errors = errors[step]
        assert errors == {"non_field_errors": [f"{what} is not open here, only create."]}


async def test_arrays_of_rows(service: Service) -> None:
    """POST and PATCH; errors begin with the place of the row."""
    body = [{"number": "A1", "lines": [{"sku": "a"}]}, {"number": "A2"}, {"number": "A3", "lines": [{"sku": "c"}]}]
    _, rows = await service.ask("POST", "/orders/", body, status=201)
    assert [row.get("lines") for row in rows] == [[line(1, 1, "a")], None, [line(2, 3, "c")]]
    _, rows = await service.ask(
        "PATCH", "/orders/", [{"id": 3, "lines": []}, {"id": 1, "lines": [{"id": 1, "qty": 4}]}], status=200
    )
    assert [row["lines"] for row in rows] == [[], [line(1, 1, "a", 4)]]
    problem = await service.patch(
        "/orders/", [{"id": 1, "note": "x"}, {"id": 3, "lines": [{"id": 1, "qty": 0}]}], status=400
    )
    assert problem["errors"] == {"1": {"lines": {"0": {"id": ["There is no row with this key."]}}}}
    problem = await service.post("/orders/", [{"number": "A1", "lines": []}, {"number": "B"}], status=409)
    assert list(problem["errors"]) == ["0"]
    problem = await service.patch("/orders/", [{"id": 9, "lines": []}], status=404)
    assert problem["errors"] == {"0": {"id": ["Not found."]}}
    assert await lines(service) == [(1, "a", 4)]


async def test_children_of_children(service: Service) -> None:
    body = {"number": "A1", "lines": [{"sku": "a", "serials": [{"text": "x"}, {"text": "y"}]}, {"sku": "b"}]}
    row = await service.post("/orders/", body)
    assert [[each["text"] for each in some["serials"]] for some in row["lines"]] == [["x", "y"], []]
    problem = await service.patch(
        "/orders/1/", {"lines": {"update": [{"id": 2, "serials": [{"text": "z"}, {"text": "x" * 11}]}]}}, status=400
    )
    assert problem["errors"]["lines"]["update"]["0"]["serials"].keys() == {"1"}
    row = await service.patch("/orders/1/", {"lines": {"update": [{"id": 1, "serials": [{"text": "y"}]}]}})
    assert await service.sql.fetchval("SELECT array_agg(text) FROM serials") == ["y"]


async def test_keys_that_clients_choose(service: Service) -> None:
    """A key that is there changes the child, another one is that of a new child."""
    row = await service.post("/shelves/", {"code": "s", "places": [{"number": 1, "what": "a"}, {"number": 2}]})
    assert row["places"] == [
        {"shelf_id": "s", "number": 1, "what": "a"},
        {"shelf_id": "s", "number": 2, "what": None},
    ]
    row = await service.put("/shelves/s/", {"places": [{"number": 2, "what": "b"}, {"number": 3}]})
    assert [(each["number"], each["what"]) for each in row["places"]] == [(2, "b"), (3, None)]
    row = await service.patch("/shelves/s/", {"places": {"delete": [2]}})
    assert [each["number"] for each in row["places"]] == [3]
    row = await service.patch("/shelves/s/", {"boxes": [{"code": "x"}]})
    assert row["boxes"] == [{"code": "x", "shelf_id": "s"}]
    problem = await service.patch("/shelves/s/", {"boxes": [{"code": "x"}]}, status=409)  # changes are not open
    assert problem["errors"] == {"boxes": {"0": {"code": ["Another row has this value."]}}}
    made = await service.put("/shelves/t/", {"places": [{"number": 3}]}, status=201)
    assert made["places"] == [{"shelf_id": "t", "number": 3, "what": None}]


async def test_versions_are_those_of_the_row(service: Service) -> None:
    """A change of the children alone gives the row another version, and ``If-Match`` keeps both from being lost."""
    response, _ = await service.ask("POST", "/orders/", {"number": "A1", "lines": [{"sku": "a"}]}, status=201)
    tag = {"If-Match": response.headers["ETag"]}
    response, _ = await service.ask("PATCH", "/orders/1/", {"lines": [{"sku": "b"}]}, status=200, headers=tag)
    assert response.headers["ETag"] != tag["If-Match"]
    await service.ask("PATCH", "/orders/1/", {"lines": []}, status=412, headers=tag)
    assert await lines(service) == [(1, "b", 1)]
    tag = {"If-Match": response.headers["ETag"]}
    await service.ask("PATCH", "/orders/1/", {"lines": {"delete": []}}, status=200, headers=tag)
    await service.ask("PATCH", "/orders/1/", {"lines": []}, status=200, headers=tag)  # nothing was changed
    await service.ask("PATCH", "/orders/1/", {"lines": []}, status=412, headers=tag)


async def test_requests_at_the_same_time_follow_each_other(service: Service) -> None:
    """The row is locked: what a list leaves out is judged by what is there when it is its turn."""
    await service.post("/orders/", {"number": "A1"})
    answers = await asyncio.gather(
        *(service.patch("/orders/1/", {"lines": [{"sku": f"{n}{m}"} for m in range(3)]}) for n in range(6))
    )
    assert all(len(each["lines"]) == 3 for each in answers)
    assert len(await lines(service)) == 3


async def test_limits(service: Service) -> None:
    """``max_bulk`` of the children's viewset, and ``Prefer: max-affected`` for all rows together."""
    await service.post("/orders/", {"number": "A1", "lines": [{"sku": f"{n}"} for n in range(21)]}, status=413)
    body = {"number": "A1", "lines": [{"sku": "a"}, {"sku": "b"}]}
    await service.ask("POST", "/orders/", body, status=400, headers={"Prefer": "max-affected=2"})
    response, _ = await service.ask("POST", "/orders/", body, status=201, headers={"Prefer": "max-affected=3"})
    assert response.headers["Preference-Applied"] == "max-affected=3"
    await service.ask("PATCH", "/orders/1/", {"lines": []}, status=400, headers={"Prefer": "max-affected=2"})
    assert len(await lines(service)) == 2


async def test_forms_that_take_no_children(service: Service) -> None:
    problem = await service.put("/orders/?on=number", {"number": "A1", "lines": []}, status=400)
    assert problem["detail"] == "lines: PUT ?on= takes no rows inside others."
    problem = await service.patch("/orders/?number=1", {"lines": []}, status=400)
    assert problem["detail"] == "lines: a change by filter takes no rows inside others."
    response = await service.client.post(
        "/shelves/import/", data=b'{"code": "a", "boxes": []}', headers={"Content-Type": "application/x-ndjson"}
    )
    assert "An import takes no rows inside others." in await response.text()
    assert response.status == 400


async def test_batch_and_idempotency(service: Service) -> None:
    """The key of an earlier operation in a child; and the same answer to the same request."""
    operations = [
        {"method": "POST", "path": "/tags/", "body": {"name": "t"}, "ref": "t"},
        {
            "method": "POST",
            "path": "/orders/",
            "body": {"number": "A1", "lines": [{"sku": "a", "tags": [{"$ref": "t"}]}]},
        },
    ]
    results = (await service.post("/batch/", {"operations": operations}, status=200))["results"]
    assert results[1]["body"]["lines"] == [line(1, 1, "a")]
    key = {"Idempotency-Key": "0123456789abcdef"}
    body = {"number": "A2", "lines": [{"sku": "b"}]}
    first, row = await service.ask("POST", "/orders/", body, status=201, headers=key)
    again, same = await service.ask("POST", "/orders/", body, status=201, headers=key)
    assert (row, again.headers["Idempotency-Replayed"]) == (same, "true")
    assert "Idempotency-Replayed" not in first.headers
    assert await lines(service) == [(1, "a", 1), (2, "b", 1)]


async def test_options_and_the_document(service: Service) -> None:
    _, described = await service.ask("OPTIONS", "/orders/1/", status=200)
    assert described["nested"] == {
        "lines": {"create": True, "update": True, "delete": "missing", "key": ["id"], "max_bulk": 20}
    }
    _, described = await service.ask("OPTIONS", "/albums/", status=200)
    assert described["nested"]["songs"]["delete"] == "never"
    document = await service.get("/openapi.json")
    row = {"number": "A1", "lines": [{"sku": "a", "serials": {"create": [{"text": "x"}]}}]}
    _, written = await service.ask("POST", "/orders/", row, status=201)
    key = written["lines"][0]["id"]
    for method, path, body, right in (
        ("post", "/orders/", row, True),
        ("post", "/orders/", {"number": "A1", "lines": {"create": [{"sku": "a"}]}}, True),
        ("post", "/orders/", {"number": "A1", "lines": [{"qty": 1}]}, False),
        ("patch", "/orders/{id}/", {"lines": [{"id": key, "qty": 2}, {"sku": "b"}]}, True),
        ("patch", "/orders/{id}/", {"lines": {"update": [{"id": key}], "delete": [7, {"id": 8}]}}, True),
        ("patch", "/orders/{id}/", {"lines": {"update": [{"qty": 1}]}}, False),
        ("patch", "/orders/{id}/", {"lines": {"creat": []}}, False),
        ("patch", "/orders/{id}/", {"lines": None}, False),
        ("patch", "/albums/{id}/", {"songs": {"delete": [1]}}, False),
        ("patch", "/albums/{id}/", {"songs": [{"name": "x"}]}, True),
    ):
        schema = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        validator = Draft202012Validator({**schema, "components": document["components"]})
        assert validator.is_valid(body) == right, (method, body)
    answered = document["paths"]["/orders/"]["post"]["responses"]["201"]["content"]["application/json"]["schema"]
    Draft202012Validator({**answered, "components": document["components"]}).validate(written)


MODULE = """
from rowcast import BasePermission, ModelViewSet, Serializer, model
from marshmallow import fields


class NotFrozen(BasePermission):
    def has_permission(self, request, view):
        return request.headers.get("X-Deny") != f"{view.action} {request.method}"

    def has_object_permission(self, request, view, row):
        return row.sku != "frozen"


class LineSerializer(Serializer):
    double = fields.Function(lambda row: row.qty * 2)

    class Meta:
        model = model("lines")


class LineViewSet(ModelViewSet):
    serializer_class = LineSerializer
    permission_classes = [NotFrozen]

    async def perform_create(self, serializer):
        await serializer.save(by=f"new {self.action} {serializer.context['view'].action}")

    async def perform_update(self, serializer):
        await serializer.save(by=f"old {self.action} {self.kwargs['id']}")

    async def perform_destroy(self, instance):
        await model("gone").objects.create(sku=instance.sku)
        await instance.delete()


class OrderViewSet(ModelViewSet):
    async def perform_create(self, serializer):
        await serializer.save(number=serializer.validated_data["number"] + "!")


class OwnUpdate(ModelViewSet):
    async def update(self, request, id):
        return {}
"""
SHOP: dict[str, Any] = {
    "orders": {
        "fields": {"id": KEY, "number": {"type": "string"}},
        "viewset": {"class": "shop:OrderViewSet", "nested": {"lines": ALL}},
    },
    "lines": {
        "fields": {
            "id": KEY,
            "order": {"type": "foreign_key", "to": "orders", "on_delete": "cascade"},
            "sku": {"type": "string"},
            "qty": {"type": "integer", "default": 1},
            "by": {"type": "string", "read_only": True, "default": ""},
        },
        "viewset": {"class": "shop:LineViewSet"},
    },
    "gone": {"fields": {"id": KEY, "sku": {"type": "string"}}},
}


@pytest.mark.asyncio(loop_scope="function")
async def test_hooks_serializers_and_permissions_of_the_children(run: Run) -> None:
    """Those of their own viewset, for each kind of change; nothing is passed by."""
    service = await run(SHOP, modules={"shop": MODULE})
    row = await service.post("/orders/", {"number": "A", "lines": [{"sku": "a"}, {"sku": "b", "qty": 3}]})
    assert row["number"] == "A!"
    assert [(each["by"], each["double"]) for each in row["lines"]] == [
        ("new create create", 2),
        ("new create create", 6),
    ]
    row = await service.patch("/orders/1/", {"lines": [{"id": 1, "qty": 2}, {"sku": "c"}]})
    assert [each["by"] for each in row["lines"]] == ["old partial_update 1", "new create create"]
    assert await service.sql.fetchval("SELECT array_agg(sku) FROM gone") == ["b"]
    for denied in ("create POST", "partial_update PATCH", "destroy DELETE"):
        response, problem = await service.ask(
            "PATCH", "/orders/1/", {"lines": [{"id": 1}, {"sku": "d"}]}, headers={"X-Deny": denied}
        )
        assert (response.status in (401, 403), problem["detail"].startswith("lines: ")) == (True, True)
    _, row = await service.ask(
        "PATCH", "/orders/1/", {"lines": {"create": [{"sku": "e"}]}}, status=200, headers={"X-Deny": "retrieve GET"}
    )
    assert "lines" not in row
    await service.sql.execute("UPDATE lines SET sku = 'frozen' WHERE id = 1")
    for body in ([{"id": 1}], {"delete": [1]}, []):
        response, _ = await service.ask("PATCH", "/orders/1/", {"lines": body})
        assert response.status in (401, 403)
    assert await service.sql.fetchval("SELECT count(*) FROM lines") == 3
    row = await service.patch("/orders/1/", {"lines": {}})
    assert [each["sku"] for each in row["lines"]] == ["c", "e"]  # not one that the caller may not see


@pytest.mark.asyncio(loop_scope="function")
async def test_the_scope_of_the_children(run: Run) -> None:
    """Rows outside it are neither shown, nor changed, nor deleted by what a list leaves out."""
    lines_ = {**SHOP["lines"], "viewset": {"scope": {"by": "me"}}}
    orders = {**SHOP["orders"], "viewset": {"nested": {"lines": ALL}}}
    service = await run({"orders": orders, "lines": lines_})
    row = await service.post("/orders/", {"number": "A", "lines": [{"sku": "a"}]})
    assert row["lines"][0]["by"] == "me"
    await service.sql.execute("INSERT INTO lines (id, order_id, sku, by) VALUES (90, 1, 'hidden', 'you')")
    for body in ([{"id": 90}], {"update": [{"id": 90}]}, {"delete": [90]}):
        await service.patch("/orders/1/", {"lines": body}, status=400)
    assert (await service.patch("/orders/1/", {"lines": []}))["lines"] == []
    assert await service.sql.fetchval("SELECT array_agg(sku) FROM lines") == ["hidden"]


def changed(**options: Any) -> dict[str, Any]:
    return {**SHOP["orders"], "viewset": {**SHOP["orders"]["viewset"], **options}}


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize(
    ("orders", "children", "message"),
    [
        ({"nested": {"line": ALL}}, {}, "orders has no relation back 'line'; did you mean lines?"),
        ({"nested": {"lines": {}}}, {}, "'lines' opens nothing: set create, update, or delete: missing"),
        ({"nested": {"lines": {"delete": "all"}}}, {}, "'all' is unknown"),
        ({"nested": {"lines": {"creat": True}}}, {}, "unknown key 'creat'; did you mean create?"),
        ({"class": "shop:OwnUpdate"}, {}, "has a method 'update' of its own: override perform_update"),
        ({}, {"excluded_actions": ["destroy"]}, "needs the action 'destroy', which the viewset of lines does not have"),
        ({}, {"class": "shop:OwnUpdate", "excluded_actions": ["create"]}, "needs the action 'create'"),
        ({}, {"require_if_match": True}, "has require_if_match, and rows inside a body have no If-Match"),
        ({}, {"require_idempotency_key": True}, "has require_idempotency_key: set it in this viewset, too"),
        ({"allowed_actions": ["list"]}, {}, "this viewset has no action that takes a body"),
    ],
)
async def test_what_cannot_work_is_refused_at_start(
    run: Run, orders: dict[str, Any], children: dict[str, Any], message: str
) -> None:
    resources = {
        **SHOP,
        "orders": changed(**orders),
        "lines": {**SHOP["lines"], "viewset": {**SHOP["lines"]["viewset"], **children}},
    }
    with pytest.raises(ConfigurationError) as caught:
        await run(resources, modules={"shop": MODULE})
    assert message in str(caught.value)


@pytest.mark.asyncio(loop_scope="function")
async def test_children_that_are_marked_as_deleted(run: Run) -> None:
    """A list marks those that it leaves out; they are not shown, and their keys name nothing."""
    lines_ = {**SHOP["lines"], "viewset": {}, "soft_delete": "deleted_at"}
    service = await run({"orders": {**SHOP["orders"], "viewset": {"nested": {"lines": ALL}}}, "lines": lines_})
    await service.post("/orders/", {"number": "A", "lines": [{"sku": "a"}, {"sku": "b"}]})
    row = await service.patch("/orders/1/", {"lines": [{"id": 2}]})
    assert [each["sku"] for each in row["lines"]] == ["b"]
    assert await service.sql.fetchval("SELECT sku FROM lines WHERE deleted_at IS NOT NULL") == "a"
    for body in ([{"id": 1}], {"update": [{"id": 1}]}, {"delete": [1]}):
        await service.patch("/orders/1/", {"lines": body}, status=400)
