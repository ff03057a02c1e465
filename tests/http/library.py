"""A configuration with every type of field and every kind of relation, and a client for its service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import asyncpg
from aiohttp import ClientResponse

from rowcast.database.pool import Database
from rowcast.query.statements import Queries
from rowcast.resources.aggregates import FUNCTIONS, GROUP_BY, suits
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import lookups_of
from rowcast.resources.types import FIELD_TYPES
from rowcast.rest.plan import Service as SharedService

from ..conftest import Client

OPEN = json.dumps({"auth": {"default_permission_classes": ["AllowAny"]}})

NO_QUERY: Mapping[str, str] = MappingProxyType({})

SCALARS: dict[str, dict[str, Any]] = {
    "string": {"max_length": 20},
    "text": {"blank": True},
    "email": {},
    "url": {},
    "slug": {},
    "uuid": {},
    "integer": {},
    "big_integer": {},
    "float": {},
    "decimal": {"max_digits": 8, "decimal_places": 2},
    "boolean": {},
    "date": {},
    "time": {},
    "datetime": {},
    "duration": {},
    "json": {"paths": {"a__b": "integer", "a": "string", "n": "decimal", "on": "date", "ref": "uuid", "f": "float"}},
}
KINDS: dict[str, dict[str, Any]] = {
    "id": {"type": "uuid", "primary_key": True},
    **{name: {"type": name, "null": True, **options} for name, options in SCALARS.items()},
    "words": {"type": "array", "of": "string", "null": True},
    "amounts": {"type": "array", "of": "decimal", "null": True},
}


def every_lookup(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Sequence[str]]:
    """Each field with every lookup that suits it."""
    return {name: lookups_of(FIELD_TYPES[each["type"]].kind) for name, each in fields.items()}


def every_aggregate(fields: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Each function, and ``group_by``, with every field that it suits."""
    values = {name: Field(name, FIELD_TYPES[each["type"]]) for name, each in fields.items()}
    return {function: [name for name in values if suits(function, values[name])] for function in (GROUP_BY, *FUNCTIONS)}


_NUMBERS = lookups_of(Kind.NUMBER)
COMPUTED: dict[str, Sequence[str]] = {
    **{f"{name}__{part}": _NUMBERS for name in ("datetime", "date") for part in ("year", "week", "weekday")},
    "datetime__date": lookups_of(Kind.MOMENT), "datetime__hour": _NUMBERS, "time__hour": _NUMBERS,
    "words__len": _NUMBERS, "amounts__len": _NUMBERS,
    **{f"json__{path}": lookups_of(FIELD_TYPES[type_].kind) for path, type_ in SCALARS["json"]["paths"].items()},
}  # fmt: skip
"""Lookups of values that follow from fields of ``KINDS``."""

