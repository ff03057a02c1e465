"""Filters, searches and orders that no index serves, on tables that are not tiny, and what to add for each.

PostgreSQL itself decides: it plans the condition that a request would have, with scans of whole tables and sorts as a last
resort. So an index of any kind counts that it would use, whoever has made it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import sqlalchemy as sa

from rowcast.database.connection import Connect, Connection
from rowcast.database.table_traits import read_traits
from rowcast.query.compilation import Binds, Expression
from rowcast.query.condition_sql import Source
from rowcast.query.conditions import Comparison
from rowcast.resources.fields import Kind
from rowcast.resources.resource import Path, Resource
from rowcast.resources.sql import DIALECT
from rowcast.resources.tables import Tables

ROWS_MIN: Final = 10_000  # of a table: fewer are read in milliseconds
_FEW_VALUES: Final = 20  # different values of a column: an index on it leaves too many rows
_ORDERED: Final = ("exact", "in", "gt", "gte", "lt", "lte", "range")
_PATTERNS: Final = (
    "contains", "icontains", "startswith", "istartswith", "endswith", "iendswith", "iexact", "regex", "iregex",
)  # fmt: skip
_INSIDE: Final = ("contains", "overlap")  # of arrays and json
_SEARCHES: Final[Mapping[str, str]] = {"^": "istartswith", "=": "iexact", "$": "iregex"}
_TRIGRAMS: Final = "pg_trgm"


@dataclass(frozen=True, slots=True)
class IndexHint:
    """What no index serves, and the line of the config, or the SQL, that changes it."""

    resource: str
    rows: int
    uses: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        return f"{self.resource}: no index serves {', '.join(self.uses)} on {self.rows} rows: {self.remedy}"


@dataclass(frozen=True, slots=True)
class _Use:
    """Something that a list opens, the path that it reads, and the lookup that is planned for it: none for an order.

    An index in order serves all comparisons, so equality is planned for them.
    """

    name: str
    path: str
    lookup: str | None = None


class _Unknown(Binds):
    """Values that PostgreSQL does not know when it plans."""

    def __call__(self, type_: Any) -> Any:
        return sa.select(sa.cast(sa.null(), type_)).scalar_subquery()


async def index_hints(connect: Connect, tables: Tables) -> list[IndexHint]:
    """The hints for all resources, from their options in YAML. A table that cannot be read has none."""
    connection = await connect()
    try:
        tables.learn(await read_traits(connection.fetch, tables))
        for setting in ("enable_seqscan", "enable_sort"):
            await connection.execute(f"SET {setting} = off")
        installed = await connection.fetchval(
            "SELECT installed_version IS NOT NULL FROM pg_available_extensions WHERE name = $1", _TRIGRAMS
        )
        found: list[IndexHint] = []
        for resource in tables.resources.values():
            if not resource.view:
                found += await _Examination(connection, tables, resource, installed).hints()
        return found
    finally:
        connection.terminate()


class _Examination:
    """Examines one resource. ``trigrams`` says whether the extension is installed; ``None`` if the server does not have it."""

    def __init__(self, connection: Connection, tables: Tables, resource: Resource, trigrams: bool | None) -> None:
        self._connection = connection
        self._tables = tables
        self._resource = resource
        self._table = tables.of[resource.name]
        self._trigrams = trigrams

    async def hints(self) -> list[IndexHint]:
        """What to add, each with all that it serves."""
        try:
            rows = int((await self._plan(sa.select(sa.literal_column("1")).select_from(self._table)))["Plan Rows"])
            if rows < ROWS_MIN:
                return []
            remedies: dict[str, list[str]] = {}
            for use in self._uses():
                remedy = await self._remedy(use)
                if remedy is not None and not await self._is_served(use):
                    remedies.setdefault(remedy, []).append(use.name)
        except asyncpg.PostgresError:  # the table, or a column, is not there yet, or may not be read
            return []
        return [IndexHint(self._resource.name, rows, tuple(uses), remedy) for remedy, uses in remedies.items()]

    def _uses(self) -> Iterator[_Use]:
        """What lists open, as far as an index of the table itself could serve it."""
        options = self._resource.options
        if "list" in options.get("excluded_actions", ()) or "list" not in (options.get("allowed_actions") or ("list",)):
            return
        for path, lookups in options.get("filterset_fields", {}).items():
            for names in (_ORDERED, _PATTERNS, _INSIDE):
                kind = self._path(path).values.field_type.kind
                if (kind in (Kind.ARRAY, Kind.JSON)) is not (names is _INSIDE):
                    continue
                for name in [
                    each for each in lookups if each in names and not (names is _PATTERNS and kind is not Kind.TEXT)
                ]:
                    parameter = path if name == "exact" else f"{path}__{name}"
                    yield _Use(f"?{parameter}=", path, "exact" if name in _ORDERED else name)
        for written in options.get("search_fields", ()):
            if not written.startswith("@"):
                yield _Use("?search=", written.lstrip("^=$"), _SEARCHES.get(written[0], "icontains"))
        for path in options.get("ordering_fields", ()):
            yield _Use(f"?ordering={path}", path)

    def _path(self, path: str) -> Path:
        return self._tables.resources.resolve(self._resource.name, path)

    async def _remedy(self, use: _Use) -> str | None:
        """The line of the config, or the SQL, that makes an index for a use; ``None`` if none would help."""
        path = self._path(use.path)
        field = path.values
        if path.steps or field.parts or path.field.order == "choices":
            return None
        few = field.choices or field.field_type.kind is Kind.BOOLEAN
        if use.lookup in _PATTERNS and field.field_type.kind is Kind.TEXT:
            return None if self._trigrams is None else self._trigram_index(path)
        if use.lookup in _INSIDE:
            return self._index(f"USING gin ({self._text(path)})")
        if use.lookup is not None and (few or (path.derived is None and await self._has_few_values(path))):
            return None
        if path.derived is not None and path.derived.part is not None:
            if path.derived.part.first is None:
                return None  # a month, or a weekday, leaves too many rows
            path = self._path(path.derived.source.name)
        if path.derived is not None:
            return self._index(f"(({self._text(path)}))")
        if self._resource.managed:
            return f"set 'index: true' at the field {path.field.name!r} of {self._resource.name}"
        return self._index(f"({self._text(path)})")

    def _trigram_index(self, path: Path) -> str:
        extension = "" if self._trigrams else f"CREATE EXTENSION IF NOT EXISTS {_TRIGRAMS}; "
        column = self._text(path)
        return extension + self._index(f"USING gin ({f'({column})' if path.derived else column} gin_trgm_ops)")

    def _index(self, what: str) -> str:
        partitioned = self._tables.resources.traits_of(self._resource.name).partitioned
        table = DIALECT.identifier_preparer.format_table(self._table)
        return f"CREATE INDEX {'' if partitioned else 'CONCURRENTLY '}ON {table} {what}"

    def _text(self, path: Path) -> str:
        """The SQL of a path's value, without the table."""
        if path.derived is None:
            return DIALECT.identifier_preparer.quote(self._table.c[path.column].name)
        compiled = str(Source(self._tables, self._resource.name, Binds()).column(path).compile(dialect=DIALECT))
        return compiled.replace(f"{DIALECT.identifier_preparer.format_table(self._table)}.", "")

    async def _has_few_values(self, path: Path) -> bool:
        found = await self._connection.fetchval(
            """SELECT max(n_distinct) FROM pg_stats JOIN pg_class c ON c.relname = tablename
            JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = schemaname
            WHERE c.oid = to_regclass($1) AND attname = $2""",
            DIALECT.identifier_preparer.format_table(self._table),
            self._table.c[path.column].name,
        )
        return found is not None and 0 < found < _FEW_VALUES

    async def _is_served(self, use: _Use) -> bool:
        """Whether PostgreSQL would use an index for a use."""
        source, path = Source(self._tables, self._resource.name, _Unknown()), self._path(use.path)
        if use.lookup is None:
            key = [self._table.c[name] for name in self._resource.key_columns]
            rows = sa.select(self._table.c[path.column]).order_by(source.column(path), *key)
            return "Sort" not in set(_nodes(await self._plan(rows.limit(sa.literal_column("10"))), "Node Type"))
        shape = Comparison(use.path, use.lookup, "", path.values.field_type.kind).shape
        rows = sa.select(*self._table.c).where(source.condition(shape))
        return any(_nodes(await self._plan(rows), "Index Cond"))

    async def _plan(self, statement: Expression) -> dict[str, Any]:
        text = statement.compile(dialect=DIALECT)
        found = await self._connection.fetchval(f"EXPLAIN (FORMAT JSON) {text}")
        plan: dict[str, Any] = (json.loads(found) if isinstance(found, str | bytes) else found)[0]["Plan"]
        return plan


def _nodes(plan: Mapping[str, Any], member: str) -> Iterator[str]:
    """The values of a member of all nodes of a plan."""
    if member in plan:
        yield plan[member]
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner, member)
