"""The outermost layer of a request: its id, errors as problem documents, and the headers of every response."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from typing import Any, Final

import orjson
import structlog
from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Middleware

from rowcast.errors import (
    ApiError,
    ExpectationFailed,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ParseError,
    PayloadTooLarge,
    TooManyResponses,
)
from rowcast.identity.authentication import Redeemed, failed, take_redeemed
from rowcast.identity.permissions import SAFE_METHODS
from rowcast.identity.throttling import RATE_LIMITS, add_rate_limit_headers
from rowcast.rest.body_memory import BodyMemory
from rowcast.rest.handlers import Handler
from rowcast.rest.memory_budget import MemoryBudget
from rowcast.rest.plan import SERVICE
from rowcast.rest.preferences import leave_out_body
from rowcast.rest.query_method import QUERY
from rowcast.rest.request import root_path

ORIGIN_FAILURES: Final = ("unreachable", "incomplete")
"""Why a request that an edge has passed on failed: the origin could not be reached, or has not answered wholly."""


class Requests:
    """The number of requests that an application is answering, without streams that have begun; and how often a limit was reached.

    ``refused`` counts by the names of the settings. An edge has ``passed_on`` so many requests to its origin, and holds
    ``passed_streams`` of it. ``origin_failures`` counts those that have failed, by ``ORIGIN_FAILURES``.
    """

    __slots__ = (
        "_numbers",
        "_prefix",
        "active",
        "none_left",
        "origin_failures",
        "passed_on",
        "passed_streams",
        "refused",
    )

    def __init__(self) -> None:
        self.active = 0
        self.passed_on = 0
        self.passed_streams = 0
        self.origin_failures: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.none_left: asyncio.Event | None = None  # once somebody waits for it
        self._prefix, self._numbers = secrets.token_hex(6), count(1)

    def new_id(self) -> str:
        """An id for a request whose client sends none: a random prefix of the application, and a number."""
        return f"{self._prefix}{next(self._numbers):08x}"

    def ended(self) -> None:
        """Note that an active one has been answered."""
        self.active -= 1
        if self.none_left is not None and not self.active:
            self.none_left.set()

    async def end(self) -> None:
        """Wait until all of them have been answered."""
        self.none_left = asyncio.Event()
        if self.active:
            await self.none_left.wait()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the short way has found for a message that it does not answer itself: nothing, a response, or an error.

    ``begun`` is when it began, in seconds of ``perf_counter``, and ``redeemed`` what the message's ticket has stood for.
    """

    result: web.Response | Exception | None
    begun: float
    redeemed: Redeemed = None

    async def response(self) -> web.StreamResponse:
        """The response, in place of the handler's; raises the error."""
        assert self.result is not None
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


UNCOUNTED_MAX_BYTES: Final = 16 << 10  # of a response, which the kernel takes at once
RESPONSES: Final = web.AppKey("responses", MemoryBudget)  # set by those who serve the application
HELD: Final = web.RequestKey("held", MemoryBudget)  # from which the response is released once the client has taken it
REQUESTS: Final = web.AppKey("requests", Requests)
COMMON_HEADERS: Final[Mapping[str, str]] = {
    "Server": "rowcast",
    "X-Content-Type-Options": "nosniff",
}  # of every response
PROBLEM: Final = "application/problem+json"
REQUEST_ID: Final = web.RequestKey("request_id", str)
PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._-]{8,64}")
_logger = structlog.get_logger(__name__)


def errors(
    *checks: Callable[[web.Request], None],
    requests: Requests | None = None,
    bodies: BodyMemory | None = None,
    seen_below: Callable[[web.BaseRequest], str] = lambda _: "",
    describe: Callable[[Exception], ApiError] = lambda _: InternalError(),
    count_failure: Callable[[web.Request], Awaitable[ApiError | None]] | None = None,
) -> Middleware:
    """Answer every failure with its problem document, and log the service's own failures once.

    ``requests`` counts them, and ``bodies`` what theirs take until they are answered. ``seen_below`` is the path below which the
    client of a request sees the service. ``checks`` raise for a request that may not be answered, or not now. ``count_failure`` counts wrong
    credentials, and returns another error if there were too many. ``describe`` makes the error for a failure of the service.
    ``X-Request-ID`` is the client's, if it sends a plain one.
    """
    requests = requests or Requests()

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request.headers.get("X-Request-ID")
        if request_id is None or not PLAIN_ID.fullmatch(request_id):
            request_id = requests.new_id()
        request[REQUEST_ID] = request_id
        request[RATE_LIMITS] = {}
        requests.active += 1
        found = _take_outcome(request)
        try:
            is_answered = found is not None and not isinstance(found.result, Exception)
            if not is_answered:  # refusing what has been done would have its client do it again
                for check in checks:
                    check(request)
            return _held(request, await (handler(request) if found is None else found.response()), requests)
        except ApiError as error:
            if error.limit is not None:
                requests.refused[error.limit] += 1
            instead = await count_failure(request) if count_failure is not None and failed(error) else None
            return problem(_with_operation(instead or error, error), request_id, seen_below(request))
        except web.HTTPException as error:
            return problem(_with_operation(_from_aiohttp(error), error), request_id, seen_below(request))
        except Exception as error:
            about = {"http.request.method": request.method, "url.path": request.path}
            _logger.exception("request_failed", request_id=request_id, **about)
            return problem(_with_operation(describe(error), error), request_id, seen_below(request))
        finally:
            if bodies is not None and bodies.in_use:
                bodies.release(request)
            requests.ended()

    return answer


