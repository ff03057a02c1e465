"""What operations have in common: the texts of the standard actions, failures, headers, security, and fixed schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from rowcast import errors
from rowcast.identity.authentication import JWTAuthentication, TokenAuthentication
from rowcast.identity.permissions import SAFE_METHODS, AllowAny, IsAdminUser, IsAuthenticated, IsAuthenticatedOrReadOnly
from rowcast.openapi import group_events
from rowcast.openapi.components import (
    NOTICE_SCHEMA,
    PROBLEM_SCHEMA,
    SECURITY_SCHEMES,
)
from rowcast.openapi.parameters import header_parameter
from rowcast.openapi.schemas import Schemas
from rowcast.resources.fields import Schema
from rowcast.rest.idempotency import KEY, KEY_MAX_CHARACTERS, REPLAYED, SHARED_KEY_MIN_CHARACTERS
from rowcast.rest.media_types import JSON
from rowcast.rest.plan import ModelPlan, ViewPlan
from rowcast.rest.preferences import preferences_of
from rowcast.rest.reading import READ_AFTER

PROBLEM: Final = "application/problem+json"
EVENT_STREAM: Final = "text/event-stream"


COMMON_FAILURES: Final = (
    HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE,
)  # fmt: skip
READ_FAILURES: Final = (*COMMON_FAILURES, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE)
WRITE_FAILURES: Final = (
    *READ_FAILURES, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)  # fmt: skip
ROW_FAILURES: Final = (*WRITE_FAILURES, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED)
LIFECYCLE_EVENTS: Final = ("ready", "reset", "snapshot", "stale")
STREAM_FAILURES: Final = (*COMMON_FAILURES, HTTPStatus.BAD_REQUEST)
_FAILURES: Final[Mapping[HTTPStatus, errors.ApiError]] = {
    failure.status: failure
    for failure in (
        errors.ValidationError({"title": ["This field is required."]}),
        errors.NotAuthenticated(),
        errors.PermissionDenied(),
        errors.NotFound(),
        errors.NotAcceptable(),
        errors.Conflict(),
        errors.KeyReused(),
        errors.PreconditionFailed(),
        errors.PreconditionRequired(),
        errors.RequestTimeout(),
        errors.PayloadTooLarge(),
        errors.UnsupportedMediaType(),
        errors.Throttled(30),
        errors.Unavailable(),
    )
}
_FAILURE_HEADERS: Final[Mapping[HTTPStatus, tuple[str, ...]]] = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate",),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After",),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After",),
}
_EXAMPLE_REQUEST_ID: Final = "0f6c1e2ab34d5978"


@dataclass(frozen=True, slots=True)
class StandardOperation:
    """The same for every resource: ``{}`` in the summary is the resource; ``header`` is the request header it reads."""

    summary: str
    description: str
    failures: tuple[HTTPStatus, ...]
    header: Schema | None = None


_IF_NONE_MATCH: Final = header_parameter(
    "If-None-Match", "ETags of responses that the client has. If one of them is current, the response is a 304."
)
_IF_MATCH: Final = header_parameter(
    "If-Match", "ETags of the row as the client read it. If the row has changed since, the response is a 412."
)
IF_MATCH_ADDRESS: Final = header_parameter(
    "If-Match", "ETags of a GET of this address. If what it shows has changed since, the response is a 412."
)
MANY_ROWS_HEADERS: Final[Mapping[str, tuple[str, ...]]] = {  # the headers of responses by operation
    "partial_update_rows": ("X-Updated", "Preference-Applied"),
    "destroy_rows": ("X-Deleted", "Preference-Applied"),
    "update_rows": ("X-Created", "X-Updated", "Preference-Applied", "Location", "ETag"),
}
_PREFERENCES: Final[Mapping[str, str]] = {
    "return": "`return=minimal`: the response has no body; a 200 is then a 204.",
    "count": "`count=exact`, `count=estimated` or `count=none`: how rows are counted.",
    "max-affected": "`max-affected=10`: if the request would write more rows, nothing is written and the response is a 400.",
    "handling": "`handling=strict`: a preference that is not known is a 400; otherwise it is ignored.",
}


def prefer(plan: ModelPlan, action: str, *, importing: bool = False) -> Schema:
    """The header with the preferences that an action honours."""
    names = [*preferences_of(plan, [action], importing=importing)]
    return header_parameter("Prefer", " ".join(text for name, text in _PREFERENCES.items() if name in names))


IDEMPOTENCY_KEY: Final = header_parameter(
    KEY,
    "A string of the client's for this change, such as a UUID. A request that is sent again with the same key gets the answer "
    f"of the first one. With credentials it may be shorter than {SHARED_KEY_MIN_CHARACTERS} characters.",
) | {"schema": {"type": "string", "pattern": rf"^[!#-\[\]-~]{{{SHARED_KEY_MIN_CHARACTERS},{KEY_MAX_CHARACTERS}}}$"}}
READ_AFTER_HEADER: Final = header_parameter(
    READ_AFTER,
    "The `X-Transaction` of a change, the id of an event, or an `X-Stream-Position`; or several with spaces in between. The "
    "response has at least what they have.",
)
REPLICA_ACTIONS: Final = ("list", "retrieve", "aggregate")  # which may be read from replicas
LAST_EVENT_ID_HEADER: Final = header_parameter(
    "Last-Event-ID", "The position to resume from. Browsers send it when they reconnect."
)
STANDARD_OPERATIONS: Final[Mapping[str, StandardOperation]] = {
    "list": StandardOperation(
        "{} list",
        "The rows that match. To continue exactly after this response, open a stream with the response's "
        "`X-Stream-Position` as `last_event_id`. The method `QUERY`, which OpenAPI 3.1 has no place for, takes the same "
        "parameters in a JSON body.",
        (*READ_FAILURES, HTTPStatus.PRECONDITION_FAILED),
        _IF_NONE_MATCH,
    ),
    "create": StandardOperation(
        "Create {}",
        "Insert a row, or the rows of an array: all of them or none. The messages of an error have the place of the row.",
        (*WRITE_FAILURES, HTTPStatus.PRECONDITION_FAILED),
    ),
    "retrieve": StandardOperation(
        "Retrieve {}",
        "One row.",
        (*READ_FAILURES, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED),
        _IF_NONE_MATCH,
    ),
    "update": StandardOperation(
        "Update {}",
        "Change a row. The body must contain every required field; optional fields that it leaves out are not changed.",
        ROW_FAILURES,
        _IF_MATCH,
    ),
    "partial_update": StandardOperation(
        "Change parts of {}",
        "Change only the fields that the body contains.",
        ROW_FAILURES,
        _IF_MATCH,
    ),
    "destroy": StandardOperation(
        "Delete {}",
        "Delete a row. If other rows require it, the response is a 409.",
        (
            *COMMON_FAILURES,
            HTTPStatus.NOT_ACCEPTABLE,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.CONFLICT,
            HTTPStatus.PRECONDITION_FAILED,
        ),
        _IF_MATCH,
    ),
    "restore": StandardOperation("Restore {}", "Take back the deletion of a row.", ROW_FAILURES, _IF_MATCH),
    "aggregate": StandardOperation(
        "{} groups",
        "Counts, sums and other functions of the rows that the list has with the same filters, in groups. A parameter such as "
        "`sum_price__gte` or `count__gte`, the name of a result with `gt`, `gte`, `lt`, `lte` or `ne`, is a condition on "
        "results.",
        (*READ_FAILURES, HTTPStatus.PRECONDITION_FAILED),
        _IF_NONE_MATCH,
    ),
    "aggregate_stream": StandardOperation(
        "{} groups, live", group_events.DESCRIPTION, STREAM_FAILURES, LAST_EVENT_ID_HEADER
    ),
    "partial_update_rows": StandardOperation(
        "Change parts of several {}",
        "Change the rows that the objects of an array name by their keys, all of them or none. The messages of an error "
        "have the place of the row.",
        (*WRITE_FAILURES, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED),
    ),
    "destroy_rows": StandardOperation(
        "Delete several {}",
        "Delete rows, all of them or none. If other rows require one of them, the response is a 409.",
        (*READ_FAILURES, HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.PRECONDITION_FAILED),
    ),
    "import": StandardOperation(
        "Import {}",
        "Insert the records of a file; with `on` change the rows that are there. All of them are written, or none unless "
        "`errors=skip`. The messages of an error have the line on which the record begins.",
        (*WRITE_FAILURES, HTTPStatus.PRECONDITION_FAILED),
    ),
    "update_rows": StandardOperation(
        "Create or update {}",
        "Insert a row, or the rows of an array, or change those that have the same values of the unique rule in `on`.",
        (*WRITE_FAILURES, HTTPStatus.PRECONDITION_FAILED),
    ),
    "stream": StandardOperation(
        "{} stream",
        "Every committed change of the rows that a list with the same filters returns, as server-sent events. An event "
        "without a name is a change. `ready` means that the stream is open. After `reset` the client must load its data "
        "again. The id of every event is a position to resume from.",
        STREAM_FAILURES,
        LAST_EVENT_ID_HEADER,
    ),
    "stream_row": StandardOperation(
        "Stream of one {}",
        "Every committed change of one row, as server-sent events. The stream stays open when the row is deleted, and "
        "reports the row if it is inserted again.",
        (*STREAM_FAILURES, HTTPStatus.NOT_FOUND),
        LAST_EVENT_ID_HEADER,
    ),
}
BATCH_FAILURES: Final = (*WRITE_FAILURES, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED)


def header_references(*names: str) -> Schema:
    """The headers of a response; every response has ``X-Request-ID``."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def response(description: str, media_type: str, schema: Schema, *headers: str, **keywords: Any) -> Schema:
    """A response with a body. ``keywords`` are those of its media type."""
    return {
        "description": description,
        "headers": header_references(*headers),
        "content": {media_type: {"schema": schema, **keywords}},
    }


