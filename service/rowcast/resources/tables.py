"""Resources as SQLAlchemy tables in one MetaData, from which queries are built and which alembic compares.

Every rule of a field that a database can check is a constraint here. Each constraint's name leads back to the field that
it guards (``Tables.guards``), so that a violation can be reported to the client in the words of the config.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.resources.exchanged import as_it_is, readable
from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.full_text import VECTOR_COLUMN, FullText, vector_sql
from rowcast.resources.lossless_json import encode
from rowcast.resources.resource import Resource, Resources, link_columns, link_table
from rowcast.resources.rule_indexes import RULE_INDEXES, RuleIndex, deleted_index, unique_index
from rowcast.resources.rules import digest
from rowcast.resources.sql import cut_identifier, quote_identifier, quote_literal, split_table, sql_text
from rowcast.resources.traits import TableTraits

CONFIGURED_DEFAULT: Final = "configured_default"  # in ``info`` of a column whose default is written in the config

UNMANAGED: Final = "unmanaged"  # in ``info`` of a table that Rowcast must not change
JOINS: Final = "joins"  # the same for a table that others have made for a many_to_many field, with this field
OWN_DEFAULT: Final = "own_default"  # the same for a column whose default the table's owner has written
RENAMED_FROM: Final = "renamed_from"  # the name that a column or table had before, in its ``info``
WRITTEN: Final = "written"  # the same for a column that the service writes
RULE: Final = "rule"  # in ``info`` of a check: its column, and the rule of the field
IMPLIED_LIMIT: Final = "implied_limit"  # the same for a column whose length is limited by its type alone


@dataclass(frozen=True, slots=True)
class Guard:
    """The meaning of a constraint: the keys of a body that it is about, and the rule that a violation breaks."""

    resource: str
    fields: tuple[str, ...]
    rule: str  # unique | exclusion | check | foreign_key | null, or the validator that checks the same
    message: str | None = None  # the config's own, or what an owner's CHECK asks for


def not_null_of(table: str, column: str) -> str:
    """The name among the guards of what keeps a column from being null, which PostgreSQL does not name."""
    return f"{table}.{column} NOT NULL"


class Tables:
    """The tables of every resource and every link between them.

    ``metadata`` holds all of them. ``of[resource]`` is the table of a resource, ``links[table]`` the table of a
    many_to_many field. Tables are named as in the config: ``name``, or ``schema.name``.

    In ``metadata`` columns have the names that they have in the database, for comparisons and DDL. In ``of`` their keys are
    their names in statements and in JSON, which may be others.

    ``views`` has the resources' views instead, which are read as tables are: nothing is compared with them as a whole, or
    made of them.

    ``page_max_bytes`` is the most bytes that the rows of a page may have as JSON; ``None`` if there is no limit.

    ``snapshot_sql`` is what reading statements return as their snapshot, or on a standby as their position.

    ``guards[constraint]`` is the meaning of a constraint. The name has the table before it, ``schema.table.constraint`` or
    ``table.constraint``, if the table has a schema, or if the owner of an existing table has made the constraint. There is
    also one for each NOT NULL of a column whose name in the database is another one than its key.
    """

    def __init__(self, declared: Resources) -> None:
        self.resources = declared
        self.metadata = sa.MetaData()
        self.views = sa.MetaData()
        self.guards: dict[str, Guard] = {}
        self.page_max_bytes: int | None = None
        self.snapshot_sql = "pg_current_snapshot()::text"
        self.of: dict[str, sa.Table] = {}
        self.links: dict[str, sa.Table] = {}
        for resource in declared.values():
            made = self._view(resource) if resource.view else self._table(resource)
            self.of[resource.name] = _keyed(made, resource)
        for resource in declared.values():
            for field in resource.links.values():
                link = self._link(resource, field)
                self.links[link.key] = link
        *_, (_, circular) = sa.schema.sort_tables_and_constraints(  # type: ignore[no-untyped-call]
            self.metadata.tables.values()
        )
        for constraint in circular:
            constraint.use_alter = True  # made when all tables are there

    def learn(self, traits: Mapping[str, TableTraits]) -> None:
        """Take over what the tables are in the database: their traits, and the types of columns that are not the declared ones."""
        self.resources.traits = traits
        for resource, table in self.of.items():
            found = self.resources.traits_of(resource)
            for name, field in self.resources[resource].columns.items():
                values = self.resources.key_of(field)
                declared = values.field_type.column(values)
                table.c[name].type = as_it_is(
                    declared,
                    found.types.get(name, ""),
                    enum=name in found.labels,
                    domain=name in found.domains,
                    ordered=name not in found.unordered,
                )

    def written(self, resource: str) -> sa.Table:
        """The table of a resource, for a statement that writes rows; ``TypeError`` for a view."""
        if self.resources[resource].view:
            raise TypeError(f"{resource} is a view, whose rows are read-only")
        return self.of[resource]

    def _view(self, resource: Resource) -> sa.Table:
        schema, name = split_table(resource.table)
        columns = [
            sa.Column(field.stored_column, values.field_type.column(values), info=_info(field, values))
            for field in resource.columns.values()
            for values in (self.resources.key_of(field),)
        ]
        return sa.Table(name, self.views, *columns, schema=schema)

    def _table(self, resource: Resource) -> sa.Table:
        schema, name = split_table(resource.table)
        table = sa.Table(name, self.metadata, schema=schema, comment=resource.description)
        table.info[UNMANAGED] = not resource.managed
        if resource.renamed_from:
            table.info[RENAMED_FROM] = resource.renamed_from
        for name, field in resource.columns.items():
            table.append_column(self._column(field))
            if field.column is not None:
                self.guards[not_null_of(resource.table, field.column)] = Guard(resource.name, (name,), "null")
        key = resource.key_columns
        guard = self._guard(resource, "pk", key, "unique")
        by_constraint = (
            resource.soft_delete is None or not resource.managed
        )  # and not by indexes over rows that are left
        stored = (field.stored_column for field in resource.key_fields)
        table.append_constraint(sa.PrimaryKeyConstraint(*stored, name=guard))
        for name, field in resource.columns.items():
            column = table.c[field.stored_column]
            for rule, condition in rules(field, column):
                guard = self._guard(resource, "ck", (name,), "check", rule)
                table.append_constraint(sa.CheckConstraint(condition, name=guard, info={RULE: (column.name, rule)}))
            if field.unique and not field.primary_key and by_constraint:
                table.append_constraint(
                    sa.UniqueConstraint(column, name=self._guard(resource, "uq", (name,), "unique"))
                )
            if field.to is not None:
                target = self.resources[field.to]
                guard = self._guard(resource, "fk", (name,), "foreign_key")
                table.append_constraint(
                    sa.ForeignKeyConstraint(
                        [column], [f"{target.table}.{target.key.stored_column}"], name=guard,
                        ondelete=(field.on_delete or "restrict").replace("_", " ").upper(),
                    )
                )  # fmt: skip
                if not field.unique and name != key[0]:
                    sa.Index(_name("ix", table.name, name), column)
            elif field.index and not field.unique:
                sa.Index(_name("ix", table.name, name), column)
        for names in resource.unique:
            columns = tuple(resource.fields[name].column_name for name in names)
            if by_constraint:
                guard = self._guard(resource, "uq", columns, "unique", message=resource.messages.get(names))
                stored = (resource.fields[name].stored_column for name in names)
                table.append_constraint(sa.UniqueConstraint(*stored, name=guard))
        self._add_rules(resource, table, by_constraint=by_constraint)
        for names in resource.indexes:
            parts: list[str] = []
            terms: list[sa.ColumnElement[Any]] = []
            for name in names:
                field = resource.fields[name.removeprefix("-")]
                column = table.c[field.stored_column]
                parts.append(f"{field.column_name}__desc" if name.startswith("-") else field.column_name)
                terms.append(column.desc() if name.startswith("-") else column)
            sa.Index(_name("ix", table.name, *parts), *terms)
        return table

    def _add_rules(self, resource: Resource, table: sa.Table, *, by_constraint: bool) -> None:
        """Add the unique rules with conditions, which are indexes, and the checks by expressions."""
        made: list[RuleIndex] = []
        for rule in resource.rules if by_constraint else resource.unique_rules:
            if rule.plain:
                continue
            name = self._guard(resource, "uq", rule.columns, "unique", *rule.suffixes, message=rule.message)
            made.append(unique_index(name, resource, rule))
        marks = resource.soft_delete
        if marks is not None and marks.purge_after is not None and not resource.fields[marks.field].index:
            made.append(deleted_index(_name("ix", table.name, marks.field), resource))
        if resource.search is not None:
            table.append_column(_vector_column(resource, resource.search))
            name = _name("ix", table.name, VECTOR_COLUMN)
            made.append(RuleIndex(name, (VECTOR_COLUMN,), (quote_identifier(VECTOR_COLUMN),), method="gin"))
        table.info[RULE_INDEXES] = tuple(made)
        for check in resource.checks:
            fields = (resource.fields[check.field].column_name,) if check.field else ("non_field_errors",)
            name = _name("ck", table.name, "rule", digest(check.expr))
            self._add_guard(resource.table, name, Guard(resource.name, fields, "check", check.message))
            table.append_constraint(sa.CheckConstraint(sql_text(check.expr), name=name, info={RULE: ("", "rule")}))

    def live(self, resource: str, rows: sa.FromClause) -> list[sa.ColumnElement[bool]]:
        """The condition on rows of a resource that they are not marked as deleted; empty where no rows are."""
        marks = self.resources[resource].soft_delete
        return [] if marks is None else [rows.c[marks.field].is_(None)]

    def _column(self, field: Field) -> sa.Column[Any]:
        values = self.resources.key_of(field)
        identity = field.is_counted
        return sa.Column(
            field.stored_column,
            values.field_type.column(values),
            *([sa.Identity(always=False)] if identity else []),
            *([sa.Computed(sql_text(field.generated), persisted=True)] if field.generated else []),
            nullable=field.null,
            autoincrement=identity,
            server_default=_server_default(field, values),
            comment=field.help_text,
            info=_info(field, values),
        )

    def _link(self, resource: Resource, field: Field) -> sa.Table:
        assert field.to is not None
        target = self.resources[field.to]
        near, far = link_columns(resource, field, target)
        schema, name = split_table(link_table(resource, field))
        table = sa.Table(name, self.metadata, schema=schema)
        table.info[UNMANAGED] = not resource.managed or field.through is not None
        if field.through is not None:
            table.info[JOINS] = f"{resource.name}.{field.name}"
            table.info[WRITTEN] = not field.read_only
        elif resource.renamed_from:
            table.info[RENAMED_FROM] = link_table(replace(resource, table=resource.renamed_from), field)
        for column, side in ((near, resource), (far, target)):
            key = self.resources.key_of(side.key)
            table.append_column(sa.Column(column, key.field_type.column(key), nullable=False, autoincrement=False))
        table.append_constraint(sa.PrimaryKeyConstraint(near, far, name=_name("pk", name)))
        for column, side, key_name in ((near, resource, near), (far, target, field.name)):
            guard = _name("fk", name, column)
            self._add_guard(table.key, guard, Guard(resource.name, (key_name,), "foreign_key"))
            table.append_constraint(
                sa.ForeignKeyConstraint(
                    [column],
                    [f"{side.table}.{side.key.stored_column}"],
                    name=guard,
                    ondelete="CASCADE",
                )
            )
        sa.Index(_name("ix", name, far), table.c[far])
        return table

    def _guard(
        self,
        resource: Resource,
        prefix: str,
        columns: tuple[str, ...],
        rule: str,
        *suffixes: str,
        message: str | None = None,
    ) -> str:
        parts = columns if prefix != "pk" else ()
        name = _name(prefix, split_table(resource.table)[1], *parts, *suffixes)
        self._add_guard(resource.table, name, Guard(resource.name, columns, rule, message))
        return name

    def declared_guard(self, table: str, constraint: str) -> Guard | None:
        """The meaning of a constraint that the config declares for a table."""
        return self.guards.get(constraint if split_table(table)[0] is None else f"{table}.{constraint}")

    def _add_guard(self, table: str, constraint: str, guard: Guard) -> None:
        """A partition has the constraint too, so the constraint's name alone means it where no other table has it."""
        if split_table(table)[0] is None:
            self.guards[constraint] = guard
        else:
            self.guards[f"{table}.{constraint}"] = guard
            self.guards.setdefault(constraint, guard)


