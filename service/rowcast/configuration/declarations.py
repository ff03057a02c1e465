"""One resource file as a ``Resource``: its keys, and the rules of fields that need no other file.

The rules are in tables: the options of each type, those that contradict each other, and those that need another. A
field with a wrong option keeps its other options, so that one mistake neither hides nor causes another. A field whose
type cannot be read is left out, and its name is in ``Declaration.lost``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, TypeVar
from zoneinfo import available_timezones

from marshmallow import ValidationError

from rowcast.configuration import declared_values, soft_deletion, value_types, viewset_options
from rowcast.configuration.database_rules import RULE_KEYS, check_column_sets, read_rules
from rowcast.configuration.model_names import model_name
from rowcast.configuration.primary_key import set_primary_key
from rowcast.configuration.yaml import AboutKey, Document, Problems, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.fields import MISSING, Field, JoinTable, Kind, with_strings
from rowcast.resources.json_members import MEMBER_TYPES
from rowcast.resources.resource import Resource
from rowcast.resources.sql import IDENTIFIER_MAX_BYTES, SCHEMA, split_table
from rowcast.resources.types import FIELD_TYPES, make_field, scalar_types

_Loaded = TypeVar("_Loaded")

FIELD_NAME: Final = r"[a-z](?:_?[a-z0-9])*"
RESOURCE_NAME: Final = r"[a-z](?:[-_]?[a-z0-9])*"
SQL_NAME: Final = r"""[^."'%:\\\x00-\x1f]+"""  # of what may have been made by others
TABLE_NAME: Final = rf"(?:{SQL_NAME}\.)?{SQL_NAME}"
MODEL_NAME: Final = r"[A-Z][A-Za-z0-9]*"
RESERVED_RESOURCES: Final = (
    "health", "openapi.json", "asyncapi.json", "docs", "metrics", "console", "stream", "batch", "stream-ticket",
)  # fmt: skip
DATABASE_DEFAULT: Final = "database"  # as the value of ``default``
RESERVED_COLUMNS: Final = ("tableoid", "xmin", "cmin", "xmax", "cmax", "ctid")  # of every PostgreSQL table


NATIVE_TYPE: Final = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"[^"]+")(?:[. ](?:[A-Za-z_][A-Za-z0-9_$]*|"[^"]+"))*(?:\([A-Za-z0-9_, ]+\))?[A-Za-z ]*(?:\[\])*'
ZONE_NAME: Final = r"[A-Za-z][A-Za-z0-9_+/-]*"

FIELD_OPTIONS: Final[Mapping[str, Any]] = {
    "type": value_types.one_of(FIELD_TYPES, required=True),
    "primary_key": value_types.boolean(),
    "required": value_types.boolean(),
    "null": value_types.boolean(),
    "blank": value_types.boolean(),
    "default": value_types.any_value(),
    "unique": value_types.boolean(),
    "index": value_types.boolean(),
    "choices": value_types.ListOf(value_types.any_value(), least=1),
    "order": value_types.one_of(("value", "choices")),
    "generated": value_types.string(least=1),
    "min": value_types.any_value(),
    "max": value_types.any_value(),
    "min_length": value_types.integer(0, 10_485_760),
    "max_length": value_types.integer(1, 10_485_760),
    "pattern": value_types.string(),
    "json": value_types.one_of(value_types.BIG_INTEGER_FORMS),
    "max_digits": value_types.integer(1, 1000),
    "decimal_places": value_types.integer(0, 1000),
    "as": value_types.string(NATIVE_TYPE, "the name of a PostgreSQL type such as inet or public.geometry(Point,4326)"),
    "zone": value_types.string(ZONE_NAME, "the name of a time zone such as Europe/Berlin"),
    "of": value_types.one_of(sorted(scalar_types())),
    "paths": value_types.MappingOf(value_types.one_of(MEMBER_TYPES), names=declared_values.MEMBER_PATH),
    "to": value_types.string(least=1),
    "on_delete": value_types.one_of(("restrict", "cascade", "set_null")),
    "related_name": value_types.string(FIELD_NAME, "a lower-case name such as open_tasks", null=True),
    "through": value_types.Nested(
        value_types.section(
            "Through",
            {
                "table": value_types.string(TABLE_NAME, "a name such as sales.order_tags", required=True),
                "near": value_types.string(SQL_NAME, "the name of a column", required=True),
                "far": value_types.string(SQL_NAME, "the name of a column", required=True),
            },
            JoinTable,
        )
    ),
    "any_key": value_types.boolean(),
    "read_only": value_types.boolean(),
    "write_only": value_types.boolean(),
    "auto_now": value_types.boolean(),
    "auto_now_add": value_types.boolean(),
    "column": value_types.string(SQL_NAME, "the name of a column"),
    "renamed_from": value_types.string(SQL_NAME, "the field's former name"),
    "label": value_types.string(null=True),
    "help_text": value_types.string(null=True),
}

