"""The errors of the API and their problem documents (RFC 9457).

An error is raised where its cause is found. The error middleware alone turns it into a response.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from http import HTTPStatus
from typing import Any, ClassVar, Final

from rowcast.error_codes import NO_PAGE, problem_type

Messages = Mapping[str, Any]  # field → list of messages, or → nested Messages
MAX_MESSAGES: Final = 100  # of a response
NAME_MAX_CHARACTERS: Final = 100  # of a name that a client made up, in a response


class ConfigurationError(Exception):
    """A mistake in config, command line or environment. The message says where it is, what it is, and what is valid."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest valid one, or all of them.

    >>> did_you_mean("titel", ["title", "id"])
    'did you mean title?'
    """
    names = list(valid)
    if len(name) <= NAME_MAX_CHARACTERS and (near := get_close_matches(name, names, n=1, cutoff=0.6)):
        return f"did you mean {near[0]}?"
    return f"valid here: {', '.join(names)}" if names else "none is valid here"


def parameter_hint(name: str, valid: Iterable[str]) -> str:
    """The same about a query parameter. Of filters it is one of the same field, or of one with a similar name.

    >>> parameter_hint("author_id__in", ["author", "author__in", "pages__gte"])
    'did you mean author__in?'
    >>> parameter_hint("pages__contains", ["author", "pages", "pages__gte"])
    'valid for pages: pages, pages__gte'
    >>> parameter_hint("title__icontains", ["author__name__icontains", "search"])
    'valid here: author__name__icontains, search'
    """
    names = list(valid)
    field, *rest = name.split("__")
    if (relation := "__".join((field.removesuffix("_id"), *rest))) in names:
        return did_you_mean(relation, names)
    if not rest:
        return did_you_mean(name, names)
    similar = [each for each in names if get_close_matches(field, [each.split("__")[0]], n=1, cutoff=0.6)]
    if near := get_close_matches(name, similar, n=1, cutoff=0.8):
        return f"did you mean {near[0]}?"
    own = [each for each in similar if each.split("__")[0] == field]
    return f"valid for {field}: {', '.join(own)}" if own else f"valid here: {', '.join(names)}"


class ApiError(Exception):
    """A failure that is reported to the client as a problem document.

    Subclasses set ``status``, ``code`` and ``default_detail``.

    Args:
        detail: A sentence for people; ``default_detail`` if it is missing.
        code: A stable word for programs; that of the class if it is missing.
        errors: The messages by field.
        headers: Headers of the response.
    """

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "error"
    default_detail: ClassVar[str] = "The server could not answer this request."
    closes_connection: ClassVar[bool] = False  # after the response
    operation: int | None = None  # the place of the operation in its batch
    limit: str | None = None  # the setting whose limit the service or its caller has reached

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        errors: Messages | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.code = code or self.code
        self.errors = errors
        self.headers = dict(headers or {})
        super().__init__(self.detail)

    def problem(self, request_id: str) -> dict[str, Any]:
        """The problem document: type, title, status, detail, code, request_id, and errors if there are any."""
        document: dict[str, Any] = {
            "type": problem_type(self.code),
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        if self.errors is not None:
            document["errors"] = self.errors
        if self.operation is not None:
            document["operation"] = self.operation
        return document

    def problem_below(self, root_path: str, request_id: str) -> dict[str, Any]:
        """The problem document for clients that see the service below a path: with the address of its page there."""
        document = self.problem(request_id)
        if root_path and document["type"] == problem_type(self.code) != NO_PAGE:
            document["type"] = root_path + document["type"]
        return document


def _first_messages(errors: Any, limit: int) -> tuple[Any, int]:
    """At most ``limit`` messages of ``Messages`` or of a list, and how many messages there are in all."""
    if not isinstance(errors, Mapping):
        messages = errors if isinstance(errors, list | tuple) else [errors]
        return (errors if len(messages) <= limit else list(messages[:limit])), len(messages)
    first: dict[Any, Any] = {}
    total = 0
    for name, messages in errors.items():
        kept, count = _first_messages(messages, limit - total)
        if total < limit or not count:
            text = str(name)
            first[name if len(text) <= NAME_MAX_CHARACTERS else f"{text[:NAME_MAX_CHARACTERS]}…"] = kept
        total += count
    return first, total


class ParseError(ApiError):
    """The request cannot be read: malformed JSON, a bad parameter."""

    status = HTTPStatus.BAD_REQUEST
    code = "parse_error"
    default_detail = "The request could not be read."


class InvalidPattern(ParseError):
    """An invalid regular expression, as reported by PostgreSQL."""

    code = "invalid_parameter"
    default_detail = "Not a valid regular expression."

    def naming(self, parameters: Iterable[str]) -> InvalidPattern:
        """The same error with the names of the parameters in its message."""
        return InvalidPattern(f"{', '.join(parameters)}: not a valid regular expression.")


class ValidationError(ApiError):
    """Values that break a rule.

    Args:
        errors: The messages of every field with a wrong value, or one message about the whole body.
        detail: A sentence for people.
        code: A stable word for programs.
        unlisted: How many more messages there are than in ``errors``.
    """

    status = HTTPStatus.BAD_REQUEST
    code = "invalid"
    default_detail = "The request has invalid values."

    def __init__(
        self, errors: Messages | str, *, detail: str | None = None, code: str | None = None, unlisted: int = 0
    ) -> None:
        if isinstance(errors, str):
            errors = {"non_field_errors": [errors]}
        super().__init__(detail, code=code, errors=errors)
        self.unlisted = unlisted

    def problem(self, request_id: str) -> dict[str, Any]:
        """The problem document, with at most ``MAX_MESSAGES`` messages and the number of the others."""
        document = super().problem(request_id)
        first, total = _first_messages(self.errors or {}, MAX_MESSAGES)
        if (more := total + self.unlisted - MAX_MESSAGES) > 0:
            whole = first.get("non_field_errors", [])
            first["non_field_errors"] = [*(whole if isinstance(whole, list | tuple) else [whole]), f"and {more} more"]
        document["errors"] = first
        return document


class DoesNotFit(ValidationError):
    """A value that is too large for its column. The database does not say which one."""


class TooManyRows(ParseError):
    """A request would change more rows than it, or the viewset, allows; nothing is written."""

    code = "too_many_rows"
    default_detail = "The request would change too many rows."


class ListTooLarge(ParseError):
    """The rows of an answer would have more bytes than the settings allow."""

    code = "list_too_large"
    default_detail = "The rows have too many bytes for one answer: request fewer of them, or fewer fields."


class NotAuthenticated(ApiError):
    """Credentials are required and missing."""

    status = HTTPStatus.UNAUTHORIZED
    code = "not_authenticated"
    default_detail = "Authentication credentials were not provided."


class AuthenticationFailed(ApiError):
    """The credentials are wrong, unknown, expired or revoked."""

    status = HTTPStatus.UNAUTHORIZED
    code = "authentication_failed"
    default_detail = "The credentials are not valid."


class TokenExpired(AuthenticationFailed):
    """The credentials were right and have expired."""

    code = "token_expired"
    default_detail = "The token has expired."


class PermissionDenied(ApiError):
    """The caller is authenticated but has no permission."""

    status = HTTPStatus.FORBIDDEN
    code = "permission_denied"
    default_detail = "You do not have permission to perform this action."


class OutsideScope(PermissionDenied):
    """A written row would lie outside the rows that the caller may access; nothing is written."""

    code = "outside_scope"
    default_detail = "The row would lie outside the rows that you may access."


class NotFound(ApiError):
    """The resource, row or page does not exist."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"
    default_detail = "Not found."


