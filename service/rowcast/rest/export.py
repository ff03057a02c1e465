"""All rows of a list, as CSV or NDJSON: ``Accept: text/csv`` in place of pages.

One COPY in a read-only transaction reads them from one snapshot, on one of few connections that no other request needs. It
goes on when the client has taken what was sent, so that memory holds a part of the rows, and ends when the client leaves. A
failure after the first byte resets the connection: a part of the rows never looks like all of them.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from rowcast.changes.standbys import SNAPSHOT, SNAPSHOT_OR_POSITION
from rowcast.database.errors import DRIVER_ERRORS
from rowcast.database.pool import Database
from rowcast.errors import ApiError, InvalidPattern, ParseError, PreconditionFailed, Unavailable
from rowcast.orm.bridge import spawn
from rowcast.query.conditions import Query
from rowcast.query.export import CELLS, LINES
from rowcast.query.projection import Projection
from rowcast.query.replicas import Reader, primary_may_differ
from rowcast.query.store import Store
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.resources.lossless_json import parse
from rowcast.rest.etags import matches
from rowcast.rest.expansion import reading
from rowcast.rest.negotiation import EXPORT_TYPES, accepts_gzip
from rowcast.rest.plan import ModelPlan
from rowcast.rest.protocols import ModelView
from rowcast.rest.query_method import ACCEPT_QUERY
from rowcast.rest.reading import reader_for
from rowcast.rest.records import RecordWriter, json_columns, with_crlf
from rowcast.rest.rendering import current_serializer, is_plain, render_rows, requested_projection
from rowcast.rest.request import Request
from rowcast.rest.scope import list_query
from rowcast.rest.serializers import Serializer
from rowcast.rest.stream_position import position_header

EXCEL: Final = "excel"  # the parameter
CLIENT_CHECK_SECONDS: Final = 0.5  # between two looks whether the client is there, while the database works
BUSY_RETRY_SECONDS: Final = 10
GZIP_LEVEL: Final = 3
_RESET: Final = struct.pack("ii", 1, 0)  # closing sends a reset (SO_LINGER)
_READ_ONLY: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_logger = structlog.get_logger(__name__)

Convert = Callable[[bytes], Awaitable[bytes]]


class _ClientLeft(Exception):
    """The client has closed its connection."""


async def export_list(view: ModelView, request: Request, media_type: str) -> web.StreamResponse:
    """Send all rows that the list has with the same filters, in its order."""
    plan, http, params = view.view_plan, request.http, request.query_params
    excel = _wants_excel(plan, params, media_type)
    plan.check_parameters(view.action, {name: each for name, each in params.items() if name != EXCEL or excel is None})
    if paged := next((name for name in plan.paginator.parameters if name in params), None):
        raise ParseError(f"{paged}: {media_type} has all rows and no pages; leave it out.", code="invalid_parameter")
    if plan.highlights and HIGHLIGHT in params:
        raise ParseError(f"{HIGHLIGHT}: is for pages of JSON; leave it out.", code="invalid_parameter")
    query = await list_query(view)
    serializer = current_serializer(view)
    shown = requested_projection(plan, serializer, params)
    plain = is_plain(plan, serializer, shown)
    query, read, grown = reading(view, serializer, query, shown, plain=plain)
    if grown is not None:
        raise ParseError(
            f"expand: {media_type} has no lists of related rows beyond those that the list always shows; expand relations to "
            "one row, or read pages.",
            code="invalid_parameter",
        )
    if not matches(http, None):
        raise PreconditionFailed("If-Match excludes what this address shows now; read it again.")
    if http.method == "HEAD":
        response = _response(plan, http, media_type, await plan.service.store.snapshot())
        await response.prepare(http)
        return response
    cells = plain and not excel and media_type == "text/csv"

    def convert() -> Convert:
        return _converter(view, serializer, read, shown, plain=plain, media_type=media_type, excel=bool(excel))

    names = [*shown.columns, *(name for name, _ in shown.related)]
    start = RecordWriter("csv", names).start() if cells else b""
    return await _while_connected(http, _send(view, query, read, media_type, start, convert, cells=cells))


def _wants_excel(plan: ModelPlan, params: Mapping[str, str], media_type: str) -> bool | None:
    """Whether cells that are formulas are escaped; ``None`` if the parameter's name is that of a filter."""
    if EXCEL in plan.allowed_parameters["list"]:
        return None
    value = params.get(EXCEL, "false").lower()
    if value not in ("true", "false"):
        raise ParseError(f"{EXCEL}: use true or false.", code="invalid_parameter")
    if EXCEL in params and media_type != "text/csv":
        raise ParseError(f"{EXCEL}: is for text/csv; {media_type} has no cells.", code="invalid_parameter")
    return value == "true"


