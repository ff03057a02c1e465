"""Rows as objects: ``model("tasks")`` is a class, ``.objects`` its query sets, and each row an instance.

A model is named before the configuration is known, at import time; what it stands for is looked up in the *store* that
is current when it is used, which is that of the service whose request is being answered. A query set is a value: its
methods give new ones, and nothing is read until it is awaited, iterated or asked for a number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar

from rowcast.errors import ConfigurationError, Conflict, DoesNotFit, NotFound, ValidationError, did_you_mean
from rowcast.orm.bridge import wait
from rowcast.orm.expressions import F, Q, fitting, storable
from rowcast.query.conditions import Condition, Query, Shape, by_key, equals, total_order
from rowcast.query.projection import Projection, projection_of
from rowcast.query.store import Store
from rowcast.resources.fields import Field, recall
from rowcast.resources.lossless_json import nested, parse
from rowcast.resources.resource import Relation, Resource, Resources

M = TypeVar("M", bound="Model")

STORE: ContextVar[Store] = ContextVar("store")  # of the service that answers the request at hand


def current_store() -> Store:
    """The store in use; ``RuntimeError`` where no service runs."""
    try:
        return STORE.get()
    except LookupError:
        raise RuntimeError("models can be used while the service runs: in handlers, hooks and permissions") from None


class DoesNotExist(NotFound):
    """``get()`` found no row: a 404 unless it is caught."""


class MultipleObjectsReturned(LookupError):
    """``get()`` found several rows: the programmer's mistake, so a logged 500 unless it is caught."""


class RelationNotLoaded(AttributeError):
    """A related row was asked for that the query has not brought along."""


@cache
def model(name: str) -> type[Model]:
    """The model of a resource, by the resource's name (``tasks``) or its model's (``Task``).

    It may be called before the service starts; a name that no resource has is an error when it does.
    """
    return type(name, (Model,), {"_name": name})


class Manager(Generic[M]):
    """``Model.objects``: every method of a query set, on all rows."""

    def __get__(self, instance: M | None, owner: type[M]) -> QuerySet[M]:
        if instance is not None:
            raise AttributeError(f"objects belongs to the model: write {owner.__name__}.objects")
        return QuerySet(owner)


