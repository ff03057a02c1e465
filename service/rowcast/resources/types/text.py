"""Strings, and UUIDs."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final

import sqlalchemy as sa
from asyncpg.pgproto.pgproto import UUID
from marshmallow import validate
from sqlalchemy.types import TypeEngine

from rowcast.resources.fields import Field, FieldType, Kind, Schema

NUL_REFUSED: Final = "The character U+0000 is not allowed."  # PostgreSQL's text and jsonb cannot store it
NO_NUL: Final = r"^[^\u0000]*$"
STRING_SCHEMA: Final[Schema] = {"type": "string", "pattern": NO_NUL}
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def load_text(_field: Field, value: object) -> str:
    """A string that PostgreSQL can store."""
    if not isinstance(value, str):
        raise ValueError("Not a valid string.")
    if "\x00" in value:
        raise ValueError(NUL_REFUSED)
    return value


def _text_column(field: Field) -> TypeEngine[Any]:
    return sa.String(field.longest) if field.longest else sa.Text()


def text_type(name: str, *, key: bool = True, **facts: Any) -> FieldType:
    """A type whose values are strings. ``key`` says whether a primary key may have it."""
    return FieldType(
        name=name,
        kind=Kind.TEXT,
        column=_text_column,
        load=load_text,
        parse=load_text,
        schema=lambda _field: dict(STRING_SCHEMA),
        options=frozenset({"blank", "min_length", "max_length", "pattern"} | ({"primary_key"} if key else set())),
        **facts,
    )


def _load_uuid(_field: Field, value: object) -> uuid.UUID:
    if not (isinstance(value, str) and _UUID.fullmatch(value)):
        raise ValueError("Not a valid UUID.")
    made: uuid.UUID = UUID(value)
    return made


TEXT_TYPES: Final = (
    text_type("string"),
    text_type("text"),
    text_type(
        "email",
        max_length=254,
        validator=validate.Email(),
        check=r"^[^@\s]+@[^@\s]+$",
        rules={"format": "email"},
    ),
    text_type(
        "url",
        key=False,
        validator=validate.URL(require_tld=False),
        check=r"^[A-Za-z][A-Za-z0-9+.-]*:",
        rules={"format": "uri", "pattern": r"^(?:https?|ftps?)://[^\s\u0000]+$"},
    ),
    text_type(
        "slug",
        validator=validate.Regexp(r"[-a-zA-Z0-9_]+\Z", error="Use letters, digits, hyphens and underscores only."),
        check=r"^[-a-zA-Z0-9_]+$",
        rules={"pattern": "^[-a-zA-Z0-9_]+$"},
    ),
    FieldType(
        name="uuid",
        kind=Kind.UUID,
        column=lambda _field: sa.Uuid(),
        load=_load_uuid,
        parse=_load_uuid,
        native=uuid.UUID,
        dump=lambda _field, value: str(value),
        schema=lambda _field: {"type": "string", "format": "uuid"},
        options=frozenset({"primary_key"}),
        generated_key="rowcast.uuid7()",
    ),
)
