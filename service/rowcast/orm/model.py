"""Rows as objects: ``model("tasks")`` is a class, ``.objects`` its query sets, and each row an instance.

A model is named before the configuration is known, at import time. Its resource is looked up in the current store when
the model is used: the store of the service that handles the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from rowcast.errors import ConfigurationError, Conflict, NotFound, did_you_mean
from rowcast.orm.awaiting import must_be_awaited
from rowcast.orm.expressions import F, Q, fitting, storable
from rowcast.orm.state import Row, RowState, instance, set_state, state_of
from rowcast.orm.writing import insert_row, update_rows
from rowcast.query import removal
from rowcast.query.conditions import Query, by_key
from rowcast.query.projection import Projection, projection_of
from rowcast.query.store import NOT_MADE, Store, current_store
from rowcast.resources.fields import recall
from rowcast.resources.lossless_json import nested, parse
from rowcast.resources.resource import Relation, Resource, Resources, SoftDelete

if TYPE_CHECKING:
    from rowcast.orm.queryset import QuerySet

M = TypeVar("M", bound="Model")


class DoesNotExist(NotFound):
    """``get()`` found no row. A response with status 404 unless it is caught."""


class MultipleObjectsReturned(LookupError):
    """``get()`` found several rows. A mistake in the program: a logged 500 unless it is caught."""


class RelationNotLoaded(AttributeError):
    """A related row was read that the query has not loaded."""


class ColumnNotLoaded(LookupError):
    """A column was read that a row does not carry. It is not an ``AttributeError``, so no default takes its place."""


@cache
def model(name: str) -> type[Model]:
    """The model of a resource.

    Args:
        name: The resource's name (``tasks``) or its model's name (``Task``). It is looked up when the model is used, so
            this function may be called at import time; a service does not start with a name that does not exist.

    Returns:
        A class with ``objects``. The same name always gives the same class.
    """
    return type(name, (Model,), {"_name": name})


class Manager(Generic[M]):
    """``Model.objects``: a query set of all rows."""

    def __get__(self, row: M | None, owner: type[M]) -> QuerySet[M]:
        from rowcast.orm.queryset import QuerySet  # which makes instances, and so imports this module

        if row is not None:
            raise AttributeError(f"objects belongs to the model: write {owner.__name__}.objects")
        return QuerySet(owner)


class Model(Row):
    """One row. Its attributes are the columns by name, and the related rows that the query has loaded."""

    _name: ClassVar[str] = ""
    DoesNotExist: ClassVar[type[DoesNotExist]] = DoesNotExist
    MultipleObjectsReturned: ClassVar[type[MultipleObjectsReturned]] = MultipleObjectsReturned
    objects: ClassVar[Manager[Any]] = Manager()

    __slots__ = ()

    def __init__(self, **values: Any) -> None:
        set_state(self, RowState(self.resource(), {}, saved=False))
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def resource(cls) -> Resource:
        """The resource of the model; ``ConfigurationError`` if it does not exist."""
        return resource_of(current_store().queries.resources, cls._name)

    @classmethod
    def resources(cls) -> Resources:
        """All resources of the current service."""
        return current_store().queries.resources

    @classmethod
    def from_document(cls, resources: Resources, shown: Projection, document: bytes) -> Self:
        """The instance of a row that was read as JSON, with the related rows of the projection.

        A value that Python does not have becomes the nearest that it has, and is shown as it was read.
        """
        return _from_json(cls, resources, shown, parse(document))

    @property
    def pk(self) -> Any:
        """The value of the primary key."""
        return state_of(self).key

    def __getitem__(self, name: str) -> Any:
        """The value of a column by name, also if a method has that name."""
        state = state_of(self)
        if name not in state.values and name in state.resource.columns:
            return _unset(state, name)
        return state.values[name]

    def __getattr__(self, name: str) -> Any:
        if name == "_state" or name.startswith("__"):
            raise AttributeError(name)
        state = state_of(self)
        if name in state.values:
            return state.values[name]
        if name in state.resource.columns:
            return _unset(state, name)
        relations = current_store().queries.resources.relations(state.resource.name)
        relation = relations.get(name)
        if relation is None:
            hint = did_you_mean(name, [*state.resource.columns, *relations])
            raise AttributeError(f"{state.resource.model} has no attribute {name!r}; {hint}")
        if relation.many:
            return RelatedRows(self, relation)
        if name in state.related:
            return state.related[name]
        if state.values.get(relation.column) is None:
            return None
        raise RelationNotLoaded(
            f"{name} of this {state.resource.model} is not loaded: add .select_related({name!r}) to the query, "
            f"or use {relation.column}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        state = state_of(self)
        resource = state.resource
        if name == "pk" and resource.primary_key:
            field = current_store().queries.resources.key_of(resource.key)
            parts = [None] * len(field.parts) if value is None else fitting(field, value, name)
            for column, part in zip(resource.key_columns, parts, strict=True):
                setattr(self, column, part)
            return
        if name == "pk":
            name = resource.key.column_name
        if name in resource.columns:
            declared = resource.columns[name]
            field = current_store().queries.resources.key_of(declared)
            state.values[name] = value if isinstance(value, F) else storable(field, value, name)
            state.exact.pop(name, None)
            state.changed.add(name)
            state.related.pop(declared.name, None)
        elif name in resource.links:
            state.related[name] = list(value)
            state.changed.add(name)
        elif name in resource.fields:  # a foreign key by its own name
            setattr(self, resource.fields[name].column_name, value)
            if isinstance(value, Model):
                state.related[name] = value
        else:
            hint = did_you_mean(name, [*resource.columns, *resource.links])
            raise AttributeError(f"{resource.model} has no field {name!r}; {hint}")

    @must_be_awaited
    async def save(self) -> Self:
        """Insert the row, or update the columns and links that have changed since it was read.

        Returns:
            The instance itself, with the values that the database has stored.

        Raises:
            Conflict: A trigger or a rule of the database has refused the change.
            PermissionDenied: A policy of the database has refused it.
            NotFound: The row has been deleted.
        """
        store, state = current_store(), state_of(self)
        links = {name: state.related[name] for name in state.changed if name in state.resource.links}
        values = {name: state.values[name] for name in state.changed if name in state.resource.columns}
        if state.saved and not (values or links):
            return self
        if not links:
            await store.database.retrying(lambda: _write(store, self, values))
        else:

            async def write() -> None:
                async with store.database.transaction():
                    await _write(store, self, values)
                    await _relink(store, self, links)

            await store.database.retrying(write)
            for name, rows in links.items():
                if not all(isinstance(row, Model) for row in rows):
                    del state.related[name]  # keys, which are not the rows themselves
        state.changed.clear()
        return self

    @must_be_awaited
    async def delete(self, hard: bool | None = None) -> None:
        """Delete the row. A row of a resource with ``soft_delete`` is marked, and stays in its table.

        Args:
            hard: Delete the row for good. By default it is so where the resource has no ``soft_delete``, and in
                ``perform_destroy`` of a request with ``?hard=true``.

        Raises:
            Conflict: Others refer to a row that is deleted for good.
        """
        store, state = current_store(), state_of(self)
        hard = state.purging if hard is None else hard
        await removal.remove(store, query_for(self), hard=hard)
        if hard or state.resource.soft_delete is None:
            state.saved = False
        else:
            await self._read_mark()

    @must_be_awaited
    async def restore(self) -> Self:
        """Take back the deletion of a row that is marked as deleted; nothing happens to another one.

        Returns:
            The instance itself.

        Raises:
            Conflict: Another row has a unique value of this one.
            ValueError: The resource has no ``soft_delete``.
        """
        marks_of(state_of(self).resource, "restore")
        store = current_store()
        await store.database.retrying(lambda: removal.restore(store, query_for(self)))
        await self._read_mark()
        return self

    async def _read_mark(self) -> None:
        """Take over what a deletion, or the end of one, has stored."""
        state = state_of(self)
        fresh = await type(self).objects.all().showing("with").filter(pk=self.pk).first()
        for name, field in state.resource.columns.items():
            if fresh is not None and (field.auto_now or name == marks_of(state.resource, "delete").field):
                state.values[name] = state_of(fresh).values[name]

    @must_be_awaited
    async def refresh(self) -> Self:
        """Read the row again, and discard unsaved changes and loaded related rows; ``NotFound`` if it was deleted."""
        state = state_of(self)
        fresh = await type(self).objects.all().showing("with").get(pk=self.pk)
        state.values.update(state_of(fresh).values)
        state.exact.clear()
        state.related.clear()
        state.changed.clear()
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model) or state_of(self).resource.name != state_of(other).resource.name:
            return NotImplemented
        return self is other if self.pk is None else bool(self.pk == other.pk)

    def __hash__(self) -> int:
        return hash((state_of(self).resource.name, self.pk))

    def __repr__(self) -> str:
        return f"<{state_of(self).resource.model} {self.pk}>"


class RelatedRows:
    """The rows of a relation to many: a list once they are loaded, and always a query set with ``all()``."""

    def __init__(self, owner: Model, relation: Relation) -> None:
        self._owner = owner
        self._relation = relation

    def all(self) -> QuerySet[Any]:
        """The related rows as a query set."""
        rows: QuerySet[Any] = model(self._relation.target).objects
        if self._relation.link is None:
            return rows.filter(**{self._relation.field.name: self._owner.pk})
        return rows.linked_to(self._relation, self._owner.pk)

    def filter(self, *conditions: Q, **lookups: Any) -> QuerySet[Any]:
        """The related rows that meet conditions."""
        return self.all().filter(*conditions, **lookups)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.all(), name)

    def _loaded(self) -> list[Any]:
        name, state = self._relation.name, state_of(self._owner)
        if name not in state.related:
            raise RelationNotLoaded(
                f"{name} of this {state.resource.model} are not loaded: add .prefetch_related({name!r}) to the "
                f"query, or await .{name}.all()"
            )
        rows: list[Any] = state.related[name]
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def __getitem__(self, place: int) -> Any:
        return self._loaded()[place]


def _unset(state: RowState, column: str) -> None:
    """The value of a column that a row does not have: ``None`` for a new row, whose default has not been read yet."""
    if state.saved:
        raise ColumnNotLoaded(f"this {state.resource.model} has been read without {column!r}")


def marks_of(resource: Resource, method: str) -> SoftDelete:
    """How rows of a resource are marked as deleted; ``ValueError`` if they are not, for a method that needs it."""
    if resource.soft_delete is None:
        raise ValueError(f"{method}() needs the option soft_delete, which {resource.name} does not have")
    return resource.soft_delete


def query_for(row: Model) -> Query:
    """The query that finds this row alone."""
    resource = state_of(row).resource.name
    return Query(resource, (by_key(current_store().queries.resources, resource, row.pk),))


def loaded(row: Model, relation: str) -> bool:
    """Whether the related rows of a relation are loaded, or the row certainly has none."""
    state = state_of(row)
    found = current_store().queries.resources.relations(state.resource.name)[relation]
    return relation in state.related or (not found.many and state.values.get(found.column) is None)


def has_loaded(row: Model, path: str) -> bool:
    """Whether the rows at the end of a path of relations are loaded."""
    name, _, rest = path.partition("__")
    if not loaded(row, name):
        return False
    found = state_of(row).related.get(name) if rest else None
    return all(has_loaded(each, rest) for each in (found if isinstance(found, list) else [found]) if each is not None)


def document(resources: Resources, row: Model, shown: Projection | None = None) -> dict[str, Any]:
    """A row as JSON: the columns and the loaded relations of the projection, which is by default ``projection_of``."""
    state = state_of(row)
    shown = shown or projection_of(state.resource)
    made: dict[str, Any] = {}
    for name in shown.columns:
        field, value = resources.key_of(state.resource.columns[name]), state.values.get(name)
        made[name] = (
            state.exact[name] if name in state.exact else None if value is None else field.field_type.dump(field, value)
        )
    for name, inner in shown.related:
        if loaded(row, name):
            found = state.related.get(name)
            made[name] = (
                [document(resources, item, inner) for item in found]
                if isinstance(found, list)
                else found and document(resources, found, inner)
            )
    return made


def resource_of(resources: Resources, name: str) -> Resource:
    """The resource of a model's name; ``ConfigurationError`` suggests the nearest if it does not exist."""
    for resource in resources.values():
        if name in (resource.name, resource.model):
            return resource
    raise ConfigurationError(f"model({name!r}): there is no such resource; {did_you_mean(name, resources)}")


