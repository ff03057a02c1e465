"""A resource: its fields, constraints, relations and viewset options. All values of the config are immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from rowcast.errors import did_you_mean
from rowcast.resources.aggregates import functions_of_related, related_field
from rowcast.resources.composite import address_of, composite_key
from rowcast.resources.derived import Derived, derive, derived_names
from rowcast.resources.fields import Field, Kind
from rowcast.resources.full_text import FullText
from rowcast.resources.rules import CheckRule, UniqueRule
from rowcast.resources.sql import quote_identifier
from rowcast.resources.traits import PLAIN, TableTraits


@dataclass(frozen=True, slots=True)
class Relation:
    """A named way from rows of one resource to rows of another, for ``?expand=``, ``select_related`` and ``__``.

    A relation to one row is a foreign key of this resource; ``column`` is in its own table. A relation to many rows is
    a foreign key of the target, whose table has ``column``, or a many_to_many of either side, which has a ``link``.
    """

    name: str
    field: Field  # the declared foreign_key or many_to_many, on this resource or on the target
    target: str  # resource
    many: bool
    column: str = ""
    link: Through | None = None


@dataclass(frozen=True, slots=True)
class Through:
    """The table of a many_to_many field, seen from one side."""

    table: str
    source_column: str  # column with this side's key
    target_column: str  # column with the target's key


@dataclass(frozen=True, slots=True)
class Path:
    """A field that can be reached from a resource: the relations on the way, its column, and the field of its values.

    For a foreign key ``values`` is the key that it refers to, for any other field the same as ``field``. A path to a key
    of several fields has no ``column``, but ``columns``. A value that follows from a column is ``derived``, and has a field of
    its own. So has a ``function`` of the values at the end of ``argument``, a path to many: such a path leads to one value.
    """

    steps: tuple[Relation, ...]
    column: str
    field: Field
    values: Field
    derived: Derived | None = None
    function: str = ""
    argument: Path | None = None

    @property
    def many(self) -> bool:
        """Whether one row can lead to several values."""
        return not self.function and any(step.many for step in self.steps)

    @property
    def computed(self) -> bool:
        """Whether its values follow from others, so that no column has them."""
        return self.derived is not None or bool(self.function)

    @property
    def sorts(self) -> bool:
        """Whether rows can be in the order of its values, which those of a part of a time are not."""
        return self.derived is None or self.derived.sorts

    @property
    def columns(self) -> tuple[str, ...]:
        """The column, or those of a key of several fields."""
        return tuple(part.column_name for part in self.field.parts) or (self.column,)


@dataclass(frozen=True, slots=True)
class SoftDelete:
    """How rows of a resource are deleted without leaving their table.

    ``field`` has the time at which a row was deleted, and is null for every other row. ``permission_classes`` are those of
    callers who may see deleted rows, restore them, and delete rows for good; ``None`` stands for administrators. Rows are
    deleted for good ``purge_after`` so many seconds; ``None`` means never.
    """

    field: str
    permission_classes: tuple[Any, ...] | None = None
    purge_after: float | None = None


@dataclass(frozen=True)
class Resource:
    """One declared resource. ``fields`` has the order of the file; ``options`` are the checked options of the viewset.

    ``primary_key`` names the fields that are the key together, if there are several. ``unique`` has the fields of each
    plain unique rule, and ``messages`` the messages of some of them; ``rules`` are the unique rules with conditions.
    """

    name: str
    table: str
    model: str
    fields: Mapping[str, Field]
    primary_key: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    messages: Mapping[tuple[str, ...], str] = field(default_factory=lambda: MappingProxyType({}))
    rules: tuple[UniqueRule, ...] = ()
    checks: tuple[CheckRule, ...] = ()
    search: FullText | None = None
    indexes: tuple[tuple[str, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    managed: bool = True  # whether Rowcast may change the table
    coalesce: bool = True  # whether requests that meet may share statements
    reads_replicas: bool = True  # whether its rows may be read from a replica
    renamed_from: str | None = None  # the table's name before
    view: bool = False  # the table is a view: its rows are read, and neither written nor watched
    label: str | None = None
    description: str | None = None
    soft_delete: SoftDelete | None = None

    @cached_property
    def key(self) -> Field:
        """The primary key; one field stands for several."""
        if self.primary_key:
            return composite_key([self.fields[name] for name in self.primary_key])
        return next(field for field in self.fields.values() if field.primary_key)

    @cached_property
    def key_fields(self) -> tuple[Field, ...]:
        """The fields of the primary key."""
        return self.key.parts or (self.key,)

    @cached_property
    def key_columns(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return tuple(field.column_name for field in self.key_fields)

    @cached_property
    def float_columns(self) -> frozenset[str]:
        """The columns of floats, or of arrays of floats."""
        return frozenset(name for name, field in self.columns.items() if field.item_type.binary_float)

    @cached_property
    def key_in(self) -> Callable[[Mapping[str, Any]], Any]:
        """A function that takes the values of a row by column, and returns its key; ``None`` if it has none yet."""
        columns = self.key_columns
        if len(columns) == 1:
            (column,) = columns
            return lambda values: values.get(column)

        def key(values: Mapping[str, Any]) -> tuple[Any, ...] | None:
            parts = tuple([values.get(column) for column in columns])
            return None if None in parts else parts

        return key

    @cached_property
    def id_in(self) -> Callable[[Mapping[str, Any]], Any]:
        """A function that takes a row's JSON by column, and returns the id that events have: the JSON form of its key."""
        columns = self.key_columns
        if len(columns) == 1:
            return itemgetter(*columns)
        return lambda row: address_of([row[column] for column in columns])

    @cached_property
    def columns(self) -> Mapping[str, Field]:
        """The fields that are columns of the table, by column name, in the order of declaration."""
        return {f.column_name: f for f in self.fields.values() if f.field_type.kind is not Kind.RELATIONS}

    @cached_property
    def unique_rules(self) -> tuple[UniqueRule, ...]:
        """The key and each unique rule, plain ones first. Those of a resource that keeps deleted rows are about the others."""
        plain = {self.key_columns: UniqueRule(self.key_columns)}
        for name, each in self.columns.items():
            if each.unique:
                plain.setdefault((name,), UniqueRule((name,)))
        for names in self.unique:
            columns = tuple(self.fields[name].column_name for name in names)
            plain.setdefault(columns, UniqueRule(columns, message=self.messages.get(names)))
        if self.soft_delete is None:
            return (*plain.values(), *self.rules)
        key, *others = plain.values()
        left = f"{quote_identifier(self.columns[self.soft_delete.field].stored_column)} IS NULL"
        rules = (*others, *self.rules)
        return (key, *(replace(rule, where=f"({rule.where}) AND {left}" if rule.where else left) for rule in rules))

    def unique_rule(self, names: Sequence[str]) -> UniqueRule | None:
        """The first rule over exactly these fields or columns."""
        columns = sorted(self.fields[name].column_name if name in self.fields else name for name in names)
        return next((rule for rule in self.unique_rules if sorted(rule.columns) == columns), None)

    @cached_property
    def links(self) -> Mapping[str, Field]:
        """The many_to_many fields by name."""
        return {f.name: f for f in self.fields.values() if f.field_type.kind is Kind.RELATIONS}


