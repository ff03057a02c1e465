"""The forms of values in config files: what is accepted, what it becomes, and the JSON Schema that says so.

A form is a marshmallow field, so that files and class attributes are checked the way request bodies are. It is strict:
``"8000"`` is no integer. Only a text from outside the file (``External``) is read as whatever the form takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, TypeAlias

from marshmallow import RAISE, Schema, ValidationError, fields, post_load
from marshmallow.utils import is_collection

from rowcast.configuration.yaml import AboutKey, External
from rowcast.errors import did_you_mean

JsonSchema: TypeAlias = dict[str, Any]

REFERENCE_PATTERN: Final = r"\$\{(env|file):"
_MESSAGES: Final = {"required": "is required", "null": "may not be empty"}


class Form(fields.Field[Any]):
    """One value: ``take`` turns it as written into what it means or raises ``ValueError``; ``schema`` is its form.

    ``read`` turns a text from outside into what would be written in its place.
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
        """The JSON Schema of the value as written, a reference to something outside included."""
        return self.written


class Many(fields.List[Any]):
    """A list, which becomes a tuple; a text from outside is its items with commas between."""

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES | {"invalid": "must be a list"}  # type: ignore[misc,assignment]

    def __init__(self, inner: fields.Field[Any], *, least: int = 0, required: bool = False, null: bool = False) -> None:
        super().__init__(inner, required=required, allow_none=null)
        self.least = least

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, External):
            value = [External(item.strip()) for item in value.split(",") if item.strip()]
        try:
            items = super()._deserialize(value, attr, data, **kwargs)
        except ValidationError as error:  # without its wrong items the rest would stand in the wrong places
            raise ValidationError(error.messages) from None
        if len(items) < self.least:
            raise ValidationError("may not be empty")
        return tuple(items)

    def json_schema(self) -> JsonSchema:
        """An array, or a reference to something outside."""
        least = {"minItems": self.least} if self.least else {}
        return {"type": ["array", "string"], "items": describe(self.inner), "pattern": REFERENCE_PATTERN} | least


class Table(fields.Field[Any]):
    """A mapping from names to values of one form; a text from outside is ``name=value`` with commas between."""

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
        """An object whose values have the inner form."""
        names = {"propertyNames": {"pattern": f"^{self.names}$"}} if self.names else {}
        return {"type": "object", "additionalProperties": describe(self.inner)} | names


class Structure(Schema):
    """A mapping with known keys. Loads to what ``builds`` makes of its values, where null stands for a default."""

    class Meta:
        unknown = RAISE
        register = False

    builds: ClassVar[Callable[..., Any] | None] = None
    error_messages = {"type": "must be a mapping"}  # noqa: RUF012

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """The values as what they stand for."""
        if self.builds is None:
            return data
        return type(self).builds(**{name: value for name, value in data.items() if value is not None})  # type: ignore[misc]

    def handle_error(self, error: ValidationError, data: Any, *, many: bool, **_: Any) -> None:
        """Tell unknown keys with the nearest known one."""
        if isinstance(data, Mapping) and isinstance(error.messages, dict):
            for key in data.keys() - self.fields.keys():
                error.messages[key] = [AboutKey(f"unknown key {key!r}; {did_you_mean(key, self.fields)}")]


def structure(name: str, forms: Mapping[str, fields.Field[Any]], builds: Callable[..., Any] | None = None) -> Structure:
    """The structure with these keys."""
    made: type[Structure] = type(name, (Structure,), {**forms, "builds": staticmethod(builds) if builds else None})
    return made()


class Section(fields.Nested):
    """A structure inside another."""

    default_error_messages: ClassVar[dict[str, str]] = _MESSAGES | {"null": "must be a mapping"}  # type: ignore[misc,assignment]

    def __init__(self, inner: Structure, *, null: bool = False) -> None:
        super().__init__(inner, allow_none=null)

    def json_schema(self) -> JsonSchema:
        """An object, or null where that is allowed."""
        assert isinstance(self.schema, Structure)
        return describe_structure(self.schema)