class Model:
    """One row. Attributes are its columns by name, and related rows where the query has loaded them."""

    _name: ClassVar[str] = ""
    DoesNotExist: ClassVar[type[DoesNotExist]] = DoesNotExist
    MultipleObjectsReturned: ClassVar[type[MultipleObjectsReturned]] = MultipleObjectsReturned
    objects: ClassVar[Manager[Any]] = Manager()

    __slots__ = ("_changed", "_related", "_resource", "_saved", "_stored", "_values")

    def __init__(self, **values: Any) -> None:
        resource = self.resource()
        self._start(resource, {}, saved=False)
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def resource(cls) -> Resource:
        """The resource that the model stands for; ``ConfigurationError`` when there is none."""
        return resource_of(current_store().queries.resources, cls._name)

    @classmethod
    def resources(cls) -> Resources:
        """All resources of the service at hand."""
        return current_store().queries.resources

    @classmethod
    def _of(cls, resource: Resource, row: Sequence[Any]) -> Self:
        """The instance of a row as it was read."""
        made = cls.__new__(cls)
        made._start(resource, dict(zip(resource.columns, row, strict=True)), saved=True)
        return made

    @classmethod
    def from_document(cls, resources: Resources, shown: Projection, document: bytes) -> Self:
        """The instance of a row that was read as JSON, with the related rows that the projection shows.

        A value that Python does not have is the nearest that it has, and is shown as it was read.
        """
        return cls._from(resources, shown, parse(document))

    @classmethod
    def _from(cls, resources: Resources, shown: Projection, row: Mapping[str, Any]) -> Self:
        resource = resources[shown.resource]
        made = cls.__new__(cls)
        made._start(resource, {}, saved=True)
        for name in shown.columns:
            if (given := row.get(name)) is None:
                made._values[name] = None
                continue
            made._values[name], exact = recall(resources.key_of(resource.columns[name]), given)
            if not exact:
                made._stored[name] = given
        for name, inner in shown.related:
            if name in row:
                found = [model(inner.resource)._from(resources, inner, item) for item in nested(row[name])]
                many = resources.relations(resource.name)[name].many
                made._related[name] = found if many else next(iter(found), None)
        return made

    def _start(self, resource: Resource, values: dict[str, Any], *, saved: bool) -> None:
        set_ = object.__setattr__
        set_(self, "_resource", resource)
        set_(self, "_values", values)
        set_(self, "_stored", {})  # the JSON of those values that are not what is stored, but the nearest to it
        set_(self, "_related", {})
        set_(self, "_changed", set())
        set_(self, "_saved", saved)

    @property
    def pk(self) -> Any:
        """The key."""
        return self._values.get(self._resource.key.column_name)

    def __getitem__(self, name: str) -> Any:
        """A column by name, also where a row has a method of that name."""
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._values:
            return self._values[name]
        if name in self._resource.columns:
            return None  # not given, and the database has not been asked for its default
        relation = current_store().queries.resources.relations(self._resource.name).get(name)
        if relation is None:
            names = [*self._resource.columns, *current_store().queries.resources.relations(self._resource.name)]
            raise AttributeError(f"{self._resource.model} has no attribute {name!r}; {did_you_mean(name, names)}")
        if relation.many:
            return RelatedRows(self, relation)
        if name in self._related:
            return self._related[name]
        if self._values.get(relation.column) is None:
            return None
        raise RelationNotLoaded(
            f"{name} of this {self._resource.model} is not loaded: add .select_related({name!r}) to the query, "
            f"or use {relation.column}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        resource = self._resource
        if name == "pk":
            name = resource.key.column_name
        if name in resource.columns:
            if isinstance(value, F):
                fitted: Any = value
            else:
                fitted = storable(current_store().queries.resources.key_of(resource.columns[name]), value, name)
            self._values[name] = fitted
            self._stored.pop(name, None)
            self._changed.add(name)
            self._related.pop(resource.columns[name].name, None)
        elif name in resource.links:
            self._related[name] = list(value)
            self._changed.add(name)
        elif name in resource.fields:  # a foreign key by its own name
            declared = resource.fields[name]
            setattr(self, declared.column_name, value)
            if isinstance(value, Model):
                self._related[name] = value
        else:
            names = [*resource.columns, *resource.links]
            raise AttributeError(f"{resource.model} has no field {name!r}; {did_you_mean(name, names)}")

    async def save(self) -> Self:
        """Insert the row, or write what has changed since it was read, and nothing else.

        The instance then has what the database made of it. ``NotFound`` if the row is gone.
        """
        store = current_store()
        links = {name: self._related[name] for name in self._changed if name in self._resource.links}
        values = {name: self._values[name] for name in self._changed if name in self._resource.columns}
        if self._saved and not (values or links):
            return self
        if not links:
            await store.database.retrying(lambda: self._write(store, values))
        else:

            async def write() -> None:
                async with store.database.transaction():
                    await self._write(store, values)
                    await self._relink(store, links)

            await store.database.retrying(write)
            for name, rows in links.items():
                if not all(isinstance(row, Model) for row in rows):
                    del self._related[name]  # keys, which say nothing about the rows
        self._changed.clear()
        return self

    async def _write(self, store: Store, values: Mapping[str, Any]) -> None:
        queries, name = store.queries, self._resource.name
        if self._saved:
            row = await change_rows(store, name, values, self._key_condition(), back=True)
        else:
            row = await store.insert_row(name, values)
        if not row:
            raise NotFound(f"This {self._resource.model} does not exist any more.")
        written = dict(zip(queries.resources[name].columns, row[0], strict=True))
        for column in [column for column in self._stored if written[column] != self._values[column]]:
            del self._stored[column]
        self._values.update((column, value) for column, value in written.items() if column not in self._stored)
        object.__setattr__(self, "_saved", True)

    async def _relink(self, store: Store, links: Mapping[str, Iterable[Any]]) -> None:
        resources = store.queries.resources
        keys: dict[str, Any] = {}
        for name, rows in links.items():
            target = resources[resources.relations(self._resource.name)[name].target]
            keys[name] = [fitting(resources.key_of(target.key), row, name) for row in rows]
        await store.relink(query_for(self), keys)

    async def delete(self) -> None:
        """Delete the row; ``Conflict`` while others refer to it."""
        await current_store().delete(query_for(self))
        object.__setattr__(self, "_saved", False)

    async def refresh(self) -> Self:
        """Read the row again; ``NotFound`` if it is gone. What has not been saved is lost, and so are related rows."""
        fresh = await QuerySet(type(self)).get(pk=self.pk)
        self._values.update(fresh._values)
        self._stored.clear()
        self._related.clear()
        self._changed.clear()
        return self

    def _key_condition(self) -> Condition:
        return by_key(current_store().queries.resources, self._resource.name, self.pk)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model) or self._resource.name != other._resource.name:
            return NotImplemented
        return self is other if self.pk is None else bool(self.pk == other.pk)

    def __hash__(self) -> int:
        return hash((self._resource.name, self.pk))

    def __repr__(self) -> str:
        return f"<{self._resource.model} {self.pk}>"