def problem(schemas: Schemas) -> Schema:
    """The reference to the schema of problem documents."""
    return schemas.shared("Problem", PROBLEM_SCHEMA)


def failure_responses(schemas: Schemas) -> dict[str, Schema]:
    """The ``components.responses``: one for each failure, under the name of its exception."""
    return {
        type(failure).__name__: response(
            failure.detail,
            PROBLEM,
            problem(schemas),
            *_FAILURE_HEADERS.get(status, ()),
            example=failure.problem(_EXAMPLE_REQUEST_ID),
        )
        for status, failure in _FAILURES.items()
    }


def failure_references(statuses: Iterable[HTTPStatus]) -> dict[str, Schema]:
    """References to the responses of failures, by status."""
    return {
        str(int(status)): {"$ref": f"#/components/responses/{type(_FAILURES[status]).__name__}"}
        for status in sorted(statuses)
    }


def event_stream(
    schemas: Schemas, events: Sequence[Schema], *named: str, lifecycle: Sequence[str] = LIFECYCLE_EVENTS
) -> Schema:
    """The response of a stream with references to the schemas of its events. ``named`` are the names that these have.

    OpenAPI 3.1 has no keyword for the events of a stream; ``x-itemSchema`` is ``itemSchema`` of OpenAPI 3.2.
    """
    notice = schemas.shared("StreamNotice", NOTICE_SCHEMA)
    names = " or ".join(f"`{_name_of(event)}`" for event in events)
    *others, last = [f"`{name}`" for name in lifecycle]
    schema = {
        "type": "string",
        "description": f"Server-sent events. The `data` of each is JSON: `{_name_of(notice)}` in the events "
        f"{', '.join(others)} and {last}, and {names} in all others.",
    }
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": {"anyOf": [*events, notice]}}
    item = {
        "type": "object",
        "properties": {
            "event": {"enum": [*lifecycle, *named]},
            "id": {"type": "string"},
            "data": data,
        },
    }
    return response("Every change, once it is committed.", EVENT_STREAM, schema, **{"x-itemSchema": item})


