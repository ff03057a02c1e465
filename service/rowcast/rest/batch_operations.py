"""The operations of a batch as its body has them, and their references to rows of earlier ones.

``{"$ref": "a"}`` in a body is the key of the row of the operation with ``"ref": "a"``, and ``{a}`` in a path is what names this
row in addresses. An object whose one member has more dollar signs, such as ``{"$$ref": "a"}``, stands for the object with one
less, which is not a reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rowcast.errors import NAME_MAX_CHARACTERS, ParseError, PayloadTooLarge, ValidationError, did_you_mean
from rowcast.resources.lossless_json import JSON_MAX_DEPTH

METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")
MEMBERS: Final = ("method", "path", "body", "ref", "if_match")
ABSENT: Final = object()  # instead of a body

# These are in the OpenAPI document, so they are regular expressions of ECMA-262 as well.
REF_PATTERN: Final = "^[A-Za-z_][A-Za-z0-9_]{0,49}$"
PATH_PATTERN: Final = '^/([!"$-.0-~][!"$-~]*)?$'  # visible ASCII, without a host or a fragment
TAGS_PATTERN: Final = "^[!-~]+([ ,]+[!-~]+)*$"

_REF_IN_PATH: Final = re.compile(r"\{([^{}/?]*)\}")
_ESCAPED: Final = re.compile(r"\$\$+ref")


@dataclass(frozen=True, slots=True)
class References:
    """How references become values; the functions raise ``ValueError`` with the end of a sentence about the operation."""

    key: Callable[[str], Any]
    address: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of a batch. ``index`` is its place in the list; ``body`` is ``ABSENT`` if it has none."""

    index: int
    method: str
    path: str
    body: Any
    ref: str | None
    if_match: str | None

    def invalid(self, member: str, message: str) -> ValidationError:
        """The error about one of its members."""
        return invalid(self.index, member, message)

    def with_values(self, references: References) -> Operation:
        """The operation with values instead of its references; ``ValidationError`` if one has none."""

        def value(name: str, where: str) -> Any:
            try:
                return references.key(name) if where != "path" else references.address(name)
            except ValueError as error:
                raise self.invalid(where, f"The operation {name!r} {error}.") from None

        path = _REF_IN_PATH.sub(lambda match: value(match[1], "path"), self.path)
        return replace(self, path=path, body=_resolved(self, self.body, value, "body", JSON_MAX_DEPTH))


Value = Callable[[str, str], Any]  # (name of an operation, where it is referred to) → what stands there instead


def read_operations(body: Any, limit: int) -> list[Operation]:
    """The operations of a body. All that can be wrong with them before the first one is carried out is an error here.

    Raises:
        ValidationError: a member is missing, unknown or has a wrong value, or a reference is not to an earlier operation.
        PayloadTooLarge: there are more operations than ``limit``.
        ParseError: the body of an operation is nested too deeply.
    """
    if not isinstance(body, dict):
        raise ParseError('The body must be a JSON object: {"operations": [{"method": …, "path": …}]}.')
    for name in body:
        if name != "operations":
            raise ValidationError({name: [f"Unknown member; {did_you_mean(name, ['operations'])}"]})
    items = body.get("operations")
    if not isinstance(items, list) or not items:
        raise ValidationError({"operations": ["Must be a list of one operation or more."]})
    if len(items) > limit:
        raise PayloadTooLarge(f"A batch may have {limit} operations, and this one has {len(items)}.")
    refs: dict[str, int] = {}
    operations = []
    for index, item in enumerate(items):
        operation = _read(index, item)
        _check_references(operation, refs)
        if operation.ref is not None:
            if operation.ref in refs:
                raise operation.invalid("ref", f"The operation {refs[operation.ref]} has this name already.")
            refs[operation.ref] = index
        operations.append(operation)
    return operations


def invalid(index: int, member: str, message: str) -> ValidationError:
    """The error about a member of an operation."""
    error = ValidationError({member: [message]})
    error.operation = index
    return error


def _read(index: int, item: Any) -> Operation:
    """One operation, whose references are not checked."""
    if not isinstance(item, dict):
        raise invalid(index, "non_field_errors", "An operation must be an object with a method and a path.")
    for name in item:
        if name not in MEMBERS:
            raise invalid(index, name, f"Unknown member; {did_you_mean(name, MEMBERS)}")
    method, path = item.get("method"), item.get("path")
    ref, if_match = item.get("ref"), item.get("if_match")
    if not isinstance(method, str) or method not in METHODS:
        raise invalid(index, "method", f"Must be one of {', '.join(METHODS)}: a batch has changes alone.")
    if not isinstance(path, str) or not _matches(PATH_PATTERN, path):
        raise invalid(
            index,
            "path",
            "Must be a path of this service such as /books/1/, with every character percent-encoded that is not ASCII.",
        )
    if "ref" in item and not _matches(REF_PATTERN, ref):
        raise invalid(index, "ref", "Must be a name of at most 50 letters, digits and underscores.")
    if "if_match" in item and not _matches(TAGS_PATTERN, if_match):
        raise invalid(index, "if_match", "Must be the ETag of the row, with its quotes, or *.")
    return Operation(index, method, path, item.get("body", ABSENT), ref, if_match)


def _matches(pattern: str, value: Any) -> bool:
    """Whether a value is a string of this form."""
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None and not value.endswith("\n")


def _check_references(operation: Operation, refs: Mapping[str, int]) -> None:
    """Raise ``ValidationError`` unless all references are to operations in ``refs``, the earlier ones."""

    def check(name: str, where: str) -> str:
        if name not in refs:
            hint = did_you_mean(name, refs)
            raise operation.invalid(where, f"No earlier operation has the ref {name[:50]!r}; {hint}")
        return name

    for match in _REF_IN_PATH.finditer(operation.path):
        check(match[1], "path")
    _resolved(operation, operation.body, check, "body", JSON_MAX_DEPTH)


def _resolved(operation: Operation, value: Any, of: Value, where: str, depth: int) -> Any:
    """A part of a body, with what ``of`` returns instead of each reference."""
    if not isinstance(value, dict | list):
        return value
    if not depth:
        error = ParseError(f"The body of an operation of a batch may be nested {JSON_MAX_DEPTH} levels deep.")
        error.operation = operation.index
        raise error
    if isinstance(value, list):
        return [_resolved(operation, each, of, f"{where}.{number}", depth - 1) for number, each in enumerate(value)]
    if len(value) == 1:
        ((name, only),) = value.items()
        if name == "$ref":
            if not isinstance(only, str):
                raise operation.invalid(where, "A $ref must be the ref of an earlier operation.")
            return of(only, where)
        if _ESCAPED.fullmatch(name):
            return {name[1:]: _resolved(operation, only, of, f"{where}.{name[:NAME_MAX_CHARACTERS]}", depth - 1)}
    return {
        name: _resolved(operation, each, of, f"{where}.{name[:NAME_MAX_CHARACTERS]}", depth - 1)
        for name, each in value.items()
    }