_OF_ALL = frozenset({"type", "required", "read_only", "write_only", "label", "help_text"})
_OF_COLUMNS = _OF_ALL | {"null", "default", "unique", "index", "column", "renamed_from"}
_OF_VALUES = _OF_COLUMNS | {"choices", "order", "generated"}
_OF_SETS = _OF_VALUES - {"order"}  # values that hold others
_OF_KIND: Final[Mapping[Kind, frozenset[str]]] = {Kind.RELATIONS: _OF_ALL, Kind.RELATION: _OF_COLUMNS}


@cache
def options_of(type_: str) -> frozenset[str]:
    """The names of the options that a field of this type takes."""
    field_type = FIELD_TYPES[type_]
    values = _OF_SETS if field_type.kind in (Kind.ARRAY, Kind.JSON) else _OF_VALUES
    values = _OF_COLUMNS | {"generated"} if field_type.kind in (Kind.BINARY, Kind.NATIVE) else values
    return _OF_KIND.get(field_type.kind, values) | field_type.options


RESOURCE_SECTION: Final = value_types.section(
    "Resource",
    {
        "name": value_types.string(RESOURCE_NAME, "a lower-case name such as tasks or blog-posts"),
        "table": value_types.string(TABLE_NAME, "a name such as tasks, or sales.Orders with its schema"),
        "model": value_types.string(MODEL_NAME, "a name such as Task"),
        "managed": value_types.boolean(),
        "coalesce": value_types.one_of(("on", "off")),
        "read_from": value_types.one_of(("primary", "replica")),
        "renamed_from": value_types.string(TABLE_NAME, "the table's former name"),
        "view": value_types.boolean(),
        "primary_key": value_types.ListOf(value_types.string(), least=1, null=True),
        "label": value_types.string(null=True),
        "description": value_types.string(null=True),
        "fields": value_types.MappingOf(
            value_types.Nested(value_types.section("Field", FIELD_OPTIONS)), names=FIELD_NAME, required=True
        ),
        **RULE_KEYS,
        "indexes": value_types.ListOf(value_types.ListOf(value_types.string(), least=1), null=True),
        **soft_deletion.VALUE_TYPES,
        "viewset": value_types.NestedOrValue(viewset_options.VIEWSET_SECTION, viewset_options.CLASS, null=True),
    },
)


