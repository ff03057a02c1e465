"""SQL text: the dialect that statements are compiled for, and how literals and names are quoted and shortened."""

from __future__ import annotations

import hashlib
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import asyncpg

SCHEMA: Final = "rowcast"  # the database schema with the service's own tables and functions
IDENTIFIER_MAX_BYTES: Final = 63  # PostgreSQL truncates a longer name (PostgreSQL 4.1.1)
_RESERVED_BYTES: Final = 6  # SQLAlchemy leaves this many of label_length free, for a number that it may append
DIALECT: Final[sa.Dialect] = asyncpg.dialect(  # type: ignore[no-untyped-call]
    label_length=IDENTIFIER_MAX_BYTES + _RESERVED_BYTES
)


def quote_literal(text: str) -> str:
    """The text as an SQL string literal (``standard_conforming_strings`` is on)."""
    return "'" + text.replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """The name as a quoted SQL identifier; without quotes a table ``time`` or ``values`` would be something else."""
    return '"' + name.replace('"', '""') + '"'


def split_table(name: str) -> tuple[str | None, str]:
    """The schema and the name of a table that is written ``schema.name`` or ``name``."""
    schema, _, table = name.rpartition(".")
    return schema or None, table


def quote_table(name: str) -> str:
    """A table that is written ``schema.name`` or ``name`` as a quoted SQL identifier."""
    return ".".join(map(quote_identifier, name.split(".")))


def cut_identifier(name: str) -> str:
    """The name, or its beginning and a digest if it has more bytes than PostgreSQL keeps."""
    encoded = name.encode()
    if len(encoded) <= IDENTIFIER_MAX_BYTES:
        return name
    digest = hashlib.blake2s(encoded, digest_size=4).hexdigest()
    return f"{encoded[: IDENTIFIER_MAX_BYTES - len(digest) - 1].decode(errors='ignore')}_{digest}"


def sql_text(expression: str) -> sa.TextClause:
    """The expression with its colons escaped, because SQLAlchemy reads them as the beginning of a parameter."""
    return sa.text(expression.replace(":", r"\:"))