def begun(request: web.Request) -> float:
    """When the answering of a request has begun, in seconds of ``perf_counter``."""
    outcome: Outcome | None = getattr(request.protocol, "outcome", None)
    return perf_counter() if outcome is None else outcome.begun


def _take_outcome(request: web.Request) -> Outcome | None:
    """What the short way has found for a request; ``None`` if the request has to be handled."""
    connection: Any = request.protocol
    outcome: Outcome | None = getattr(connection, "outcome", None)
    if outcome is not None:
        connection.outcome = None
        take_redeemed(request, outcome.redeemed)
    return None if outcome is None or outcome.result is None else outcome


def _held(request: web.Request, response: web.StreamResponse, requests: Requests) -> web.StreamResponse:
    """The response, which is in memory until its client has taken it; ``TooManyResponses`` if there is no room for it.

    A change has been made by then, and an error would have its client make it again: it is answered without a body instead.
    """
    if (
        isinstance(response, web.Response)
        and isinstance(body := response.body, bytes)
        and len(body) > UNCOUNTED_MAX_BYTES
    ):
        budget = request.app.get(RESPONSES)
        if budget is not None:
            if budget.take(request, len(body)):
                request[HELD] = budget
            elif request.method in (*SAFE_METHODS, QUERY) or response.status >= 400:
                raise TooManyResponses()
            else:
                requests.refused["responses_limit"] += 1
                leave_out_body(response)
    return response


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the common headers, and those of rate limits, to a response (a stream's, too) before it is sent."""
    try:
        request_id = request[REQUEST_ID]
    except KeyError:  # aiohttp itself refused the request, by its Expect header
        request_id = secrets.token_hex(10)
        if isinstance(response, web.HTTPException):
            _make_problem(response, request_id, root_path(request.app[SERVICE].settings.server, request))
    else:
        add_rate_limit_headers(request, response)
    set_common_headers(response, request_id)
    if request.version < HttpVersion11 and response.content_length is None:
        response.force_close()  # nothing else shows where it ends, and aiohttp keeps the connection if the client has asked for that


def set_common_headers(response: web.StreamResponse, request_id: str) -> None:
    """Set the headers of every response."""
    response.headers["X-Request-ID"] = request_id
    response.headers.update(COMMON_HEADERS)


def problem(error: ApiError, request_id: str, below: str = "") -> web.Response:
    """The response for an error: its problem document (RFC 9457), for clients that see the service below a path."""
    body = orjson.dumps(error.problem_below(below, request_id), option=orjson.OPT_NON_STR_KEYS)
    response = web.Response(body=body, status=error.status, headers=error.headers, content_type=PROBLEM)
    if error.closes_connection:
        response.force_close()
    return response


def _with_operation(error: ApiError, cause: Exception) -> ApiError:
    """The error, which names the operation of a batch that has caused it."""
    error.operation = vars(cause).get("operation")
    return error


def _make_problem(response: web.HTTPException, request_id: str, below: str) -> None:
    """Turn an error of aiohttp that is already being sent into a problem document."""
    document = problem(_from_aiohttp(response), request_id, below)
    response.body = document.body
    response.headers["Content-Type"] = PROBLEM
    response.headers["Content-Length"] = str(document.content_length)


def _from_aiohttp(error: web.HTTPException) -> ApiError:
    """The service's error for one of aiohttp's own."""
    match error:
        case web.HTTPNotFound():
            return NotFound("There is nothing at this address.")
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowed(error.method, error.allowed_methods)
        case web.HTTPRequestEntityTooLarge():
            return PayloadTooLarge()
        case web.HTTPExpectationFailed():
            return ExpectationFailed()
    if error.status < 500:
        return ParseError(error.reason)
    return InternalError()
