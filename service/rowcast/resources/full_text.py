"""Full text search of a resource: the option ``search``, the column that it makes, and the SQL of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from rowcast.resources.fields import Field
from rowcast.resources.sql import quote_identifier, quote_literal
from rowcast.resources.types import make_field

VECTOR_COLUMN: Final = "search_vector"  # of the table; no field has it
RANK: Final = "@rank"  # in an order, where the paths of fields stand
RANK_PARAMETER: Final = "rank"
RANK_FIELD: Final[Field] = make_field("rank", "float")
HIGHLIGHT: Final = "highlight"  # the parameter, and the member of each row
WEIGHTS: Final = ("A", "B", "C", "D")
_MARKS: Final = 'StartSel="<mark>", StopSel="</mark>"'
_WHOLE: Final = f"{_MARKS}, HighlightAll=true"
_PARTS: Final = f'{_MARKS}, MaxFragments=2, FragmentDelimiter=" … "'
WHOLE_MAX_CHARACTERS: Final = 300  # of a text that is shown whole, with what was found in it; of a longer one parts are


@dataclass(frozen=True, slots=True)
class FullText:
    """The language of a resource's texts, and the fields that are searched, each with its weight from A to D."""

    language: str
    fields: tuple[tuple[str, str], ...]

    @property
    def configuration(self) -> str:
        """PostgreSQL's configuration of text search for the language, as SQL."""
        return f"{quote_literal(self.language)}::regconfig"

    def expression(self, columns: Mapping[str, str]) -> str:
        """The SQL of the value of the column, of the quoted names of the fields' columns."""
        return " || ".join(
            f"setweight(to_tsvector({self.configuration}, coalesce({columns[name]}::text, '')), '{weight}')"
            for name, weight in self.fields
        )

    def vector(self, base: sa.FromClause) -> sa.ColumnElement[Any]:
        """The value of the column, computed from the columns of a row."""
        parts = []
        for name, weight in self.fields:
            text = sa.func.coalesce(sa.cast(base.c[name], sa.Text), sa.literal_column("''"))
            made = sa.func.to_tsvector(sa.literal_column(self.configuration), text)
            parts.append(sa.func.setweight(made, sa.literal_column(quote_literal(weight))))
        whole: sa.ColumnElement[Any] = parts[0]
        for part in parts[1:]:
            whole = whole.op("||")(part)
        return whole

    def query(self, text: sa.ColumnElement[Any]) -> Any:
        """What is searched for, in the syntax of web search engines."""
        return sa.func.websearch_to_tsquery(sa.literal_column(self.configuration), text)

    def headline(self, column: sa.ColumnElement[Any], query: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """The parts of a text with what was found in ``<mark>``; everything else is escaped for HTML.

        The text is escaped first, so that what is added is the only markup.
        """
        text: sa.ColumnElement[Any] = sa.cast(column, sa.Text)
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
            text = sa.func.replace(text, sa.literal_column(quote_literal(character)), sa.literal_column(f"'{entity}'"))
        whole: sa.ColumnElement[Any] = sa.literal_column(quote_literal(_WHOLE))
        parts: sa.ColumnElement[Any] = sa.literal_column(quote_literal(_PARTS))
        short = sa.func.char_length(column) <= sa.literal_column(str(WHOLE_MAX_CHARACTERS), sa.Integer)
        options = sa.case((short, whole), else_=parts)
        return sa.func.ts_headline(sa.literal_column(self.configuration), text, query, options)


def vector_sql(search: FullText, stored: Mapping[str, str]) -> str:
    """The SQL of the column's value; ``stored`` are the names of the fields' columns."""
    return search.expression({name: quote_identifier(column) for name, column in stored.items()})
