"""Loading many rows: each is validated by a serializer as the body of a POST is, and they are written in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from rowcast.database.errors import TryAgain
from rowcast.errors import ApiError, ConfigurationError, Messages, Unavailable, ValidationError, did_you_mean
from rowcast.orm.bridge import spawn
from rowcast.orm.model import model
from rowcast.query.conditions import Query, equals
from rowcast.query.misfits import with_fields
from rowcast.query.projection import Projection
from rowcast.query.write import insert_many
from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.resource import Resource
from rowcast.rest.plan import ModelPlan
from rowcast.rest.records import Record, UnreadableFile, json_of_text
from rowcast.rest.serializer_fields import ColumnField, RelatedKeysField
from rowcast.rest.serializers import Serializer

Empty: TypeAlias = Literal["default", "null", "text"]
BATCH_ROWS: Final = 500
BATCH_VALUES: Final = 20_000  # PostgreSQL takes 65,535 parameters
SINGLE_ATTEMPTS: Final = 3
_ANY: Final[frozenset[str]] = frozenset()
_SAVING: Final = ("save", "_save", "create", "update")


@dataclass(slots=True)
class Outcome:
    """How many rows a load has made, changed and refused, and the messages of the first refused ones by line."""

    created: int = 0
    updated: int = 0
    failed: int = 0
    errors: list[tuple[int, Messages]] = field(default_factory=list)


class TooManyErrors(Exception):
    """More records than ``max_errors`` have failed."""


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    values: dict[str, Any]


class Loader:
    """Loads records into the resource of a plan, inside the caller's transaction.

    Args:
        plan: The plan of the resource's viewset. Its serializer validates; permissions, throttles, its scope and
            ``perform_create`` are those of requests, and have no part in it.
        on: The fields of a unique rule: a record whose row exists changes that row.
        empty: What an empty cell of CSV is: nothing, null, or an empty string.
        restore: Whether records have all columns of their rows: generated keys and read-only fields as well.
        max_errors: How many records may fail before ``TooManyErrors``.

    Raises:
        ConfigurationError: ``on`` is not a unique rule.
    """

    def __init__(
        self,
        plan: ModelPlan,
        *,
        on: Sequence[str] = (),
        empty: Empty = "default",
        restore: bool = False,
        max_errors: int = 100,
    ) -> None:
        self.outcome = Outcome()
        self._plan = plan
        self._store = plan.service.store
        self._resource = plan.resource
        self._empty = empty
        self._max_errors = max_errors
        self._serializer = restoring_serializer(plan) if restore else plan.serializer
        self._fields = {each.data_key or name: each for name, each in self._serializer.load_fields.items()}
        self._on = unique_columns(self._resource, on)
        self._check_key(restore)
        traits = plan.service.resources.traits_of(self._resource.name)
        own = type(self._serializer)
        self._saves = any(getattr(own, name) is not getattr(Serializer, name) for name in _SAVING)
        self._singly = bool(traits.partitioned or traits.skipping or traits.rules) or self._saves
        self._batch_rows = min(BATCH_ROWS, BATCH_VALUES // len(self._resource.fields))
        self._rows: dict[frozenset[str], list[_Row]] = {}  # by their columns, where rows that exist are changed
        self._pending: set[tuple[Any, ...]] = set()  # the values of ``on`` of the rows that wait

    async def load(self, records: Iterator[Record]) -> Outcome:
        """Load all records, and return what has become of them; ``TooManyErrors`` if too many have failed."""
        try:
            for record in records:
                await self._take(record)
        except UnreadableFile as error:
            self._fail(error.line, error.errors or {})
        await self._flush()
        return self.outcome

    # --- reading

    async def _take(self, record: Record) -> None:
        if record.problem is not None:
            self._fail(record.line, {"non_field_errors": [record.problem]})
            return
        try:
            body = self._body(record)
            values = self._serializer.validate_body(body)
        except ValidationError as error:
            self._fail(record.line, error.errors or {})
            return
        row = _Row(record.line, values)
        if self._on:
            if missing := [name for name in self._on if values.get(name) is None]:
                self._fail(record.line, {name: ["Is needed to find the row."] for name in missing})
                return
            which = tuple(_hashable(values[name]) for name in self._on)
            if which in self._pending:
                await self._flush()
            self._pending.add(which)
        batch = self._rows.setdefault(frozenset(values) if self._on else _ANY, [])
        batch.append(row)
        if len(batch) >= self._batch_rows or len(self._rows) > BATCH_ROWS:
            await self._flush()

    def _body(self, record: Record) -> dict[str, Any]:
        """The body of a POST with the values of a record; ``ValidationError`` for JSON that is none."""
        if not record.text:
            return dict(record.values)
        body: dict[str, Any] = {}
        problems: dict[str, list[str]] = {}
        for name, cell in record.values.items():
            if cell is None:
                if self._empty != "default":
                    body[name] = None if self._empty == "null" else ""
                continue
            try:
                body[name] = _json_form(self._fields.get(name), cell)
            except ValueError:
                problems[name] = ["Not valid JSON."]
        if problems:
            raise ValidationError(problems)
        return body

    def _fail(self, line: int, messages: Messages) -> None:
        self.outcome.failed += 1
        self.outcome.errors.append((line, messages))
        if self.outcome.failed > self._max_errors:
            self.outcome.errors.pop()
            raise TooManyErrors

    # --- writing

    async def _flush(self) -> None:
        batches, self._rows = self._rows, {}
        self._pending.clear()
        for batch in batches.values():
            await self._write(batch)

    async def _write(self, batch: Sequence[_Row]) -> None:
        """Write rows; if the database refuses one of them, halves of them until it is found."""
        if not self._singly and all(row.values and not row.values.keys() & self._resource.links for row in batch):
            try:
                async with self._store.database.transaction():
                    created = await self._write_together(batch)
            except (ApiError, OverflowError) as error:
                if isinstance(error, Unavailable):
                    raise
            else:
                self.outcome.created += created
                self.outcome.updated += len(batch) - created
                return
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
        for row in batch:
            await self._write_alone(row)

    async def _write_together(self, batch: Sequence[_Row]) -> int:
        """Write rows in one statement, and return how many of them are new."""
        queries, name = self._store.queries, self._resource.name
        every = dict.fromkeys(column for row in batch for column in row.values)
        shapes = tuple(tuple(column for column in every if column in row.values) for row in batch)
        if self._on:  # rows of one shape
            statement = queries.upsert_many(name, shapes[0], len(batch), self._on)
        elif len(set(shapes)) == 1:
            statement = queries.insert_many(name, shapes)
        else:  # of which each batch has another one
            statement = insert_many(queries.tables, name, shapes)
        values = [row.values[column] for row, shape in zip(batch, shapes, strict=True) for column in shape]
        rows = await self._store.database.fetch_all(
            statement.sql, statement.arguments(values), changes=statement.changes
        )
        return sum(row["created"] for row in rows)

    async def _write_alone(self, row: _Row) -> None:
        for attempt in range(1, SINGLE_ATTEMPTS + 1):
            try:
                async with self._store.database.transaction():
                    new = await self._save(row.values)
            except TryAgain:
                if attempt == SINGLE_ATTEMPTS:
                    raise
                continue
            except ApiError as error:
                if isinstance(error, Unavailable):
                    raise
                if isinstance(error, ValidationError):
                    traits = self._plan.service.resources.traits_of(self._resource.name)
                    error = with_fields(error, traits, row.values)
                self._fail(row.line, error.errors or {"non_field_errors": [error.detail]})
            else:
                self.outcome.created += new
                self.outcome.updated += not new
            return

    async def _save(self, values: Mapping[str, Any]) -> bool:
        """Write one row; whether it is new."""
        nothing = Projection(self._resource.name, ())
        found = None
        if self._on:
            key_of = self._plan.service.resources.key_of
            conditions = tuple(
                equals(each.name, key_of(each), values[name]) for name, each in _fields_of(self._resource, self._on)
            )
            found = Query(self._resource.name, conditions)
            if await self._store.one(found, nothing) is None:
                found = None
        if self._saves:
            rows = model(self._resource.name).objects
            instance = None if found is None else await rows.get(**{name: values[name] for name in self._on})
            save = self._serializer.create if instance is None else self._serializer.update
            await spawn(save, *(() if instance is None else (instance,)), dict(values))
        elif found is not None:
            await self._store.update(found, nothing, values)
        else:
            await self._store.insert(nothing, values)
        return found is None

    def _check_key(self, restore: bool) -> None:
        for name in self._on:
            if name not in self._fields or self._fields[name].dump_only:
                hint = "" if restore else "; with --restore a file sets it"
                raise ConfigurationError(f"--on {name}: {self._resource.name}.{name} is not set by a body{hint}")


def unique_columns(resource: Resource, on: Sequence[str]) -> tuple[str, ...]:
    """The columns of a unique rule with these fields; ``ConfigurationError`` if there is none."""
    if not on:
        return ()
    columns = []
    for name in on:
        found = resource.fields.get(name) or resource.columns.get(name)
        if found is None or found.field_type.kind is Kind.RELATIONS:
            hint = did_you_mean(name, resource.columns)
            raise ConfigurationError(f"--on: {resource.name} has no column {name!r}; {hint}")
        columns.append(found.column_name)
    rules = [resource.key_columns, *((each.column_name,) for each in resource.columns.values() if each.unique)]
    rules += [tuple(resource.fields[name].column_name for name in names) for names in resource.unique]
    if set(columns) not in [set(rule) for rule in rules]:
        valid = "; ".join(",".join(rule) for rule in rules)
        raise ConfigurationError(f"--on {','.join(on)}: no unique rule has these fields alone; valid here: {valid}")
    return tuple(columns)


def restoring_serializer(plan: ModelPlan) -> Serializer:
    """A serializer of all columns of a resource, with those that bodies cannot set."""
    extra = {
        name: {"dump_only": False, "required": each.default is MISSING and not each.null and not each.primary_key}
        for name, each in plan.resource.columns.items()
        if not each.write_only
    }
    meta = type("Meta", (), {"model": model(plan.resource.name), "extra": extra})
    unbound: Any = type(f"{plan.resource.model}Restored", (Serializer,), {"Meta": meta})
    bound: type[Serializer] = unbound.bind(plan.service.resources, plan.resource)
    return bound.shared()


def _fields_of(resource: Resource, columns: Sequence[str]) -> list[tuple[str, Field]]:
    return [(name, resource.columns[name]) for name in columns]


def _json_form(declared: Any, cell: str) -> Any:
    """The JSON form of a cell of CSV; ``ValueError`` if it has to be JSON and is not.

    A cell that is not a value of its field stays as it is: the serializer has the message.
    """
    if isinstance(declared, RelatedKeysField):
        return (
            json_of_text(cell)
            if cell.startswith("[")
            else [_plain_form(declared.values, each) for each in cell.split(",")]
        )
    if not isinstance(declared, ColumnField):
        return cell
    kind = declared.values.field_type.kind
    if kind is Kind.JSON or (kind is Kind.ARRAY and cell.startswith("[")):
        return json_of_text(cell)
    return cell if kind in _TEXTS else _plain_form(declared.values, cell)


def _plain_form(values: Field, cell: str) -> Any:
    try:
        return values.field_type.dump(values, values.field_type.parse(values, cell))
    except ValueError:
        return cell


_TEXTS: Final = (Kind.TEXT, Kind.MOMENT, Kind.UUID)  # whose JSON form is a string


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
