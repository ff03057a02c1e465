"""What is attacked: the demo, and a configuration with every field type, option, lookup, search prefix and pagination."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import DEMO, ROOT
from tests.http.library import RESOURCES
from tests.unit.openapi.sample import FILES, LOOKUPS

SECRET = "a secret that every attack may use to sign its tokens"
STATEMENT_SECONDS = 1.0
SERVICE: Mapping[str, Any] = {
    "auth": {
        "default_permission_classes": ["AllowAny"],
        "jwt": {"secret": SECRET, "algorithms": ["HS256"], "audience": "rowcast"},
    },
    "database": {"statement_timeout": f"{STATEMENT_SECONDS:g}s", "pool_size": 5},
    "throttle": {
        "classes": ["UserRateThrottle"],
        "rates": {"user": "1000000/s"},
        "authentication_failures": "off",  # otherwise nearly all tokens are a 429
    },
}
VIEWSETS: Mapping[str, Mapping[str, Any]] = {
    "things": {
        "import": True,
        "filterset_fields": LOOKUPS,
        "search_fields": ["string", "^text", "@initials", "$coded"],
        "ordering_fields": ["string", "created", "float", "decimal", "datetime"],
        "ordering": ["-created"],
        "page_size": 10,
        "max_page_size": 50,
        "select_related": ["box"],
        "pagination_class": "CursorPagination",
    },
    "boxes": {
        "pagination_class": "LimitOffsetPagination",
        "count": "none",
        "cache": "responses",
        "filterset_fields": {
            "things__count": ["exact", "gte", "in"],
            "things__decimal__sum": ["exact", "lt"],
            "things__string__max": ["icontains", "isnull"],
        },
        "ordering_fields": ["things__count", "things__decimal__sum", "things__datetime__max"],
        "nested": {name: {"create": True, "update": True, "delete": "missing"} for name in ("things", "seats")},
    },
    "marks": {"pagination_class": "CursorPagination", "require_if_match": True},
    "log-lines": {"pagination_class": None, "count": "estimated", "stream_enabled": False},
    "box-parts": {"allowed_actions": ["create", "list"], "permission_classes": ["IsAuthenticated"]},
}

OWNED: Mapping[str, Any] = {
    "fields": {
        "org": {"type": "integer", "null": True},
        "owner": {"type": "string", "max_length": 40, "null": True},
        "since": {"type": "datetime", "null": True},
    },
    "viewset": {"scope": {"or": [{"org": "$claims.org"}, {"owner": "$user.id"}, {"since": "$claims.since"}]}},
}
"""Rows whose visibility the claims of hostile tokens decide."""

HUGE: Mapping[str, Any] = {
    "fields": {
        "id": {"type": "big_integer", "primary_key": True, "json": "string"},
        "after": {"type": "foreign_key", "to": "huge", "null": True},
        "size": {"type": "big_integer", "json": "string", "default": 5, "min": 1},
    },
    "viewset": {
        "filterset_fields": {"size": ["exact", "in", "gt"], "after": ["exact"]},
        "ordering_fields": ["size"],
        "aggregates": {"group_by": ["size"], "sum": ["size"]},
    },
}
"""Rows with 64-bit numbers that are strings in JSON."""

SEATS: Mapping[str, Any] = {
    "fields": {
        "box": {"type": "foreign_key", "to": "boxes", "on_delete": "cascade"},
        "row": {"type": "string", "max_length": 10},
        "day": {"type": "date"},
        "note": {"type": "text", "default": ""},
    },
    "primary_key": ["row", "box", "day"],
    "viewset": {
        "filterset_fields": {"box": ["exact"], "row": ["in"], "day": ["gte"]},
        "ordering_fields": ["day", "note"],
        "cache": "responses",
        "import": True,
    },
}
"""Rows whose key has several fields."""

RULED: Mapping[str, Any] = {
    "fields": {
        "email": {"type": "string", "max_length": 40},
        "place": {"type": "integer", "null": True},
        "gone": {"type": "boolean", "default": False},
        "price": {"type": "decimal", "max_digits": 8, "decimal_places": 2, "default": "1.00"},
        "amount": {"type": "integer", "default": 1},
        "total": {
            "type": "decimal",
            "max_digits": 20,
            "decimal_places": 2,
            "generated": "price * amount",
            "null": True,
        },
    },
    "unique": [
        {"fields": ["email"], "lower": True, "where": "NOT gone", "message": "Taken."},
        {"fields": ["place"], "nulls": "equal"},
    ],
    "check": [{"expr": "amount > 0", "message": "At least one.", "field": "amount"}, {"expr": "price < 10000 OR gone"}],
    "viewset": {
        "filterset_fields": {"total": ["exact", "gte", "isnull"], "email": ["iexact"]},
        "ordering_fields": ["total"],
        "aggregates": {"sum": ["total"], "group_by": ["gone"]},
        "bulk": ["update", "destroy"],
    },
}
"""Rows with rules that only the database keeps."""

BINS: Mapping[str, Any] = {
    "soft_delete": {"field": "gone", "permission_classes": ["AllowAny"]},
    "purge_after": "1s",
    "fields": {
        "id": {"type": "integer", "primary_key": True},
        "name": {"type": "string", "max_length": 10, "unique": True},
        "parent": {"type": "foreign_key", "to": "bins", "null": True, "related_name": "children"},
    },
    "viewset": {
        "filterset_fields": {
            "name": ["exact", "in"],
            "parent__name": ["exact"],
            "children__name": ["exact"],
            "children__count": ["gte"],
        },
        "ordering_fields": ["children__count"],
        "bulk": ["update", "destroy"],
        "put_creates": True,
    },
}
"""Rows that DELETE marks."""


NESTED: Mapping[str, tuple[str, ...]] = {"authors": ("books", "pupils"), "books": ("reviews",)}
"""Children that bodies may have, also authors inside authors."""

SEARCHED: Mapping[str, Any] = {
    "fields": {
        "title": {"type": "string", "max_length": 100},
        "body": {"type": "text", "null": True},
        "size": {"type": "integer", "default": 1},
    },
    "search": {"language": "english", "fields": {"title": "A", "body": "B"}},
    "viewset": {
        "pagination_class": "CursorPagination",
        "filterset_fields": {"size": ["gte"]},
        "ordering_fields": ["size"],
        "aggregates": {"sum": ["size"], "group_by": ["size"]},
        "bulk": ["update", "destroy"],
        "cache": "responses",
    },
}
"""Rows that are found by PostgreSQL's full text search."""


