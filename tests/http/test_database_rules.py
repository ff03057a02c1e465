"""Unique rules with conditions, checks with messages, generated fields, and messages of triggers, through requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Run
from .library import OPEN

USERS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "email": {"type": "string", "max_length": 50},
        "team": {"type": "string", "max_length": 10, "null": True},
        "place": {"type": "integer", "null": True},
        "gone": {"type": "boolean", "default": False},
        "amount": {"type": "integer", "default": 1},
        "price": {"type": "decimal", "max_digits": 8, "decimal_places": 2, "default": "1.00"},
        "total": {
            "type": "decimal", "max_digits": 18, "decimal_places": 2, "generated": "price * amount", "null": True,
        },
    },
    "unique": [
        {"fields": ["email"], "lower": ["email"], "where": "NOT gone", "message": "This address is taken."},
        {"fields": ["team", "place"], "nulls": "equal"},
    ],
    "check": [
        {"expr": "amount > 0", "message": "Order at least one.", "field": "amount"},
        {"expr": "price < 1000 OR amount < 10", "message": "Ask us first."},
        {"expr": "amount <> 13"},
    ],
    "viewset": {
        "max_bulk": 50, "filterset_fields": {"total": ["exact", "gte"]}, "ordering_fields": ["total"],
        "aggregates": {"sum": ["total"]},
    },
}  # fmt: skip


def user(number: int, **more: Any) -> dict[str, Any]:
    return {"email": f"u{number}@x", "team": "t", "place": number, **more}


async def test_violations_have_the_messages_of_the_config(run: Run) -> None:
    service = await run({"users": USERS})
    client = service.client
    assert (await client.post("/users/", json=user(1))).status == 201
    taken = await client.post("/users/", json=user(2, email="U1@X"))
    body = await taken.json()
    assert (taken.status, body["code"], body["errors"]) == (409, "unique", {"email": ["This address is taken."]})
    assert (await client.post("/users/", json=user(2, email="U1@X", gone=True))).status == 201
    nulls = user(3, team=None, place=None)
    assert (await client.post("/users/", json=nulls)).status == 201
    again = await client.post("/users/", json={**nulls, "email": "u4@x"})
    assert (again.status, set((await again.json())["errors"])) == (409, {"team", "place"})
    for wrong, errors in (
        ({"amount": 0}, {"amount": ["Order at least one."]}),
        ({"price": "2000", "amount": 10}, {"non_field_errors": ["Ask us first."]}),
        ({"amount": 13}, {"non_field_errors": ["amount must not be 13."]}),
    ):
        response = await client.post("/users/", json=user(5, **wrong))
        assert (response.status, (await response.json())["errors"]) == (400, errors)
        many = await client.post("/users/", json=[user(6), user(7, **wrong)])
        assert (many.status, (await many.json())["errors"]) == (400, {"1": errors})
        patched = await client.patch("/users/1/", json=wrong)
        assert (patched.status, (await patched.json())["errors"]) == (400, errors)
    assert await service.sql.fetchval("SELECT count(*) FROM users") == 3


async def test_an_upsert_by_a_rule_with_conditions(run: Run) -> None:
    service = await run({"users": USERS})
    client = service.client
    await client.post("/users/", json=[user(1, gone=True), user(2)])
    response = await client.put(
        "/users/?on=email", json=[user(3, email="U2@X", amount=5), user(4, email="u1@x"), user(5)]
    )
    assert response.status == 200, await response.text()
    assert (response.headers["X-Created"], response.headers["X-Updated"]) == ("2", "1")
    rows = await response.json()
    assert (rows[0]["id"], rows[0]["email"], rows[0]["amount"]) == (2, "u2@x", 5)
    kept = await client.put("/users/?on=email&existing=keep", json=user(9, email="U2@x"))
    assert (kept.status, (await kept.json())["id"]) == (200, 2)
    twice = await client.put("/users/?on=email", json=[user(7), user(8, email="U7@X")])
    assert (twice.status, (await twice.json())["errors"]) == (400, {"1": {"email": ["The same value as at 0."]}})
    first = await client.put("/users/?on=team,place", json=user(10, team=None, place=None))
    second = await client.put("/users/?on=team,place", json=user(11, team=None, place=None, amount=2))
    assert (first.status, second.status, (await second.json())["amount"]) == (201, 200, 2)
    absent = await client.put("/users/?on=team,place", json={"email": "e"})
    assert (absent.status, set((await absent.json())["errors"])) == (400, {"team", "place"})


async def test_an_upsert_through_python(run: Run) -> None:
    """Rows that hooks of a viewset save, or that triggers may change, are found by the same rule."""
    module = "from rowcast import ModelViewSet\n\n\nclass Users(ModelViewSet):\n    async def perform_update(self, serializer):\n        await serializer.save()\n"
    viewset = {**USERS["viewset"], "class": "users_view:Users"}
    service = await run({"users": {**USERS, "viewset": viewset}}, modules={"users_view": module})
    client = service.client
    await client.post("/users/", json=[user(1, gone=True), user(2)])
    response = await client.put("/users/?on=email", json=[user(3, email="U2@X", amount=5), user(4, email="U1@X")])
    assert response.status == 200, await response.text()
    rows = await response.json()
    assert [(row["email"], row["amount"]) for row in rows] == [("U2@X", 5), ("U1@X", 1)]
    assert rows[0]["id"] == 2


async def test_an_upsert_where_triggers_are(run: Run) -> None:
    service = await run({"users": USERS})
    await service.sql.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER t BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION f()"
    )
    await service.service.store.read_traits()
    client = service.client
    await client.post("/users/", json=[user(1, gone=True), user(2)])
    response = await client.put("/users/?on=email", json=[user(3, email="U2@X", amount=5), user(4, email="U1@X")])
    assert (await response.json())[0]["id"] == 2


async def test_an_import_by_a_rule_with_conditions(run: Run) -> None:
    service = await run({"users": {**USERS, "viewset": {**USERS["viewset"], "import": True}}})
    client = service.client
    await client.post("/users/", json=[user(1, gone=True), user(2)])
    text = "email,team,place,amount\nU2@X,t,2,7\nu1@x,t,9,1\nU1@x,t,9,3\n"
    response = await client.post("/users/import/?on=email", data=text, headers={"Content-Type": "text/csv"})
    body = await response.json()
    assert (response.status, body["created"], body["updated"]) == (200, 1, 2), body
    amounts = await service.sql.fetch("SELECT lower(email), amount FROM users WHERE NOT gone ORDER BY 1")
    assert [tuple(row) for row in amounts] == [("u1@x", 3), ("u2@x", 7)]


async def test_generated_fields(run: Run) -> None:
    """They are computed by the database, and read, filtered, sorted and summed as others are."""
    service = await run({"users": USERS})
    client = service.client
    made = await (await client.post("/users/", json=user(1, price="2.50", amount=3, total="99"))).json()
    assert made["total"] == "7.50"
    await client.post("/users/", json=[user(2, amount=2), user(3, price="5", amount=4)])
    patched = await client.patch("/users/1/", json={"amount": 10})
    assert (await patched.json())["total"] == "25.00"
    rows = (await (await client.get("/users/?total__gte=20&ordering=-total")).json())["results"]
    assert [row["total"] for row in rows] == ["25.00", "20.00"]
    summed = (await (await client.get("/users/aggregate/?sum=total")).json())["results"]
    assert summed == [{"sum_total": "47.00"}]
    document = await (await client.get("/openapi.json")).json()
    described = document["components"]["schemas"]["UserPatch"]["properties"]["total"]
    assert described == {"description": "Ignored, so that a row can be sent back as it was read."}


RAISING = """
CREATE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE x integer; BEGIN
    CASE NEW.name
    WHEN 'a' THEN RAISE EXCEPTION 'closed on %', 'Sunday';
    WHEN 'b' THEN RAISE EXCEPTION 'closed' USING ERRCODE = 'PT409';
    WHEN 'c' THEN RAISE EXCEPTION 'closed' USING ERRCODE = 'no_data_found';
    WHEN 'd' THEN ASSERT false, 'closed';
    WHEN 'e' THEN RAISE EXCEPTION 'no such name' USING COLUMN = 'name';
    WHEN 'f' THEN RAISE EXCEPTION 'there is one' USING ERRCODE = 'unique_violation';
    WHEN 'g' THEN SELECT oid INTO STRICT x FROM pg_class WHERE false;
    WHEN 'h' THEN RAISE EXCEPTION 'not so' USING ERRCODE = 'check_violation';
    ELSE NULL; END CASE;
    RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION rule();
