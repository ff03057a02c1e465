"""``POST /books/import/``: the rows of a CSV or NDJSON file, in one transaction: all of them, or those that are valid.

The body is received as a file before the transaction begins, and read piece by piece, so memory holds a part of it only. Each
record goes through what a POST of it goes through, with ``?on=`` what a ``PUT ?on=`` goes through: permissions, scope,
serializer, hooks, and the visibility of keys. ``rowcast load`` has the same records and batches, and no caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import orjson
from aiohttp import web

from rowcast.errors import (
    ApiError,
    Messages,
    ParseError,
    PreconditionRequired,
    Unavailable,
    UnsupportedMediaType,
    ValidationError,
    did_you_mean,
)
from rowcast.query import many
from rowcast.query.projection import Projection
from rowcast.resources.rules import UniqueRule
from rowcast.rest.actions import save_row
from rowcast.rest.import_parameters import MAX_ERRORS_DEFAULT, MAX_ERRORS_LIMIT, PARAMETERS
from rowcast.rest.loading import Empty, Loader, Row, TooManyErrors, body_fields, rows_of_a_batch
from rowcast.rest.many_rows import check_serializer, write_in_scope
from rowcast.rest.negotiation import EXPORT_TYPES
from rowcast.rest.nested_bodies import refuse_children
from rowcast.rest.plan import ModelPlan, Service
from rowcast.rest.preferences import AffectedRows
from rowcast.rest.protocols import WritableView
from rowcast.rest.records import read_records
from rowcast.rest.request import Request
from rowcast.rest.response import json_response
from rowcast.rest.scope import caller_scope, scope_of
from rowcast.rest.serializers import NO_VALUES
from rowcast.rest.upserts import acting, check_permission_of, of_one, rule_named, upsert_row
from rowcast.rest.write_scope import check_keys_of_rows

BUSY_RETRY_SECONDS: Final = 5
_CHARSETS: Final = ("utf-8", "utf8", "us-ascii")


@dataclass(frozen=True, slots=True)
class _Options:
    on: UniqueRule | None
    dry_run: bool
    skip: bool
    max_errors: int
    empty: Empty


class _Undone(Exception):
    """Ends a transaction whose writes are not to stay."""


async def import_rows(view: WritableView, request: Request) -> web.Response:
    """Write the records of a file, and report how many are new, changed and refused.

    Raises:
        ParseError: a parameter is wrong.
        UnsupportedMediaType: the body is neither CSV nor NDJSON.
        ValidationError: records are wrong; nothing is written.
    """
    plan, affected = view.view_plan, AffectedRows(request.http)
    options = _read_options(plan, request)
    format = _format(request.http)
    if options.on:
        if plan.require_if_match:
            raise PreconditionRequired(
                "Rows are changed with If-Match here, which an import does not have; leave out on."
            )
        await check_permission_of(view, "update", "PUT")
    file = await request.receive_file(plan.service.settings.server.import_limit)
    database = plan.service.store.database
    with _slot(plan.service), acting(view, "update" if options.on else "create"):
        loader = Loader(database, await _writer(view, options.on), empty=options.empty, max_errors=options.max_errors)
        outcome, enough = loader.outcome, False
        try:
            async with database.transaction():
                try:
                    await loader.load(read_records(file, format))
                except TooManyErrors:
                    enough = True
                affected.check(outcome.created + outcome.updated)
                if options.dry_run:
                    raise _Undone
                if enough or outcome.unreadable or (outcome.failed and not options.skip):
                    raise _refused(outcome.errors, enough=enough)
        except _Undone:
            pass
    body = {
        "created": outcome.created,
        "updated": outcome.updated,
        "failed": outcome.failed,
        "errors": [{"line": line, "errors": messages} for line, messages in sorted(outcome.errors, key=_line)],
    }
    return json_response(orjson.dumps(body), headers=affected.headers)


def _line(error: tuple[int, Messages]) -> int:
    return error[0]


def _refused(errors: Sequence[tuple[int, Messages]], *, enough: bool) -> ValidationError:
    """The error of an import of which nothing is written; ``enough`` means that the rest was not read."""
    messages: dict[str, Any] = {str(line): found for line, found in sorted(errors, key=_line)}
    if enough:
        messages["non_field_errors"] = [f"More than {len(errors)} records have failed; the rest was not read."]
    return ValidationError(messages)


# --- the request


def _read_options(plan: ModelPlan, request: Request) -> _Options:
    """The parameters; ``ParseError`` for one that is unknown or has a wrong value."""
    params = request.query_params
    for name, value in params.items():
        if name not in PARAMETERS:
            hint = did_you_mean(name, PARAMETERS)
            raise ParseError(f"{name[:50]}: unknown parameter; {hint}", code="unknown_parameter")
        if PARAMETERS[name] and value not in PARAMETERS[name]:
            raise ParseError(f"{name}: {did_you_mean(value, PARAMETERS[name])}", code="invalid_parameter")
    number = params.get("max_errors", str(MAX_ERRORS_DEFAULT))
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) <= MAX_ERRORS_LIMIT):
        raise ParseError(f"max_errors: use a number from 0 to {MAX_ERRORS_LIMIT}.", code="invalid_parameter")
    return _Options(
        on=rule_named(plan, plan.upserts, params["on"]) if "on" in params else None,
        dry_run=params.get("dry_run") == "true",
        skip=params.get("errors") == "skip",
        max_errors=int(number),
        empty=cast(Empty, params.get("empty", "default")),
    )


def _format(http: web.Request) -> str:
    """The format of the body by its media type."""
    charset = (http.charset or "utf-8").lower()
    if http.content_type not in EXPORT_TYPES or charset not in _CHARSETS:
        raise UnsupportedMediaType(f"Send the rows as {' or '.join(EXPORT_TYPES)}, in UTF-8.")
    return EXPORT_TYPES[http.content_type]


@contextmanager
def _slot(service: Service) -> Iterator[None]:
    """One of few places, so that imports never hold all connections; ``Unavailable`` if there is none."""
    most = max(1, service.settings.database.pool_size // 2)
    if service.imports >= most:
        raise Unavailable(
            f"{most} imports are under way, and there are no more at once; try again later.",
            code="overloaded",
            retry_after=BUSY_RETRY_SECONDS,
        )
    service.imports += 1
    try:
        yield
    finally:
        service.imports -= 1


# --- writing


async def _writer(view: WritableView, on: UniqueRule | None) -> _StatementWriter | _PythonWriter:
    """What writes the rows: statements for many at once, where Python of the user's has no say."""
    plan = view.view_plan
    if not plan.simple_writes or (on and plan.asks_about_objects):
        return _PythonWriter(view, on)
    fixed = NO_VALUES if plan.declared_scope is None else (await caller_scope(view)).fixed
    return _StatementWriter(view, on, fixed)