def write_everything(directory: Path) -> Path:
    """Write the configuration with everything, and return its directory."""
    resources: dict[str, Any] = {name: dict(each) for name, each in RESOURCES.items()}
    for name, text in FILES.items():
        resources[name] = YAML(typ="safe", pure=True).load(dedent(text)) | {"viewset": VIEWSETS[name]}
    for name, children in NESTED.items():
        opened = {child: {"create": True, "update": True, "delete": "missing"} for child in children}
        resources[name]["viewset"] = {**resources[name].get("viewset", {}), "nested": opened}
    resources |= {"owned": OWNED, "seats": SEATS, "ruled": RULED, "bins": BINS, "huge": HUGE, "searched": SEARCHED}
    (directory / "resources").mkdir(parents=True)
    (directory / "service.yaml").write_text(json.dumps(SERVICE))
    for name, resource in resources.items():
        (directory / "resources" / f"{name}.yaml").write_text(json.dumps(resource))
    return directory


def write_demo(directory: Path) -> Path:
    """Copy the demo's configuration, and return its directory."""
    (directory / "resources").mkdir(parents=True)
    for path in ("service.yaml", "viewsets.py", *(f"resources/{name}.yaml" for name in DEMO)):
        shutil.copy(ROOT / "config" / path, directory / path)
    return directory


ROWS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "countries": tuple({"code": code, "name": code} for code in ("de", "fr", "a/b ?#%", "é")),
    "authors": tuple({"name": f"author {n}", "country_id": "de"} for n in range(5)),
    "tags": tuple({"name": f"tag-{n}"} for n in range(5)),
    "finds": tuple(
        {"plain": "one two", "start": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!", "whole": "x", "pattern": "a" * 60, "full": "cats"}
        for _ in range(3)
    ),
    "kinds": tuple(
        {"string": "a" * 20, "text": "abc " * n, "integer": n, "float": n / 3, "decimal": f"{n}.25", "json": {"n": [n]}}
        for n in range(30)
    ),
    "boxes": tuple({"name": f"box {n}"} for n in range(3)),
    "bins": tuple({"name": f"bin {n}"} for n in range(5)),
    "searched": tuple({"title": "a walk <b>", "body": "walked & ran " * n or None, "size": n} for n in range(30)),
    "marks": tuple({"code": f"mark{n:02}"} for n in range(30)),
    "log-lines": tuple({"message": f"line {n}"} for n in range(10)),
    "things": tuple(
        {
            "string": "ab" * 10, "email": "a@example.org", "slug": "a", "integer": n, "decimal": "1.25", "document": {},
            "words": ["w"], "text": "a" * 50, "coded": "AB1", "marks": ["mark01", "mark02"],
        }
        for n in range(60)
    ),
}  # fmt: skip
"""Rows that the service has before an attack: as many as make a second page."""