_CONTRADICTIONS: Final = (
    ("null", "primary_key", "a primary key is never null"),
    ("write_only", "primary_key", "the key of a row is always visible, at least in its URL"),
    ("write_only", "read_only", "no client could use the field"),
    ("required", "read_only", "clients cannot send the field"),
    ("auto_now", "default", "the service sets the field"),
    ("auto_now_add", "default", "the service sets the field"),
    ("auto_now", "required", "the service sets the field"),
    ("auto_now_add", "required", "the service sets the field"),
    ("generated", "default", "the database computes each value"),
    ("generated", "auto_now", "the database computes each value"),
    ("generated", "auto_now_add", "the database computes each value"),
    ("generated", "primary_key", "a row is found by a key that its values do not change"),
    ("generated", "required", "clients cannot send the field"),
    ("auto_now_add", "auto_now", "auto_now also sets the field when a row is added"),
)
_ORDERED: Final = (("min_length", "max_length"), ("decimal_places", "max_digits"))
NEEDED: Final = ("to", "of", "as")  # required for every type that takes them
_TOGETHER: Final = (("max_digits", "decimal_places"), ("decimal_places", "max_digits"), ("order", "choices"))
_OF_ELEMENTS: Final = ("min", "max", "max_digits", "decimal_places")  # options of an array that apply to its items