class RelatedRows:
    """The rows at the far end of a relation to many: a list once loaded, and always a query set through ``all()``."""

    def __init__(self, owner: Model, relation: Relation) -> None:
        self._owner = owner
        self._relation = relation

    def all(self) -> QuerySet[Any]:
        """The related rows as a query set."""
        relation = self._relation
        target = model(relation.target)
        if relation.link is None:
            return QuerySet(target).filter(**{relation.field.name: self._owner.pk})
        return QuerySet(target, near=(relation, self._owner.pk))

    def filter(self, *conditions: Q, **lookups: Any) -> QuerySet[Any]:
        """Those of them that meet conditions."""
        return self.all().filter(*conditions, **lookups)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.all(), name)

    def _loaded(self) -> list[Any]:
        name = self._relation.name
        if name not in self._owner._related:
            raise RelationNotLoaded(
                f"{name} of this {self._owner._resource.model} are not loaded: add .prefetch_related({name!r}) to the "
                f"query, or await .{name}.all()"
            )
        rows: list[Any] = self._owner._related[name]
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def __getitem__(self, place: int) -> Any:
        return self._loaded()[place]


class QuerySet(Generic[M]):
    """Rows of a model: which, in which order, with which related rows. Awaited, it is a list of instances."""

    def __init__(
        self,
        of: type[M],
        *,
        conditions: tuple[Q | Condition, ...] = (),
        order: tuple[str, ...] = (),
        joined: tuple[str, ...] = (),
        fetched: tuple[str, ...] = (),
        names: tuple[str, ...] = (),
        bounds: tuple[int, int | None] = (0, None),
        near: tuple[Relation, Any] | None = None,
    ) -> None:
        self.model = of
        self._conditions = conditions
        self._order = order
        self._joined = joined  # select_related
        self._fetched = fetched  # prefetch_related
        self._names = names  # values
        self._bounds = bounds  # slice
        self._near = near  # of a many_to_many relation: it, and the key on this side

    def _but(self, **changed: Any) -> QuerySet[M]:
        made = QuerySet(self.model)
        vars(made).update({**vars(self), **{f"_{name}": value for name, value in changed.items()}})
        return made

    # --- building

    def all(self) -> QuerySet[M]:
        """The same rows, as a query set of its own."""
        return self._but()

    def filter(self, *conditions: Q, **lookups: Any) -> QuerySet[M]:
        """The rows that also meet these conditions; ``x=None`` asks for null."""
        self.unsliced("filter")
        added = (*conditions, *((Q(**lookups),) if lookups else ()))
        return self._but(conditions=self._conditions + added)

    def exclude(self, *conditions: Q, **lookups: Any) -> QuerySet[M]:
        """The rows that do not meet all of these conditions together."""
        self.unsliced("exclude")
        return self._but(conditions=(*self._conditions, ~Q(*conditions, **lookups)))

    def order_by(self, *steps: str) -> QuerySet[M]:
        """The rows sorted by paths, each with ``-`` in front to descend; the key comes last by itself."""
        self.unsliced("order_by")
        return self._but(order=steps)

    def select_related(self, *relations: str) -> QuerySet[M]:
        """With these related rows (one each) read in the same statement."""
        return self._but(joined=tuple(dict.fromkeys(self._joined + relations)))

    def prefetch_related(self, *relations: str) -> QuerySet[M]:
        """With these related rows (many each) read in one more statement a relation."""
        return self._but(fetched=tuple(dict.fromkeys(self._fetched + relations)))

    def values(self, *names: str) -> QuerySet[M]:
        """Dictionaries of these columns, or of all, in place of instances."""
        return self._but(names=names or ("*",))

    def __getitem__(self, part: int | slice) -> Any:
        """A part of the rows as a query set; with a number, an awaitable of that row (``IndexError`` if none)."""
        if isinstance(part, int):
            if part < 0:
                raise ValueError("rows are counted from the start: use order_by and first() for the last ones")
            return self._nth(part)
        if part.step is not None or (part.start or 0) < 0 or (part.stop is not None and part.stop < 0):
            raise ValueError("a slice of rows has no step and counts from the start")
        first, last = self._bounds
        start = first + (part.start or 0)
        stop = last if part.stop is None else min(first + part.stop, last if last is not None else first + part.stop)
        return self._but(bounds=(start, stop if stop is None else max(start, stop)))

    async def _nth(self, place: int) -> Any:
        rows = await self[place : place + 1]
        if not rows:
            raise IndexError(f"there is no row {place}")
        return rows[0]

    def unsliced(self, what: str) -> None:
        """Refuse a slice, for what works on all rows."""
        if self._bounds != (0, None):
            raise ValueError(f"{what} comes before the slice")

    # --- what it is, for the rest of the service

    @property
    def query(self) -> Query:
        """The query with everything but the slice. ``ValueError`` for a path or lookup that is none."""
        resources = current_store().queries.resources
        name = self.model.resource().name
        conditions = [
            condition.resolve(resources, name) if isinstance(condition, Q) else condition
            for condition in self._conditions
        ]
        if self._near is not None:
            conditions.append(_linked(resources, name, *self._near))
        return Query(name, tuple(conditions), self._total(resources, name), (*self._joined, *self._fetched))

    def _total(self, resources: Resources, name: str) -> tuple[str, ...]:
        key = resources[name].key.name
        steps = [step.replace("pk", key) if step.removeprefix("-") == "pk" else step for step in self._order]
        for step in steps:
            if resources.resolve(name, step.removeprefix("-")).many:
                raise ValueError(f"order_by: {step} leads to many rows; order by a column or a relation to one row")
        return total_order(resources[name], steps) if steps else ()

    def narrowed(self, query: Query) -> QuerySet[M]:
        """The rows that also meet a query's conditions, in its order: what filter backends make of a query string."""
        self.unsliced("filter_queryset")
        return self._but(conditions=self._conditions + query.where, order=query.order or self._order)

    # --- reading

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        return self._read().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for row in await self._read():
            yield row

    def __iter__(self) -> Iterator[Any]:
        """The rows in blocking style, which works inside a handler."""
        return iter(wait(self._read()))

    async def _read(self) -> list[Any]:
        return await read(self.model, self.query, self._bounds, self._names)

    async def attach(self, rows: Sequence[M]) -> None:
        """Read the related rows that this query set asks for, for rows that are there already."""
        resources, name = current_store().queries.resources, self.model.resource().name
        for path in _prefixes((*self._joined, *self._fetched)):
            await _prefetch(resources, name, rows, path)

    async def get(self, *conditions: Q, **lookups: Any) -> M:
        """The only row; ``DoesNotExist`` or ``MultipleObjectsReturned`` otherwise."""
        rows = await self.filter(*conditions, **lookups)[:2]
        if not rows:
            raise self.model.DoesNotExist()
        if len(rows) > 1:
            raise self.model.MultipleObjectsReturned(f"get() found several rows of {self.model.resource().name}")
        row: M = rows[0]
        return row

    async def first(self) -> M | None:
        """The first row in order, by key if there is none; ``None`` if there are no rows."""
        rows = await (self if self._order else self.order_by("pk"))[:1]
        return rows[0] if rows else None

    async def last(self) -> M | None:
        """The last row in order, by key if there is none; ``None`` if there are no rows."""
        steps = self._order or ("pk",)
        turned = tuple(step[1:] if step.startswith("-") else f"-{step}" for step in steps)
        keyed = turned if {"pk", "-pk"} & set(turned) else (*turned, "-pk")
        rows = await self.order_by(*keyed)[:1]
        return rows[0] if rows else None

    async def count(self) -> int:
        """How many rows there are."""
        found = await self._aggregate((("count", ""),))
        first, last = self._bounds
        total = max(0, int(found[0]) - first)
        return total if last is None else min(total, last - first)

    async def exists(self) -> bool:
        """Whether there are any rows."""
        return bool(await self[:1].values(self.model.resource().key.column_name))

    async def aggregate(self, **functions: tuple[str, str]) -> dict[str, Any]:
        """Figures over the rows: ``aggregate(total=("sum", "price"))``, with count, sum, avg, min or max."""
        self.unsliced("aggregate")
        found = await self._aggregate(tuple(functions.values()))
        return dict(zip(functions, found, strict=True))

    async def _aggregate(self, what: tuple[tuple[str, str], ...]) -> Sequence[Any]:
        store, query = current_store(), self.query
        statement = store.queries.aggregate(query.resource, what, query.shape)
        row = await store.database.read(statement.sql, statement.arguments(query.values))
        assert row is not None
        return tuple(row)

    # --- writing

    async def create(self, **values: Any) -> M:
        """Insert one row; values may be Python's or JSON's, and a many_to_many field takes keys or rows."""
        made = self.model(**values)
        await made.save()
        return made

    async def bulk_create(self, rows: Iterable[M | Mapping[str, Any]]) -> list[M]:
        """Insert rows in one statement; the instances have what the database made of them, in their order.

        A mapping is the values of a row.
        """
        made = [self.model(**row) if isinstance(row, Mapping) else row for row in rows]
        if not made:
            return []
        store, resource = current_store(), self.model.resource()
        key_of = store.queries.resources.key_of
        columns = tuple(name for name in resource.columns if any(name in row._values for row in made))
        if any(name in resource.links for row in made for name in row._changed):
            raise ValueError("bulk_create writes columns; save the links of each row afterwards")
        for names in {tuple(name for name in columns if name in row._values) for row in made}:
            group = [row for row in made if tuple(name for name in columns if name in row._values) == names]
            documents = [
                {name: _document(key_of(resource.columns[name]), row._values[name]) for name in names} for row in group
            ]
            for row, found in zip(group, await store.add(resource.name, names, documents), strict=True):
                row._start(resource, dict(zip(resource.columns, found, strict=True)), saved=True)
        return made

    async def get_or_create(self, defaults: Mapping[str, Any] | None = None, **lookups: Any) -> tuple[M, bool]:
        """The row that matches, or a new one with ``defaults``; and whether it is new. Safe in a race."""
        try:
            return await self.get(**lookups), False
        except DoesNotExist:
            pass
        try:
            async with current_store().database.transaction():
                return await self.create(**_columns(lookups), **dict(defaults or {})), True
        except Conflict:
            return await self.get(**lookups), False

    async def update_or_create(self, defaults: Mapping[str, Any] | None = None, **lookups: Any) -> tuple[M, bool]:
        """The row that matches, changed to ``defaults``, or a new one with them; and whether it is new."""
        row, new = await self.get_or_create(defaults, **lookups)
        if not new:
            for name, value in (defaults or {}).items():
                setattr(row, name, value)
            await row.save()
        return row, new

    async def update(self, **values: Any) -> int:
        """Change all these rows; how many there were. Values may be arithmetic: ``view_count=F("view_count") + 1``."""
        self.unsliced("update")
        store, query = current_store(), self.query
        resource = self.model.resource()
        key_of = store.queries.resources.key_of
        fitted = {}
        for name, value in values.items():
            column = resource.fields[name].column_name if name in resource.fields else name
            if column not in resource.columns:
                raise AttributeError(f"{resource.model} has no column {name!r}; {did_you_mean(name, resource.columns)}")
            field = key_of(resource.columns[column])
            fitted[column] = value if isinstance(value, F) else storable(field, value, column)
        return len(await change_rows(store, resource.name, fitted, *query.where, back=True))

    async def delete(self) -> int:
        """Delete all these rows; how many there were."""
        self.unsliced("delete")
        return await current_store().delete_all(self.query)


