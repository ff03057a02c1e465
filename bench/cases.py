"""What is measured, and the rows that it is measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

TASKS: Final = 100_000
AUTHORS: Final = 1_000
KEY: Final = "00000000-0000-7000-8000-{:012x}"  # of row n, from 1; load.lua knows it, too
NEW: Final = frozenset({"id", "created_at", "updated_at"})  # what differs between two rows made of the same body


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. In its path and body ``TASK`` and ``AUTHOR`` stand for the key of a random row."""

    name: str
    title: str
    method: str = "GET"
    body: str = ""


CASES: Final = (
    Case("get", "get by id"),
    Case("first", "first page, with count"),
    Case("small", "first page of a small table, with count"),
    Case("filtered", "filtered page, with count"),
    Case("embedded", "page with the author of each, with count"),
    Case("deep", "page 2,000, with count"),
    Case("create", "create", "POST", json.dumps({"title": "Water it", "priority": "high", "author_id": "AUTHOR"})),
    Case("patch", "patch", "PATCH", json.dumps({"title": "Changed: TASK"})),
)  # fmt: skip


def fill(template: str, number: int) -> str:
    """A path or body with the keys of a certain task and author."""
    return template.replace("TASK", KEY.format(number)).replace("AUTHOR", KEY.format(number % AUTHORS + 1))


def comparable(case: Case, document: Any) -> Any:
    """What every peer must answer alike: rows and count of a page, and of a row what a write does not make up."""
    if "results" in document:
        return document["count"], document["results"]
    if case.method == "GET":
        return document
    return {name: value for name, value in document.items() if name not in NEW}
