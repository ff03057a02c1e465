"""A resource for each table that the config does not have: its name, its fields, its relations, and what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from rowcast.adoption import indexes, names, relations, rules
from rowcast.adoption.catalog import Column, Database, Reference, Table
from rowcast.adoption.columns import (
    FieldDraft,
    NotAField,
    add_comment,
    check_name,
    describe,
    leave_to_database,
    name_column,
    type_of,
)
from rowcast.adoption.relations import Join, Link, Target
from rowcast.configuration.declarations import (
    RESERVED_RESOURCES,
    SQL_NAME,
    options_of,
)
from rowcast.configuration.model_names import model_name
from rowcast.configuration.yaml import REFERENCE
from rowcast.resources.composite import can_be_part
from rowcast.resources.fields import Kind
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.sql import IDENTIFIER_MAX_BYTES
from rowcast.resources.types import FIELD_TYPES, make_field

PERMISSIONS: Final = ("IsAdminUser",)
_MISSING_KEY: Final = "it has no primary key, and no unique index over columns that are never null"
_VIEW_KEY: Final = "no column of it is surely a key; a file of your own may name one"


@dataclass(slots=True)
class ResourceDraft:
    """A resource as it will be written. ``left_out`` are remarks about columns that are not fields, by column."""

    name: str
    table: Table
    key: tuple[str, ...]  # columns
    fields: dict[str, FieldDraft] = field(default_factory=dict)  # by column, or by name for a many_to_many
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    model: str = ""
    unique: list[Any] = field(default_factory=list)  # lists of fields, and rules
    checks: list[dict[str, Any]] = field(default_factory=list)
    rule_remarks: list[str] = field(default_factory=list)  # about rules that the file does not have
    viewset: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The names that relations to this resource may not have."""
        return {used for each in self.fields.values() for used in (each.name, f"{each.name}_id")}


@dataclass(frozen=True, slots=True)
class Adoption:
    """The new resources by name, and the tables for which there is none, with the reason."""

    resources: Mapping[str, ResourceDraft]
    left_out: Mapping[str, str]


