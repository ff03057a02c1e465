"""The rules of the database's owner: triggers that raise errors, skip a row or delete softly, and rules of tables."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Run
from .library import Service

NOTES: dict[str, Any] = {
    "fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "blank": True}},
    "viewset": {"filterset_fields": ["name"]},
}


async def trigger(service: Service, when: str, body: str, table: str = "notes") -> None:
    """Make a row trigger in PL/pgSQL, for example BEFORE INSERT."""
    name = f"rule_{when.lower().replace(' ', '_')}"
    await service.sql.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f" CREATE TRIGGER {name} {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()"
    )


@pytest.fixture
async def notes(run: Run) -> Service:
    """A service with one table, of which the tests make the triggers and rules."""
    return await run({"notes": NOTES})


REFUSED = {"non_field_errors": ["The database refused this change."]}
RAISED = {
    "plain": "RAISE EXCEPTION 'closed'",
    "state of PostgREST": "RAISE EXCEPTION 'closed' USING ERRCODE = 'PT409'",
    "state of the standard": "RAISE EXCEPTION 'closed' USING ERRCODE = '45000'",
    "unknown state of a known class": "RAISE EXCEPTION 'closed' USING ERRCODE = '23999'",
    "state of mistakes in SQL": "RAISE EXCEPTION 'closed' USING ERRCODE = 'undefined_function'",
    "internal error": "RAISE EXCEPTION 'closed' USING ERRCODE = 'XX000'",
    "no data": "RAISE EXCEPTION 'closed' USING ERRCODE = 'no_data_found'",
    "too many rows": "RAISE EXCEPTION 'closed' USING ERRCODE = 'too_many_rows'",
    "assert": "ASSERT false, 'closed'",
}


async def test_error_that_a_trigger_raises_is_400_whatever_its_sqlstate(notes: Service) -> None:
    """The owner's rules are the client's mistake, never a defect of the service; the message is not sent."""
    row = await notes.post("/notes/", {"name": "open"})
    cases = " ".join(f"IF NEW.name = '{name}' THEN {raised}; END IF;" for name, raised in RAISED.items())
    await trigger(notes, "BEFORE INSERT OR UPDATE", cases + " RETURN NEW;")
    for name in RAISED:
        for method, path in (("POST", "/notes/"), ("PATCH", f"/notes/{row['id']}/")):
            response, problem = await notes.ask(method, path, {"name": name})
            assert (response.status, problem["errors"]) == (400, REFUSED), name
            assert "closed" not in str(problem)
    assert await notes.rows("/notes/") == [row]


async def test_mistake_in_the_code_of_a_trigger_stays_a_defect(notes: Service) -> None:
    """A trigger that calls a function that does not exist is a 500: its error is PostgreSQL's, not the owner's."""
    await trigger(notes, "BEFORE INSERT", "PERFORM no_such_function(); RETURN NEW;")
    async with notes.client.post("/notes/", json={"name": "a"}) as response:
        assert response.status == 500