def _from_json(of: type[M], resources: Resources, shown: Projection, row: Mapping[str, Any]) -> M:
    state = RowState(resources[shown.resource], {}, saved=True)
    for name in shown.columns:
        if (value := row.get(name)) is None:
            if name in row:
                state.values[name] = None
            continue
        state.values[name], exact = recall(resources.key_of(state.resource.columns[name]), value)
        if not exact:
            state.exact[name] = value
    for name, inner in shown.related:
        if name in row:
            found = [_from_json(model(inner.resource), resources, inner, item) for item in nested(row[name])]
            many = resources.relations(shown.resource)[name].many
            state.related[name] = found if many else next(iter(found), None)
    return instance(of, state)


async def _write(store: Store, row: Model, values: Mapping[str, Any]) -> None:
    """Insert or update a row, and take over the values that were stored."""
    state = state_of(row)
    if state.saved:
        records = await update_rows(store, state.resource.name, values, *query_for(row).where)
    else:
        records = await insert_row(store, state.resource.name, values)
    if not records:
        if not state.saved:
            raise Conflict(NOT_MADE)
        if await store.one(query_for(row), Projection(state.resource.name, ())) is not None:
            raise store.refusal(state.resource.name)
        raise NotFound(f"This {state.resource.model} does not exist any more.")
    written = dict(zip(state.resource.columns, records[0], strict=True))
    for column in [column for column in state.exact if written[column] != state.values[column]]:
        del state.exact[column]
    state.values.update((column, value) for column, value in written.items() if column not in state.exact)
    state.saved = True


async def _relink(store: Store, row: Model, links: Mapping[str, Iterable[Any]]) -> None:
    """Link a row to these rows or keys, by many_to_many field, and to no others."""
    resources = store.queries.resources
    keys: dict[str, Any] = {}
    for name, rows in links.items():
        target = resources[resources.relations(state_of(row).resource.name)[name].target]
        keys[name] = [fitting(resources.key_of(target.key), each, name) for each in rows]
    await store.relink(query_for(row), keys)
