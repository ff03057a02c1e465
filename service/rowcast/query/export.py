"""The statement of an export: all rows of a query, for COPY to write.

A row is one value, its JSON document, or for CSV a cell for each of its names.
"""

from __future__ import annotations

import re
from typing import Any, Final

import sqlalchemy as sa

from rowcast.query.compilation import Binds, Statement, compiled, sql
from rowcast.query.condition_sql import Source
from rowcast.query.conditions import Shape
from rowcast.query.documents import document
from rowcast.query.projection import Projection
from rowcast.query.select import json_text, sort_steps
from rowcast.resources.tables import Tables

LINES: Final = {"format": "csv", "delimiter": "\x02", "quote": "\x01"}  # JSON has neither, so COPY quotes nothing
CELLS: Final = {"format": "csv"}
_PLAIN_TEXT: Final = (
    sa.Integer,
    sa.BigInteger,
    sa.SmallInteger,
    sa.Double,
    sa.Boolean,
    sa.Text,
    sa.String,
)  # whose text is that of their JSON
_BLANKS: Final = re.compile(r"(character|char|bpchar)\b(?! varying)")  # a cast of these to text removes blanks
_QUOTED: Final = (sa.DateTime, sa.Date, sa.Time, sa.Uuid)  # whose JSON is their text in quotes, without escapes


def rows(tables: Tables, projection: Projection, order: tuple[str, ...], where: Shape, cells: bool) -> Statement:
    """All rows of a query, as a document each or as cells. Values: the condition's, those for related rows."""
    binds = Binds()
    source = Source(tables, projection.resource, binds)
    conditions = source.conditions(where)
    steps = sort_steps(source, order)
    chosen = sa.select(*document(tables, projection, source.at(()), binds)).select_from(source.clause)
    found = chosen.where(*conditions).order_by(*(step.term() for step in steps)).subquery("_p")
    if not cells:
        return compiled(sa.select(json_text(found.table_valued())))
    types = tables.resources.traits_of(projection.resource).types
    cells_of = (_cell(column, types.get(column.name, "")).label(f"_{n}") for n, column in enumerate(found.c))
    return compiled(sa.select(*cells_of))


def _cell(column: sa.ColumnElement[Any], printed: str) -> sa.ColumnElement[Any]:
    """The text of a value's JSON: a string without its quotes, and null as NULL. ``printed`` is the type in the database.

    What is JSON itself stays JSON, so that the string ``"5"`` is not the number 5.
    """
    if isinstance(column.type, sa.JSON):
        return sa.cast(column, sa.Text)
    if type(column.type) in _PLAIN_TEXT and not _BLANKS.match(printed):
        return sa.cast(column, sa.Text)
    json = sa.func.to_json(column)
    if isinstance(column.type, _QUOTED):
        return sa.func.btrim(sa.cast(json, sa.Text), sql("'\"'"))
    return json.op("#>>")(sql("'{}'"))