def _converter(
    view: ModelView,
    serializer: Serializer,
    read: Projection,
    shown: Projection,
    *,
    plain: bool,
    media_type: str,
    excel: bool,
) -> Convert:
    """What makes pieces of the response of the pieces that the database sends, which have whole rows."""
    is_csv = media_type == "text/csv"
    writer: RecordWriter | None = None

    async def as_sent(data: bytes) -> bytes:
        return with_crlf(data) if is_csv else data

    async def converted(data: bytes) -> bytes:
        nonlocal writer
        rows: Sequence[bytes] = data.split(b"\n")[:-1]
        if not plain:
            rows = await spawn(render_rows, view, serializer, rows, read, shown)
        if writer is not None:
            return await asyncio.to_thread(writer.rows, rows)
        names = [*shown.columns, *(name for name, _ in shown.related)]
        if not plain:
            names = list(dict.fromkeys(name for row in rows for name in parse(row))) or _declared(serializer, shown)
        as_json = json_columns(view.view_plan.resource)
        writer = RecordWriter(EXPORT_TYPES[media_type], names, as_json=as_json, excel=excel)
        return writer.start() + await asyncio.to_thread(writer.rows, rows)

    return as_sent if plain and not excel else converted


def _declared(serializer: Serializer, shown: Projection) -> list[str]:
    """The names of a serializer's fields and of the related rows, where there is no row that has them."""
    fields = [name for name, field in serializer.fields.items() if not field.load_only]
    return list(dict.fromkeys([*fields, *(name for name, _ in shown.related)]))


# --- sending


def _response(plan: ModelPlan, http: web.Request, media_type: str, snapshot: str) -> web.StreamResponse:
    """The response without its body."""
    content_type = {"text/csv": "text/csv; charset=utf-8; header=present"}.get(media_type, media_type)
    headers = {
        "Content-Type": content_type,
        "Vary": "Accept, Accept-Encoding",
        **position_header(plan, snapshot),
        **ACCEPT_QUERY,
    }
    if accepts_gzip(http):
        headers["Content-Encoding"] = "gzip"
    return web.StreamResponse(headers=headers)


class _Body:
    """Writes the response, which begins with its first piece: until then a failure can be an error of its own."""

    def __init__(self, http: web.Request, response: web.StreamResponse, start: bytes, convert: Convert) -> None:
        self.begun = False
        self.failure: BaseException | None = None  # of making or sending a piece
        self._http = http
        self._response = response
        self._start = start
        self._convert = convert
        gzip = "Content-Encoding" in response.headers
        self._packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16) if gzip else None

    async def write(self, data: bytes) -> None:
        """Send rows as the database sends them; returns when the client has taken enough of what was sent."""
        try:
            piece = await self._convert(data)
            if not self.begun:
                piece = self._start + piece
            if self._packer is not None:
                piece = await asyncio.to_thread(self._packer.compress, piece)
            await self._write(piece)
        except BaseException as error:
            self.failure = error
            raise

    async def end(self) -> None:
        """Send what is left, and the proper end."""
        if not self.begun:
            await self.write(b"")
        if self._packer is not None:
            await self._write(self._packer.flush())
        try:
            await self._response.write_eof()
        except ConnectionError:
            raise _ClientLeft from None

    async def _write(self, piece: bytes) -> None:
        try:
            if not self.begun:
                await self._response.prepare(self._http)
                self.begun = True
            if piece:
                await self._response.write(piece)
        except ConnectionError:
            raise _ClientLeft from None


