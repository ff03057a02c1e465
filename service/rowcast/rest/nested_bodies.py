"""The children in the bodies of rows (the option ``nested``): what each relation has to create, update and delete.

A list has children with keys, which are changed, and others, which are created; where ``delete: missing`` is open, those
that it leaves out are deleted. An object has ``create``, ``update`` and ``delete``, and leaves the other children alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from rowcast.database.errors import NO_ROW
from rowcast.errors import MAX_MESSAGES, ApiError, PayloadTooLarge, ValidationError, did_you_mean
from rowcast.query.many import Key
from rowcast.rest.plan import ModelPlan, NestedRelation
from rowcast.rest.row_keys import NOT_AN_OBJECT, key_fields
from rowcast.rest.serializers import Serializer

Path: TypeAlias = tuple[str, ...]

MAX_DEPTH: Final = 8  # relations inside one another
MEMBERS: Final = ("create", "update", "delete")
NOT_CHILDREN: Final = "Must be a list of objects, or an object with create, update or delete."


@dataclass(slots=True, eq=False)
class Row:
    """One row of a request. ``body`` has neither its children nor the key of its parent.

    ``key`` is its primary key as soon as it is known, ``name`` the values that name an existing row in the body.
    """

    path: Path
    body: Any
    children: Mapping[str, Any]
    parent: Row | None = None
    key: Any = None
    name: Key = ()
    may_be_new: bool = False  # a key that is not there names a new row
    serializer: Serializer | None = None
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def top(self) -> Row:
        """The row at the top of the body that this one is in."""
        return self if self.parent is None else self.parent.top


@dataclass(slots=True, eq=False)
class Family:
    """The children of one relation in all rows of a request. ``replaced`` are the parents whose children are a list."""

    relation: NestedRelation
    creates: list[Row] = field(default_factory=list)
    updates: list[Row] = field(default_factory=list)
    deletes: list[Row] = field(default_factory=list)
    replaced: list[Row] = field(default_factory=list)
    inner: list[Family] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of rows to write."""
        return len(self.creates) + len(self.updates) + len(self.deletes)


class Refusals:
    """The errors of a request by the paths of its rows, up to as many as an answer has."""

    def __init__(self) -> None:
        self._errors: dict[str, Any] = {}
        self._first: ApiError | None = None
        self._count = 0

    def __bool__(self) -> bool:
        return self._first is not None

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return self._count >= MAX_MESSAGES

    def add(self, path: Path, error: ApiError) -> None:
        """Add the error of the row at a path."""
        self._first = self._first or error
        self._count += 1
        place = self._errors
        for step in path:
            place = place.setdefault(step, {})
        for name, messages in (error.errors or {"non_field_errors": [error.detail]}).items():
            place[name] = messages

    def add_placed(self, error: ApiError, rows: Sequence[Row]) -> None:
        """Add an error that has the messages of each of several rows by its place."""
        for place, messages in (error.errors or {}).items():
            one = copy.copy(error)
            one.errors = messages
            self.add(rows[int(place)].path, one)

    def check(self) -> None:
        """Raise what was added, as one error; its status and code are those of the first."""
        if self._first is not None:
            error = copy.copy(self._first)
            error.errors = self._errors
            raise error


def has_children(plan: ModelPlan, body: Any) -> bool:
    """Whether a body, or an object of an array, has rows of a relation that is nested."""
    items = body if isinstance(body, list) else (body,)
    return any(isinstance(item, dict) and not plan.nested_names.isdisjoint(item) for item in items)


def refuse_children(plan: ModelPlan, body: Any) -> None:
    """Raise ``ValidationError`` for a record of a file that has children, which files do not."""
    if plan.nested_names and has_children(plan, body):
        names = [name for name in body if name in plan.nested_names]
        raise ValidationError({name: ["An import takes no rows inside others."] for name in names})


def parent_row(plan: ModelPlan, path: Path, body: Any) -> Row:
    """A row at the top of a body, or of an array."""
    return Row(path, *_parted(plan, body))


def _parted(plan: ModelPlan, body: Any) -> tuple[Any, dict[str, Any]]:
    """A body without its children, and these by relation."""
    if not isinstance(body, dict) or plan.nested_names.isdisjoint(body):
        return body, {}
    own = {name: value for name, value in body.items() if name not in plan.nested_names}
    return own, {name: value for name, value in body.items() if name in plan.nested_names}


def read_children(family: Family, parent: Row, refusals: Refusals) -> None:
    """Add the children of a row to its family; what is wrong with them is added to the refusals."""
    value = parent.children[family.relation.name]
    reading = _Reading(family, parent, refusals)
    if isinstance(value, list):
        reading.read_list(value)
    elif isinstance(value, dict):
        reading.read_object(value)
    else:
        refusals.add(reading.path, ValidationError(NOT_CHILDREN))