RESOURCES: dict[str, dict[str, Any]] = {
    "kinds": {
        "fields": KINDS,
        "viewset": {
            "filterset_fields": {**every_lookup(KINDS), **COMPUTED}, "max_page_size": 1000,
            "ordering_fields": [*KINDS, "words__len", *(name for name in COMPUTED if name.startswith("json__"))],
            "aggregates": every_aggregate(KINDS),
        },
    },
    "countries": {
        "fields": {
            "code": {"type": "string", "max_length": 40, "primary_key": True},
            "name": {"type": "string", "max_length": 50},
        }
    },
    "authors": {
        "fields": {
            "name": {"type": "string", "max_length": 50, "unique": True},
            "country": {"type": "foreign_key", "to": "countries", "null": True, "on_delete": "set_null"},
            "mentor": {"type": "foreign_key", "to": "authors", "null": True, "on_delete": "set_null",
                       "related_name": "pupils"},
        },
        "viewset": {
            "filterset_fields": {"books__title": ["exact", "icontains"], "mentor__name": ["exact", "ne", "isnull"]},
            "ordering_fields": ["name"],
        },
    },
    "tags": {
        "fields": {
            "id": {"type": "integer", "primary_key": True},
            "name": {"type": "slug", "max_length": 20, "unique": True},
        },
        "viewset": {"ordering_fields": ["name"]},
    },
    "books": {
        "fields": {
            "title": {"type": "string", "max_length": 100},
            "summary": {"type": "text", "default": ""},
            "author": {"type": "foreign_key", "to": "authors", "on_delete": "restrict"},
            "editor": {"type": "foreign_key", "to": "authors", "null": True, "on_delete": "set_null",
                       "related_name": "edited"},
            "tags": {"type": "many_to_many", "to": "tags", "related_name": "books"},
            "year": {"type": "integer", "null": True, "min": 0, "max": 9999},
            "code": {"type": "string", "max_length": 20, "null": True, "write_only": True},
            "views": {"type": "integer", "default": 0, "read_only": True},
            "state": {"type": "string", "choices": ["draft", "out", "gone, long"], "default": "draft"},
            "moods": {"type": "array", "of": "string", "choices": ["calm", "wild"], "default": []},
            "created_at": {"type": "datetime", "auto_now_add": True},
            "updated_at": {"type": "datetime", "auto_now": True},
            "edited_on": {"type": "date", "auto_now": True},
        },
        "unique": [["author", "title"]],
        "viewset": {
            "filterset_fields": {
                "author": ["exact", "in", "isnull"],
                "author__name": ["exact", "icontains"],
                "author__country": ["exact", "isnull"],
                "author__country__name": ["exact", "startswith", "in", "isnull"],
                "editor__name": ["exact", "ne", "isnull"],
                "tags": ["exact", "in", "isnull"],
                "tags__name": ["exact", "startswith"],
                "reviews__stars": ["gte", "exact"],
                "year": ["exact", "isnull", "range"],
                "state": ["exact", "ne", "in", "contains"],
                "moods": ["exact", "contains"],
            },
            "search_fields": ["title", "summary", "author__name"],
            "ordering_fields": ["title", "year", "author__name", "author__country__name", "editor__name"],
            "ordering": ["title"],
            "max_page_size": 1000,
        },
    },
    "reviews": {
        "fields": {
            "book": {"type": "foreign_key", "to": "books", "on_delete": "cascade"},
            "stars": {"type": "integer", "min": 1, "max": 5},
        }
    },
    "shelves": {  # the same as books by its options: related rows in every response
        "fields": {
            "name": {"type": "string", "max_length": 50, "unique": True},
            "place": {"type": "foreign_key", "to": "countries", "null": True, "on_delete": "set_null"},
            "topics": {"type": "many_to_many", "to": "tags", "related_name": "shelves"},
            "note": {"type": "text", "default": ""},
        },
        "viewset": {
            "select_related": ["place"], "prefetch_related": ["topics"], "filterset_fields": ["name"],
            "lookup_field": "name",
        },
    },
    "finds": {  # search with each prefix
        "fields": {
            name: {"type": "text", "default": ""} for name in ("plain", "start", "whole", "pattern", "full")
        },
        "viewset": {"search_fields": ["plain", "^start", "=whole", "$pattern", "@full"]},
    },
    "loose": {
        "fields": {"name": {"type": "string", "max_length": 50}},
        "viewset": {"strict_query": False, "filterset_fields": ["name"], "ordering_fields": ["name"]},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Service:
    """A running service, and a plain connection to its database."""

    client: Client
    sql: asyncpg.Connection
    service: SharedService

    @property
    def database(self) -> Database:
        return self.service.store.database

    @property
    def queries(self) -> Queries:
        return self.service.store.queries

    async def ask(
        self, method: str, path: str, body: Any = None, *, status: int | None = None, **options: Any
    ) -> tuple[ClientResponse, Any]:
        """A response and its JSON; an error must be a problem document without internal details."""
        if body is not None:
            options["json"] = body
        response = await self.client.request(method, path, **options)
        text = await response.text()
        document = json.loads(text) if text else None
        if status is not None:
            assert response.status == status, f"{method} {path} {body}: {response.status} {text}"
        if response.status >= 400 and method != "HEAD":
            check_problem(response, document)
        return response, document

    async def get(self, path: str, status: int = 200, query: Mapping[str, str] = NO_QUERY, **params: str) -> Any:
        """The JSON of a GET; the parameters are in ``query`` if their names are not Python's."""
        return (await self.ask("GET", path, status=status, params={**query, **params}))[1]

    async def rows(self, path: str, **params: str) -> list[Any]:
        """The results of a list."""
        found: list[Any] = (await self.get(path, query=params))["results"]
        return found

    async def post(self, path: str, body: Any, status: int = 201) -> Any:
        """The JSON of a POST."""
        return (await self.ask("POST", path, body, status=status))[1]

    async def put(self, path: str, body: Any, status: int = 200) -> Any:
        """The JSON of a PUT."""
        return (await self.ask("PUT", path, body, status=status))[1]

    async def patch(self, path: str, body: Any, status: int = 200) -> Any:
        """The JSON of a PATCH."""
        return (await self.ask("PATCH", path, body, status=status))[1]

    async def delete(self, path: str, status: int = 204) -> Any:
        """The JSON of a DELETE's problem, or ``None``."""
        return (await self.ask("DELETE", path, status=status))[1]


INTERNAL = (
    "SELECT", "INSERT INTO", "UPDATE ", "constraint", "Traceback", "asyncpg", "pg_", "_fkey", "uq_", "ck_", "fk_",
    'relation "', "sqlalchemy", "File ",
)  # fmt: skip


def check_problem(response: ClientResponse, document: Any) -> None:
    """Assert that an error is a problem document (RFC 9457) with all its members and no internal details."""
    assert response.content_type == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "request_id"} <= document.keys()
    assert document["status"] == response.status
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert response.status != 500, document
    text = json.dumps(document)
    assert not [word for word in INTERNAL if word in text], text
    check_messages(document.get("errors", {}))


def check_messages(errors: Mapping[str, Any]) -> None:
    """Assert that each field has messages; for an array of rows, each field of each row by its place."""
    for name, messages in errors.items():
        assert messages, name
        if isinstance(messages, dict):
            check_messages(messages)
        else:
            assert all(isinstance(each, str) for each in messages), messages
            assert isinstance(messages, list), messages