class transaction:
    """``async with transaction.atomic():`` is one transaction; inside another one, as a request is, a savepoint."""

    @staticmethod
    def atomic() -> AbstractAsyncContextManager[None]:
        """Commit what is done inside, or roll it back if it raises."""
        return current_store().database.transaction()


async def get_object_or_404(rows: QuerySet[M] | type[M], *conditions: Q, **lookups: Any) -> M:
    """The only row that matches; ``NotFound`` if there is none, as for a key of the wrong shape."""
    try:
        return await (rows.objects.all() if isinstance(rows, type) else rows).get(*conditions, **lookups)
    except ValidationError:
        raise NotFound() from None


def query_for(row: Model) -> Query:
    """The query that has this row alone."""
    return Query(row._resource.name, (row._key_condition(),))


def loaded(row: Model, relation: str) -> bool:
    """Whether a row has the related rows of a relation, or certainly has none."""
    found = current_store().queries.resources.relations(row._resource.name)[relation]
    return relation in row._related or (not found.many and row._values.get(found.column) is None)


def document(resources: Resources, row: Model, shown: Projection | None = None) -> dict[str, Any]:
    """A row as JSON: by default its columns, but for those that are write_only."""
    resource = row._resource
    shown = shown or projection_of(resource)
    made: dict[str, Any] = {}
    for name in shown.columns:
        field, value = resources.key_of(resource.columns[name]), row._values.get(name)
        made[name] = (
            row._stored[name] if name in row._stored else None if value is None else field.field_type.dump(field, value)
        )
    for name, inner in shown.related:
        if loaded(row, name):
            found = row._related.get(name)
            made[name] = (
                [document(resources, item, inner) for item in found]
                if isinstance(found, list)
                else found and document(resources, found, inner)
            )
    return made


