"""Loading many rows: each is validated by a serializer as the body of a POST is, and they are written in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, Literal, Protocol, TypeAlias

from rowcast.database.errors import TryAgain
from rowcast.database.pool import Database
from rowcast.errors import ApiError, ConfigurationError, Messages, Unavailable, ValidationError, did_you_mean
from rowcast.orm.bridge import spawn
from rowcast.orm.model import model
from rowcast.query.conditions import Query
from rowcast.query.many import has_place, lock_by_rule
from rowcast.query.misfits import with_fields
from rowcast.query.projection import Projection
from rowcast.query.write import insert_many
from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.resource import Resource
from rowcast.resources.rules import UniqueRule
from rowcast.rest.plan import ModelPlan
from rowcast.rest.records import Record, UnreadableFile, json_of_text
from rowcast.rest.serializer_fields import ColumnField, RelatedKeysField
from rowcast.rest.serializers import Serializer

Empty: TypeAlias = Literal["default", "null", "text"]
BATCH_ROWS: Final = 500
BATCH_VALUES: Final = 20_000  # PostgreSQL takes 65,535 parameters
SINGLE_ATTEMPTS: Final = 3
PULLED_RECORDS: Final = 200  # that are read and validated at a time
_ANY: Final[frozenset[str]] = frozenset()
_SAVING: Final = ("save", "_save", "create", "update")


@dataclass(slots=True)
class Outcome:
    """How many rows a load has made, changed and refused, and the messages of the refused ones by line."""

    created: int = 0
    updated: int = 0
    failed: int = 0
    unreadable: bool = False  # the rest of the file could not be read
    errors: list[tuple[int, Messages]] = field(default_factory=list)


class TooManyErrors(Exception):
    """More records than ``max_errors`` have failed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record that is valid: its line, its values, and the body that they are the values of."""

    line: int
    values: Mapping[str, Any]
    body: dict[str, Any]


class RowWriter(Protocol):
    """How the rows of a load are validated and written.

    ``fields`` are those of a body by name. ``on`` is the rule by which rows that exist are changed. ``batch_rows`` is how
    many rows one statement may have. ``in_thread`` is whether ``validate`` may run in a thread.
    """

    fields: Mapping[str, Any]
    on: UniqueRule | None
    batch_rows: int
    in_thread: bool

    def validate(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """The values of a body; ``ValidationError`` if it is not valid."""

    def takes_together(self, batch: Sequence[Row]) -> bool:
        """Whether one statement can write these rows."""

    async def write_together(self, batch: Sequence[Row]) -> int:
        """Write rows in one statement; how many of them are new. ``ApiError`` if one of them is refused."""

    async def write_alone(self, row: Row) -> bool:
        """Write one row; whether it is new."""


class Loader:
    """Loads records inside the caller's transaction.

    Args:
        writer: What validates and writes the rows.
        empty: What an empty cell of CSV is: nothing, null, or an empty string.
        max_errors: How many records may fail before ``TooManyErrors``.
    """

    def __init__(
        self, database: Database, writer: RowWriter, *, empty: Empty = "default", max_errors: int = 100
    ) -> None:
        self.outcome = Outcome()
        self._database = database
        self._writer = writer
        self._empty = empty
        self._max_errors = max_errors
        self._rows: dict[frozenset[str], list[Row]] = {}  # by their columns, where rows that exist are changed
        self._pending: set[tuple[Any, ...]] = set()  # the values of ``on`` of the rows that wait

    async def load(self, records: Iterator[Record]) -> Outcome:
        """Load all records, and return what has become of them; ``TooManyErrors`` if too many have failed."""
        more = True
        while more:
            pull = partial(self._pull, records)
            pulled = await asyncio.to_thread(pull) if self._writer.in_thread else pull()
            for line, row in pulled:
                if isinstance(row, Row):
                    await self._take(row)
                else:
                    self._fail(line, row)
            more = len(pulled) == PULLED_RECORDS
        await self._flush()
        return self.outcome

    # --- reading

    def _pull(self, records: Iterator[Record]) -> list[tuple[int, Row | Messages]]:
        """The next records, with their lines: as rows, or the messages of those that are not valid."""
        pulled: list[tuple[int, Row | Messages]] = []
        try:
            for record in islice(records, PULLED_RECORDS):
                pulled.append((record.line, self._read(record)))
        except UnreadableFile as error:
            self.outcome.unreadable = True
            pulled.append((error.line, error.errors or {}))
        return pulled

    def _read(self, record: Record) -> Row | Messages:
        if record.problem is not None:
            return {"non_field_errors": [record.problem]}
        try:
            body = self._body(record)
            return Row(record.line, self._writer.validate(body), body)
        except ValidationError as error:
            return error.errors or {}

    async def _take(self, row: Row) -> None:
        on = self._writer.on
        if on is not None:
            if missing := [name for name in on.columns if on.lacks(row.values, name)]:
                self._fail(row.line, {name: ["Is needed to find the row."] for name in missing})
                return
            which = on.compared(row.values)
            if which in self._pending:
                await self._flush()
            self._pending.add(which)
        batch = self._rows.setdefault(frozenset(row.values) if on else _ANY, [])
        batch.append(row)
        if len(batch) >= self._writer.batch_rows or len(self._rows) > BATCH_ROWS:
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
                body[name] = _json_form(self._writer.fields.get(name), cell)
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

    async def _write(self, batch: Sequence[Row]) -> None:
        """Write rows. If the database refuses some, write those that its error does not name, or else halves of them."""
        if batch and self._writer.takes_together(batch):
            try:
                async with self._database.transaction():
                    created = await self._writer.write_together(batch)
            except (ApiError, OverflowError) as error:
                if isinstance(error, Unavailable):
                    raise
                if isinstance(error, ApiError) and has_place(error, len(batch)):
                    refused = {int(place): messages for place, messages in (error.errors or {}).items()}
                    for place, messages in refused.items():
                        self._fail(batch[place].line, messages)
                    await self._write([row for place, row in enumerate(batch) if place not in refused])
                    return
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

    async def _write_alone(self, row: Row) -> None:
        for attempt in range(1, SINGLE_ATTEMPTS + 1):
            try:
                async with self._database.transaction():
                    new = await self._writer.write_alone(row)
            except TryAgain:
                if attempt == SINGLE_ATTEMPTS:
                    raise
                continue
            except ApiError as error:
                if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
                self._fail(row.line, error.errors or {"non_field_errors": [error.detail]})
            else:
                self.outcome.created += new
                self.outcome.updated += not new
            return


class TableWriter:
    """Writes rows by the serializer of a plan alone: permissions, throttles, its scope and hooks have no part in it.

    Args:
        plan: The plan of the resource's viewset.
        on: The fields of a unique rule: a record whose row exists changes that row.
        restore: Whether records have all columns of their rows: generated keys and read-only fields as well.

    Raises:
        ConfigurationError: ``on`` is not a unique rule.
    """

    in_thread = False

    def __init__(self, plan: ModelPlan, *, on: Sequence[str] = (), restore: bool = False) -> None:
        self._plan = plan
        self._store = plan.service.store
        self._resource = plan.resource
        self._serializer = restoring_serializer(plan) if restore else plan.serializer
        self.fields: Mapping[str, Any] = body_fields(self._serializer)
        self.on = unique_rule(self._resource, on)
        self._check_key(restore)
        traits = plan.service.resources.traits_of(self._resource.name)
        own = type(self._serializer)
        self._saves = any(getattr(own, name) is not getattr(Serializer, name) for name in _SAVING)
        self._singly = bool(traits.partitioned or traits.skipping or traits.rules) or self._saves
        self.batch_rows = rows_of_a_batch(self._resource)

    def validate(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """The values of a body."""
        return self._serializer.validate_body(body)

    def takes_together(self, batch: Sequence[Row]) -> bool:
        """Whether one statement can write these rows."""
        return not self._singly and all(row.values and not row.values.keys() & self._resource.links for row in batch)

    async def write_together(self, batch: Sequence[Row]) -> int:
        """Write rows in one statement, and return how many of them are new."""
        queries, name = self._store.queries, self._resource.name
        every = dict.fromkeys(column for row in batch for column in row.values)
        shapes = tuple(tuple(column for column in every if column in row.values) for row in batch)
        if self.on:  # rows of one shape
            statement = queries.upsert_many(name, shapes[0], len(batch), self.on)
        elif len(set(shapes)) == 1:
            statement = queries.insert_many(name, shapes)
        else:  # of which each batch has another one
            statement = insert_many(queries.tables, name, shapes)
        values = [row.values[column] for row, shape in zip(batch, shapes, strict=True) for column in shape]
        rows = await self._store.database.fetch_all(
            statement.sql, statement.arguments(values), changes=statement.changes
        )
        return sum(row["created"] for row in rows)

    async def write_alone(self, row: Row) -> bool:
        """Write one row; whether it is new."""
        try:
            return await self._save(row.values)
        except ValidationError as error:
            traits = self._plan.service.resources.traits_of(self._resource.name)
            raise with_fields(error, traits, row.values) from error

    async def _save(self, values: Mapping[str, Any]) -> bool:
        nothing = Projection(self._resource.name, ())
        found = None
        if self.on is not None:
            locked = await lock_by_rule(
                self._store, Query(self._resource.name), self.on, values, self._resource.key_columns
            )
            found = locked[0] if locked else None
        if self._saves:
            rows, fields = model(self._resource.name).objects.all().showing("with"), self._resource.columns
            key_of = self._plan.service.resources.key_of
            key = (
                {}
                if found is None
                else {
                    name: key_of(fields[name]).field_type.parse(key_of(fields[name]), found[name])
                    for name in self._resource.key_columns
                }
            )
            instance = None if found is None else await rows.get(**key)
            save = self._serializer.create if instance is None else self._serializer.update
            await spawn(save, *(() if instance is None else (instance,)), dict(values))
        elif found is not None:
            await self._store.update(self._store.by_keys(self._resource, found["key"]), nothing, values)
        else:
            await self._store.insert(nothing, values)
        return found is None

    def _check_key(self, restore: bool) -> None:
        for name in self.on.columns if self.on else ():
            if name not in self.fields or self.fields[name].dump_only:
                hint = "" if restore else "; with --restore a file sets it"
                raise ConfigurationError(f"--on {name}: {self._resource.name}.{name} is not set by a body{hint}")


def body_fields(serializer: Serializer) -> dict[str, Any]:
    """The fields of a body by their names in it."""
    return {each.data_key or name: each for name, each in serializer.load_fields.items()}


def rows_of_a_batch(resource: Resource) -> int:
    """How many rows of a resource are written in one statement."""
    return min(BATCH_ROWS, BATCH_VALUES // len(resource.fields))


def unique_rule(resource: Resource, on: Sequence[str]) -> UniqueRule | None:
    """The unique rule with these fields; ``ConfigurationError`` if there is none."""
    if not on:
        return None
    for name in on:
        found = resource.fields.get(name) or resource.columns.get(name)
        if found is None or found.field_type.kind is Kind.RELATIONS:
            hint = did_you_mean(name, resource.columns)
            raise ConfigurationError(f"--on: {resource.name} has no column {name!r}; {hint}")
    rule = resource.unique_rule(on)
    if rule is None:
        valid = "; ".join(dict.fromkeys(",".join(each.columns) for each in resource.unique_rules))
        raise ConfigurationError(f"--on {','.join(on)}: no unique rule has these fields alone; valid here: {valid}")
    return rule


def restoring_serializer(plan: ModelPlan) -> Serializer:
    """A serializer of all columns of a resource, with those that bodies cannot set."""
    extra = {
        name: {"dump_only": False, "required": each.default is MISSING and not each.null and not each.primary_key}
        for name, each in plan.resource.columns.items()
        if not (each.write_only or each.generated)
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
