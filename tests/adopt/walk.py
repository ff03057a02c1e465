"""Calls everything that an adopted resource offers, and compares it with the table."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import asyncpg
from aiohttp import ClientResponse

from rowcast.resources.fields import Field, Kind
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.sql import quote_identifier
from rowcast.testing.client import Client

Row = dict[str, Any]
SUCCESS: Final = (200, 201, 204)


class Walk:
    """One resource, as an admin sees it. ``bodies`` are values of new rows that cannot be derived from those that exist."""

    def __init__(self, client: Client, sql: asyncpg.Connection, resources: Resources, name: str) -> None:
        self.client = client
        self.sql = sql
        self.resources = resources
        self.resource: Resource = resources[name]

    async def call(self, method: str, path: str, status: int = 200, **kwargs: Any) -> Any:
        """The JSON of a response, which must have the status."""
        response: ClientResponse = await self.client.request(method, f"/{self.resource.name}/{path}", **kwargs)
        text = await response.text()
        assert response.status == status, f"{method} /{self.resource.name}/{path} {kwargs} -> {response.status} {text}"
        return json.loads(text) if text else None

    def address(self, row: Row) -> str:
        """The part of the URL that names a row."""
        return ",".join(quote(_text(row[column]), safe="") for column in self.resource.key_columns)

    async def read(self, count: int) -> list[Row]:
        """List, page through, retrieve, expand, sort and filter; ``count`` is the number of rows of the table."""
        page = await self.call("GET", "?page_size=100")
        rows: list[Row] = page["results"]
        assert page["count"] == len(rows) == count
        assert [(await self.call("GET", f"?page_size=1&page={n}"))["results"][0] for n in range(1, count + 1)] == rows
        for row in rows:
            assert await self.call("GET", f"{self.address(row)}/") == row
        for name in self.resources.relations(self.resource.name):
            shown = await self.call("GET", f"?expand={name}")
            assert all(name in row for row in shown["results"]), name
        for name in self.resource.options.get("ordering_fields", ()):
            up, down = [await self.call("GET", f"?ordering={sign}{name}") for sign in ("", "-")]
            assert up["count"] == down["count"] == count
        for parameters, matching in self._filters(rows):
            found = (await self.call("GET", f"?{parameters}"))["results"]
            assert [row for row in rows if row in found] == matching, parameters
        await self.call("OPTIONS", "")
        return rows

    async def write(self, rows: list[Row], new: Mapping[str, Any]) -> Row:
        """Put each row back as it was read, create one, change it, and delete it; return it as it was created."""
        readable = {name for name, each in self.resource.columns.items() if not each.auto_now}
        for row in rows:
            again = await self.call("PATCH", f"{self.address(row)}/", json=row)
            assert {name: again[name] for name in readable if name in row} == {
                name: row[name] for name in readable if name in row
            }
        links = {name: await self._keys(field) for name, field in self.resource.links.items()}
        body = {**self._body(rows[-1]), **links, **new}
        created: Row = await self.call("POST", "", 201, json=body)
        assert {name: created[name] for name in body if name in created} == {
            name: value for name, value in body.items() if name in created
        }
        path = f"{self.address(created)}/"
        assert await self.call("GET", path) == created
        for name, value in body.items():
            field = self.resource.columns.get(name)
            if field is not None and not (field.primary_key or field.key_part):
                changed = await self.call("PATCH", path, json={name: value})
                assert changed.get(name, value) == value
        for name, keys in links.items():
            target = self.resources[self.resource.fields[name].to or ""]
            shown = await self.call("GET", f"{path}?expand={name}")
            assert [row[target.key.column_name] for row in shown[name]] == keys
            await self.call("PATCH", path, json={name: []})
            assert (await self.call("GET", f"{path}?expand={name}"))[name] == []
        await self.call("DELETE", path, 204)
        await self.call("GET", path, 404)
        return created

    async def _keys(self, field: Field) -> list[Any]:
        """The keys of two rows that a many_to_many field may lead to."""
        assert field.to is not None
        page = await (await self.client.get(f"/{field.to}/?page_size=2")).json()
        return [row[self.resources[field.to].key.column_name] for row in page["results"]]

    def _body(self, row: Row) -> Row:
        """A row like another one, with new values where they must be unique."""
        fields = self.resource.fields
        rules = (*self.resource.unique, self.resource.primary_key)
        unique = {name for names in rules for name in [each for each in names if fields[each].to is None][-1:]}
        unique |= {name for name, field in fields.items() if field.unique or field.primary_key}
        body: Row = {}
        for name, field in self.resource.columns.items():
            if field.read_only or field.auto_now or field.auto_now_add or field.is_counted:
                continue
            value = row.get(name, "x" if field.write_only else None)
            body[name] = another(field, value) if field.name in unique and field.to is None else value
        return body

    def _filters(self, rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
        """Query strings with the rows that match them, for each declared filter."""
        for path, lookups in self.resource.options.get("filterset_fields", {}).items():
            found = self.resources.resolve(self.resource.name, path)
            values = [row[found.column] for row in rows if row[found.column] is not None]
            for lookup in lookups:
                parameter = path if lookup == "exact" else f"{path}__{lookup}"
                if lookup == "isnull":
                    yield f"{parameter}=true", [row for row in rows if row[found.column] is None]
                elif values and lookup in ("exact", "in", "contains"):
                    value = values[0]
                    text = f'"{_text(value)}"' if lookup == "in" and isinstance(value, str) else _text(value)
                    matching = [row for row in rows if row[found.column] == value]
                    yield f"{parameter}={quote(text, safe='')}", matching
                elif values and lookup in ("gte", "lte"):
                    bound = (min if lookup == "gte" else max)(values)
                    yield (
                        f"{parameter}={quote(_text(bound), safe='')}",
                        [r for r in rows if r[found.column] is not None],
                    )


def another(field: Field, value: Any) -> Any:
    """A value of the same form that no row has."""
    match value:
        case bool() | None:
            return value
        case int():
            return value + 50
        case str() if field.field_type.kind is Kind.UUID:
            return value[:-1] + ("f" if value[-1] != "f" else "e")
        case str() if field.type == "date":
            return (dt.date.fromisoformat(value) + dt.timedelta(days=1)).isoformat()
        case str() if field.field_type.kind is Kind.MOMENT:
            return (dt.datetime.fromisoformat(value) + dt.timedelta(seconds=1)).isoformat()
        case str():
            return f"{value[: (field.max_length or 100) - 1]}2"
    raise AssertionError(field)


def _text(value: Any) -> str:
    """A JSON value as a URL has it."""
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value)


def quoted(table: str) -> str:
    """A table of a config in SQL."""
    return ".".join(map(quote_identifier, table.split(".")))