class Drafting:
    """Drafts resources for tables beside those that a config has.

    ``keys`` are the columns that serve as the key of a table or view, by OID. With ``callers`` the statements of requests have
    a role or settings of their callers.
    """

    def __init__(
        self, database: Database, existing: Resources, keys: Mapping[int, tuple[str, ...]], *, callers: bool = False
    ) -> None:
        self.database = database
        self.existing = existing
        self.keys = keys
        self.callers = callers
        self.left_out: dict[str, str] = {}
        self.drafts: dict[int, ResourceDraft] = {}

    def draft(self, tables: Iterable[Table]) -> Adoption:
        """The resources for these tables."""
        chosen = {table.oid: table for table in tables if self._is_adoptable(table)}
        labels = name_resources(chosen.values(), self.existing, self.database)
        self.drafts = {
            oid: ResourceDraft(labels[oid], table, self.keys[oid], model=names.model(labels[oid]))
            for oid, table in chosen.items()
        }
        joins = list(relations.find_joins(chosen.values(), self._targets()))
        for join in joins:
            del self.drafts[join.table.oid]
        targets = self._targets()
        for draft in self.drafts.values():
            self._add_fields(draft, targets)
        for join in joins:
            self._add_join(join, targets)
        self._name_links()
        for draft in self.drafts.values():
            self._finish(draft)
        return Adoption({each.name: each for each in self.drafts.values()}, self.left_out)

    def _is_adoptable(self, table: Table) -> bool:
        reason = None
        if table.oid not in self.keys:
            reason = _VIEW_KEY if table.is_view else _MISSING_KEY
        elif not all(re.fullmatch(SQL_NAME, part) for part in (table.schema, table.name)):
            reason = "its name has a character that no config has in a name"
        else:
            reason = self._key_problem(table)
        if reason is not None:
            self.left_out[str(table)] = reason
        return reason is None

    def _key_problem(self, table: Table) -> str | None:
        key = self.keys[table.oid]
        for name in key:
            try:
                check_name(table.columns[name])
                type_ = type_of(table.columns[name])["type"]
            except NotAField as error:
                return f"its key {name} {error}"
            fits = "primary_key" in options_of(type_) if len(key) == 1 else can_be_part(make_field(name, type_))
            if not fits:
                return f"its key {name} has the type {table.columns[name].type}, which no key has"
        return None

    def _targets(self) -> dict[int, Target]:
        """What foreign keys may refer to: the drafts, and the resources of the config."""
        served = served_tables(self.database, self.existing)
        found = {
            oid: Target(name, self.database.tables[oid], _key_of(self.existing[name]))
            for oid, name in served.items()
            if name in self.existing
        }
        for oid, draft in self.drafts.items():
            found[oid] = Target(draft.name, draft.table, draft.key)
        return {oid: target for oid, target in found.items() if len(target.key) == 1}

    def _add_fields(self, draft: ResourceDraft, targets: Mapping[int, Target]) -> None:
        table, taken = draft.table, set[str]()
        references = {name: self._reference(table, name, targets) for name in table.columns}
        made: dict[str, FieldDraft] = {}
        if len(draft.key) == 1 and self._leads_to(table.oid, targets, table.oid):
            references[draft.key[0]] = None
        plain = [name for name, reference in references.items() if reference is None]
        for name in sorted(plain, key=lambda name: names.identifier(name, "column") != name):  # equal names first
            column = table.columns[name]
            label = names.unique_name((names.identifier(name, "column"),), taken)
            try:
                made[name] = describe(
                    column, label, key=draft.key == (name,), part=name in draft.key, view=table.is_view
                )
                taken.add(label)
                made[name].notes += self._other_references(table, name, targets)
            except NotAField as error:
                draft.left_out[name] = str(error)
        for name, reference in references.items():  # fields that are not relations have the first choice
            if reference is not None and name not in made:
                try:
                    made[name] = self._foreign_key(table.columns[name], reference, targets, taken, table.is_view)
                except NotAField as error:
                    draft.left_out[name] = str(error)
        draft.fields = {name: made[name] for name in table.columns if name in made}

    def _reference(self, table: Table, column: str, targets: Mapping[int, Target]) -> Reference | None:
        """The foreign key that makes a column a relation. A view has those of the columns of the same name that it reads."""
        if not table.is_view:
            return relations.reference_of(table, column, targets)
        if column in self.keys[table.oid]:
            return None
        for oid in table.reads:
            read = self.database.tables.get(oid)
            same = (
                read is not None and column in read.columns and read.columns[column].type == table.columns[column].type
            )
            if read is not None and same and (found := relations.reference_of(read, column, targets)) is not None:
                return found
        return None

    def _other_references(self, table: Table, column: str, targets: Mapping[int, Target]) -> Iterator[str]:
        """Remarks about foreign keys of a column that are not relations."""
        for reference in table.references:
            if column not in reference.columns:
                continue
            target = self.database.tables.get(reference.target)
            refers = f"refers to {'a table of a schema that was not read' if target is None else target}"
            if len(reference.columns) > 1:
                yield f"{refers} by several columns: {', '.join(reference.columns)}"
            elif reference.target in targets:
                yield f"{refers} by {reference.target_columns[0]}, which is not its key"
            else:
                yield refers if target is None else f"{refers}, to which no relation can lead"

    def _leads_to(self, oid: int, targets: Mapping[int, Target], end: int) -> bool:
        """Whether the key of a table is a foreign key that leads, by keys of others, to a table."""
        draft = self.drafts.get(oid)
        if draft is None or len(draft.key) != 1:
            return False
        reference = relations.reference_of(draft.table, draft.key[0], targets)
        if reference is None:
            return False
        return reference.target in (end, oid) or self._leads_to(reference.target, targets, end)

    def _foreign_key(
        self, column: Column, reference: Reference, targets: Mapping[int, Target], taken: set[str], view: bool
    ) -> FieldDraft:
        check_name(column)
        target = targets[reference.target]
        label = names.relation(column.name)
        free = [
            each
            for each in (label, names.singular(target.resource), f"{label}_{names.singular(target.resource)}")
            if not {each, f"{each}_id"} & taken
        ]
        name = names.unique_name([*free, f"{label}_row"], taken)
        taken.update((name, f"{name}_id"))
        options: dict[str, Any] = {"type": "foreign_key", "to": target.resource}
        name_column(options, column, f"{name}_id")
        if not column.needed:
            options["null"] = True
        if not view:
            leave_to_database(options, column)
        action = None if view else relations.on_delete(reference)
        if action and not (action == "set_null" and column.needed):
            options["on_delete"] = action
        key = target.table.columns[target.key[0]]
        draft = FieldDraft(name, column.name, options, key_kind=FIELD_TYPES[type_of(key)["type"]].kind)
        add_comment(draft, column)
        return draft

    def _add_join(self, join: Join, targets: Mapping[int, Target]) -> None:
        sides = [(join.near, join.far, join.field), (join.far, join.near, targets[join.near.target].resource)]
        declaring = [side for side in sides if side[0].target in self.drafts]
        if not declaring:
            both = " and ".join(targets[side.target].resource for side in (join.near, join.far))
            self.left_out[str(join.table)] = (
                f"it joins {both}, whose files exist; add a many_to_many field to one of them"
            )
            return
        near, far, field_name = declaring[0]
        draft, target = self.drafts[near.target], targets[far.target]
        through = {"table": str(join.table), "near": near.columns[0], "far": far.columns[0]}
        candidates = (field_name, target.resource, f"{target.resource}_of_{field_name}")
        name = names.unique_name(candidates, draft.names)
        options = {"type": "many_to_many", "to": target.resource, "through": through}
        draft.fields[f"\0{join.table}"] = FieldDraft(name, "", options)  # which no column is called

    def _name_links(self) -> None:
        taken = {each.name: each.names for each in self.drafts.values()}
        for name in self.existing:
            fields = self.existing[name].fields.values()
            own = {used for each in fields for used in (each.name, each.column_name)}
            taken[name] = own | set(self.existing.relations(name))
        made = {
            (draft.name, each.name): each
            for draft in self.drafts.values()
            for each in draft.fields.values()
            if "to" in each.options
        }
        links = [Link(resource, name, each.options["to"]) for (resource, name), each in made.items()]
        relations.name_links(links, taken)
        for link in links:
            if link.related_name is not None:
                made[link.resource, link.field].options["related_name"] = link.related_name

    def _finish(self, draft: ResourceDraft) -> None:
        """Add what follows from constraints and indexes."""
        table = draft.table
        for columns in () if table.is_view else table.unique:
            if set(columns) == set(draft.key) or not all(column in draft.fields for column in columns):
                continue
            if len(columns) == 1:
                draft.fields[columns[0]].options["unique"] = True
            else:
                draft.unique.append([draft.fields[column].name for column in columns])
        if not table.is_view:
            unique, remarks = rules.unique_options(table, draft.fields)
            draft.checks, others = rules.check_options(table, draft.fields)
            draft.unique += unique
            draft.rule_remarks = [*remarks, *others]
        for column, each in draft.fields.items():
            if each.kind is Kind.RELATION and not table.is_view and not indexes.is_indexed(table, column):
                each.notes.append("no index, so lists are not filtered by it")
        draft.viewset = {"permission_classes": list(PERMISSIONS), **indexes.viewset_options(table, draft.fields)}
        if (self.callers or table.guarded) and not table.is_view:
            draft.viewset["stream_enabled"] = False