async def _send(
    view: ModelView,
    query: Query,
    read: Projection,
    media_type: str,
    start: bytes,
    convert: Callable[[], Convert],
    *,
    cells: bool,
) -> web.StreamResponse:
    """Send the rows of a query, from a replica if one may be read and does not fail before the first byte."""
    service, request = view.view_plan.service, view.request
    reader = reader_for(view.view_plan, request.http, request.user)
    replica = reader.replica_for(query, query.order, read) if isinstance(reader, Reader) else None
    send = partial(_send_from, view, query, read, media_type, start, cells=cells)
    if replica is None or isinstance(reader, Store):
        return await send(convert(), service.exports)
    try:
        return await send(convert(), replica.exports, lambda position: reader.counts(replica, position))
    except (ApiError, *DRIVER_ERRORS) as error:
        if not primary_may_differ(error):
            raise
    return await send(convert(), service.exports)


async def _send_from(
    view: ModelView,
    query: Query,
    read: Projection,
    media_type: str,
    start: bytes,
    convert: Convert,
    exports: Database,
    counts: Callable[[str], bool] | None = None,
    *,
    cells: bool,
) -> web.StreamResponse:
    """Send the rows of a query from a server, if for a replica its position ``counts``. An error before the first byte is raised."""
    plan, http = view.view_plan, view.request.http
    statement = plan.service.store.queries.export(read, query.order, query.shape, cells)
    load = exports.load
    if load.in_use >= load.size:
        raise Unavailable(
            f"{load.size} exports are under way, and there are no more at once; try again later.",
            code="overloaded",
            retry_after=BUSY_RETRY_SECONDS,
            limit="export_connections",
        )
    exports.act_for(plan.service.store.database.caller())
    body: _Body | None = None
    response = web.StreamResponse()
    try:
        async with exports.transaction():
            await exports.fetch(_READ_ONLY, ())
            snapshot = await _snapshot(exports, standby=counts is not None)
            if counts is not None and not counts(snapshot):
                raise Unavailable("The replica is no longer a standby.", code="database_unavailable")
            response = _response(plan, http, media_type, snapshot)
            body = _Body(http, response, start, convert)
            arguments = statement.arguments([*query.values, *query.related_values])
            await exports.copy(statement.sql, arguments, body.write, **(CELLS if cells else LINES))
        await body.end()
    except BaseException as error:  # noqa: BLE001 - it is raised again, or the connection is reset
        _end_early(view, body, error if body is None or body.failure is None else body.failure)
    return response


async def _snapshot(exports: Database, *, standby: bool) -> str:
    """Which transactions the transaction sees, or on a standby its position, which callers' roles may not read."""
    async with exports.own_role():
        found = await exports.fetch(f"SELECT {SNAPSHOT_OR_POSITION if standby else SNAPSHOT} AS snapshot", ())
    assert found is not None
    return str(found["snapshot"])


def _end_early(view: ModelView, body: _Body | None, error: BaseException) -> None:
    """Raise the error if nothing has been sent yet; otherwise reset the connection."""
    http = view.request.http
    if isinstance(error, _ClientLeft):
        _reset(http)
        return
    if body is not None and body.begun:
        _reset(http)
        if isinstance(error, Exception):
            _logger.error(
                "export_failed",
                exc_info=None if isinstance(error, ApiError) else error,
                error=str(error),
                **{"url.path": http.path},
            )
            return
    if isinstance(error, InvalidPattern):
        raise view.view_plan.pattern_error(error, view.request.query_params) from None
    raise error


def _reset(http: web.Request) -> None:
    """Close a connection so that its client notices that the response is not complete, whatever ends it."""
    if (transport := http.transport) is not None:
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()


async def _while_connected(http: web.Request, sending: Awaitable[web.StreamResponse]) -> web.StreamResponse:
    """The result of a coroutine, which is cancelled when the client leaves."""
    work = asyncio.ensure_future(sending)
    left = False
    try:
        while not (await asyncio.wait({work}, timeout=CLIENT_CHECK_SECONDS))[0]:
            if http.transport is None or http.transport.is_closing():
                left = True
                work.cancel()
        if left and (work.cancelled() or work.exception() is not None):
            return web.StreamResponse()
        return work.result()
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait({work})
