"""``POST /batch/``: several changes in one transaction: all are made, or none.

Each operation becomes a request of its own, made of the batch's, which the application's router takes to the handler that
would answer it alone. So authentication, permissions, throttles, scope and validation are those of each viewset. The
transactions of the handlers become savepoints of the one that is open here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import orjson
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from rowcast.errors import NotAcceptable, OperationFailed, ParseError, PreconditionFailed
from rowcast.identity.authentication import identify
from rowcast.identity.throttling import add_rate_limit_headers
from rowcast.query.store import STORE
from rowcast.resources.composite import address_of
from rowcast.resources.lossless_json import encode
from rowcast.rest.batch_operations import ABSENT, Operation, References, read_operations
from rowcast.rest.handlers import ways_of
from rowcast.rest.idempotency import KEY, KEYED, answer_once
from rowcast.rest.media_types import JSON, is_json
from rowcast.rest.negotiation import accepts_json
from rowcast.rest.plan import SERVICE, ModelPlan, policy_instances
from rowcast.rest.preferences import BATCH_ROWS, PREFER, WHOLE_BODY, BatchRows, honoured
from rowcast.rest.request import Request, target_host
from rowcast.rest.response import TRANSACTION, add_transaction, json_response

OWN_HEADERS: Final = frozenset({
    "connection", "content-encoding", "content-length", "content-type", "expect", "idempotency-key", "if-match",
    "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range", "te", "trailer", "transfer-encoding",
    "upgrade",
})  # fmt: skip
"""The headers of a batch that are about its own body, connection or address; operations have all the others."""

PAYLOAD_MAX_BYTES: Final = 1 << 40


class NoWriter(AbstractStreamWriter):
    """What the response of an operation would be sent with: nothing is sent but the response of the batch."""

    async def _refuse(self, *_args: Any, **_options: Any) -> Any:
        raise ParseError(
            "An operation of a batch may not send a stream, or upgrade the connection; send it alone.",
            code="not_in_batch",
        )

    write = write_eof = write_headers = drain = _refuse

    def enable_compression(self, *_args: Any, **_options: Any) -> None:
        """Compress the response."""

    def enable_chunking(self) -> None:
        """Send the response in chunks."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation has been answered with, for those that refer to its row."""

    plan: Any  # of its viewset; ``None`` if that has none
    body: Any

    def key(self) -> Any:
        """The primary key of the row, as a foreign key of a body has it; ``ValueError`` if there is no row."""
        columns = self.plan.resource.key_columns if isinstance(self.plan, ModelPlan) else ("id",)
        values = self._values(columns)
        return values[0] if len(values) == 1 else address_of(values)

    def address(self) -> str:
        """The part of an address that names the row, percent-encoded; ``ValueError`` if there is no row."""
        if not isinstance(self.plan, ModelPlan):
            return quote(_text(self.key()), safe="")
        if self.plan.key.parts:
            return address_of(self._values(self.plan.resource.key_columns))
        return quote(_text(*self._values((self.plan.key_column,))), safe="")

    def _values(self, columns: tuple[str, ...]) -> list[Any]:
        if not isinstance(self.body, dict):
            raise ValueError("is not answered with a row")
        for column in columns:
            if self.body.get(column) is None:
                raise ValueError(f"is answered without {column}, the key of its row")
        return [self.body[column] for column in columns]


async def batch(http: web.Request) -> web.StreamResponse:
    """All operations in their order, in one transaction; the first that fails is the answer, and nothing is written.

    Raises:
        ParseError: the body is not a batch, or an operation cannot be part of one.
        ValidationError: names the operation with a wrong member.
        OperationFailed: a handler has returned a response with an error, instead of raising it.
    """
    service = http.app[SERVICE]
    STORE.set(service.store)
    if not accepts_json(http):
        raise NotAcceptable()
    if http.rel_url.raw_query_string:
        raise ParseError(
            "A batch takes no parameters; give them to the paths of its operations.", code="unknown_parameter"
        )
    if PREFER in http.headers:
        honoured(http)  # which each operation does for itself
        http[BATCH_ROWS] = BatchRows()
    body = await Request(http).read_json()
    if "If-Match" in http.headers:
        raise PreconditionFailed("A batch has no version; give if_match to its operations.")
    operations = read_operations(body, service.settings.server.batch_limit)
    if KEY not in http.headers:
        return await _carry_out(http, operations)
    request = Request(http)
    await identify(request, policy_instances(service.authentication_classes))
    http[KEYED] = True
    return await answer_once(service.store.database, request, partial(_carry_out, http, operations), repeatable=False)


