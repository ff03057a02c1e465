"""PostgreSQL and the serializer make the same JSON document for every value of every type."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from rowcast.query.conditions import Query, by_key
from rowcast.query.projection import projection_of
from rowcast.resources.fields import Kind
from rowcast.resources.types import FIELD_TYPES

from ..databases import Databases
from .conftest import running
from .library import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "text": TEXT,
    "email": TEXT,
    "url": TEXT,
    "slug": TEXT,
    "uuid": st.uuids(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "big_integer": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([5e-324, -0.0, 1.7976931348623157e308, 1e16, 1e22, 123456789012345680.0]),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**300), max_value=10**300)
    | st.sampled_from(
        [Decimal("9" * 1000), Decimal("0." + "0" * 999 + "1"), Decimal("-0"), Decimal("1E+30"), Decimal("1.500")]
    ),
    "boolean": st.booleans(),
    "date": st.dates() | st.sampled_from([dt.date.min, dt.date.max]),
    "time": st.times(),
    "datetime": st.datetimes(timezones=st.just(dt.UTC))
    | st.sampled_from([dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)]),
    "duration": st.timedeltas()
    | st.sampled_from([dt.timedelta.min, dt.timedelta.max, dt.timedelta(microseconds=-1), dt.timedelta(hours=-25)]),
    "json": st.recursive(
        st.none() | st.booleans() | NUMBERS | TEXT | st.sampled_from([2**63 - 1, -(2**63), 1e300, -1e-300, 0.1, 1e16]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=12,
    ),
}
CONVERTED = {
    "real",
    "citext",
    "bytea",
    "native",
}  # what the driver reads is not the column itself: see test_postgresql_types
assert VALUES.keys() == FIELD_TYPES.keys() - {"array", "foreign_key", "many_to_many"} - CONVERTED
BLANK = {name: {"blank": True} for name in ("string", "text", "email", "url", "slug")}
FIELDS: dict[str, Any] = {
    **{name: {"type": name, "null": True, **BLANK.get(name, {})} for name in VALUES},
    **{f"many_{name}": {"type": "array", "of": name, "null": True} for name in VALUES},
}
ROWS = st.fixed_dictionaries(
    {name: st.none() | values for name, values in VALUES.items()}
    | {
        f"many_{name}": st.none()
        | st.lists(values.filter(lambda value: not isinstance(value, list | None)), max_size=3)
        for name, values in VALUES.items()
    }
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def table(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One resource with a field of every type and an array of every type, without the rules for bodies."""
    async with running(databases, tmp_path_factory.mktemp("table"), {"things": {"fields": FIELDS}}) as service:
        rules = "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = 'things'::regclass"
        for (name,) in await service.sql.fetch(rules):
            await service.sql.execute(f'ALTER TABLE things DROP CONSTRAINT "{name}"')
        await service.sql.execute("ALTER TABLE things ALTER email TYPE text, ALTER many_email TYPE text[]")
        yield service


async def test_postgresql_and_serializer_make_the_same_json(table: Service) -> None:
    """PostgreSQL's JSON of a row equals ``FieldType.dump`` of its Python values, and loads as these values."""
    queries, database = table.queries, table.database
    resource = queries.resources["things"]
    columns = tuple(resource.columns)
    shown = projection_of(resource)
    insert = queries.insert(shown, columns)
    loop = asyncio.get_running_loop()

    async def check(row: dict[str, Any]) -> None:
        key = uuid.uuid4()
        values = {"id": key, **row}
        written = await database.fetch(insert.sql, insert.arguments([values[name] for name in columns]))
        assert written is not None
        query = Query("things", (by_key(queries.resources, "things", key),))
        one = queries.select_row(shown, query.shape)
        made = await database.read(one.sql, one.arguments(query.values))
        assert made is not None
        assert made["result"] == written["result"]
        stored = await database.fetch(f"SELECT {', '.join(columns)} FROM things WHERE id = $1", [key])
        assert stored is not None
        dumped = {
            name: None if stored[name] is None else field.field_type.dump(field, stored[name])
            for name, field in resource.columns.items()
        }
        document = orjson.loads(made["result"])
        for name, value in orjson.loads(orjson.dumps(dumped)).items():
            assert document[name] == value, name
        for name, field in resource.columns.items():
            value = document[name]
            if value is not None and field.item_type.kind is not Kind.JSON:
                loaded = field.field_type.load(field, value)
                assert loaded == values[name] == stored[name], name

    def checked(row: dict[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(check(row), loop).result(20)

    prove = given(ROWS)(checked)
    prove = settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )(prove)
    await asyncio.to_thread(prove)