def _key_of(resource: Resource) -> tuple[str, ...]:
    return tuple(field.stored_column for field in resource.key_fields)


def choose_key(table: Table) -> tuple[str, ...] | None:
    """The columns that serve as the key of a table: its primary key, or a unique index over columns without nulls."""
    if table.key:
        return table.key
    rules = [rule for rule in table.unique if table.kind == "m" or all(table.columns[name].needed for name in rule)]
    return min(rules, key=len, default=None)


def served_tables(database: Database, existing: Resources) -> dict[int, str]:
    """The tables that a config has, by OID, with the resource of each; tables of links have an empty name."""
    by_name = {f"{table.schema}.{table.name}": oid for oid, table in database.tables.items()}
    by_name |= {table.name: oid for oid, table in database.tables.items() if table.visible}
    served: dict[int, str] = {}
    for name, resource in existing.items():
        for relation in existing.relations(name).values():
            if relation.link is not None and relation.link.table in by_name:
                served.setdefault(by_name[relation.link.table], "")
        if resource.table in by_name:
            served[by_name[resource.table]] = name
    return served


def name_resources(tables: Collection[Table], existing: Resources, database: Database) -> dict[int, str]:
    """A name for each table, in the plural, which no other resource has and, if possible, whose model none has."""
    taken = {*existing, *RESERVED_RESOURCES}
    models = {resource.model for resource in existing.values()}
    bases = _bases(tables, database)
    shorts = {table.oid: _resource_name(table, bases[table.oid]) for table in tables}
    count = Counter(shorts.values())
    chosen: dict[int, str] = {}
    for table in sorted(tables, key=lambda table: not table.visible):
        short = shorts[table.oid]
        full = _resource_name(table, names.identifier(table.name, "table"))
        candidates = [short, full] if count[short] == 1 else [full]
        candidates.append(f"{names.identifier(table.schema, 'schema')}_{full}")
        fitting = [each[: IDENTIFIER_MAX_BYTES - 4] for each in candidates]
        free = [each for each in fitting if names.model(each) not in models] or fitting
        name = chosen[table.oid] = names.unique_name(free, taken)
        taken.add(name)
        models.add(names.model(name))
    return chosen


