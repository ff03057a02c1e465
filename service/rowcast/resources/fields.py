"""Declared fields and what a field type is. The types themselves are in ``rowcast.resources.types``.

A value has four forms. PostgreSQL stores it in a column; Python holds what asyncpg returns for it; JSON shows it to
clients; a URL contains it as a string. A ``FieldType`` says how these forms are converted and checked, and nothing
else in the service depends on the type of a field. The JSON form is made in two places, by PostgreSQL
(``FieldType.json``) and by Python (``FieldType.dump``), and both make the same document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from marshmallow import validate
from sqlalchemy.types import TypeEngine

from rowcast.resources.lossless_json import Raw, nearest

Column: TypeAlias = sa.ColumnElement[Any]
Schema: TypeAlias = dict[str, Any]  # JSON Schema


class Missing(StrEnum):
    """The absence of a default, where ``None`` would mean null."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


class Kind(StrEnum):
    """The family of a type. The lookups of a field follow from it."""

    TEXT = "text"
    NUMBER = "number"
    MOMENT = "moment"  # date, time, datetime, duration
    UUID = "uuid"
    BOOLEAN = "boolean"
    JSON = "json"
    ARRAY = "array"
    BINARY = "binary"
    NATIVE = "native"  # a type of PostgreSQL's in its text form
    RELATION = "relation"  # to one row
    RELATIONS = "relations"  # to many rows
    KEY = "key"  # the values of several fields, which are the primary key together


@dataclass(frozen=True, slots=True, eq=False)
class FieldType:
    """Everything that the service knows about one type.

    ``load`` takes the JSON form and ``parse`` the string from a URL; both return the Python value or raise
    ``ValueError`` with a sentence for the client. ``dump`` is the inverse of ``load``. ``nearest`` takes the JSON form
    of a stored value that ``load`` refuses: direct SQL can store infinity, and years that Python does not have.
    ``from_native`` brings a value of the ``native`` Python type into the form that is stored. ``json`` wraps a column
    so that ``to_json`` of it in PostgreSQL is the JSON form.

    The rules of the type beyond its form are written three times, because they are checked in three places: by
    ``validator`` in request bodies, by ``check`` in the database, and by ``rules`` in the clients of the OpenAPI
    document.
    """

    name: str
    kind: Kind
    column: Callable[[Field], TypeEngine[Any]]
    load: Callable[[Field, Any], Any]
    parse: Callable[[Field, str], Any]
    schema: Callable[[Field], Schema]  # exactly the values that ``load`` takes and ``dump`` makes
    body_schema: Callable[[Field], Schema] | None = None  # values that ``load`` takes and ``dump`` never makes
    dump: Callable[[Field, Any], Any] = lambda _field, value: value
    nearest: Callable[[Field, Any], Any] = lambda _field, value: value
    json: Callable[[Field, Column], Column] = lambda _field, column: column
    options: frozenset[str] = frozenset()  # field options, apart from those of all types
    native: type | None = None  # of the Python value, if JSON has no such type
    from_native: Callable[[Any], Any] = lambda value: value
    validator: validate.Validator | None = None
    check: str | None = None  # a regular expression of PostgreSQL
    rules: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # keywords of JSON Schema
    max_length: int | None = None  # characters, if the field has no ``max_length`` of its own
    now: str | None = None  # SQL of the current time, for ``auto_now``
    literal: Callable[[Field, Any], str] | None = (
        None  # the JSON form as PostgreSQL reads the column's type, if it is another
    )
    generated_key: str | None = None  # SQL of the default of a primary key
    is_item: bool = True  # whether an array can have items of the type
    as_string: FieldType | None = None  # the same type with strings as the JSON form of its numbers
    sums_as_strings: bool = False  # whether sums, which have any number of digits, are strings in JSON
    binary_float: bool = False  # whether JSON numbers of any length are rounded to a float of 64 bits


