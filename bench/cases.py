"""The requests that are measured, and the rows that they read and write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

TASKS: Final = 100_000
AUTHORS: Final = 1_000
KEY: Final = "00000000-0000-7000-8000-{:012x}"  # of row n, from 1; load.lua knows it, too
NEW: Final = frozenset({"id", "created_at", "updated_at"})  # what differs between two rows made of the same body
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)")


CONNECTIONS: Final = 16  # of a load
WIDTHS: Final = (1, 8, 32, 128)  # connections of the loads that show what they change
STREAMS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. In its path and body ``TASK`` and ``AUTHOR`` stand for the key of a random row.

    ``PAGE`` is a random page, and ``SKIP`` the number of rows before it.

    The task is one of the first ``rows``. ``conditional`` requests have the tag of what the client has seen, and get a 304.
    ``shares`` are the parts of a load of several kinds, in percent. ``streams`` are open meanwhile, each for the tasks of an author.
    """

    name: str
    title: str
    method: str = "GET"
    body: str = ""
    rows: int = TASKS
    connections: int = CONNECTIONS
    conditional: bool = False
    shares: Mapping[str, int] = field(default_factory=dict)
    streams: int = 0

    @property
    def kind(self) -> str:
        """The name up to the first hyphen, which variants of a case share: ``get`` for ``get`` and for ``get-8``."""
        return self.name.partition("-")[0]

    @property
    def writes(self) -> bool:
        """Whether it changes rows."""
        return self.method != "GET"


def _connections(number: int) -> str:
    return "1 connection" if number == 1 else f"{number} connections"


GET: Final = Case("get", "get by id")
FIRST: Final = Case("first", "first page, with count")
UNCOUNTED: Final = Case("uncounted", "first page, without count")
CREATE: Final = Case(
    "create", "create", "POST", json.dumps({"title": "Water it", "priority": "high", "author_id": "AUTHOR"})
)
MIXED: Final = Case("mixed", "mixed load", "MIXED", CREATE.body, shares={"get": 70, "uncounted": 20, "create": 10})
CASES: Final = (
    GET,
    Case("hot", "get by id, one of 1,000 rows", rows=1_000),
    Case("get-304", "get by id, one of 1,000 rows, not modified", rows=1_000, conditional=True),
    FIRST,
    Case("first-304", "first page, with count, not modified", conditional=True),
    UNCOUNTED,
    Case("small", "first page of a small table, with count"),
    Case("filtered", "filtered page, with count"),
    Case("embedded", "page with the author of each, with count"),
    Case("deep", "page 2,000, with count"),
    Case("deep-any", "one of the pages from 1,801 to 2,200, with count"),
    *(replace(GET, name=f"get-{n}", title=f"get by id, {_connections(n)}", connections=n) for n in WIDTHS),
    CREATE,
    Case("patch", "patch", "PATCH", json.dumps({"title": "Changed: TASK"})),
    *(replace(CREATE, name=f"create-{n}", title=f"create, {_connections(n)}", connections=n) for n in WIDTHS),
    MIXED,
    replace(MIXED, name="mixed-streams", title=f"mixed load, {STREAMS:,} streams open", streams=STREAMS),
)  # fmt: skip
PARTS: Final = {case.name: case for case in (GET, UNCOUNTED, CREATE)}  # of a mixed load


def fill(template: str, number: int) -> str:
    """A path or body with the keys of a certain task and author, or a certain page."""
    page = 1801 + number % 400  # as in load.lua
    template = template.replace("PAGE", str(page)).replace("SKIP", str((page - 1) * 20))
    return template.replace("TASK", KEY.format(number)).replace("AUTHOR", KEY.format(number % AUTHORS + 1))


def comparable(case: Case, document: Any, count: str | None) -> Any:
    """The part of a response that every peer must return alike: rows and count of a page; of a row, everything that a write does not generate.

    Names and times may be written in another way, a count may be in a header, and a page's parts have other names.
    """
    document = _normal(document)
    if isinstance(document, list):
        document = {"results": document, "count": count and int(count)}
    rows = document.get("results", document.get("items"))
    if rows is not None:
        return rows if case.kind == "uncounted" else (document.get("count", document.get("total")), rows)
    if case.method == "GET":
        return document
    return {name: value for name, value in document.items() if name not in NEW}


def _normal(value: Any) -> Any:
    match value:
        case dict():
            return {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", k): _normal(v) for k, v in value.items()}
        case list():
            return [_normal(one) for one in value]
        case str() if TIME.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC).isoformat()
    return value