"""
NOTES = {"fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "max_length": 9}}}
REFUSED = "The database refused this change."


@pytest.mark.parametrize("messages", [True, False])
async def test_messages_of_triggers(run: Run, messages: bool) -> None:
    """They reach the client only where the setting says so; those of PL/pgSQL itself never do."""
    settings = {**json.loads(OPEN), "database": {"trigger_messages": messages}}
    service = await run({"notes": NOTES}, json.dumps(settings))
    await service.sql.execute(RAISING)
    for name, status, field, message, otherwise in (
        ("a", 400, "non_field_errors", "closed on Sunday", REFUSED),
        ("b", 400, "non_field_errors", "closed", REFUSED),
        ("c", 400, "non_field_errors", "closed", REFUSED),
        ("d", 400, "non_field_errors", "closed", REFUSED),
        ("e", 400, "name", "no such name", REFUSED),
        ("f", 409, None, "there is one", "Another row has this value."),
        ("g", 400, None, REFUSED, REFUSED),
        ("h", 400, "non_field_errors", "not so", "Not a valid value."),
    ):
        response = await service.client.post("/notes/", json={"name": name})
        body = await response.json()
        assert response.status == status, (name, body)
        if messages and field:
            assert body["errors"] == {field: [message]}, name
        else:
            assert (message if messages else otherwise) in str(body), name
            assert messages or "closed" not in str(body)
