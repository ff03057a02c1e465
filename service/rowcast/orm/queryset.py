"""Query sets: the rows of a model that meet conditions, in an order, with related rows.

A query set is a value: its methods return new ones, and nothing is read until it is awaited, iterated or counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from rowcast.errors import Conflict, NotFound, ValidationError, did_you_mean
from rowcast.orm import statements
from rowcast.orm.annotations import check_annotations, paths_of, steps_with_paths, with_paths
from rowcast.orm.awaiting import must_be_awaited
from rowcast.orm.bridge import wait
from rowcast.orm.chunks import RowsInChunks
from rowcast.orm.expressions import F, Q, storable
from rowcast.orm.grouping import GroupedRows
from rowcast.orm.loading import dictionaries, load, load_related
from rowcast.orm.model import DoesNotExist, Model, has_loaded, marks_of
from rowcast.orm.state import state_of
from rowcast.orm.upserting import upsert_instances
from rowcast.orm.writing import insert_instances, update_rows
from rowcast.query import removal
from rowcast.query.conditions import After, Condition, Query, equals, total_order, without_deleted
from rowcast.query.store import current_store
from rowcast.resources.resource import Relation, Resources

M = TypeVar("M", bound=Model)


class QuerySet(Generic[M]):
    """The rows of a model that meet conditions, in an order, with related rows. Awaited, it is a list of instances."""

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
        linked: tuple[Relation, Any] | None = None,
        lock: str = "",
        deleted: str = "",
    ) -> None:
        self.model = of
        self._conditions = conditions
        self._order = order
        self._joined = joined  # select_related
        self._fetched = fetched  # prefetch_related
        self._names = names  # values
        self._bounds = bounds  # slice
        self._linked = linked  # a many_to_many relation, and the key of the row that it starts from

        self._lock = lock  # select_for_update
        self._deleted = deleted  # "with" rows that are marked as deleted, or "only" those; by default without them
        self._annotations: Mapping[str, tuple[str, str]] = {}

    def _with(self, **changes: Any) -> QuerySet[M]:
        """A copy with other arguments."""
        copy = QuerySet(self.model)
        vars(copy).update({**vars(self), **{f"_{name}": value for name, value in changes.items()}})
        return copy

    # --- building

    def all(self) -> QuerySet[M]:
        """The same rows, as a query set of its own."""
        return self._with()

    def filter(self, *conditions: Q, **lookups: Any) -> QuerySet[M]:
        """The rows that also meet these conditions; ``x=None`` means null."""
        self.unsliced("filter")
        added = (*conditions, *((Q(**lookups),) if lookups else ()))
        return self._with(conditions=self._conditions + added)

    def exclude(self, *conditions: Q, **lookups: Any) -> QuerySet[M]:
        """The rows that do not meet all of these conditions together."""
        self.unsliced("exclude")
        return self._with(conditions=(*self._conditions, ~Q(*conditions, **lookups)))

    def order_by(self, *steps: str) -> QuerySet[M]:
        """The rows sorted by paths, with ``-`` in front for descending order; the key is appended."""
        self.unsliced("order_by")
        return self._with(order=steps)

    def select_related(self, *relations: str) -> QuerySet[M]:
        """Load these relations to one row in the same statement."""
        return self._with(joined=tuple(dict.fromkeys(self._joined + relations)))

    def prefetch_related(self, *relations: str) -> QuerySet[M]:
        """Load these relations, to one row or to many, with further statements: one or two per relation."""
        return self._with(fetched=tuple(dict.fromkeys(self._fetched + relations)))

    def select_for_update(self, *, skip_locked: bool = False) -> QuerySet[M]:
        """Lock the rows until the transaction ends; it waits for other locks, or leaves locked rows out.

        Read inside a transaction: in a handler of an unsafe method, or in ``async with transaction()``.
        """
        return self._with(lock="skip" if skip_locked else "wait")

    def annotate(self, **functions: tuple[str, str]) -> QuerySet[M]:
        """Give each row values of its related rows: ``annotate(n=("count", "books"), most=("max", "books__price"))``.

        Args:
            functions: By name of the attribute, a function (count, sum, avg, min or max) and a path over a relation to many
                rows. ``values("name", "n")`` has them, and this query set is filtered and sorted by them:
                ``filter(n__gte=2).order_by("-n")``.

        Raises:
            ValueError: names what is wrong, and what is valid.
        """
        check_annotations(current_store().queries.resources, self.model, functions)
        return self._with(annotations={**self._annotations, **functions})

    def group_by(self, *names: str) -> GroupedRows:
        """The rows in groups of equal values: ``group_by("owner").aggregate(n=("count", "*"), most=("max", "size"))``."""
        self.unsliced("group_by")
        resources = current_store().queries.resources
        for name in names:
            if resources.resolve(self.model.resource().name, name).many:
                raise ValueError(f"group_by: {name} leads to many rows; group by a column or a relation to one row")
        return GroupedRows(self.query, names)

    def with_deleted(self) -> QuerySet[M]:
        """The same rows, and with them those that are marked as deleted; ``ValueError`` without ``soft_delete``."""
        marks_of(self.model.resource(), "with_deleted")
        return self.showing("with")

    def only_deleted(self) -> QuerySet[M]:
        """The rows that are marked as deleted, and no others; ``ValueError`` without ``soft_delete``."""
        marks_of(self.model.resource(), "only_deleted")
        return self.showing("only")

    def showing(self, deleted: str) -> QuerySet[M]:
        """As ``with_deleted`` or ``only_deleted``, by their last words, where the resource may have no ``soft_delete``."""
        self.unsliced(f"{deleted}_deleted")
        return self._with(deleted=deleted)

    def values(self, *names: str) -> QuerySet[M]:
        """Dictionaries of these columns, or of all columns, instead of instances."""
        return self._with(names=names or ("*",))

    def __getitem__(self, part: int | slice) -> Any:
        """A slice of the rows as a query set, or an awaitable of the row at an index (``IndexError`` if there is none)."""
        if isinstance(part, int):
            if part < 0:
                raise ValueError("rows are counted from the start: use order_by and first() for the last ones")
            return self._nth(part)
        if part.step is not None or (part.start or 0) < 0 or (part.stop is not None and part.stop < 0):
            raise ValueError("a slice of rows has no step and counts from the start")
        first, last = self._bounds
        start = first + (part.start or 0)
        stop = last if part.stop is None else min(first + part.stop, last if last is not None else first + part.stop)
        return self._with(bounds=(start, stop if stop is None else max(start, stop)))

    @must_be_awaited
    async def _nth(self, place: int) -> Any:
        rows = await self[place : place + 1]
        if not rows:
            raise IndexError(f"there is no row {place}")
        return rows[0]

    @property
    def is_whole(self) -> bool:
        """Whether it is of all its rows, as instances: neither a slice nor ``values()``."""
        return self._bounds == (0, None) and not self._names

    def unsliced(self, what: str) -> None:
        """Raise ``ValueError`` if this is a slice; ``what`` names the operation that needs all rows."""
        if self._bounds != (0, None):
            raise ValueError(f"{what} comes before the slice")

    def linked_to(self, relation: Relation, key: Any) -> QuerySet[M]:
        """The rows that a many_to_many relation of another resource links to its row with this key."""
        return self._with(linked=(relation, key))

    # --- as a value of ``query``

    @property
    def query(self) -> Query:
        """The query of everything but the slice. ``ValueError`` for a path or lookup that does not exist."""
        resources = current_store().queries.resources
        name = self.model.resource().name
        conditions = [*without_deleted(resources[name], self._deleted)]
        paths = paths_of(self._annotations)
        conditions += [
            with_paths(condition, paths).resolve(resources, name) if isinstance(condition, Q) else condition
            for condition in self._conditions
            if condition not in conditions
        ]
        if self._linked is not None:
            conditions.append(_is_linked(resources, name, *self._linked))
        return Query(name, tuple(conditions), self._total_order(resources, name), (*self._joined, *self._fetched))

    def as_subquery(self) -> tuple[Query, str]:
        """The query of a query set that is a value of ``…__in``, and the column whose values it has: the key by default."""
        self.unsliced("a query set inside a filter")
        if len(self._names) > 1 or self._names == ("*",):
            raise ValueError(f"a query set inside a filter has the values of one column, not of {len(self._names)}")
        return self.query.unsorted(), next(iter(self._names), self.model.resource().key.name)

    def _total_order(self, resources: Resources, name: str) -> tuple[str, ...]:
        key = resources[name].key_fields
        steps: list[str] = []
        for step in steps_with_paths(self._order, paths_of(self._annotations)):
            sign, path = step[: step.startswith("-")], step.removeprefix("-")
            steps += [f"{sign}{field.name}" for field in key] if path == "pk" else [step]
        for step in steps:
            found = resources.resolve(name, step.removeprefix("-"))
            if found.many:
                raise ValueError(f"order_by: {step} leads to many rows; order by a column or a relation to one row")
            if not found.sorts:
                raise ValueError(f"order_by: {step} is a part of a time; order by the time itself")
        return total_order(resources[name], steps) if steps else ()

    def narrowed(self, query: Query) -> QuerySet[M]:
        """The rows that also meet the conditions of a query, in its order; filter backends make such a query."""
        self.unsliced("filter_queryset")
        return self._with(conditions=self._conditions + query.where, order=query.order or self._order)

    # --- reading

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        return self._read().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for row in await self._read():
            yield row

    def __iter__(self) -> Iterator[Any]:
        """The rows, waited for without ``await``; inside a handler only."""
        return iter(wait(self._read()))

    def iterate(self, chunk: int = 1000) -> RowsInChunks:
        """The rows one after the other, of which memory holds at most ``chunk``: ``async for row in rows.iterate(500)``.

        Each chunk is a statement of its own, and begins after the last row of the one before. No transaction is open
        meanwhile, so a row that is changed during the iteration is seen as it is then; none is seen twice in the order of
        the keys, which is that of a query set without ``order_by``.

        Raises:
            ValueError: ``chunk`` is less than 1, the query set is a slice, or it is sorted by a path over a relation.
        """
        self.unsliced("iterate")
        if chunk < 1:
            raise ValueError("iterate: a chunk has at least one row")
        resource = self.model.resource()
        order = self.query.order or total_order(resource, ())
        for step in order:
            path = current_store().queries.resources.resolve(resource.name, step.removeprefix("-"))
            if path.steps or path.derived is not None:
                raise ValueError(f"iterate: {step} is a column of related rows; sort by columns of the rows themselves")
        return RowsInChunks(self.order_by(*order), chunk)

    def instances(self) -> QuerySet[M]:
        """The same rows as instances, without ``values``."""
        return self._with(names=())

    def shown(self, rows: Sequence[M]) -> list[Any]:
        """Instances as this query set has them: as they are, or with ``values`` as dictionaries."""
        return dictionaries(rows, self.model.resource(), self._names, self._annotations) if self._names else list(rows)

    def after(self, row: M) -> QuerySet[M]:
        """The rows after another one in the order of this query set."""
        resources, name = current_store().queries.resources, self.model.resource().name
        order = self.query.order
        paths = [resources.resolve(name, step.removeprefix("-")) for step in order]
        steps = tuple((step.removeprefix("-"), step.startswith("-")) for step in order)
        values = state_of(row).values
        return self._with(conditions=(*self._conditions, After(steps, tuple([values[path.column] for path in paths]))))

    async def _read(self) -> list[Any]:
        if self._lock and not current_store().database.in_transaction:
            raise RuntimeError("select_for_update() needs a transaction: async with transaction()")
        return await load(self.model, self.query, self._bounds, self._names, self._lock, self._annotations)

    async def attach(self, rows: Sequence[M]) -> None:
        """Load the related rows of this query set for rows that have been read already."""
        await load_related(rows, self.model.resource().name, (*self._joined, *self._fetched))

    @must_be_awaited
    async def get(self, *conditions: Q, **lookups: Any) -> M:
        """The only row that meets these conditions.

        Raises:
            DoesNotExist: There is no such row. Uncaught, the response is a 404.
            MultipleObjectsReturned: There are several.
        """
        rows = await self.filter(*conditions, **lookups)[:2]
        if not rows:
            raise self.model.DoesNotExist()
        if len(rows) > 1:
            raise self.model.MultipleObjectsReturned(f"get() found several rows of {self.model.resource().name}")
        row: M = rows[0]
        return row

    @must_be_awaited
    async def first(self) -> M | None:
        """The first row (in the order of the keys if there is no other order); ``None`` if there are no rows."""
        rows = await (self if self._order else self.order_by("pk"))[:1]
        return rows[0] if rows else None

    @must_be_awaited
    async def last(self) -> M | None:
        """The last row (in the order of the keys if there is no other order); ``None`` if there are no rows."""
        steps = self._order or ("pk",)
        reverse = tuple(step[1:] if step.startswith("-") else f"-{step}" for step in steps)
        total = reverse if {"pk", "-pk"} & set(reverse) else (*reverse, "-pk")
        rows = await self.order_by(*total)[:1]
        return rows[0] if rows else None

    @must_be_awaited
    async def count(self) -> int:
        """The number of rows."""
        (found,) = await self._aggregate((("count", ""),))
        first, last = self._bounds
        total = max(0, int(found) - first)
        return total if last is None else min(total, last - first)

    @must_be_awaited
    async def exists(self) -> bool:
        """Whether there is at least one row."""
        return bool(await self[:1].values(self.model.resource().key_columns[0]))

    @must_be_awaited
    async def aggregate(self, **functions: tuple[str, str]) -> dict[str, Any]:
        """Aggregates over all rows: ``aggregate(total=("sum", "price"))``, with count, sum, avg, min or max.

        ``("count", "*")`` counts the rows.
        """
        self.unsliced("aggregate")
        found = await self._aggregate(tuple(functions.values()))
        return dict(zip(functions, found, strict=True))

    async def _aggregate(self, functions: tuple[tuple[str, str], ...]) -> Sequence[Any]:
        store, query = current_store(), self.query
        statement = store.queries.compiled(statements.aggregate)(query.resource, functions, query.shape)
        row = await store.database.read(statement.sql, statement.arguments(query.values))
        assert row is not None
        return tuple(row)

    # --- writing

    @must_be_awaited
    async def create(self, **values: Any) -> M:
        """Insert one row; values may be Python's or their JSON form, and a many_to_many field takes keys or rows."""
        made = self.model(**values)
        await made.save()
        return made

    @must_be_awaited
    async def bulk_create(self, rows: Iterable[M | Mapping[str, Any]]) -> list[M]:
        """Insert rows, in one statement if all have values for the same columns.

        Args:
            rows: Instances, or mappings with their values. Links of many_to_many fields cannot be inserted here.

        Returns:
            The instances in their order, with the values that the database has stored.
        """
        made = [self.model(**row) if isinstance(row, Mapping) else row for row in rows]
        if not made:
            return []
        store, resource = current_store(), self.model.resource()
        if any(name in resource.links for row in made for name in state_of(row).changed):
            raise ValueError("bulk_create writes columns; save the links of each row afterwards")
        await insert_instances(store, resource, made)
        return made

    @must_be_awaited
    async def upsert(self, rows: Iterable[M | Mapping[str, Any]], *, on: Sequence[str]) -> list[M]:
        """Insert rows, or change those that have the same values of a unique rule: all of them or none.

        Args:
            rows: Instances, or mappings with their values. Columns without a value stay as they are in a row that is there.
            on: The fields of the unique rule, or of the key.

        Returns:
            The instances in their order, with the values that the database has stored.

        Raises:
            Conflict: a row that has the values is not one of this query set, or another unique rule is violated.
            ValueError: there is no such rule.
        """
        self.unsliced("upsert")
        made = [self.model(**row) if isinstance(row, Mapping) else row for row in rows]
        return await upsert_instances(current_store(), self.query.unsorted(), self.model, made, on)

    @must_be_awaited
    async def in_bulk(self, keys: Iterable[Any]) -> dict[Any, M]:
        """The rows with these keys, by key; keys of no row are left out."""
        return {row.pk: row for row in await self.filter(pk__in=list(keys))}

    @must_be_awaited
    async def get_or_create(self, defaults: Mapping[str, Any] | None = None, **lookups: Any) -> tuple[M, bool]:
        """The row that meets the lookups, or a new one with ``defaults``, and whether it is new. Safe in a race."""
        try:
            return await self.get(**lookups), False
        except DoesNotExist:
            pass
        try:
            async with current_store().database.transaction():
                return await self.create(**_columns(lookups), **dict(defaults or {})), True
        except Conflict:
            return await self.get(**lookups), False

    @must_be_awaited
    async def update_or_create(self, defaults: Mapping[str, Any] | None = None, **lookups: Any) -> tuple[M, bool]:
        """The row that meets the lookups, with ``defaults`` saved, or a new one with them, and whether it is new."""
        row, new = await self.get_or_create(defaults, **lookups)
        if not new:
            for name, value in (defaults or {}).items():
                setattr(row, name, value)
            await row.save()
        return row, new

    @must_be_awaited
    async def update(self, **values: Any) -> int:
        """Change all these rows, and return their number. Values may be arithmetic: ``view_count=F("view_count") + 1``."""
        self.unsliced("update")
        store, query = current_store(), self.query
        resource = self.model.resource()
        key_of = store.queries.resources.key_of
        columns = {}
        for name, value in values.items():
            column = resource.fields[name].column_name if name in resource.fields else name
            if column not in resource.columns:
                raise AttributeError(f"{resource.model} has no column {name!r}; {did_you_mean(name, resource.columns)}")
            field = key_of(resource.columns[column])
            columns[column] = value if isinstance(value, F) else storable(field, value, column)
        return len(await update_rows(store, resource.name, columns, *query.where))

    @must_be_awaited
    async def delete(self, *, hard: bool = False) -> int:
        """Delete all these rows, and return their number.

        Args:
            hard: Delete rows for good that a resource with ``soft_delete`` would mark.
        """
        self.unsliced("delete")
        return await removal.remove_all(current_store(), self.query, hard=hard)

    @must_be_awaited
    async def restore(self) -> int:
        """Take back the deletion of all these rows, and return their number: ``only_deleted().filter(…).restore()``."""
        self.unsliced("restore")
        marks_of(self.model.resource(), "restore")
        return await removal.restore(current_store(), self.query)