async def _carry_out(http: web.Request, operations: Sequence[Operation]) -> web.Response:
    """The answer of a batch whose operations have all been made."""
    database = http.app[SERVICE].store.database
    answers: dict[str, Answer] = {}
    references = References(lambda name: answers[name].key(), lambda name: answers[name].address())
    results: list[Mapping[str, Any]] = []
    cookies: list[Any] = []
    with database.as_service(), database.noting() as written:
        async with database.transaction():
            for operation in operations:
                try:
                    database.act_for(None)  # until the handler recognises its caller
                    plan, response = await _respond(http, operation.with_values(references))
                    result, shown = _result(response)
                except Exception as error:
                    vars(error)["operation"] = operation.index
                    raise
                if operation.ref is not None:
                    answers[operation.ref] = Answer(plan, shown)
                results.append(result)
                if (rows := http.get(BATCH_ROWS)) is not None:
                    rows.end_operation()
                cookies.append(response.cookies)
    answer = json_response(orjson.dumps({"results": results}))
    add_transaction(answer, written)
    for cookie in cookies:
        answer.cookies.update(cookie)
    return answer


async def _respond(http: web.Request, operation: Operation) -> tuple[Any, web.Response]:
    """The response of an operation's own handler, and the plan of its viewset."""
    request = _request_of(http, operation)
    match = await http.app.router.resolve(request)
    match.add_app(http.app)
    match.freeze()
    request._match_info = match  # noqa: SLF001
    if match.handler is batch:
        raise operation.invalid("path", "A batch may not contain a batch.")
    response = await match.handler(request)
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes | bytearray | None):
        raise ParseError(
            "An operation of a batch may not be answered with a stream; send it alone.", code="not_in_batch"
        )
    add_rate_limit_headers(request, response)
    return ways_of(match.handler).plan, response


def _request_of(http: web.Request, operation: Operation) -> web.Request:
    """The request of an operation: the batch's, with another method, address, body and preconditions."""
    headers = CIMultiDict((name, value) for name, value in http.headers.items() if name.lower() not in OWN_HEADERS)
    if host := target_host(http):
        headers["Host"] = host
    body = b"" if operation.body is ABSENT else encode(operation.body)
    if operation.body is not ABSENT:
        headers.update({"Content-Type": JSON, "Content-Length": str(len(body))})
    if operation.if_match is not None:
        headers["If-Match"] = operation.if_match
    path, _, query = operation.path.partition("?")
    message = http._message._replace(  # noqa: SLF001, since clone() keeps the body
        method=operation.method,
        path=operation.path,
        url=URL.build(path=path, query_string=query, encoded=True),
        headers=CIMultiDictProxy(headers),
        raw_headers=tuple((name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers.items()),
        compression=None,
        chunked=False,
        upgrade=False,
    )
    loop = asyncio.get_running_loop()
    payload = StreamReader(http.protocol, PAYLOAD_MAX_BYTES, loop=loop)  # never so full that it stops the connection
    payload.feed_data(body)
    payload.feed_eof()
    return web.Request(
        message,
        payload if body else EMPTY_PAYLOAD,
        http.protocol,
        NoWriter(),
        http.task,
        loop,
        client_max_size=http._client_max_size,  # noqa: SLF001
        state=dict(http.items()),
    )


def _result(response: web.Response) -> tuple[Mapping[str, Any], Any]:
    """An operation's part of the answer, and its body as Python has it.

    Raises:
        OperationFailed: it is an error.
        ParseError: its body cannot be part of JSON.
    """
    headers: dict[str, str] = {}
    for name, value in ((str(name), value) for name, value in response.headers.items()):
        if name.lower() not in ("content-length", "content-type", TRANSACTION.lower()):  # that of the batch
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    whole = response.get(WHOLE_BODY)  # of a response without its body, since the client wants none
    body = (
        whole
        if isinstance(whole, bytes)
        else bytes(response.body)
        if isinstance(response.body, bytes | bytearray)
        else b""
    )
    shown: Any = None
    encoded: Any = None
    if body and (whole is not None or is_json(response.content_type)):
        shown, encoded = _parsed(body), orjson.Fragment(body)
    elif body:
        try:
            shown = encoded = body.decode(response.charset or "utf-8")
        except (UnicodeDecodeError, LookupError):
            raise ParseError(
                f"An operation of a batch may not be answered with {response.content_type}.", code="not_in_batch"
            ) from None
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise OperationFailed(response.status, shown, headers=headers)
    if whole is not None:
        encoded = None
    if isinstance(encoded, str):
        headers["Content-Type"] = response.headers["Content-Type"]
    return {"status": response.status, "headers": headers, "body": encoded}, shown


def _parsed(body: bytes) -> Any:
    """The JSON of a response as Python has it; numbers beyond the floats are infinite."""
    try:
        return orjson.loads(body)
    except ValueError:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise ParseError("An operation of a batch was answered with invalid JSON.", code="not_in_batch") from None


def _text(value: Any) -> str:
    """A key as a string of an address."""
    return value if isinstance(value, str) else encode(value).decode()
