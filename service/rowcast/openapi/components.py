"""What every document has and no resource changes: headers, security schemes, and the schemas of the service's own bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rowcast.openapi.values import OBJECT
from rowcast.resources.fields import Schema
from rowcast.rest.batch_operations import METHODS, PATH_PATTERN, REF_PATTERN, TAGS_PATTERN
from rowcast.rest.idempotency import REPLAYED
from rowcast.rest.response import TRANSACTION
from rowcast.rest.stream_queries import NAME_MAX_CHARACTERS, QUERIES_MAX

HEADERS: Final[Mapping[str, Schema]] = {
    "X-Request-ID": {
        "description": "The id of the request in the service's log. It is the client's own `X-Request-ID` if that fits "
        "the pattern.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
    },
    "X-Stream-Position": {
        "description": "The position from which a stream continues exactly after this response.",
        "schema": {"type": "string"},
    },
    "ETag": {
        "description": "The version of the content, for `If-None-Match`; that of a row also for `If-Match`.",
        "schema": {"type": "string"},
    },
    TRANSACTION: {
        "description": "The transaction of the change, which its events have as `tx`. Without it nothing was changed.",
        "schema": {"type": "string"},
    },
    "X-Created": {"description": "The number of new rows.", "schema": {"type": "integer", "minimum": 0}},
    "X-Updated": {"description": "The number of changed rows.", "schema": {"type": "integer", "minimum": 0}},
    "X-Deleted": {"description": "The number of deleted rows.", "schema": {"type": "integer", "minimum": 0}},
    "Preference-Applied": {"description": "The preferences that were honoured.", "schema": {"type": "string"}},
    "Location": {"description": "The address of the new row.", "schema": {"type": "string", "format": "uri"}},
    REPLAYED: {
        "description": "The request was carried out before, and this is the answer of then.",
        "schema": {"const": "true"},
    },
    "Allow": {"description": "The methods of this address.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to authenticate.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "The seconds to wait before trying again.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
SECURITY_SCHEMES: Final[Mapping[str, Schema]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "`Authorization: Bearer …` with an access token or a JSON Web Token.",
    },
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Authorization: Token …` with an access token.",
    },
}
TICKET_SCHEMA: Final[Schema] = {
    "type": "object",
    "properties": {"ticket": {"type": "string"}, "expires_in": {"type": "integer", "description": "Seconds."}},
    "required": ["ticket", "expires_in"],
}
PROBLEM_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "The address of a page about the code, or `about:blank` for a code of this service's own.",
        },
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "A sentence for people."},
        "code": {"type": "string", "description": "A stable word for programs."},
        "request_id": {"type": "string"},
        "errors": OBJECT | {"description": "The messages for each invalid field."},
        "operation": {"type": "integer", "minimum": 0, "description": "The place of the operation in its batch."},
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
METADATA_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "The methods, media types and body fields of an address.",
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "methods": {"type": "array", "items": {"type": "string"}},
        "renders": {"type": "array", "items": {"type": "string"}},
        "parses": {"type": "array", "items": {"type": "string"}},
        "actions": {
            "type": "object",
            "description": "For each method with a body, the fields of that body.",
            "additionalProperties": {"type": "object", "additionalProperties": OBJECT},
        },
        "prefer": {
            "type": "array",
            "description": "The names of the preferences that the address honours.",
            "items": {"type": "string"},
        },
        "import": {
            "type": "object",
            "description": "The parameters of an import, with the values that each takes.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
        "nested": {
            "type": "object",
            "description": "The relations whose rows a body may have, and what may be done with them.",
            "additionalProperties": OBJECT,
        },
        "list": OBJECT | {"description": "What a list shows, and how it is filtered, sorted and paged."},
        "many": {
            "type": "object",
            "description": "What a list takes for many rows: how many, how they are named, and what takes filters.",
            "properties": {
                "max_bulk": {"type": "integer"},
                "key": {"type": "array", "items": {"type": "string"}},
                "by_filter": {"type": "array", "items": {"enum": ["update", "destroy"]}},
                "on": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            },
        },
        "soft_delete": OBJECT,
    },
    "required": ["name", "description", "methods", "renders", "parses", "actions"],
}
IMPORT_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "How many records of a file are new rows, changed rows, and refused, and the messages by line.",
    "properties": {
        "created": {"type": "integer", "minimum": 0},
        "updated": {"type": "integer", "minimum": 0},
        "failed": {"type": "integer", "minimum": 0},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "line": {"type": "integer", "minimum": 1},
                    "errors": OBJECT | {"description": "The messages for each invalid field."},
                },
                "required": ["line", "errors"],
            },
        },
    },
    "required": ["created", "updated", "failed", "errors"],
}
NOTICE_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "The data of the events `ready`, `reset`, `snapshot` and `stale`. `reason` is why the client must load its "
    "data again, `rows` are current rows, and `resources` are those of a stream of several resources. In `stale`, `ids` are the "
    "keys of the related rows that have changed, null for all, and `path` is where rows show them.",
    "properties": {
        "resource": {"type": "string"},
        "resources": {"type": "array", "items": {"type": "string"}},
        "reason": {"type": "string"},
        "rows": {"type": "array", "items": OBJECT},
        "path": {"type": "string"},
        "ids": {"type": ["array", "null"], "items": {}},
    },
}
QUERY_EVENTS: Final[Mapping[str, str]] = {
    "query": "All events until the next one of this name belong to the query.",
    "refused": "The query is not opened; `problem` is why.",
}


def query_event_schema(problem: Schema) -> Schema:
    """The data of the events of ``QUERY_EVENTS``."""
    return {
        "type": "object",
        "description": "The data of the events `query`, which says to which query the following events belong, and `refused`.",
        "properties": {"query": {"type": "string"}, "problem": problem},
        "required": ["query"],
    }


def queries_schema(queries: Sequence[Schema]) -> Schema:
    """The body of ``QUERY /stream/``; ``queries`` are the schemas of one query of each resource."""
    return {
        "type": "object",
        "description": "Queries by a name of the client's. Each is a stream of its own.",
        "properties": {
            "queries": {
                "type": "object",
                "minProperties": 1,
                "maxProperties": QUERIES_MAX,
                "propertyNames": {"minLength": 1, "maxLength": NAME_MAX_CHARACTERS},
                "additionalProperties": {"anyOf": [*queries]},
            }
        },
        "required": ["queries"],
        "additionalProperties": False,
    }


def query_schema(resource: str, params: Mapping[str, Schema]) -> Schema:
    """One query of a resource, with the parameters of its stream."""
    return {
        "type": "object",
        "properties": {
            "resource": {"const": resource},
            "params": {"type": "object", "properties": {**params}, "additionalProperties": False},
            "last_event_id": {
                "type": ["string", "null"],
                "description": "The position to resume from. Without it the query begins now.",
            },
        },
        "required": ["resource"],
        "additionalProperties": False,
    }


BATCH_DESCRIPTION: Final = (
    "Carry out all of these changes, in their order and in one transaction, or none. Each is answered as if it came alone. "
    '`{"$ref": "a"}` in a body is the key of the row of the earlier operation with `"ref": "a"`, and `{a}` in a path is '
    "what names that row in addresses. A failure is that of the first operation that fails, and `operation` is its place."
)
BATCH_RESULT_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "The responses to the operations of a batch, in their order.",
    "properties": {
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "status": {"type": "integer", "minimum": 200, "maximum": 399},
                    "headers": {"type": "object", "additionalProperties": {"type": "string"}},
                    "body": {"description": "The body of the response: JSON, another text as a string, or null."},
                },
                "required": ["status", "headers", "body"],
            },
        }
    },
    "required": ["results"],
}


def batch_schema(limit: int) -> Schema:
    """The schema of the body of a batch with at most so many operations."""
    operation = {
        "type": "object",
        "properties": {
            "method": {"enum": list(METHODS)},
            "path": {
                "type": "string",
                "pattern": PATH_PATTERN,
                "description": "The address, with its query string.",
            },
            "body": {"description": "The JSON of the operation's body."},
            "ref": {"type": "string", "pattern": REF_PATTERN, "description": "What later operations call its row."},
            "if_match": {"type": "string", "pattern": TAGS_PATTERN, "description": "Its `If-Match`."},
        },
        "required": ["method", "path"],
        "additionalProperties": False,
    }
    operations = {"type": "array", "minItems": 1, "maxItems": limit, "items": operation}
    return {
        "type": "object",
        "description": "Changes of a batch.",
        "properties": {"operations": operations},
        "required": ["operations"],
        "additionalProperties": False,
    }


HEALTH_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "Whether the service is available, and the reason if it is not. `config` is the result of the last reload.",
    "properties": {
        "status": {"enum": ["ok", "unavailable"]},
        "reason": {"type": "string"},
        "config": {
            "type": "object",
            "properties": {
                "state": {"enum": ["applied", "rejected"]},
                "at": {"type": "string", "format": "date-time"},
                "problems": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["state", "at"],
        },
    },
    "required": ["status"],
}
