"""Types of values in config files: the values they take, what these become, and their JSON Schema.

A type is a marshmallow field, so config files and class attributes are checked in the same way as request bodies. It is
strict: ``"8000"`` is not an integer. Only a string from outside the file (``External``) is read as the type requires.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, TypeAlias

from marshmallow import RAISE, Schema, ValidationError, fields, missing, post_load
from marshmallow.utils import is_collection

from rowcast.configuration.permission_expression import CLASS_NAME, permission_tree
from rowcast.configuration.yaml import AboutKey, External
from rowcast.errors import did_you_mean

JsonSchema: TypeAlias = dict[str, Any]

REFERENCE_PATTERN: Final = r"\$\{(env|file):"
_MESSAGES: Final = {"required": "is required", "null": "may not be empty"}

BIG_INTEGER_FORMS: Final = ("number", "string")  # of integers of 64 bits in JSON


class ValueType(fields.Field[Any]):
    """One value. ``take`` converts it from its written form or raises ``ValueError``; ``schema`` is its JSON Schema.

    ``read`` converts a string from outside to the written form.
    """

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES  # type: ignore[misc,assignment]

    def __init__(
        self,
        take: Callable[[Any], Any],
        schema: JsonSchema,
        *,
        read: Callable[[str], Any] = str,
        required: bool = False,
        null: bool = False,
    ) -> None:
        super().__init__(required=required, allow_none=null)
        self.take = take
        self.read = read
        self.written = schema

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        try:
            return self.take(self.read(value) if isinstance(value, External) else value)
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def json_schema(self) -> JsonSchema:
        """The JSON Schema of the written value; it includes references such as ``${env:NAME}``."""
        return self.written


class ListOf(fields.List[Any]):
    """A list, which becomes a tuple. A string from outside holds its items, separated by commas."""

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES | {"invalid": "must be a list"}  # type: ignore[misc,assignment]

    def __init__(self, inner: fields.Field[Any], *, least: int = 0, required: bool = False, null: bool = False) -> None:
        super().__init__(inner, required=required, allow_none=null)
        self.least = least

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, External):
            value = [External(item.strip()) for item in value.split(",") if item.strip()]
        try:
            items = super()._deserialize(value, attr, data, **kwargs)
        except ValidationError as error:  # no valid_data: without the wrong items the others would have wrong positions
            raise ValidationError(error.messages) from None
        if len(items) < self.least:
            raise ValidationError("may not be empty")
        return tuple(items)

    def json_schema(self) -> JsonSchema:
        """An array, or a reference."""
        least = {"minItems": self.least} if self.least else {}
        return {"type": ["array", "string"], "items": describe(self.inner), "pattern": REFERENCE_PATTERN} | least


class MappingOf(fields.Field[Any]):
    """A mapping from names to values of one type. A string from outside is ``name=value,name=value``."""

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES  # type: ignore[misc,assignment]

    def __init__(self, inner: fields.Field[Any], *, names: str = "", required: bool = False) -> None:
        super().__init__(required=required)
        self.inner = inner
        self.names = names

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, External):
            pairs = (item.partition("=") for item in value.split(",") if item.strip())
            value = {name.strip(): External(text.strip()) for name, _, text in pairs}
        if not isinstance(value, Mapping):
            raise ValidationError("must be a mapping")
        taken, errors = {}, {}
        for name, item in value.items():
            try:
                taken[name] = self.inner.deserialize(item)
            except ValidationError as error:
                errors[name] = error.messages
                if error.valid_data is not None:
                    taken[name] = error.valid_data
        if errors:
            raise ValidationError(errors, valid_data=taken)
        return taken

    def json_schema(self) -> JsonSchema:
        """An object whose values have the inner type."""
        names = {"propertyNames": {"pattern": f"^{self.names}$"}} if self.names else {}
        return {"type": "object", "additionalProperties": describe(self.inner)} | names


class Section(Schema):
    """A mapping with fixed keys. It becomes what ``builds`` makes of its values; null stands for a default."""

    class Meta:
        unknown = RAISE
        register = False

    builds: ClassVar[Callable[..., Any] | None] = None
    error_messages = {"type": "must be a mapping"}  # noqa: RUF012

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """The result of ``builds``, or the values themselves."""
        if self.builds is None:
            return data
        return type(self).builds(**{name: value for name, value in data.items() if value is not None})  # type: ignore[misc]

    def load_valid(self, data: Mapping[str, Any]) -> Any:
        """What ``load`` makes of a mapping without mistakes, in a third of its time; ``missing`` if there are any."""
        if not data.keys() <= self.fields.keys():
            return missing
        values = {}
        try:
            for name, value_type in self.fields.items():
                if name in data:
                    values[name] = value_type.deserialize(data[name], name, data)
                elif value_type.required:
                    return missing
            return self.build(values)
        except ValidationError:
            return missing

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **_: Any) -> None:
        """Report unknown keys, each with the nearest valid one."""
        if isinstance(data, Mapping) and isinstance(error.messages, dict):
            for key in data.keys() - self.fields.keys():
                error.messages[key] = [AboutKey(f"unknown key {key!r}; {did_you_mean(key, self.fields)}")]


def section(name: str, types: Mapping[str, fields.Field[Any]], builds: Callable[..., Any] | None = None) -> Section:
    """The section with these keys and the types of their values."""
    made: type[Section] = type(name, (Section,), {**types, "builds": staticmethod(builds) if builds else None})
    return made()


class Nested(fields.Nested):
    """A section inside another."""

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES | {"null": "must be a mapping"}  # type: ignore[misc,assignment]

    def __init__(self, inner: Section, *, null: bool = False) -> None:
        super().__init__(inner, allow_none=null)

    def _deserialize(self, value: Any, attr: str | None, data: Any, *args: Any, **kwargs: Any) -> Any:
        assert isinstance(self.schema, Section)
        found = self.schema.load_valid(value) if isinstance(value, Mapping) else missing
        return super()._deserialize(value, attr, data, *args, **kwargs) if found is missing else found

    def json_schema(self) -> JsonSchema:
        """An object, or null if that is allowed."""
        assert isinstance(self.schema, Section)
        return describe_section(self.schema)


class NestedOrValue(Nested):
    """A section inside another, or a value that stands for a section with one key alone."""

    def __init__(self, inner: Section, key: str, *, null: bool = False) -> None:
        super().__init__(inner, null=null)
        self.key = key

    def _deserialize(self, value: Any, attr: str | None, data: Any, *args: Any, **kwargs: Any) -> Any:
        short = value is not None and not isinstance(value, Mapping | list)
        return super()._deserialize({self.key: value} if short else value, attr, data, *args, **kwargs)

    def json_schema(self) -> JsonSchema:
        """An object, or the value of its key."""
        assert isinstance(self.schema, Section)
        section = super().json_schema()
        if self.allow_none:
            section["type"] = ["object", "null"]
        return {"anyOf": [describe(self.schema.fields[self.key]), section]}


class ListOrSection(fields.Field[Any]):
    """A list, or a section."""

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES  # type: ignore[misc,assignment]

    def __init__(self, items: ListOf, inner: Section) -> None:
        super().__init__()
        self.items = items
        self.nested = Nested(inner)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, Mapping | list | External):
            raise ValidationError("must be a list, or a mapping")
        return (self.nested if isinstance(value, Mapping) else self.items).deserialize(value, attr, data)

    def json_schema(self) -> JsonSchema:
        """An array, or an object."""
        return {"anyOf": [describe(self.items), describe(self.nested)]}


class TrueOrList(ListOf):
    """A list, or ``true`` for everything that could be in it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, bool):
            return value
        return super()._deserialize(value, attr, data, **kwargs)

    def json_schema(self) -> JsonSchema:
        """A boolean or an array, or a reference."""
        return {"anyOf": [{"type": "boolean"}, super().json_schema()]}


