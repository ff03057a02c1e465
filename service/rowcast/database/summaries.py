"""The summary of a statement: what it does, and the table that it is about, as in ``SELECT books``.

Summaries have few different values, whatever the statements are: a table is named only if the config declares it, or if it
is one of the service's own. OpenTelemetry calls them ``db.query.summary``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from rowcast.resources.tables import Tables

SUMMARIES_KEPT: Final = 4096
OTHER: Final = "other"
VERBS: Final = frozenset(
    ("SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SET", "LOCK", "COPY",
     "CALL", "MERGE", "TRUNCATE", "VALUES", "DECLARE", "FETCH", "CLOSE")
)  # fmt: skip
_PART: Final = r'(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)'
_TOKEN: Final = re.compile(rf"'(?:[^']|'')*'|{_PART}(?:\.{_PART})*|[()]|\S")
_WRITES: Final = {"INSERT": "INTO", "UPDATE": "", "DELETE": "FROM"}
_OWN: Final = "rowcast."


def summaries_of(tables: Tables) -> Summaries:
    """The summaries of statements about the tables and views of a configuration."""
    return Summaries([*tables.metadata.tables, *tables.views.tables])


class Summaries:
    """The summaries of statements, each found once. ``tables`` are the names that they may have."""

    def __init__(self, tables: Collection[str]) -> None:
        self._tables = frozenset(tables)
        self._known: dict[str, str] = {}

    def of(self, sql: str) -> str:
        """The summary of a statement."""
        summary = self._known.get(sql)
        if summary is None:
            if len(self._known) >= SUMMARIES_KEPT:
                self._known.clear()
            summary = self._known[sql] = self._summarize(sql)
        return summary

    def _summarize(self, sql: str) -> str:
        tokens = _TOKEN.findall(sql)
        verb, table = _written(tokens) or (_verb(tokens), _read(tokens))
        name = table.replace('"', "")
        return f"{verb} {name}" if name in self._tables or name.startswith(_OWN) else verb


def _verb(tokens: Sequence[str]) -> str:
    first = tokens[0].upper() if tokens else ""
    if first == "WITH":
        return "SELECT"
    return first if first in VERBS else OTHER


def _written(tokens: Sequence[str]) -> tuple[str, str] | None:
    """The first INSERT, UPDATE or DELETE of a statement, and its table."""
    for place, token in enumerate(tokens[:-1]):
        verb = token.upper()
        if verb in _WRITES and (place == 0 or tokens[place - 1] == "("):
            after = [each for each in tokens[place + 1 : place + 4] if each.upper() not in (_WRITES[verb], "ONLY")]
            return verb, after[0] if after else ""
    return None


def _read(tokens: Sequence[str]) -> str:
    """The table after the outermost FROM; of a subquery or a common table expression, that of its own FROM."""
    expressions: dict[str, Sequence[str]] = {}
    place = 0
    while place < len(tokens):
        token, following = tokens[place].upper(), tokens[place + 1 :]
        if token == "AS" and following[:1] == ["("] and place:
            end = _closing(tokens, place + 1)
            expressions[tokens[place - 1]] = tokens[place + 2 : end]
            place = end
        elif token == "FROM" and tokens[place - 1].upper() != "DISTINCT":
            names = [each for each in following[:3] if each.upper() not in ("ONLY", "LATERAL")]
            if not names:
                return ""
            if names[0] == "(":
                start = place + 1 + following.index("(")
                return _read(tokens[start + 1 : _closing(tokens, start)])
            return _read(expressions[names[0]]) if names[0] in expressions else names[0]
        elif token == "(":
            place = _closing(tokens, place)
        place += 1
    return ""


def _closing(tokens: Sequence[str], start: int) -> int:
    """The place of the bracket that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(tokens)):
        depth += (tokens[place] == "(") - (tokens[place] == ")")
        if not depth:
            return place
    return len(tokens)