def resource_of(resources: Resources, name: str) -> Resource:
    """The resource of a model's name; ``ConfigurationError`` names the nearest when there is none."""
    for resource in resources.values():
        if name in (resource.name, resource.model):
            return resource
    raise ConfigurationError(f"model({name!r}): there is no such resource; {did_you_mean(name, resources)}")


async def read(of: type[M], query: Query, bounds: tuple[int, int | None], names: tuple[str, ...]) -> list[Any]:
    """The rows of a query as instances with their related rows or, with ``names``, as dictionaries."""
    store = current_store()
    resources = store.queries.resources
    resource = resources[query.resource]
    first, last = bounds
    joined = tuple(path for path in _prefixes(query.expand) if _to_one(resources, resource.name, path))
    limits = [*([] if last is None else [last - first]), *([first] if first else [])]
    statement = store.queries.select_instances(
        resource.name, joined, query.shape, query.order, last is not None, bool(first)
    )
    found = await store.database.fetch_all(statement.sql, statement.arguments([*query.values, *limits]))
    rows = []
    for record in found:
        row = of._of(resource, record[: len(resource.columns)])
        _attach(resources, row, joined, record[len(resource.columns) :])
        rows.append(row)
    for path in _prefixes(query.expand):
        if path not in joined:
            await _prefetch(resources, resource.name, rows, path)
    if names:
        wanted = tuple(resource.columns) if names == ("*",) else names
        return [{name: getattr(row, name) for name in wanted} for row in rows]
    return rows