class _StatementWriter:
    """Writes rows as ``POST`` and ``PUT ?on=`` write arrays."""

    def __init__(self, view: WritableView, on: UniqueRule | None, fixed: Mapping[str, Any]) -> None:
        plan = view.view_plan
        self.fields: Mapping[str, Any] = body_fields(plan.serializer)
        self.on = on
        self.batch_rows = rows_of_a_batch(plan.resource)
        self.in_thread = not any(type(plan.serializer)._hooks.values())  # noqa: SLF001, marshmallow has no other way
        self._view = view
        self._fixed = fixed
        self._nothing = Projection(plan.resource.name, ())

    def validate(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """The values of a body, and those that the caller's scope fixes."""
        refuse_children(self._view.view_plan, body)
        return self._view.view_plan.serializer.validate_body(body, fixed=self._fixed)

    def takes_together(self, batch: Sequence[Row]) -> bool:
        """Whether one statement can write these rows; the function that writes them decides how."""
        return True

    async def write_together(self, batch: Sequence[Row]) -> int:
        """Write rows, and return how many of them are new."""
        view, store, nothing = self._view, self._view.view_plan.service.store, self._nothing
        values = [row.values for row in batch]
        await check_keys_of_rows(view, values)
        write: Callable[..., Any] = lambda within: many.insert_many(store, nothing, values, within)  # noqa: E731
        if self.on:
            scope = (await scope_of(view)).unsorted()
            write = partial(many.upsert_many, store, scope, nothing, self.on, values)
        return sum(row.created for row in await write_in_scope(view, write))

    async def write_alone(self, row: Row) -> bool:
        """Write one row; whether it is new."""
        try:
            return bool(await self.write_together([row]))
        except ApiError as error:
            raise of_one(error) from None


class _PythonWriter:
    """Writes each row through the serializer, the hooks and the object permissions of the viewset."""

    batch_rows = 1
    in_thread = False

    def __init__(self, view: WritableView, on: UniqueRule | None) -> None:
        self.fields: Mapping[str, Any] = body_fields(view.get_serializer())
        self.on = on
        self._view = view

    def validate(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """With ``on`` the values of a body; otherwise it is validated when it is written."""
        refuse_children(self._view.view_plan, body)
        if not self.on:
            return body
        with acting(self._view, "create"):
            serializer = self._view.get_serializer(data=body)
            serializer.is_valid(raise_exception=True)
            return dict(serializer.validated_data)

    def takes_together(self, batch: Sequence[Row]) -> bool:
        """No."""
        return False

    async def write_together(self, batch: Sequence[Row]) -> int:
        """Rows are written alone."""
        raise NotImplementedError

    async def write_alone(self, row: Row) -> bool:
        """Write one row as a request for it does; whether it is new."""
        view = self._view
        view.request.data = row.body  # which hooks may read
        if self.on:
            return (await upsert_row(view, row.body, dict(row.values), self.on, keep=False)).created
        serializer = view.get_serializer(data=row.body)
        await check_serializer(view, serializer)
        await save_row(view, view.perform_create, serializer)
        return True