def is_managed(table: sa.Table) -> bool:
    """Whether Rowcast may change a table."""
    return not table.info.get(UNMANAGED)


def _keyed(table: sa.Table, resource: Resource) -> sa.Table:
    """The table for statements: its columns by the names that these have there.

    The column of ``search`` is not among them. SQLAlchemy warns of each INSERT without a value for a column of a primary key, unless it generates the value itself. So
    the table has no key if others may generate values of it.
    """
    others = resource.primary_key or resource.key.database_default or resource.search
    if not others and all(field.column is None for field in resource.columns.values()):
        return table
    columns = (
        sa.Column(field.stored_column, table.c[field.stored_column].type, key=name)
        for name, field in resource.columns.items()
    )
    return sa.Table(table.name, sa.MetaData(), *columns, schema=table.schema)


def _vector_column(resource: Resource, search: FullText) -> sa.Column[Any]:
    """The column that is searched, which the database computes."""
    stored = {name: resource.fields[name].stored_column for name, _ in search.fields}
    return sa.Column(
        VECTOR_COLUMN, postgresql.TSVECTOR(), sa.Computed(sql_text(vector_sql(search, stored)), persisted=True)
    )


def _info(field: Field, values: Field) -> dict[str, object]:
    """What a comparison with the database needs to know about a column beyond its DDL."""
    facts: dict[str, object] = {
        CONFIGURED_DEFAULT: field.default not in (MISSING, None),
        OWN_DEFAULT: field.database_default,
        IMPLIED_LIMIT: values.max_length is None,
        RENAMED_FROM: field.former_column,
        WRITTEN: field.auto_now or not (field.read_only or field.primary_key or field.key_part or field.auto_now_add),
    }
    return {name: value for name, value in facts.items() if value}


