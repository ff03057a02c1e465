"""``rowcast doctor`` and ``rowcast plan`` say which filters and orders no index serves, and what to add."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from rowcast.resources.tables import Tables
from rowcast.server.index_hints import ROWS_MIN, index_hints
from tests.conftest import configure, with_tables
from tests.databases import Databases

BOOKS: dict[str, Any] = {
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "isbn": {"type": "string", "max_length": 20, "unique": True},
        "title": {"type": "string", "max_length": 50},
        "pages": {"type": "integer"},
        "shelf": {"type": "integer"},
        "kind": {"type": "string", "choices": ["short", "long"]},
        "read": {"type": "boolean"},
        "added": {"type": "datetime"},
        "keywords": {"type": "array", "of": "string"},
        "meta": {"type": "json", "paths": {"size": "integer", "a__b": "string"}},
    },
    "viewset": {
        "filterset_fields": {
            "isbn": ["exact", "in"], "title": ["icontains", "exact"], "pages": ["gte", "ne", "isnull"], "shelf": ["exact"],
            "kind": ["exact"], "read": ["exact"], "added": ["year", "month"], "keywords": ["overlap"],
            "meta__size": ["gte"], "meta__a__b": ["exact"],
        },
        "search_fields": ["title"],
        "ordering_fields": ["pages", "isbn", "id"],
    },
}  # fmt: skip
TINY = {**BOOKS, "table": "tiny"}
ROWS = f"""
    INSERT INTO books (isbn, title, pages, shelf, kind, read, added, keywords, meta)
    SELECT n, 'title ' || n, n, n % 5, 'short', true, now() - n * interval '1 hour', ARRAY['a' || n],
        jsonb_build_object('size', n, 'a', jsonb_build_object('b', n::text))
    FROM generate_series(1, {ROWS_MIN} + 100) n;
    ANALYZE books
"""


@pytest_asyncio.fixture
async def books(databases: Databases, tmp_path: Path) -> AsyncIterator[tuple[asyncpg.Connection, Any]]:
    """A connection to a database with many books, and a function that returns the hints, by remedy."""
    texts = {"books": json.dumps(BOOKS), "tiny": json.dumps(TINY)}
    tables = Tables(configure(tmp_path, texts).resources)
    async with databases.copy(await with_tables(databases, texts, tmp_path)) as url:
        sql = await asyncpg.connect(url)
        await sql.execute(ROWS)

        async def hints() -> dict[str, tuple[str, ...]]:
            found = await index_hints(lambda: asyncpg.connect(url), tables)
            assert {each.resource for each in found} <= {"books"}
            return {each.remedy: each.uses for each in found}

        yield sql, hints
        await sql.close()


async def test_each_hint_makes_an_index_after_which_it_is_gone(books: tuple[asyncpg.Connection, Any]) -> None:
    """The remedies are SQL that runs, or lines of the config; nothing is said of what an index serves, or could not."""
    sql, hints = books
    found = await hints()
    of = {use: remedy for remedy, uses in found.items() for use in uses}
    assert set(of) == {
        "?title=", "?title__icontains=", "?search=", "?pages__gte=", "?added__year=", "?keywords__overlap=",
        "?meta__size__gte=", "?meta__a__b=", "?ordering=pages",
    }  # fmt: skip
    assert of["?title__icontains="] == of["?search="]
    assert "CREATE EXTENSION IF NOT EXISTS pg_trgm; " in of["?search="]
    assert of["?pages__gte="] == of["?ordering=pages"] == "set 'index: true' at the field 'pages' of books"
    assert of["?added__year="] == "set 'index: true' at the field 'added' of books"
    for remedy in found:
        for statement in remedy.split("; ") if "CREATE" in remedy else ():
            await sql.execute(statement)
    for name in ("title", "pages", "added"):  # as ``index: true`` does
        await sql.execute(f"CREATE INDEX ON books ({name})")
    assert await hints() == {}


async def test_tables_that_are_not_there_or_may_not_be_read_have_no_hints(
    books: tuple[asyncpg.Connection, Any],
) -> None:
    """A plan for an empty database goes on to say what to create."""
    sql, hints = books
    await sql.execute("DROP TABLE books, tiny CASCADE")
    assert await hints() == {}


@pytest.mark.parametrize("option", ["excluded_actions"])
async def test_what_no_list_opens_needs_no_index(databases: Databases, tmp_path: Path, option: str) -> None:
    """Filters without a list are not used."""
    texts = {"books": json.dumps({**BOOKS, "viewset": {**BOOKS["viewset"], option: ["list"]}})}
    tables = Tables(configure(tmp_path, texts).resources)
    async with databases.copy(await with_tables(databases, texts, tmp_path)) as url:
        sql = await asyncpg.connect(url)
        await sql.execute(ROWS)
        assert await index_hints(lambda: asyncpg.connect(url), tables) == []
        await sql.close()