def describe(value_type: fields.Field[Any]) -> JsonSchema:
    """The JSON Schema of a type."""
    schema = dict(value_type.json_schema())  # type: ignore[attr-defined]
    if value_type.allow_none and "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*types, "null"]
    return schema


def describe_section(inner: Section) -> JsonSchema:
    """The JSON Schema of a section."""
    schema: JsonSchema = {
        "type": "object",
        "properties": {name: describe(each) for name, each in inner.fields.items()},
        "additionalProperties": False,
    }
    if required := [name for name, each in inner.fields.items() if each.required]:
        schema["required"] = required
    return schema


def _read_integer(text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,30}", text):
        raise ValueError("must be an integer")
    return int(text)


def _read_boolean(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def integer(low: int | None = None, high: int | None = None, *, null: bool = False) -> ValueType:
    """An integer within limits."""

    def take(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be an integer")
        if low is not None and value < low:
            raise ValueError(f"must be at least {low}")
        if high is not None and value > high:
            raise ValueError(f"must be at most {high}")
        return value

    limits = {name: limit for name, limit in (("minimum", low), ("maximum", high)) if limit is not None}
    return ValueType(
        take, {"type": ["integer", "string"], "pattern": REFERENCE_PATTERN} | limits, read=_read_integer, null=null
    )


def boolean(*, null: bool = False) -> ValueType:
    """True or false."""

    def take(value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    written = {"type": ["boolean", "string"], "pattern": REFERENCE_PATTERN}
    return ValueType(take, written, read=_read_boolean, null=null)


def any_value() -> ValueType:
    """Any value, checked elsewhere. A string from outside stays an ``External``."""
    return ValueType(lambda value: value, {}, read=External, null=True)


def string(
    pattern: str = "", expected: str = "", *, least: int = 0, required: bool = False, null: bool = False
) -> ValueType:
    """A string that matches the whole pattern; ``expected`` completes the message "must be …".

    No message contains the string, which may be a secret.
    """

    def take(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("must be a string" + ("" if isinstance(value, list | dict) else "; quote it"))
        if pattern and not re.fullmatch(pattern, value):
            raise ValueError(f"must be {expected}")
        if len(value) < least:
            raise ValueError(f"must have at least {least} characters")
        return value

    schema: JsonSchema = {"type": "string"}
    if pattern:
        schema["pattern"] = f"^(?:{pattern})$|{REFERENCE_PATTERN}"
    return ValueType(take, schema, required=required, null=null)


def one_of(names: Iterable[str], *, required: bool = False) -> ValueType:
    """One of these names."""
    valid = tuple(names)

    def take(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(valid)}")
        if value not in valid:
            raise ValueError(f"{value!r} is unknown; {did_you_mean(value, valid)}")
        return value

    return ValueType(take, {"anyOf": [{"enum": list(valid)}, {"type": "string", "pattern": REFERENCE_PATTERN}]},
                required=required)  # fmt: skip


_SECONDS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final[Mapping[str, int]] = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_DURATION: Final = rf"([0-9]{{1,12}}(?:\.[0-9]{{1,6}})?)({'|'.join(_SECONDS)})"
_SIZE: Final = rf"([0-9]{{1,12}})({'|'.join(_BYTES)})"


def duration_in_seconds(value: Any) -> float:
    """The seconds of a duration such as ``10s``. ``ValueError`` says what is valid."""
    if not isinstance(value, str) or not (match := re.fullmatch(_DURATION, value)):
        raise ValueError("must be a duration such as 250ms, 10s, 5m, 24h or 30d")
    return float(match[1]) * _SECONDS[match[2]]


def size_in_bytes(value: Any) -> int:
    """The bytes of a size such as ``1MiB``. ``ValueError`` says what is valid."""
    if not isinstance(value, str) or not (match := re.fullmatch(_SIZE, value)):
        raise ValueError("must be a size such as 512B, 256KiB, 1MiB or 2GB")
    return int(match[1]) * _BYTES[match[2]]


def duration(*, zero: bool = True) -> ValueType:
    """A duration such as ``10s``, in seconds. Without ``zero`` it must be longer than 0."""

    def take(value: Any) -> float:
        seconds = duration_in_seconds(value)
        if not seconds and not zero:
            raise ValueError("must be longer than 0")
        return seconds

    return ValueType(take, {"type": "string", "pattern": f"^{_DURATION}$|{REFERENCE_PATTERN}"})


def size() -> ValueType:
    """A size such as ``1MiB``, in bytes."""
    return ValueType(size_in_bytes, {"type": "string", "pattern": f"^{_SIZE}$|{REFERENCE_PATTERN}"})


def _or_object(take: Callable[[str], Any]) -> Callable[[Any], Any]:
    """``take`` for names, extended to class attributes, whose value may be the class or expression itself."""

    def take_either(value: Any) -> Any:
        if isinstance(value, str):
            return take(value)
        if value is None or isinstance(value, bool | int | float | Mapping) or is_collection(value):
            raise ValueError("must be the name of a class")
        return value

    return take_either


def _take_class(name: str) -> str:
    if not re.fullmatch(CLASS_NAME, name):
        raise ValueError(f"{name!r} must be the name of a class, such as TaskViewSet or viewsets:TaskViewSet")
    return name


def class_name(*, null: bool = False) -> ValueType:
    """The name of a class, or ``module:Class`` of the config directory."""
    schema = {"type": "string", "pattern": f"^{CLASS_NAME}$|{REFERENCE_PATTERN}"}
    return ValueType(_or_object(_take_class), schema, null=null)


def permission(*, null: bool = False) -> ValueType:
    """A permission expression, which becomes a ``PermissionTree``."""
    return ValueType(_or_object(permission_tree), {"type": "string"}, null=null)