def load_missing(rows: Sequence[Model], paths: Iterable[str]) -> None:
    """Read the related rows at the end of these paths that are not loaded yet, for all rows at once, inside a handler."""
    missing = [path for path in paths if not all(has_loaded(row, path) for row in rows)]
    if missing:
        wait(QuerySet(type(rows[0])).prefetch_related(*missing).attach(rows))


@must_be_awaited
async def get_object_or_404(rows: QuerySet[M] | type[M], *conditions: Q, **lookups: Any) -> M:
    """The only row that meets these conditions.

    Raises:
        NotFound: There is no such row, or a value cannot be one of its column (such as a key that is not a UUID).
        MultipleObjectsReturned: There are several.
    """
    try:
        return await (rows.objects.all() if isinstance(rows, type) else rows).get(*conditions, **lookups)
    except ValidationError:
        raise NotFound() from None


def _is_linked(resources: Resources, resource: str, relation: Relation, key: Any) -> Condition:
    """The condition that a many_to_many relation of another resource links its row with this key to a row here."""
    assert relation.link is not None
    link_back = (relation.link.table, relation.link.target_column)
    for back in resources.relations(resource).values():
        if back.link is not None and (back.link.table, back.link.source_column) == link_back:
            return equals(back.name, resources.key_of(resources[back.target].key), key)
    raise ValueError(f"{resource} has no name for its way back over {relation.name!r}: give the field a related_name")


def _columns(lookups: Mapping[str, Any]) -> dict[str, Any]:
    """The lookups that are values of columns, for a new row."""
    return {name: value for name, value in lookups.items() if "__" not in name}