@dataclass(frozen=True, slots=True)
class JoinTable:
    """A table that others have made for a many_to_many field, with its columns for the keys of both sides."""

    table: str
    near: str  # of the resource that declares the field
    far: str


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field. ``required``, ``blank`` and the like are resolved, not as written."""

    name: str
    field_type: FieldType
    primary_key: bool = False
    sent_key: bool = False  # whether clients send the key, though it could be generated
    key_part: bool = False  # whether it is one of several fields that are the primary key together
    parts: tuple[Field, ...] = ()  # of a field that stands for such a key
    required: bool = True
    null: bool = False
    blank: bool = False
    default: Any = MISSING  # the JSON form
    generated: str | None = None  # the SQL expression from which the database computes and stores the value
    database_default: bool = False  # the column has a default that only its table's owner has written
    unique: bool = False
    index: bool = False
    choices: tuple[Any, ...] = ()  # JSON forms
    order: str = "value"  # what rows are sorted by: the value, or its place among the choices
    min: Any = None
    max: Any = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    max_digits: int | None = None
    decimal_places: int | None = None
    json: str | None = (
        None  # ``string`` or ``number``: the JSON form of a big integer; ``None`` for that of the settings
    )
    native_type: str | None = None  # ``as``: the type of the column
    zone: str | None = None  # of a datetime whose column has none
    of: FieldType | None = None
    paths: tuple[
        tuple[str, FieldType], ...
    ] = ()  # of a json field: members that are filtered and sorted by, and their types
    to: str | None = None
    on_delete: str | None = (
        None  # of a foreign key; ``None`` is restrict for a new one, and any action of an existing one
    )
    related_name: str | None = None
    through: JoinTable | None = None
    any_key: bool = False  # a body may name rows that its caller could not see
    read_only: bool = False
    write_only: bool = False
    auto_now: bool = False
    auto_now_add: bool = False
    column: str | None = None  # the name of the column in the database, if it is not ``column_name``
    renamed_from: str | None = None  # the field's name before, or with ``column`` the column's
    label: str | None = None
    help_text: str | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the field is an integer key that the database generates, so that no client sends it."""
        return (
            self.primary_key
            and self.field_type.kind is Kind.NUMBER
            and self.default is MISSING
            and not (self.sent_key or self.database_default)
        )

    @property
    def type(self) -> str:
        """The name of the field's type."""
        return self.field_type.name

    @property
    def item_type(self) -> FieldType:
        """The type of an array's items, or of the field itself."""
        return self.of or self.field_type

    @property
    def column_name(self) -> str:
        """The name of the column in statements, and of the key in JSON: that of a foreign key ends in ``_id``.

        In the database the column has this name as well, unless the config names another one: see ``stored_column``.
        """
        return f"{self.name}_id" if self.field_type.kind is Kind.RELATION else self.name

    @property
    def stored_column(self) -> str:
        """The name of the column in the database."""
        return self.column or self.column_name

    @property
    def former_column(self) -> str | None:
        """The name that the column had in the database before it was renamed."""
        return (
            self.renamed_from
            and replace(self, name=self.renamed_from, column=self.column and self.renamed_from).stored_column
        )

    @property
    def longest(self) -> int | None:
        """The maximum number of characters of a string, or of items of an array."""
        return self.max_length or self.field_type.max_length

    @property
    def element(self) -> Field:
        """The field of one item of an array. Limits on values apply to it, limits on length to the array."""
        assert self.of is not None
        return Field(
            name=self.name, field_type=self.of, choices=self.choices, min=self.min, max=self.max,
            max_digits=self.max_digits, decimal_places=self.decimal_places,
        )  # fmt: skip


def with_strings(field: Field) -> Field:
    """A field whose 64-bit numbers, or those of whose items, are strings in JSON, its own limits and defaults included."""
    if field.item_type.as_string is None:
        return field
    if field.of is not None:
        changed = replace(field, of=field.of.as_string)
    else:
        assert field.field_type.as_string is not None
        shown = None if field.field_type.as_string.dump is field.field_type.dump else "string"
        changed = replace(field, field_type=field.field_type.as_string, json=shown)
    item = changed.element if changed.of is not None else changed

    def form(of: Field, value: Any) -> Any:
        return value if value in (None, MISSING) else of.field_type.dump(of, of.field_type.load(of, value))

    return replace(
        changed,
        choices=tuple(form(item, each) for each in field.choices),
        min=form(item, field.min),
        max=form(item, field.max),
        default=form(changed, field.default),
    )


def recall(field: Field, stored: Any) -> tuple[Any, bool]:
    """The Python value for a stored one, given as JSON, and whether it is exactly that value or the nearest one.

    For JSON that is nested too deeply it is the JSON as a string.
    """
    value, exact = nearest(stored) if isinstance(stored, Raw) else (stored, True)
    if not exact and field.item_type.kind is Kind.JSON:
        return value, False
    try:
        return field.field_type.load(field, value), True
    except ValueError:
        return field.field_type.nearest(field, value), False