def exported_rows(row: Schema) -> dict[str, Schema]:
    """The contents of a list whose client asks for all rows; for NDJSON with the schema of a row, as for streams."""
    lines = {"type": "string", "description": "All rows, without pages: a JSON object in each line."}
    table = {
        "type": "string",
        "description": "All rows, without pages: the names in the first line, CRLF after each row. With the parameter "
        "`excel=true` a cell that a spreadsheet would take for a formula begins with an apostrophe.",
    }
    return {"text/csv": {"schema": table}, "application/x-ndjson": {"schema": lines, "x-itemSchema": row}}


def _name_of(reference: Schema) -> str:
    return str(reference["$ref"].rpartition("/")[2])


_ANONYMOUS_METHODS: Final[Mapping[type, frozenset[str] | None]] = {  # methods that need no credentials; None is all
    AllowAny: None,
    IsAuthenticated: frozenset(),
    IsAdminUser: frozenset(),
    IsAuthenticatedOrReadOnly: SAFE_METHODS,
}
_POLICY_METHODS: Final = ("get_permissions", "check_permissions", "get_authenticators", "perform_authentication")


def security(plan: ViewPlan, method: str) -> Schema:
    """The credentials that a method accepts, and whether it needs any; empty if Python code of the user's decides."""
    if not all(permission in _ANONYMOUS_METHODS for permission in plan.permission_classes):
        return {}
    if plan.overrides(*_POLICY_METHODS):
        return {}
    methods_allowed = [_ANONYMOUS_METHODS[permission] for permission in plan.permission_classes]
    anonymous = all(methods is None or method in methods for methods in methods_allowed)
    return credentials_of(plan.authentication_classes, anonymous=anonymous)


def credentials_of(authentication_classes: Sequence[type[Any]], *, anonymous: bool = False) -> Schema:
    """The credentials that these classes accept; empty if one of them is the user's. Without ``anonymous`` they are needed."""
    if not all(each in (TokenAuthentication, JWTAuthentication) for each in authentication_classes):
        return {}
    if not authentication_classes:
        return {"security": []}
    return {"security": [*([{}] if anonymous else []), *({name: []} for name in SECURITY_SCHEMES)]}


# --- retries


def add_key(operation: Schema, *, required: bool) -> None:
    """Describe the ``Idempotency-Key`` of an unsafe operation."""
    parameter = IDEMPOTENCY_KEY | ({"required": True} if required else {})
    operation["parameters"] = [*operation.get("parameters", ()), parameter]
    operation["responses"] |= failure_references(
        status
        for status in (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
        if str(int(status)) not in operation["responses"]
    )
    for status, described in operation["responses"].items():
        if status.startswith("2") or status == "default":
            described["headers"] |= header_references(REPLAYED)
