"""A column of an existing table as a field of a resource: the type that holds its values, and what clients may leave out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from rowcast.adoption.catalog import Column
from rowcast.configuration.declarations import NATIVE_TYPE, RESERVED_COLUMNS, SQL_NAME, options_of
from rowcast.configuration.yaml import REFERENCE
from rowcast.resources.fields import Kind
from rowcast.resources.types import FIELD_TYPES, scalar_types

_PRINTED_TYPE: Final = re.compile(
    r"([^(]+)(?:\((\d+)(?:,(-?\d+))?\))?(.*)"
)  # "numeric(10,2)", "time(3) with time zone"
_TYPES: Final = {
    "text": "text",
    "character varying": "string",
    "character": "string",
    "bpchar": "string",
    "citext": "citext",
    "smallint": "smallint",
    "integer": "integer",
    "bigint": "big_integer",
    "real": "real",
    "double precision": "float",
    "numeric": "decimal",
    "boolean": "boolean",
    "date": "date",
    "time without time zone": "time",
    "timestamp with time zone": "datetime",
    "timestamp without time zone": "datetime",
    "interval": "duration",
    "json": "json",
    "jsonb": "json",
    "uuid": "uuid",
    "bytea": "bytea",
}
_LIMITED: Final = frozenset({"character varying", "character"})
_SECRET: Final = re.compile(
    r"(?:^|_)(?:password|passwd|pwd|passphrase|secret|salt|private_key|api_key|access_token|refresh_token)(?:$|_)"
)
_SET_WHEN_WRITTEN: Final = re.compile(r"(?:date_)?(?:last_)?(?:updated?|modified|changed)(?:_(?:at|on|time|date))?")
_SET_WHEN_ADDED: Final = re.compile(r"(?:date_)?(?:created|inserted)(?:_(?:at|on|time|date))?")
_NOW: Final = frozenset(
    ["now()", "CURRENT_TIMESTAMP", "CURRENT_DATE", "LOCALTIMESTAMP", "clock_timestamp()", "transaction_timestamp()"]
)


@dataclass(slots=True)
class FieldDraft:
    """A field as it will be written: its options, and remarks for the reader of the file."""

    name: str
    column: str
    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    key_kind: Kind | None = None  # of a foreign key: the kind of what it refers to

    @property
    def lookup_kind(self) -> Kind:
        """The kind of the values that lists are filtered by."""
        return self.key_kind or self.kind

    @property
    def kind(self) -> Kind:
        """The kind of the field's type."""
        return FIELD_TYPES[self.options["type"]].kind

    @property
    def is_key(self) -> bool:
        """Whether the field by itself is the key."""
        return self.options.get("primary_key") is True


class NotAField(Exception):
    """A column that no field can have. The message is the reason, without a subject."""


def type_of(column: Column) -> dict[str, Any]:
    """The type of a column's values, with the options that belong to it. Raises ``NotAField``."""
    options = _own_type(column)
    if options is not None:
        return options
    if re.fullmatch(NATIVE_TYPE, column.base):
        return {"type": "native", "as": column.base}
    raise NotAField(f"has the type {column.type}, which no field has")


def _own_type(column: Column) -> dict[str, Any] | None:
    """The type of a field for exactly these values; ``None`` if there is none but the general one."""
    if column.labels:
        if any(not label or REFERENCE.search(label) for label in column.labels):
            return None
        of = {"type": "array", "of": "string"} if column.element else {"type": "string"}
        return {**of, "choices": list(column.labels)}
    if column.element is None:
        return _scalar(column.base)
    items = _scalar(column.element)
    if items is None or items["type"] not in scalar_types():
        return None
    digits: dict[str, Any] = {name: items[name] for name in ("max_digits", "decimal_places") if name in items}
    return {"type": "array", "of": items["type"], **digits}


def describe(column: Column, name: str, *, key: bool, part: bool, view: bool) -> FieldDraft:
    """The field of a column that is not a foreign key. Raises ``NotAField``.

    ``key`` says that the field by itself is the key, ``part`` that it is one of the fields that are the key, and ``view``
    that its rows are never written.
    """
    check_name(column)
    options = type_of(column)
    kind = FIELD_TYPES[options["type"]].kind
    draft = FieldDraft(name, column.name, options)
    name_column(options, column, name)
    if key:
        if "primary_key" not in options_of(options["type"]):
            raise NotAField(f"has the type {column.type}, which no key has")
        options["primary_key"] = True
        if kind is Kind.NUMBER and not (column.filled or view):
            options["required"] = True  # nothing generates it
        elif kind is not Kind.NUMBER:
            leave_to_database(options, column)
        return draft
    secret = kind is Kind.TEXT and bool(_SECRET.search(name))
    if view and secret:
        raise NotAField("has the name of a secret, which a view would show")
    if kind is Kind.TEXT and "choices" not in options and not view:
        options["blank"] = True
    if not (column.needed or part):
        options["null"] = True
    if secret and not part:
        options["write_only"] = True
        leave_to_database(options, column)
        draft.notes.append("never shown, because of its name")
    elif part:
        leave_to_database(options, column)
    elif not view:
        _fill(draft, column, kind)
    add_comment(draft, column)
    return draft


def name_column(options: dict[str, Any], column: Column, default: str) -> None:
    """Add the option ``column`` if the column has another name than the field would give it."""
    if column.name != default:
        options["column"] = column.name


def leave_to_database(options: dict[str, Any], column: Column) -> None:
    """Add the option for a value that clients may leave out, if the column has one of its own."""
    if column.filled:
        options["default"] = "database"


def check_name(column: Column) -> None:
    """Raise ``NotAField`` if no field can name the column."""
    if column.name in RESERVED_COLUMNS:
        raise NotAField("has the name of a column that every table of PostgreSQL has")
    if not re.fullmatch(SQL_NAME, column.name):
        raise NotAField("has a character in its name that no config has")


def add_comment(draft: FieldDraft, column: Column) -> None:
    """Take over the comment of a column."""
    if column.comment and not REFERENCE.search(column.comment):
        draft.options["help_text"] = " ".join(column.comment.split())


def _fill(draft: FieldDraft, column: Column, kind: Kind) -> None:
    """Who gives the column its values: the database, the service, or clients."""
    options = draft.options
    if column.generated or column.identity == "a":
        options["read_only"] = True
        return
    generated = column.default in _NOW if column.default else column.needed
    if kind is Kind.MOMENT and options["type"] != "duration" and generated:
        if _SET_WHEN_WRITTEN.fullmatch(draft.name):
            options["auto_now"] = True
            return
        if _SET_WHEN_ADDED.fullmatch(draft.name):
            options["auto_now_add"] = True
            return
    leave_to_database(options, column)


def _scalar(printed: str) -> dict[str, Any] | None:
    match = _PRINTED_TYPE.fullmatch(printed)
    assert match is not None
    name, digits, places = match[1] + match[4], match[2], match[3]
    type_ = _TYPES.get(name.rpartition(".")[2])
    if type_ is None:
        return None
    if name in _LIMITED and digits:
        return {"type": type_, "max_length": int(digits)}
    if name == "numeric" and digits and 0 <= int(places or 0) <= int(digits):
        return {"type": type_, "max_digits": int(digits), "decimal_places": int(places or 0)}
    return {"type": type_}