def describe(form: fields.Field[Any]) -> JsonSchema:
    """The JSON Schema of a form."""
    assert isinstance(form, Form | Many | Table | Section)
    schema = dict(form.json_schema())
    if form.allow_none and "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        schema["type"] = [*types, "null"]
    return schema


def describe_structure(inner: Structure) -> JsonSchema:
    """The JSON Schema of a mapping with known keys."""
    schema: JsonSchema = {
        "type": "object",
        "properties": {name: describe(form) for name, form in inner.fields.items()},
        "additionalProperties": False,
    }
    if required := [name for name, form in inner.fields.items() if form.required]:
        schema["required"] = required
    return schema


def _int(text: str) -> int:
    if not re.fullmatch(r"[-+]?[0-9]{1,30}", text):
        raise ValueError("must be an integer")
    return int(text)


def _bool(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def integer(low: int | None = None, high: int | None = None, *, null: bool = False) -> Form:
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
    return Form(take, {"type": ["integer", "string"], "pattern": REFERENCE_PATTERN} | limits, read=_int, null=null)


def flag() -> Form:
    """True or false."""

    def take(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    return Form(take, {"type": ["boolean", "string"], "pattern": REFERENCE_PATTERN}, read=_bool)


def anything() -> Form:
    """Any value, checked elsewhere; a text from outside stays one."""
    return Form(lambda value: value, {}, read=External, null=True)


def text(pattern: str = "", expected: str = "", *, least: int = 0, required: bool = False, null: bool = False) -> Form:
    """A text; all of it matches the pattern, which the words after "must be" explain. No message shows the text."""

    def take(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError("must be a text" + ("" if isinstance(value, list | dict) else "; put it in quotes"))
        if pattern and not re.fullmatch(pattern, value):
            raise ValueError(f"must be {expected}")
        if len(value) < least:
            raise ValueError(f"must have at least {least} characters")
        return value

    schema: JsonSchema = {"type": "string"}
    if pattern:
        schema["pattern"] = f"^(?:{pattern})$|{REFERENCE_PATTERN}"
    return Form(take, schema, required=required, null=null)


def one_of(names: Iterable[str], *, required: bool = False) -> Form:
    """One of a few words."""
    valid = tuple(names)

    def take(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(valid)}")
        if value not in valid:
            raise ValueError(f"{value!r} is unknown; {did_you_mean(value, valid)}")
        return value

    return Form(take, {"anyOf": [{"enum": list(valid)}, {"type": "string", "pattern": REFERENCE_PATTERN}]},
                required=required)  # fmt: skip


_SECONDS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final[Mapping[str, int]] = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_DURATION: Final = rf"([0-9]{{1,12}}(?:\.[0-9]{{1,6}})?)({'|'.join(_SECONDS)})"
_SIZE: Final = rf"([0-9]{{1,12}})({'|'.join(_BYTES)})"


def seconds(value: Any) -> float:
    """The seconds of a duration such as ``10s``; ``ValueError`` says what it may be."""
    if not isinstance(value, str) or not (match := re.fullmatch(_DURATION, value)):
        raise ValueError("must be a duration such as 250ms, 10s, 5m, 24h or 30d")
    return float(match[1]) * _SECONDS[match[2]]


def octets(value: Any) -> int:
    """The bytes of a size such as ``1MiB``; ``ValueError`` says what it may be."""
    if not isinstance(value, str) or not (match := re.fullmatch(_SIZE, value)):
        raise ValueError("must be a size such as 512B, 256KiB, 1MiB or 2GB")
    return int(match[1]) * _BYTES[match[2]]


def duration() -> Form:
    """A duration such as ``10s``, in seconds."""
    return Form(seconds, {"type": "string", "pattern": f"^{_DURATION}$|{REFERENCE_PATTERN}"})


def size() -> Form:
    """A size such as ``1MiB``, in bytes."""
    return Form(octets, {"type": "string", "pattern": f"^{_SIZE}$|{REFERENCE_PATTERN}"})


CLASS_NAME: Final = r"(?:[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:)?[A-Za-z_][A-Za-z0-9_]*"

PermissionTree: TypeAlias = tuple[Any, ...]
"""``("class", name, arguments)``, ``("not", tree)``, ``("and", tree, tree)`` or ``("or", tree, tree)``."""


def _of_config(take: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A form for names that, in a class attribute, may also be the class itself (or an expression of classes)."""

    def take_either(value: Any) -> Any:
        if isinstance(value, str):
            return take(value)
        if value is None or isinstance(value, bool | int | float) or is_collection(value):
            raise ValueError("must be the name of a class")
        return value

    return take_either


def _take_class(name: str) -> str:
    if not re.fullmatch(CLASS_NAME, name):
        raise ValueError(f"{name!r} must be the name of a class, such as TaskViewSet or viewsets:TaskViewSet")
    return name


def class_name(*, null: bool = False) -> Form:
    """The name of a class, or ``module:Class`` of the config directory."""
    schema = {"type": "string", "pattern": f"^{CLASS_NAME}$|{REFERENCE_PATTERN}"}
    return Form(_of_config(_take_class), schema, null=null)


def permission() -> Form:
    """A permission expression, which becomes a ``PermissionTree``."""
    return Form(_of_config(permission_tree), {"type": "string"})


_TOKEN: Final = re.compile(
    rf"""\s*(?:(?P<name>{CLASS_NAME})|(?P<text>"[^"]*"|'[^']*')|(?P<sign>[|&~(),])|(?P<end>$))"""
)


def permission_tree(text: str) -> PermissionTree:
    """The tree of ``IsAdminUser | (IsAuthenticated & ~viewsets:IsBlocked)``; ``~`` binds tightest, then ``&``, ``|``.

    ``ValueError`` says at which character it stops making sense.
    """
    parser = _Permissions(text)
    tree = parser.either()
    parser.expect("")
    return tree


class _Permissions:
    """A recursive descent over the tokens, at most ``DEPTH`` deep."""

    DEPTH: ClassVar = 50

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.end = 0
        self.step()

    def step(self) -> None:
        """Go to the next token."""
        self.start = self.end
        match = _TOKEN.match(self.text, self.end)
        if match is None:
            self.start += len(self.text[self.end :]) - len(self.text[self.end :].lstrip())
            raise self.error()
        self.kind, self.token, self.end = str(match.lastgroup), match[str(match.lastgroup)], match.end()
        self.start = match.start(self.kind)

    def error(self) -> ValueError:
        """What is wrong at the token."""
        found = repr(self.text[self.start : self.start + 10]) if self.start < len(self.text) else "the end"
        return ValueError(
            f"no permission can be read at character {self.start + 1} ({found}); "
            "write for example IsAdminUser | (IsAuthenticated & ~viewsets:IsBlocked)"
        )

    def expect(self, token: str) -> None:
        """Step over one token, which must be this."""
        if self.token != token or self.kind == "text":
            raise self.error()
        if token:
            self.step()

    def either(self) -> PermissionTree:
        """``both | both …``"""
        tree = self.both()
        while self.token == "|":
            self.step()
            tree = ("or", tree, self.both())
        return tree

    def both(self) -> PermissionTree:
        """``one & one …``"""
        tree = self.one()
        while self.token == "&":
            self.step()
            tree = ("and", tree, self.one())
        return tree

    def one(self) -> PermissionTree:
        """``~one``, ``(either)``, a name, or a name with its arguments."""
        self.depth += 1
        if self.depth > self.DEPTH:
            raise self.error()
        if self.token == "~":
            self.step()
            tree: PermissionTree = ("not", self.one())
        elif self.token == "(":
            self.step()
            tree = self.either()
            self.expect(")")
        elif self.kind == "name":
            name = self.token
            self.step()
            tree = ("class", name, self.arguments())
        else:
            raise self.error()
        self.depth -= 1
        return tree

    def arguments(self) -> tuple[str, ...]:
        """``("text", …)``, or nothing."""
        if self.token != "(":
            return ()
        found: list[str] = []
        while self.token == ("," if found else "("):
            self.step()
            if self.kind != "text":
                raise self.error()
            found.append(self.token[1:-1])
            self.step()
        self.expect(")")
        return tuple(found)