def _resource_name(table: Table, words: str) -> str:
    """The plural of a table's name. The name of a view is kept: it describes all of it, as ``film_list`` does."""
    return words if table.is_view else names.plural(words)


def _bases(tables: Collection[Table], database: Database) -> dict[int, str]:
    """The name of each table in words, without what all of them begin with, and without Django's apps."""
    if database.apps:
        hints: dict[int, list[str]] = {}
        for table in database.tables.values():
            for reference in table.references:
                hints.setdefault(reference.target, []).append(names.relation(reference.columns[0]))
        models = {names.django_model(table.name, database.apps) for table in tables}
        return {
            table.oid: names.identifier(
                names.django_model(table.name, database.apps, hints.get(table.oid, ()), models), "table"
            )
            for table in tables
        }
    bases: dict[int, str] = {}
    for schema in {table.schema for table in tables}:
        own = [table for table in tables if table.schema == schema]
        prefix = names.common_prefix([table.name for table in own])
        bases |= {table.oid: names.identifier(table.name.removeprefix(prefix), "table") for table in own}
    return bases


def model_option(draft: ResourceDraft) -> str | None:
    """The option ``model`` of a resource; ``None`` if the default is the same."""
    return None if draft.model == model_name(draft.name) else draft.model


def key_option(draft: ResourceDraft) -> list[str] | None:
    """The option ``primary_key`` of a resource; ``None`` if its key is a field that has the option."""
    fields = [draft.fields[column] for column in draft.key]
    return None if any(each.is_key for each in fields) else [each.name for each in fields]


def description(table: Table) -> str | None:
    """The comment of a table as the description of its resource."""
    return None if not table.comment or REFERENCE.search(table.comment) else " ".join(table.comment.split())


def unserved(database: Database, existing: Resources) -> Iterator[Table]:
    """The tables that no resource of a config has."""
    served = served_tables(database, existing)
    return (table for oid, table in database.tables.items() if oid not in served)