class MethodNotAllowed(ApiError):
    """The path does not support this method. ``Allow`` lists those that it supports."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        allow = ", ".join(sorted(allowed))
        super().__init__(f"Method {method} is not allowed here; allowed: {allow}.", headers={"Allow": allow})


class NotAcceptable(ApiError):
    """The ``Accept`` header excludes every media type of the route."""

    status = HTTPStatus.NOT_ACCEPTABLE
    code = "not_acceptable"
    default_detail = "This route returns application/json."


class RequestTimeout(ApiError):
    """The body did not arrive within ``server.body_timeout``, or the header within ``server.header_timeout``."""

    status = HTTPStatus.REQUEST_TIMEOUT
    code = "request_timeout"
    default_detail = "The request did not arrive in time; send it again."
    closes_connection = True
    limit = "body_timeout"


class Conflict(ApiError):
    """The request conflicts with the state of the data."""

    status = HTTPStatus.CONFLICT
    code = "conflict"
    default_detail = "The request conflicts with existing data."


class KeyInUse(Conflict):
    """A request with the same ``Idempotency-Key`` is running."""

    code = "idempotency_key_in_use"
    default_detail = "A request with this Idempotency-Key is still running; send it again in a moment."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})


class AnswerNotKept(Conflict):
    """The request was carried out before, and its answer was a stream, or too long to be kept."""

    code = "idempotency_answer_not_kept"
    default_detail = "The request with this Idempotency-Key has been carried out; its answer was not kept."


class KeyReused(ApiError):
    """The ``Idempotency-Key`` of a request was that of another one."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "idempotency_key_reused"
    default_detail = "This Idempotency-Key was sent with another method, path, query or body; take a new one."


