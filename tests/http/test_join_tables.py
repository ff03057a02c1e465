"""Links in tables that others have made: ``through: {table, near, far}``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ..databases import Databases
from ..sse import EventSource, listen
from .conftest import running
from .library import OPEN, Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESOURCES: dict[str, dict[str, Any]] = {
    "students": {
        "table": "school.Student",
        "managed": False,
        "fields": {
            "id": {"type": "integer", "primary_key": True, "column": "StudentNo"},
            "name": {"type": "text", "column": "Name"},
            "courses": {
                "type": "many_to_many", "to": "courses", "related_name": "students",
                "through": {"table": "school.Enrollment", "near": "StudentRef", "far": "CourseRef"},
            },
            "friends": {
                "type": "many_to_many", "to": "students", "related_name": "friend_of",
                "through": {"table": "friendship", "near": "one", "far": "other"},
            },
            "prizes": {
                "type": "many_to_many", "to": "courses", "related_name": "winners", "read_only": True,
                "through": {"table": "prizes", "near": "winner", "far": "course"},
            },
        },
        "viewset": {"class": "views:Students", "filterset_fields": {"courses__title": ["exact"], "courses": ["exact"]}},
    },
    "courses": {
        "fields": {"code": {"type": "string", "primary_key": True}, "title": {"type": "text"}},
        "viewset": {"filterset_fields": {"students__name": ["exact"]}},
    },
}  # fmt: skip
VIEWS = """
from rowcast import ModelViewSet, action, model

Student = model("students")

class Students(ModelViewSet):
    model = Student

    @action(detail=True, methods=["GET"])
    async def titles(self, request, id):
        row = await Student.objects.prefetch_related("courses").get(id=id)
        return [course.title for course in row.courses]
"""
OWNERS = """
CREATE SCHEMA school;
CREATE TABLE school."Student" ("StudentNo" serial PRIMARY KEY, "Name" text NOT NULL);
CREATE TABLE courses (code varchar PRIMARY KEY, title text NOT NULL);
CREATE TABLE school."Enrollment" (
    id serial PRIMARY KEY, "StudentRef" integer NOT NULL REFERENCES school."Student", "CourseRef" varchar NOT NULL
    REFERENCES courses, since timestamptz NOT NULL DEFAULT now(), grade integer
);
CREATE TABLE friendship (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), one bigint REFERENCES school."Student" ON DELETE CASCADE,
    other bigint REFERENCES school."Student" ON DELETE CASCADE);
CREATE TABLE prizes (winner integer REFERENCES school."Student", course varchar REFERENCES courses, medal text NOT NULL);
INSERT INTO courses VALUES ('ma', 'maths'), ('ph', 'physics'), ('la', 'latin');
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    directory = tmp_path_factory.mktemp("joins")
    async with running(databases, directory, RESOURCES, OPEN, {"views": VIEWS}, prepare=OWNERS) as service:
        yield service


async def _codes(service: Service, id: int) -> list[str]:
    row = await service.get(f"/students/{id}/?expand=courses")
    return [course["code"] for course in row["courses"]]


async def test_links_are_made_kept_and_removed(service: Service) -> None:
    """A link that stays keeps its row, with what others have written there."""
    row = await service.post("/students/", {"name": "ann", "courses": ["ma", "ph", "ma"]})
    assert await _codes(service, row["id"]) == ["ma", "ph"]
    await service.sql.execute("""UPDATE school."Enrollment" SET grade = 5 WHERE "CourseRef" = 'ma'""")
    before = (await service.client.get(f"/students/{row['id']}/")).headers["ETag"]
    await service.patch(f"/students/{row['id']}/", {"courses": ["la", "ma"]})
    assert await _codes(service, row["id"]) == ["la", "ma"]
    assert (await service.client.get(f"/students/{row['id']}/")).headers["ETag"] != before
    rows = await service.sql.fetch('SELECT "CourseRef", grade FROM school."Enrollment" ORDER BY 1')
    assert [tuple(each) for each in rows] == [("la", None), ("ma", 5)]
    assert (await service.patch(f"/students/{row['id']}/", {"courses": ["no"]}, 400))["errors"].keys() == {"courses"}
    for query in ("courses__title=latin", "courses=ma"):
        assert [each["name"] for each in (await service.get(f"/students/?{query}"))["results"]] == ["ann"]
    assert [each["code"] for each in (await service.get("/courses/?students__name=ann"))["results"]] == ["la", "ma"]
    assert [each["name"] for each in (await service.get("/courses/ma/?expand=students"))["students"]] == ["ann"]
    assert await service.get(f"/students/{row['id']}/titles/") == ["latin", "maths"]
    assert (await service.delete(f"/students/{row['id']}/", 409))["code"] == "referenced"
    await service.patch(f"/students/{row['id']}/", {"courses": []})
    await service.delete(f"/students/{row['id']}/")


async def test_links_within_a_resource(service: Service) -> None:
    one = await service.post("/students/", {"name": "one"})
    two = await service.post("/students/", {"name": "two", "friends": [one["id"]]})
    shown = await service.get(f"/students/{two['id']}/?expand=friends,friend_of")
    assert ([each["name"] for each in shown["friends"]], shown["friend_of"]) == (["one"], [])
    await service.delete(f"/students/{one['id']}/")
    assert (await service.get(f"/students/{two['id']}/?expand=friends"))["friends"] == []
    await service.delete(f"/students/{two['id']}/")


async def test_links_that_are_only_read(service: Service) -> None:
    """The table has a column that only its owner can fill."""
    row = await service.post("/students/", {"name": "ben", "prizes": ["ma"]})
    await service.sql.execute("INSERT INTO prizes VALUES ($1, 'ph', 'gold')", row["id"])
    shown = await service.get(f"/students/{row['id']}/?expand=prizes")
    assert [each["code"] for each in shown["prizes"]] == ["ph"]
    await service.sql.execute("DELETE FROM prizes")
    await service.delete(f"/students/{row['id']}/")


async def _change(source: EventSource) -> tuple[Any, ...]:
    event = (await source.next()).json()
    return event["action"], event.get("changed")


async def test_streams_send_changes_of_links(service: Service) -> None:
    row = await service.post("/students/", {"name": "eva"})
    async with listen(service.client, "/students/stream/") as source:
        assert (await source.next()).event == "ready"
        await service.patch(f"/students/{row['id']}/", {"courses": ["ma"]})
        assert await _change(source) == ("UPDATE", ["courses"])
        await service.sql.execute(
            """INSERT INTO school."Enrollment" ("StudentRef", "CourseRef") VALUES ($1, 'la')""", row["id"]
        )
        assert await _change(source) == ("UPDATE", ["courses"])
        await service.sql.execute("""UPDATE school."Enrollment" SET grade = 1; DELETE FROM school."Enrollment" """)
        assert await _change(source) == ("UPDATE", ["courses"])
        await service.delete(f"/students/{row['id']}/")
        assert (await _change(source))[0] == "DELETE"


async def test_the_join_table_has_triggers_alone(service: Service) -> None:
    found = await service.sql.fetch(
        """SELECT conname FROM pg_constraint WHERE conrelid = 'school."Enrollment"'::regclass AND contype IN ('p', 'u', 'f')"""
    )
    assert sorted(name for (name,) in found) == [
        "Enrollment_CourseRef_fkey", "Enrollment_StudentRef_fkey", "Enrollment_pkey"
    ]  # fmt: skip