class Resources(Mapping[str, Resource]):
    """Every resource of a configuration by name, and how they relate.

    ``traits`` are those of the resources' tables, which are read from the database when the service starts.
    """

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self._resources = dict(resources)
        self.traits: Mapping[str, TableTraits] = {}
        self._relations: dict[str, dict[str, Relation]] = {name: {} for name in resources}
        declared_names = {(f.to, f.related_name) for r in self._resources.values() for f in r.fields.values()}
        for resource in self._resources.values():
            for declared in resource.fields.values():
                if declared.to is not None:
                    name = declared.related_name or self._reverse_name(resource, declared, declared_names)
                    self._relate(resource, declared, self._resources[declared.to], name)

    def __getitem__(self, name: str) -> Resource:
        return self._resources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._resources)

    def __len__(self) -> int:
        return len(self._resources)

    __hash__ = object.__hash__

    def traits_of(self, resource: str) -> TableTraits:
        """The traits of a resource's table; plain ones until they have been read."""
        return self.traits.get(resource, PLAIN)

    def relations(self, resource: str) -> Mapping[str, Relation]:
        """The relations of a resource by name: those of its own fields, and the reverse ones of other resources."""
        return self._relations[resource]

    def resolve(self, resource: str, path: str) -> Path:
        """The field at the end of a path such as ``category__name``, and the relations that lead to it.

        A path that ends in a relation means the key of the related rows. After a path to many, ``count`` and the like are a
        function of their values: ``books__count``, ``books__price__sum``. ``ValueError`` names the part that is wrong
        and what is valid.
        """
        steps: list[Relation] = []
        parts = path.split("__")
        here = self._resources[resource]
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            relation = self._relations[here.name].get(part)
            if relation is None and part in here.columns and part not in here.fields:
                part = here.columns[part].name  # category_id is the field category
                relation = self._relations[here.name][part]
            if relation is not None and (last and not relation.many):
                return Path(tuple(steps), relation.column, relation.field, self.key_of(relation.field))
            if relation is not None:
                steps.append(relation)
                here = self._resources[relation.target]
                if last:
                    return self._path_to_key(steps, here)
                continue
            if last and part == here.key.name:
                return self._path_to_key(steps, here)
            if part not in here.fields:
                several = any(step.many for step in steps)
                if last and part == "count" and several:
                    return _function_path(part, self._path_to_key(steps, here))
                names = [*here.fields, *(name for name in self._relations[here.name] if name not in here.fields)]
                names += ["count"] if several else []
                raise ValueError(f"{here.name} has no field {part!r}; {did_you_mean(part, names)}")
            found = here.fields[part]
            if not last:
                return _derived_path(steps, here, found, parts[position + 1 :])
            return Path(tuple(steps), found.column_name, found, found)
        raise AssertionError("a path has at least one part")

    def _path_to_key(self, steps: list[Relation], here: Resource) -> Path:
        return Path(tuple(steps), "" if here.primary_key else here.key.column_name, here.key, self.key_of(here.key))

    def target_of(self, resource: str, path: str) -> str | None:
        """The resource whose key a path means, such as ``category``, ``tasks`` or ``category__id``; ``None`` for other values."""
        here, crossed = self._resources[resource], False
        parts = path.split("__")
        for place, part in enumerate(parts, 1):
            name = here.columns[part].name if part in here.columns and part not in here.fields else part
            relation = self._relations[here.name].get(name)
            if relation is None:
                return here.name if crossed and place == len(parts) and name == here.key.name else None
            here, crossed = self._resources[relation.target], True
        return here.name

    def steps(self, resource: str, path: str, *, readable: bool = False) -> tuple[Relation, ...]:
        """The relations that a path such as ``category__parent`` follows.

        Raises ``ValueError`` if a part is not a relation or, with ``readable``, if the relation is ``write_only``.
        """
        steps: list[Relation] = []
        for part in path.split("__"):
            relations = self._relations[resource]
            if part not in relations:
                names = [name for name, each in relations.items() if not (readable and each.field.write_only)]
                raise ValueError(f"{resource} has no relation {part!r}; {did_you_mean(part, names)}")
            if readable and relations[part].field.write_only:
                raise ValueError(f"{part!r} is write_only, so it cannot be shown")
            steps.append(relations[part])
            resource = relations[part].target
        return tuple(steps)

    def key_of(self, declared: Field) -> Field:
        """The field of a column's values: itself or, for a foreign key, the key that it finally refers to.

        For a key of several fields it is one with those of their values as its parts.
        """
        while declared.to is not None:
            declared = self._resources[declared.to].key
        if declared.parts:
            return replace(declared, parts=tuple(map(self.key_of, declared.parts)))
        return declared

    def _reverse_name(
        self, resource: Resource, declared: Field, declared_names: Set[tuple[str | None, str | None]]
    ) -> str | None:
        """The default name of a relation at its target: the name of the declaring resource.

        It is ``None`` if a field of the target, or another relation to it, has that name (``declared_names``, by target), or
        if two relations would have it.
        """
        assert declared.to is not None
        rivals = [f for f in resource.fields.values() if f.to == declared.to and f.related_name is None]
        taken = resource.name in self._resources[declared.to].fields or (declared.to, resource.name) in declared_names
        return None if taken or len(rivals) > 1 else resource.name

    def _relate(self, resource: Resource, declared: Field, target: Resource, name: str | None) -> None:
        """Add a relation and, if it has a ``name`` there, the one back."""
        own, back = self._relations[resource.name], self._relations[target.name]
        if declared.field_type.kind is Kind.RELATION:
            own[declared.name] = Relation(declared.name, declared, target.name, many=False, column=declared.column_name)
            if name:
                back[name] = Relation(name, declared, resource.name, many=True, column=declared.column_name)
            return
        near, far = link_columns(resource, declared, target)
        table = link_table(resource, declared)
        own[declared.name] = Relation(declared.name, declared, target.name, many=True, link=Through(table, near, far))
        if name:
            back[name] = Relation(name, declared, resource.name, many=True, link=Through(table, far, near))