def rules(field: Field, column: sa.ColumnElement[Any]) -> Iterator[tuple[str, sa.ColumnElement[bool]]]:
    """The name and the condition of each check constraint of a field."""
    kind = field.field_type.kind
    array = kind is Kind.ARRAY
    literal = _literal(field.element if array else field)
    if field.choices:
        options = [literal(choice) for choice in field.choices]
        chosen = column.contained_by(sa.cast(postgresql.array(options), column.type)) if array else column.in_(options)
        yield "choices", chosen
    for name, limit in (("min", field.min), ("max", field.max)):
        if limit is not None:
            subject: Any = sa.all_(column) if array else column
            if array:  # ALL stands on the right of its operator
                yield name, literal(limit) <= subject if name == "min" else literal(limit) >= subject
            else:
                yield name, subject >= literal(limit) if name == "min" else subject <= literal(limit)
    length = sa.func.cardinality(column) if array else sa.func.char_length(column)
    if field.min_length is not None:
        long_enough = length >= sa.literal_column(str(field.min_length))
        yield "min_length", sa.or_(column == sa.literal_column("''"), long_enough) if field.blank else long_enough
    if field.max_length is not None and array:
        yield "max_length", length <= sa.literal_column(str(field.max_length))
    if array:
        yield "items", sa.func.array_position(column, sa.null()).is_(None)
    if kind is Kind.TEXT:
        if not field.blank:
            yield "blank", column != sa.literal_column("''")
        for name, pattern in (("pattern", field.pattern), ("format", field.field_type.check)):
            if pattern is not None:
                matches = column.regexp_match(sa.literal_column(quote_literal(pattern)))
                yield name, sa.or_(column == sa.literal_column("''"), matches) if field.blank else matches