def _prefixes(paths: Iterable[str]) -> list[str]:
    """Every path and the paths on its way, shortest first: ``a__b`` needs ``a``."""
    found: dict[str, None] = {}
    for path in paths:
        parts = path.split("__")
        for end in range(1, len(parts) + 1):
            found["__".join(parts[:end])] = None
    return sorted(found, key=lambda path: path.count("__"))


def _to_one(resources: Resources, resource: str, path: str) -> bool:
    return not any(step.many for step in resources.steps(resource, path))


def _attach(resources: Resources, row: Model, paths: tuple[str, ...], record: Sequence[Any]) -> None:
    """Give a row its related rows, whose columns follow one another in the order of the paths."""
    start = 0
    for path in paths:
        *before, name = path.split("__")
        owner: Model | None = row
        target = row._resource
        for step in before:
            owner = owner._related.get(step) if owner is not None else None
        target = resources[resources.steps(row._resource.name, path)[-1].target]
        columns = record[start : start + len(target.columns)]
        start += len(target.columns)
        if owner is not None:
            key = list(target.columns).index(target.key.column_name)
            owner._related[name] = None if columns[key] is None else model(target.name)._of(target, columns)


async def _prefetch(resources: Resources, resource: str, rows: Sequence[Model], path: str) -> None:
    """Read the rows at the end of a path for all rows at once, in the order of their keys."""
    *before, name = path.split("__")
    owners: list[Model] = list(rows)
    for step in before:
        nested = (owner._related.get(step) for owner in owners)
        owners = [row for found in nested for row in (found if isinstance(found, list) else [found]) if row is not None]
    relation = resources.steps(resource, path)[-1]
    keys = {owner.pk for owner in owners}
    target = model(relation.target)
    if not relation.many:
        wanted = {owner._values[relation.column] for owner in owners} - {None}
        by_pk = {row.pk: row for row in await target.objects.filter(pk__in=wanted)} if wanted else {}
        for owner in owners:
            owner._related[name] = by_pk.get(owner._values[relation.column])
        return
    grouped: dict[Any, list[Any]] = {key: [] for key in keys}
    if relation.link is None:
        for row in await target.objects.filter(**{f"{relation.field.name}__in": keys}).order_by("pk"):
            grouped[row._values[relation.column]].append(row)
    elif keys:
        pairs = await current_store().through_rows(relation.link, keys)
        by_pk = {row.pk: row for row in await target.objects.filter(pk__in={far for _, far in pairs})}
        for near, far in pairs:
            grouped[near].append(by_pk[far])
    for owner in owners:
        owner._related[name] = grouped[owner.pk]