def _function_path(function: str, argument: Path) -> Path:
    """The path to a function of the values at the end of a path to many."""
    found = related_field(argument.field.name, function, argument.values)
    return Path(argument.steps, argument.column, found, found, function=function, argument=argument)


def _derived_path(steps: list[Relation], here: Resource, source: Field, names: list[str]) -> Path:
    """The path to a value that follows from a field; ``ValueError`` if there is none of these names."""
    name = "__".join(names)
    derived = derive(source, name)
    if derived is not None:
        return Path(tuple(steps), source.column_name, derived.field, derived.field, derived)
    message = f"{source.name!r} of {here.name} is not a relation, so {names[0]!r} cannot follow it"
    functions = functions_of_related(source) if any(step.many for step in steps) else ()
    if name in functions:
        return _function_path(name, Path(tuple(steps), source.column_name, source, source))
    valid = (*derived_names(source), *functions)
    raise ValueError(f"{message}; {did_you_mean(name, valid)}" if valid else message)


def link_table(resource: Resource, declared: Field) -> str:
    """The table of a many_to_many field: ``tasks_tags`` for field ``tags`` of table ``tasks``, unless it names another."""
    return declared.through.table if declared.through else f"{resource.table}_{declared.name}"


def link_columns(resource: Resource, declared: Field, target: Resource) -> tuple[str, str]:
    """The columns of that table, the declaring side's first: ``task_id, tag_id``, or ``from_…, to_…`` within a resource."""
    if declared.through:
        return declared.through.near, declared.through.far
    near, far = (f"{_snake(side.model)}_id" for side in (resource, target))
    return (f"from_{near}", f"to_{far}") if near == far else (near, far)


def _snake(name: str) -> str:
    """``BlogPost`` as ``blog_post``."""
    return "".join(
        f"_{char.lower()}" if char.isupper() and position and not name[position - 1].isupper() else char.lower()
        for position, char in enumerate(name)
    )