def rank(field: Field, value: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """What rows are sorted by where ``order: choices``: the place of a value among the choices; others come last.

    The documentation has the same expression for indexes.
    """
    places = sa.cast(
        sa.literal_column(quote_literal(_array_text(field, field.choices))), postgresql.ARRAY(_unlimited(field))
    )
    return sa.func.coalesce(
        sa.func.array_position(places, readable(value) if field.field_type.kind is Kind.TEXT else value),
        sa.literal_column(str(len(field.choices) + 1)),
    )


def _unlimited(field: Field) -> Any:
    return sa.Text() if field.field_type.kind is Kind.TEXT else field.field_type.column(field)


def _literal(field: Field) -> Any:
    """A function from a JSON form to an SQL literal of the field's type."""
    type_ = field.field_type.column(field)
    return lambda value: sa.cast(sa.literal_column(quote_literal(_text(field, value))), type_)


def _text(field: Field, value: Any) -> str:
    """A JSON form as the string from which PostgreSQL reads a value of the field's type."""
    if field.field_type.literal is not None:
        return field.field_type.literal(field, value)
    if field.field_type.kind is Kind.JSON:
        return encode(value).decode()
    if field.field_type.kind is Kind.ARRAY:
        return _array_text(field.element, value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _array_text(element: Field, values: Iterable[Any]) -> str:
    """JSON forms as the string from which PostgreSQL reads an array."""
    items = (_text(element, value).replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{item}"' for item in items) + "}"


def _server_default(field: Field, values: Field) -> sa.TextClause | None:
    """The default in the database, for rows written by direct SQL."""
    if field.database_default or field.generated:
        return None
    if field.default is not MISSING:
        if field.default is None:
            return None
        return sql_text(quote_literal(_text(values, field.default)))
    expression = generated_value(field)
    return None if expression is None else sql_text(expression)


def generated_value(field: Field) -> str | None:
    """The SQL of the value that a new row has if nobody gives one: the time, or a new UUID."""
    if field.auto_now or field.auto_now_add:
        return f"timezone({quote_literal(field.zone)}, {field.field_type.now})" if field.zone else field.field_type.now
    if field.primary_key and not (field.sent_key or field.database_default):
        return field.field_type.generated_key
    return None


def _name(*parts: str) -> str:
    """The name of a constraint or an index."""
    return cut_identifier("_".join(parts))
