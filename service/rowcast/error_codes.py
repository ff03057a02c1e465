"""The error codes of Rowcast: what each means, and what to do. ``/docs/errors/<code>`` shows them, and so does rest.md.

The ``type`` of a problem document is the address of its code's page. A code that the user's own Python chooses has no page,
and ``type`` is then ``about:blank`` (RFC 9457, 4.2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

PAGES: Final = "/docs/errors/"
NO_PAGE: Final = "about:blank"


class ErrorCode(NamedTuple):
    """What a code means: the statuses of its responses, the cause, and what a client does. Text in backticks is code."""

    status: str
    cause: str
    action: str


_FIX: Final = "Correct the request. Sending it again unchanged has the same result."
_WAIT: Final = "Send the request again after the seconds in `Retry-After`."
_OPERATOR: Final = "Tell the operator of the service, who finds the reason in its log by `request_id`."

ERROR_CODES: Final[Mapping[str, ErrorCode]] = {
    # --- the request
    "parse_error": ErrorCode(
        "400", "The request cannot be read, for example because its body is not valid JSON.", _FIX
    ),
    "invalid": ErrorCode(
        "400",
        "Values of the body break rules.",
        "`errors` has the messages of each field. Show them at the fields, and send the corrected values.",
    ),
    "does_not_exist": ErrorCode(
        "400",
        "A foreign key or a link refers to a row that does not exist, or that the caller may not see.",
        "`errors` names the field. Choose a key of a row that the list of the related resource shows.",
    ),
    "unknown_parameter": ErrorCode(
        "400",
        "This address does not take the parameter.",
        "`detail` has the nearest valid name. `/openapi.json` lists the parameters of each address.",
    ),
    "invalid_parameter": ErrorCode(
        "400", "A parameter cannot be parsed, refers to something that does not exist, or is repeated.", _FIX
    ),
    "invalid_cursor": ErrorCode(
        "400",
        "The cursor was not issued for this list and order.",
        "Begin again without a cursor, and follow `next` and `previous` as they are.",
    ),
    "expansion_too_large": ErrorCode(
        "400",
        "`?expand=` would add more rows or bytes than `server.expand_limit` and `expand_size_limit` allow.",
        "Expand less, or request smaller pages.",
    ),
    "list_too_large": ErrorCode(
        "400",
        "The rows of the answer would have more bytes than `server.list_size_limit` allows.",
        "Request smaller pages, or fewer `fields`. `Accept: application/x-ndjson` sends rows of any size.",
    ),
    "too_many_rows": ErrorCode(
        "400",
        "More rows match than `Prefer: max-affected` or `max_bulk` allows. Nothing is written.",
        "Narrow the filters, or allow more rows in `Prefer`.",
    ),
    "not_in_batch": ErrorCode(
        "400",
        "The answer of an operation cannot be part of the answer of its batch.",
        "Send the operation alone. `operation` is its place in the batch.",
    ),
    "operation_failed": ErrorCode(
        "4xx, 5xx",
        "A handler has answered an operation of a batch with an error of its own. Nothing is written.",
        "`operation` is the place of the operation, and `body` is what the handler returned.",
    ),
    "invalid_host": ErrorCode(
        "400",
        "`Host`, the target, `X-Forwarded-Host` or `Forwarded` names a host that `server.allowed_hosts` does not allow, or is malformed.",
        "Call the service by one of its names. An operator adds names to `server.allowed_hosts`.",
    ),
    "idempotency_key_required": ErrorCode(
        "400",
        "The viewset requires an `Idempotency-Key`.",
        "Send a random string of your own, such as a UUID, and the same one when you send the request again.",
    ),
    "invalid_idempotency_key": ErrorCode(
        "400",
        "The `Idempotency-Key` is too long or too short, or has characters that it may not have.",
        "Send a random string of 16 to 255 printable ASCII characters, such as a UUID.",
    ),
    # --- the caller
    "not_authenticated": ErrorCode(
        "401", "Credentials are required.", "Send `Authorization`. `WWW-Authenticate` says which kinds are accepted."
    ),
    "authentication_failed": ErrorCode(
        "401",
        "The credentials are wrong, unknown or revoked.",
        "Send other credentials. Bad ones are refused also where none are needed.",
    ),
    "token_expired": ErrorCode(
        "401", "The credentials have expired.", "Get new credentials and send the request again."
    ),
    "permission_denied": ErrorCode(
        "403", "The caller is authenticated but not permitted.", "Use credentials that may do this."
    ),
    "outside_scope": ErrorCode(
        "403",
        "The written row would lie outside the rows that the caller may access. Nothing is written.",
        "Write values with which the caller could read the row.",
    ),
    "database_role": ErrorCode(
        "403",
        "The role in the database that the credentials give may not be used, or lacks a right.",
        "Use other credentials, or let the operator grant the right to the role.",
    ),
    # --- what is addressed
    "not_found": ErrorCode(
        "404",
        "The address or the row does not exist, or the caller may not see it.",
        "Check the address. The list shows the rows that the caller may see.",
    ),
    "no_stream": ErrorCode(
        "404",
        "The stream would depend on a `write_only` field, which the change log does not have.",
        "Load the list again from time to time. The operator can base the scope on another field.",
    ),
    "invalid_page": ErrorCode("404", "The page does not exist.", "Begin again with the first page."),
    "method_not_allowed": ErrorCode(
        "405", "The address does not support the method.", "`Allow` lists the methods of the address."
    ),
    "not_acceptable": ErrorCode(
        "406", "`Accept` excludes every media type of the address.", "Accept `application/json`, or leave `Accept` out."
    ),
    # --- the transfer
    "request_timeout": ErrorCode(
        "408",
        "The header or the body did not arrive within `server.header_timeout` or `server.body_timeout`. "
        "The connection is closed.",
        "Send the request again on a new connection.",
    ),
    "payload_too_large": ErrorCode(
        "413",
        "The body is longer than `server.body_limit`, or has more than `max_bulk` rows or `server.batch_limit` operations.",
        "Send less at once.",
    ),
    "unsupported_media_type": ErrorCode(
        "415",
        "The body is not JSON, or its `Content-Encoding` is neither `gzip` nor `deflate`.",
        "Send JSON with `Content-Type: application/json`.",
    ),
    "expectation_failed": ErrorCode(
        "417", "The `Expect` header has another value than `100-continue`.", "Leave the header out."
    ),
    # --- the state of the data
    "conflict": ErrorCode(
        "409",
        "Existing data does not allow the change.",
        "Read the data again, and decide whether the change still applies.",
    ),
    "unique": ErrorCode(
        "409",
        "Another row has the value. This also happens if two requests race for it.",
        "`errors` names the fields. Send another value, or change the row that has it.",
    ),
    "referenced": ErrorCode(
        "409", "Other rows refer to the row.", "Delete those rows first, or let them refer to another row."
    ),
    "serialization_failure": ErrorCode("409", "Concurrent changes collided three times.", "Send the request again."),
    "precondition_failed": ErrorCode(
        "412",
        "The row has changed since the version in `If-Match`.",
        "Read the row again, apply the change to it, and send the new `ETag`.",
    ),
    "precondition_required": ErrorCode(
        "428", "The resource requires `If-Match` for a change.", "Send the `ETag` of the row as you last read it."
    ),
    "idempotency_key_reused": ErrorCode(
        "422",
        "The `Idempotency-Key` was sent with another method, path, query or body.",
        "Send a new key with a new request.",
    ),
    "idempotency_key_in_use": ErrorCode(
        "409", "A request with the same `Idempotency-Key` is running.", "Send the request again after a second."
    ),
    "idempotency_answer_not_kept": ErrorCode(
        "409",
        "The request with this `Idempotency-Key` was carried out, and its answer was not kept.",
        "Read what it has changed.",
    ),
    # --- the service
    "throttled": ErrorCode("429", "There were too many requests.", _WAIT),
    "too_many_streams": ErrorCode(
        "429, 503",
        "Too many streams are open, of this caller or in all.",
        "Close streams that are not needed, or read several resources from `/stream/`. Try again after `Retry-After`.",
    ),
    "internal_error": ErrorCode("500", "The service has a defect. The log has the traceback.", _OPERATOR),
    "error": ErrorCode(
        "500", "The code of `ApiError`, if Python code of the service raises it. Rowcast itself never does.", _OPERATOR
    ),
    "origin_failed": ErrorCode(
        "502",
        "An edge has passed a request on, and its origin has not answered, or not wholly.",
        "What was asked for may have been done: look first, or use an `Idempotency-Key`. Then try again.",
    ),
    "unavailable": ErrorCode("503", "The database cannot answer now.", _WAIT),
    "starting": ErrorCode("503", "The service is not ready.", f"`/health/ready` has the reason. {_WAIT}"),
    "database_unavailable": ErrorCode("503", "The database cannot be reached.", _WAIT),
    "origin_unavailable": ErrorCode("503", "An edge cannot reach its origin.", _WAIT),
    "database_busy": ErrorCode("503", "Every connection is busy, or a lock could not be acquired.", _WAIT),
    "overloaded": ErrorCode(
        "503",
        "Too many connections are open, requests are being answered, bodies arrive, responses wait for slow clients, or exports "
        "are under way.",
        _WAIT,
    ),
    "statement_timeout": ErrorCode(
        "503",
        "The statement ran longer than `database.statement_timeout`.",
        "Narrow the filters, or ask the operator for an index.",
    ),
    "read_only": ErrorCode("503", "The database does not accept writes.", _WAIT),
    "database_forbidden": ErrorCode("503", "The service's role lacks a right in the database.", _OPERATOR),
    "schema_mismatch": ErrorCode("503", "The schema was changed while the service was running.", _OPERATOR),
}


def problem_type(code: str) -> str:
    """The ``type`` of a problem document with this code: the address of its page, below ``server.root_path``.

    >>> problem_type("unique"), problem_type("a_code_of_your_own")
    ('/docs/errors/unique', 'about:blank')
    """
    return f"{PAGES}{code}" if code in ERROR_CODES else NO_PAGE