class _Reading:
    """The children of one relation of one row while they are read."""

    def __init__(self, family: Family, parent: Row, refusals: Refusals) -> None:
        self.family = family
        self.relation = family.relation
        self.parent = parent
        self.refusals = refusals
        self.path = (*parent.path, self.relation.name)
        self.named: dict[Key, Path] = {}
        if len(parent.path) > 4 * MAX_DEPTH or self._depth() > MAX_DEPTH:
            raise PayloadTooLarge(f"At most {MAX_DEPTH} relations inside one another.")

    def _depth(self) -> int:
        depth, row = 1, self.parent
        while row.parent is not None:
            depth, row = depth + 1, row.parent
        return depth

    def read_list(self, items: Sequence[Any]) -> None:
        """Children with keys are changed, the others created; those that are left out are deleted."""
        self.family.replaced.append(self.parent)
        for path, item in self._objects(self.path, items):
            if not self._has_key(item) or (
                self.relation.client_keys and (self.parent.key is None or "update" not in self.relation.opened)
            ):
                self._create(path, item)
            elif self.parent.key is not None:
                may_be_new = self.relation.client_keys and "create" in self.relation.opened
                self._update(path, item, may_be_new=may_be_new)
            else:
                self.refusals.add(path, no_row(self.relation))

    def read_object(self, members: Mapping[str, Any]) -> None:
        """``{"create": […], "update": […], "delete": […]}``"""
        for member, items in members.items():
            path = (*self.path, member)
            if member not in MEMBERS:
                self.refusals.add(path, ValidationError(f"Unknown member; {did_you_mean(member, MEMBERS)}"))
            elif not isinstance(items, list):
                self.refusals.add(path, ValidationError("Must be a list."))
            elif member == "create":
                for place, item in self._objects(path, items):
                    self._create(place, item)
            elif member == "update":
                for place, item in self._objects(path, items):
                    self._update(place, item)
            else:
                for number, item in enumerate(items):
                    self._delete((*path, str(number)), item)

    def _objects(self, path: Path, items: Sequence[Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
        for number, item in enumerate(items):
            place = (*path, str(number))
            if isinstance(item, dict):
                yield place, item
            elif not self.refusals.full:
                self.refusals.add(place, ValidationError(NOT_AN_OBJECT))

    def _names(self) -> list[tuple[str, Any]]:
        """The columns that name a child in a body, with their fields: without the key of the parent."""
        return [each for each in key_fields(self.relation.target) if each[0] != self.relation.column]

    def _has_key(self, item: Mapping[str, Any]) -> bool:
        return all(item.get(name) is not None for name, _ in self._names())

    def _create(self, path: Path, item: dict[str, Any]) -> None:
        if self._is_open("create", path) and self._belongs(path, item):
            self.family.creates.append(Row(path, *self._parted(item), self.parent))

    def _update(self, path: Path, item: dict[str, Any], *, may_be_new: bool = False) -> None:
        if not self._is_open("update", path) or not self._belongs(path, item):
            return
        name = self._name(path, item)
        if name is not None:
            self.family.updates.append(Row(path, *self._parted(item), self.parent, name=name, may_be_new=may_be_new))

    def _delete(self, path: Path, item: Any) -> None:
        names = self._names()
        if not isinstance(item, dict) and len(names) == 1:
            item = {names[0][0]: item}
        if not isinstance(item, dict):
            self.refusals.add(path, ValidationError(f"Must be an object with {', '.join(name for name, _ in names)}."))
        elif self._is_open("delete", path) and self._belongs(path, item):
            name = self._name(path, item)
            if name is not None:
                self.family.deletes.append(Row(path, {}, {}, self.parent, name=name))

    def _parted(self, item: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        body, children = _parted(self.relation.target, item)
        return {name: value for name, value in body.items() if name != self.relation.column}, children

    def _is_open(self, what: str, path: Path) -> bool:
        """Whether children may be created, changed or deleted here."""
        if what in self.relation.opened:
            return True
        opened = " and ".join(each for each in MEMBERS if each in self.relation.opened)
        if not self.refusals.full:
            self.refusals.add(path, ValidationError(f"{what} is not open here, only {opened}."))
        return False

    def _belongs(self, path: Path, item: Mapping[str, Any]) -> bool:
        """Whether a child names no other row than its parent as the one that it belongs to."""
        relation, parent = self.relation, self.parent
        value = item.get(relation.column)
        if value is None and (parent.key is None or relation.column not in item):
            return True
        try:
            if parent.key is not None and relation.key.field_type.load(relation.key, value) == parent.key:
                return True
        except ValueError:
            pass
        message = "It belongs to the row that it is in: leave this out."
        self.refusals.add(path, ValidationError({relation.column: [message]}))
        return False

    def _name(self, path: Path, item: Mapping[str, Any]) -> Key | None:
        """The values that name an existing child; ``None`` if they are not valid, or if none can be there."""
        values: dict[str, Any] = {self.relation.column: self.parent.key}
        errors: dict[str, list[str]] = {}
        for name, each in self._names():
            try:
                if item.get(name) is None:
                    raise ValueError("This field is required.")
                values[name] = each.field_type.load(each, item[name])
            except ValueError as error:
                errors[name] = [str(error)]
        if errors:
            self.refusals.add(path, ValidationError(errors))
            return None
        if self.parent.key is None:
            self.refusals.add(path, no_row(self.relation))
            return None
        key = tuple(values[name] for name, _ in key_fields(self.relation.target))
        if (first := self.named.setdefault(key, path)) != path:
            where = ".".join(first[len(self.parent.path) :])
            self.refusals.add(
                path, ValidationError({name: [f"The same key as at {where}."] for name, _ in self._names()})
            )
            return None
        return key


def no_row(relation: NestedRelation) -> ValidationError:
    """The error for a key that names no child of its parent, whether another parent has a child with it or not."""
    names = [name for name, _ in key_fields(relation.target) if name != relation.column]
    return ValidationError({name: [NO_ROW] for name in names}, code="does_not_exist")