def _linked(resources: Resources, resource: str, relation: Relation, key: Any) -> Condition:
    """The condition that a row is linked to the row with a key on the other side of a many_to_many relation."""
    assert relation.link is not None
    for back in resources.relations(resource).values():
        if back.link is not None and (back.link.table, back.link.source_column) == (
            relation.link.table,
            relation.link.target_column,
        ):
            return equals(back.name, resources.key_of(resources[back.target].key), key)
    raise ValueError(f"{resource} has no name for its way back over {relation.name!r}: give the field a related_name")


async def change_rows(
    store: Store, resource: str, values: Mapping[str, Any], *where: Condition, back: bool
) -> list[Any]:
    """Set columns of the rows that meet all conditions; the rows as they are then."""
    query = Query(resource, where)
    given: list[Any] = list(query.values)
    sets: list[tuple[str, Shape | None]] = []
    for name, value in values.items():
        if isinstance(value, F):
            field = store.queries.resources.key_of(store.queries.resources[resource].columns[name])
            expression = value.resolve(store.queries.resources, resource, field)
            sets.append((name, expression.shape))
            given += expression.values
        else:
            sets.append((name, None))
            given.append(value)
    statement = store.queries.bulk_update(resource, tuple(sets), query.shape, back)
    try:
        return await store.database.fetch_all(statement.sql, statement.arguments(given), changes=statement.changes)
    except DoesNotFit:
        computed = [name for name, shape in sets if shape is not None]  # the other values are known to fit
        if not computed:
            raise
        raise ValidationError({name: ["The result does not fit."] for name in computed}) from None


def _columns(lookups: Mapping[str, Any]) -> dict[str, Any]:
    """The lookups that are values of columns, which a row made from them has."""
    return {name: value for name, value in lookups.items() if "__" not in name}


def _document(field: Field, value: Any) -> Any:
    """A Python value as JSON."""
    return None if value is None else field.field_type.dump(field, value)