class _FieldReader:
    """Makes a ``Field`` from its options. ``wrong`` collects the path and the message of each problem.

    ``written`` are the options in the file that apply to the type, ``values`` those of them that are valid so far.
    """

    def __init__(self, name: str, raw: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        self.name = name
        self.type: str = values["type"]
        self.field_type = FIELD_TYPES[self.type]
        self.valid = options_of(self.type)
        self.raw = raw
        self.written = raw.keys() & self.valid
        self.values = {option: value for option, value in values.items() if option in self.valid}
        self.wrong: list[tuple[Steps, str]] = []

    def read(self) -> Field:
        """The field, without its wrong options."""
        self._check_options()
        self._take_database_default()
        if not isinstance(self.values.get("through"), JoinTable):
            self.values.pop("through", None)  # it has mistakes of its own
        self._check_pattern()
        self._check_zone()
        self._check_paths()
        if self.field_type.kind not in _OF_KIND and not (
            self.field_type.kind is Kind.ARRAY and "of" not in self.values
        ):
            self._read_values()
        field = self._field()
        self._check_together(field)
        return field

    def _take_database_default(self) -> None:
        if self.values.get("default") == DATABASE_DEFAULT:
            del self.values["default"]
            self.values["database_default"] = True

    def _report(self, option: str, message: str) -> None:
        self.wrong.append(((option,), message))

    def _field(self) -> Field:
        """The field, with ``required`` and ``blank`` derived from the other options."""
        options = {option: value for option, value in self.values.items() if value is not None or option == "default"}
        if "generated" in options:
            options["read_only"] = True
        options["sent_key"] = bool(options.get("primary_key") and options.get("required"))
        options.setdefault("required", not (options.get("null") or options.get("read_only") or self._is_filled()))
        options.setdefault("blank", options.get("default") == "")
        field = make_field(self.name, options.pop("type"), **options)
        return with_strings(field) if field.json == "string" else field

    def _is_filled(self) -> bool:
        """Whether a new row has a value of this field although no client sends one."""
        kind = self.field_type.kind
        generated = self.values.get("primary_key") and kind in (Kind.UUID, Kind.NUMBER)
        auto = self.values.get("auto_now") or self.values.get("auto_now_add")
        return bool("default" in self.written or auto or generated or kind is Kind.RELATIONS)

    def _check_options(self) -> None:
        for option in self.raw.keys() & FIELD_OPTIONS.keys() - self.valid:
            takes = ", ".join(name for name in FIELD_OPTIONS if name in self.valid and name != "type")
            self._report(option, AboutKey(f"{option!r} does not apply to {self.type}, which takes {takes}"))
        for option in NEEDED:
            if option in self.valid and option not in self.written:
                self.wrong.append(((), AboutKey(f"a field of type {self.type} needs {option!r}")))
        if "of" in self.values:
            of = self.values["of"]
            for option in self.written & set(_OF_ELEMENTS) - FIELD_TYPES[of].options:
                self._report(option, AboutKey(f"{option!r} does not apply to an array of {of}"))
                self.values.pop(option, None)

    def _check_pattern(self) -> None:
        """Check the pattern, and leave one out that is none."""
        for message, is_usable in declared_values.pattern_problems(self.values.get("pattern")):
            self._report("pattern", message)
            if not is_usable:
                del self.values["pattern"]

    def _check_zone(self) -> None:
        zone = self.values.get("zone")
        if zone is not None and zone not in (zones := available_timezones()):
            self._report("zone", f"there is no time zone {zone!r}; {did_you_mean(zone, sorted(zones))}")
            del self.values["zone"]

    def _check_paths(self) -> None:
        """Check the names of members, and leave wrong ones out."""
        wrong = dict(declared_values.wrong_paths(self.values.get("paths", {})))
        self.wrong += [(("paths", path), AboutKey(message)) for path, message in wrong.items()]
        if wrong:
            self.values["paths"] = {path: of for path, of in self.values["paths"].items() if path not in wrong}

    def _read_values(self) -> None:
        """Convert min, max, choices and default to the JSON form of their type, and check each by those before it."""
        typed = {name: self.values.pop(name) for name in ("min", "max", "choices", "default") if name in self.values}
        if not typed:
            return
        element = declared_values.item_field(self._field())
        limits: dict[str, Any] = {}
        for option in ("min", "max"):
            if typed.get(option) is not None:
                self._load(
                    (option,), lambda given: declared_values.canonical(element, given), typed[option], limits, option
                )
        if len(limits) == 2 and declared_values.is_inverted(element, limits["min"], limits["max"]):
            self._report("min", f"may not be larger than max ({limits['max']})")
            limits = {}
        self.values |= limits
        if "choices" in typed:
            element, chosen = declared_values.item_field(self._field()), dict[int, Any]()
            for at, given in enumerate(typed["choices"]):
                self._load(
                    ("choices", at), lambda given: declared_values.choice_of(element, given, chosen), given, chosen, at
                )
            if len(chosen) == len(typed["choices"]):
                self.values["choices"] = tuple(chosen.values())
        if typed.get("default") is not None:
            whole = replace(self._field(), blank=self.values.get("blank", typed["default"] == ""))
            self._load(
                ("default",),
                lambda given: declared_values.valid_value(whole, given),
                typed["default"],
                self.values,
                "default",
            )
        elif "default" in typed:
            self.values["default"] = None

    def _load(
        self, path: Steps, load: Callable[[Any], Any], given: Any, into: dict[_Loaded, Any], name: _Loaded
    ) -> None:
        try:
            into[name] = load(given)
        except ValueError as error:
            self.wrong.append((path, str(error)))

    def _check_together(self, field: Field) -> None:
        for first, second, reason in _CONTRADICTIONS:
            if self._is_set(first) and self._is_set(second):
                self._report(first, AboutKey(f"{first!r} contradicts {second!r}: {reason}"))
        for low, high in _ORDERED:
            lower, upper = getattr(field, low), getattr(field, high)
            if lower is not None and upper is not None and lower > upper:
                self._report(low, f"may not be larger than {high} ({upper})")
        for first, second in _TOGETHER:
            if first in self.written and second not in self.written:
                self._report(first, AboutKey(f"{first!r} also needs {second!r}"))
        if self.values.get("required") is False and not (field.null or field.read_only or self._is_filled()):
            self._report("required", "false needs a default, or null: true")
        if self.values.get("on_delete") == "set_null" and not field.null:
            self._report("on_delete", "set_null needs null: true")
        if field.through and field.through.near == field.through.far:
            self._report("through", "near and far must be two columns")
        former, relation = self.values.get("renamed_from"), self.field_type.kind is Kind.RELATION
        if former and relation and field.column is None and not re.fullmatch(FIELD_NAME, former):
            self._report("renamed_from", "must be the field's former name; with 'column' it is the column's")
        if self.values.get("default", MISSING) is None and not field.null:
            self._report("default", "null needs null: true")

    def _is_set(self, option: str) -> bool:
        """Whether an option is true; for ``default`` and ``generated``, whether it is there."""
        if option in ("default", "generated"):
            return option in self.written
        return self.values.get(option) is True


@dataclass(frozen=True, slots=True)
class Declaration:
    """A resource as its own file declares it, before it is checked against the others.

    ``options`` of the viewset are read but not checked. ``lost`` are names whose declaration is wrong: they are not in
    ``resource``, but another file that refers to them is not wrong for it. ``sound`` is false if anything but an option of
    the viewset is wrong.
    """

    document: Document
    resource: Resource
    options: Mapping[str, Any]
    lost: frozenset[str]
    sound: bool = True


def read(document: Document, stem: str, problems: Problems) -> Declaration | None:
    """The resource that a document declares. ``stem``, its file's name, is the default of its ``name``."""
    if document.data is None:
        problems.at(document, (), "the file is empty; a resource needs at least 'fields'")
        return None
    try:
        loaded = RESOURCE_SECTION.load(document.data)
    except ValidationError as error:
        problems.tree(document, error.messages)
        loaded = error.valid_data
    if not isinstance(document.data, dict):
        return None
    reader = _ResourceReader(document, problems)
    return reader.read(loaded, stem)


class _ResourceReader:
    def __init__(self, document: Document, problems: Problems) -> None:
        self.document = document
        self.problems = problems
        written = document.data.get("fields")
        self.raw: Mapping[str, Any] = written if isinstance(written, dict) else {}

    def read(self, loaded: Mapping[str, Any], stem: str) -> Declaration:
        """The declaration; its problems are noted."""
        name = loaded.get("name") or stem
        if "name" not in self.document.data and not re.fullmatch(RESOURCE_NAME, stem):
            self._report(
                (), f"the file's name {stem!r} is not a lower-case name of a resource; rename it, or set 'name'"
            )
        if name in RESERVED_RESOURCES:
            self._report(("name",), f"{name!r} is a route of the service itself; choose another name")
        table, model = loaded.get("table") or name.replace("-", "_"), loaded.get("model") or model_name(name)
        for key, value in (("name", name), *(("table", part) for part in table.split(".")), ("model", model)):
            if len(value.encode()) > IDENTIFIER_MAX_BYTES:
                self._report((key,), f"may have at most {IDENTIFIER_MAX_BYTES} characters")
        if (schema := split_table(table)[0]) is not None and _is_reserved_schema(schema):
            self._report(("table",), f"the schema {schema} is not one for tables of a resource")
        fields, lost = self._fields(loaded.get("fields") or {})
        primary_key = set_primary_key(loaded.get("primary_key") or (), fields, lost, self._report)
        resource = Resource(
            name=name,
            table=table,
            model=model,
            fields=fields,
            primary_key=primary_key,
            indexes=loaded.get("indexes") or (),
            managed=loaded.get("managed", True),
            coalesce=loaded.get("coalesce", "on") == "on",
            reads_replicas=loaded.get("read_from", "replica") == "replica",
            renamed_from=self._former_table(table, loaded.get("renamed_from")),
            view=loaded.get("view") or False,
            label=loaded.get("label"),
            description=loaded.get("description"),
            soft_delete=soft_deletion.read(loaded, fields, lost, self._report),
        )
        check_column_sets(resource, loaded.get("unique") or (), lost, self._report)
        resource = replace(resource, **read_rules(resource, loaded, lost, self._report))
        self._former_names(resource)
        if "name" in self.document.data and "name" not in loaded:
            lost |= {stem}
        return Declaration(self.document, resource, loaded.get("viewset") or {}, frozenset(lost))

    def _former_table(self, table: str, former: str | None) -> str | None:
        """The former name of a table, in its schema."""
        if former is None:
            return None
        here, there = split_table(table)[0], split_table(former)[0]
        if there not in (None, here):
            self._report(("renamed_from",), f"is in another schema than {table}; a table is renamed within its schema")
        return f"{here}.{former}" if here and not there else former

    def _report(self, path: Steps, message: str) -> None:
        self.problems.at(self.document, path, message)

    def _fields(self, loaded: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Field], set[str]]:
        fields: dict[str, Field] = {}
        lost: set[str] = set()
        taken: dict[str, str] = {}
        columns: dict[str, Field] = {}
        key: str | None = None
        for name, raw in self.raw.items():
            values = loaded.get(name) or {}
            if "type" not in values:
                lost |= names_of(name, raw.get("related_name") if isinstance(raw, dict) else None)
                continue
            reader = _FieldReader(name, raw, values)
            field = reader.read()
            for path, message in reader.wrong:
                self._report(("fields", name, *path), message)
            if field.field_type.kind is not Kind.RELATIONS:
                other = columns.setdefault(field.stored_column, field)
                if other is not field and (field.column or other.column):
                    message = f"has the column {field.stored_column!r}, which is that of the field {other.name!r}"
                    self._report(("fields", name, *(("column",) if field.column else ())), message)
            for message in _bad_name(field):
                self._report(("fields", name), AboutKey(message))
            for used in {name, field.column_name}:
                if used in taken:
                    message = f"{name!r} needs the name {used!r}, which field {taken[used]!r} already has"
                    self._report(("fields", name), AboutKey(message))
                taken[used] = name
            if field.primary_key and key is not None:
                self._report(("fields", name, "primary_key"), AboutKey(f"the primary key is already {key!r}"))
                field = replace(field, primary_key=False)
            key = name if field.primary_key else key
            fields[name] = field
        if key is None and not self.document.data.get("primary_key"):
            if "id" in fields:
                self._report(("fields", "id"), AboutKey("no field is the primary key; give 'id' primary_key: true"))
            fields = {"id": make_field("id", "uuid", primary_key=True, required=False)} | fields
            fields["id"] = replace(fields["id"], primary_key=True)
        return fields, lost

    def _former_names(self, resource: Resource) -> None:
        """Check ``renamed_from``: what it names must not be declared any more."""
        if resource.renamed_from == resource.table:
            self._report(("renamed_from",), "is the table's present name")
        columns = {field.stored_column: field.name for field in resource.columns.values()}
        former = [(), *(("fields", name) for name, field in resource.fields.items() if field.renamed_from)]
        for path in () if resource.managed else former[not resource.renamed_from :]:
            message = "contradicts 'managed: false': the table is not changed"
            self._report((*path, "renamed_from"), AboutKey(f"'renamed_from' {message}"))
        for name, field in resource.fields.items():
            if field.former_column in columns:
                self._report(
                    ("fields", name, "renamed_from"), f"there is still a field {columns[field.former_column]!r}"
                )


def _is_reserved_schema(schema: str) -> bool:
    """Whether a schema is the service's own or PostgreSQL's."""
    return schema in (SCHEMA, "information_schema") or schema.startswith("pg_")


def names_of(name: str, related_name: object) -> set[str]:
    """The names that paths can use for a field."""
    return {name, f"{name}_id"} | ({related_name} if isinstance(related_name, str) else set())


def _bad_name(field: Field) -> Iterator[str]:
    if not re.fullmatch(FIELD_NAME, field.name):
        yield f"{field.name!r} is not a name of a field: use lower-case letters, digits and single underscores within"
    elif reserved := {field.name, field.stored_column}.intersection(RESERVED_COLUMNS):
        yield f"{reserved.pop()!r} is a column that every PostgreSQL table has; choose another name"
    elif len(field.stored_column.encode()) > IDENTIFIER_MAX_BYTES:
        yield f"{(field.column or field.name)!r} is too long: a column's name has at most {IDENTIFIER_MAX_BYTES} characters"