class PreconditionFailed(ApiError):
    """``If-Match`` names another version than the row has now."""

    status = HTTPStatus.PRECONDITION_FAILED
    code = "precondition_failed"
    default_detail = "The row has changed since you read it; read it again and repeat the change."


class PreconditionRequired(ApiError):
    """A change without the ``If-Match`` that the resource requires (RFC 6585, 3)."""

    status = HTTPStatus.PRECONDITION_REQUIRED
    code = "precondition_required"
    default_detail = "Send If-Match with the ETag of the row as you last read it."


class PayloadTooLarge(ApiError):
    """The body is longer than ``server.body_limit``."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "payload_too_large"
    default_detail = "The request body is too large."


class ExpectationFailed(ApiError):
    """An ``Expect`` header with another expectation than the one that HTTP has."""

    status = HTTPStatus.EXPECTATION_FAILED
    code = "expectation_failed"
    default_detail = "The Expect header has a value other than 100-continue."


class UnsupportedMediaType(ApiError):
    """The body is not JSON."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media_type"
    default_detail = "Send the body as application/json."


class Throttled(ApiError):
    """Too many requests.

    Args:
        wait: The seconds until another attempt may succeed, or ``None`` if they are not known.
    """

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "throttled"

    def __init__(self, wait: float | None = None) -> None:
        seconds = max(1, math.ceil(wait or 0))
        unit = "second" if seconds == 1 else "seconds"
        super().__init__(f"Too many requests; try again in {seconds} {unit}.", headers={"Retry-After": str(seconds)})


class TooManyStreams(ApiError):
    """A caller has too many open streams. ``wait`` is the seconds after which another attempt makes sense."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_streams"

    limit = "max_streams_per_caller"

    def __init__(self, detail: str, *, wait: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(wait)})


class Unavailable(ApiError):
    """The database is not available now. A later attempt may succeed."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"
    default_detail = "The service cannot answer right now; try again."

    def __init__(
        self, detail: str | None = None, *, code: str | None = None, retry_after: int = 1, limit: str | None = None
    ) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after)})
        self.limit = limit


class BadGateway(ApiError):
    """The origin of an edge has not answered, or not wholly. What was asked for may have been done."""

    status = HTTPStatus.BAD_GATEWAY
    code = "origin_failed"
    default_detail = "The origin of this edge has not answered."


class TooManyBodies(Unavailable):
    """The bodies that have not been answered take ``server.bodies_limit`` bytes; the rest of this one is not read."""

    code = "overloaded"
    closes_connection = True

    def __init__(self) -> None:
        super().__init__("Too many request bodies are arriving; try again later.", retry_after=5, limit="bodies_limit")


class TooManyResponses(Unavailable):
    """The responses that clients have not taken have ``server.responses_limit`` bytes."""

    code = "overloaded"

    def __init__(self) -> None:
        super().__init__(
            "Too many responses wait for slow clients; try again later, or request smaller pages.",
            retry_after=5,
            limit="responses_limit",
        )


class OperationFailed(ApiError):
    """A handler has answered an operation of a batch with an error of its own: its status, body and headers."""

    code = "operation_failed"

    def __init__(self, status: int, body: Any, *, headers: Mapping[str, str]) -> None:
        try:
            self.status = HTTPStatus(status)  # type: ignore[misc]
        except ValueError:  # one that HTTP does not have a name for
            self.status = HTTPStatus.BAD_REQUEST if status < 500 else HTTPStatus.INTERNAL_SERVER_ERROR  # type: ignore[misc]
        super().__init__(f"The operation was answered with {status}.", headers=headers)
        self.body = body

    def problem(self, request_id: str) -> dict[str, Any]:
        """The problem document, with the body that the handler has made."""
        return super().problem(request_id) | {"body": self.body}


class InternalError(ApiError):
    """A defect of the service. The log has the traceback under the request id."""

    code = "internal_error"
    default_detail = "Something went wrong on the server; its log has the details under this request_id."
