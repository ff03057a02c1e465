"""What actions return, as schemas of types: the ``response`` of ``@action``, or the annotation of its function."""

from __future__ import annotations

import dataclasses
import datetime as dt
import typing
import uuid
from collections.abc import Callable, Mapping, Set
from decimal import Decimal
from enum import Enum
from http import HTTPStatus
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from aiohttp import web

from rowcast.resources.fields import Schema
from rowcast.rest.decorators import NOT_DECLARED
from rowcast.rest.response import Response

Rows = Callable[[Any], Schema | None]  # the schema of a type that stands for rows
_SIMPLE: Final[Mapping[Any, Schema]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    None: {"type": "null"},
    Decimal: {"type": "string", "format": "decimal"},
    uuid.UUID: {"type": "string", "format": "uuid"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
    dt.time: {"type": "string"},
    dt.timedelta: {"type": "string", "format": "duration"},
}
_ARRAYS: Final = (list, set, frozenset)
_UNKNOWN: Final = (Response, web.StreamResponse)  # whose content an annotation does not say


def declared_responses(handler: Any) -> dict[int, Any]:
    """The type of an action's response by status, ``None`` for one without a body; empty if it is not declared."""
    declared = getattr(handler, "response", NOT_DECLARED)
    if isinstance(declared, Mapping):
        return dict(declared)
    if declared is NOT_DECLARED:
        try:
            hints = get_type_hints(handler)
        except (NameError, TypeError, AttributeError):  # a name that only a type checker imports
            return {}
        if "return" not in hints:
            return {}
        declared = hints["return"]
    if declared in (None, NoneType):
        return {HTTPStatus.NO_CONTENT: None}
    return {} if _says_nothing(declared) else {HTTPStatus.OK: declared}


def _says_nothing(kind: Any) -> bool:
    """Whether a type leaves open what the response is: any data, a response, or a tuple with a status."""
    if get_origin(kind) in (typing.Union, UnionType):
        return any(map(_says_nothing, get_args(kind)))
    if kind in (Any, object, dict, list) or get_origin(kind) is tuple:
        return True
    return isinstance(kind, type) and issubclass(kind, (*_UNKNOWN, tuple))


def type_schema(kind: Any, rows: Rows) -> Schema:
    """The schema of the JSON of a type's values; of a type that is not known, any JSON."""
    if (found := rows(kind)) is not None:
        return found
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, UnionType):
        return {"anyOf": [type_schema(each, rows) for each in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in _ARRAYS:
        return {"type": "array", "items": type_schema(arguments[0], rows)}
    if origin is dict:
        return {"type": "object", "additionalProperties": type_schema(arguments[1], rows)}
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return type_schema(arguments[0], rows)
    if isinstance(kind, type) and kind in _SIMPLE:
        return dict(_SIMPLE[kind])
    if typing.is_typeddict(kind):
        return _object(kind, kind.__required_keys__, rows)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _object(kind, {field.name for field in dataclasses.fields(kind)}, rows)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [each.value for each in kind]}
    return {"type": "object", "additionalProperties": True} if kind is dict else {}


def _object(kind: Any, required: Set[str], rows: Rows) -> Schema:
    """The schema of a class with annotated members."""
    properties = {name: type_schema(each, rows) for name, each in get_type_hints(kind).items()}
    return {"type": "object", "properties": properties, "required": [name for name in properties if name in required]}
