"""``scoped``: the related rows that a viewset always shows are those of the caller's scopes."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.errors import ConfigurationError

from .conftest import Run
from .test_declared_scope import MENTIONED, bearer, with_mentions

HANDLERS = """
from rowcast import ModelViewSet, action, model
Mention = model("mentions")

class MentionViewSet(ModelViewSet):
    async def perform_create(self, serializer):
        await serializer.save()

    @action(detail=False)
    async def all(self, request):
        return await Mention.objects.order_by("pk")

    @action(detail=True)
    async def one(self, request, id):
        return await self.get_object()

class DroppingViewSet(ModelViewSet):
    def get_queryset(self):
        return super().get_queryset().exclude(level=0)
"""
TENANT = {"tenant": "$claims.org"}
ALWAYS: dict[str, Any] = {
    "scoped": True, "select_related": ["note"], "prefetch_related": ["others"], "stream_enabled": False,
}  # fmt: skip


def notes_in(row: dict[str, Any]) -> tuple[int | None, list[int]]:
    """The keys of the related rows that a mention is shown with."""
    return row["note"] and row["note"]["id"], [each["id"] for each in row["others"]]


@pytest.mark.parametrize("options", [{}, {"cache": "responses"}, {"class": "viewsets:MentionViewSet"}])
async def test_related_rows_are_those_of_the_scope(run: Run, options: dict[str, Any]) -> None:
    """A row outside the caller's scope is null or left out in lists, rows, responses to writes, and results of handlers."""
    service = await with_mentions(run, TENANT, modules=HANDLERS, **ALWAYS, **options)
    first = {1: (1, [2]), 2: (None, [3]), 9: (None, [])}
    for org in (1, 2, 9, 1):
        headers = bearer(org=org)
        _, page = await service.ask("GET", "/mentions/", headers=headers, status=200)
        assert page["count"] == 4
        assert notes_in(page["results"][0]) == first[org]
        _, row = await service.ask("GET", "/mentions/1/", headers=headers, status=200)
        assert row == page["results"][0]
        _, row = await service.ask("GET", "/mentions/1/?fields=id,note", headers=headers, status=200)
        assert row == {"id": 1, "note": page["results"][0]["note"]}
        if "class" in options:
            _, rows = await service.ask("GET", "/mentions/all/", headers=headers, status=200)
            assert [each["note"] for each in rows] == [each["note"] for each in page["results"]]
            _, row = await service.ask("GET", "/mentions/1/one/", headers=headers, status=200)
            assert notes_in(row) == first[org]
    await service.ask("PATCH", "/mentions/4/", {"others": [3]}, headers=bearer(org=1), status=400)
    _, row = await service.ask("PATCH", "/mentions/4/", {"others": [3]}, headers=bearer(org=2), status=200)
    assert notes_in(row) == (4, [3])
    _, row = await service.ask("PUT", "/mentions/4/", {"note_id": 4}, headers=bearer(org=1), status=200)
    assert notes_in(row) == (None, [])
    _, made = await service.ask("POST", "/mentions/", {"note_id": 1}, headers=bearer(org=1), status=201)
    assert notes_in(made) == (1, [])


async def test_expanded_relations_and_those_of_the_options_are_within_one_scope(run: Run) -> None:
    """``?expand=`` beside a relation that is always shown, to rows of the same resource."""
    options: dict[str, Any] = {"scoped": True, "select_related": ["note"]}
    service = await with_mentions(run, TENANT, **options)
    for org, expected in ((1, (1, [2])), (2, (None, [3]))):
        _, row = await service.ask("GET", "/mentions/1/?expand=others", headers=bearer(org=org), status=200)
        assert notes_in(row) == expected


async def test_document_says_that_related_rows_may_be_null(run: Run) -> None:
    """In OpenAPI a foreign key that is not null leads to null where a scope may hide its row."""
    service = await with_mentions(run, TENANT, scoped=True, select_related=["note"])
    _, document = await service.ask("GET", "/openapi.json", status=200)
    note = document["components"]["schemas"]["MentionPart"]["properties"]["note"]
    assert {"type": "null"} in note["anyOf"]


MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"class": "viewsets:PythonViewSet"}, {}, "Python makes the rows of mentions"),
    ({}, {"class": "viewsets:DroppingViewSet", "scope": None}, "Python decides who may see which rows of notes"),
    ({"prefetch_related": ["others"]}, {}, "the stream would send the keys of all rows in others"),
]


@pytest.mark.parametrize(("options", "notes", "message"), MISTAKES)
async def test_what_statements_cannot_bound_is_refused(
    run: Run, options: dict[str, Any], notes: dict[str, Any], message: str
) -> None:
    """Rows that Python makes or chooses, and keys in a stream, are found at the start."""
    viewset: dict[str, Any] = {"scoped": True, "select_related": ["note"], **options}
    with pytest.raises(ConfigurationError, match=message):
        await with_mentions(run, TENANT, notes, modules=HANDLERS + MENTIONED, **viewset)
