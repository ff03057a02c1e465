"""Config files as plain values with their places in the file.

YAML 1.2 with its core schema (so ``no`` is a string), and JSON, which is almost a subset of it. A document consists of
JSON values only: mappings with strings as keys, lists, strings, numbers, booleans, null. A key is a string as written, and
a number keeps its digits.
Tags are refused; aliases are followed, up to a limit. ``${env:NAME}``, ``${env:NAME:-default}`` and ``${file:/path}``
inside a string are replaced by the value that they name; an empty environment variable counts as not set.

Every key and value has a ``SourceLocation``. Problems are collected in ``Problems`` instead of raised, so that one run
reports all of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias

from rowcast.configuration import common_yaml
from rowcast.configuration.yaml_nodes import MAX_DEPTH, Node, Unreadable
from rowcast.errors import ConfigurationError
from rowcast.resources.lossless_json import exact_number

Steps: TypeAlias = tuple[str | int, ...]  # keys and positions that lead from the top of a document to a value

MAX_VALUES: Final = 20_000  # in a document, where an alias counts as all of its values
INTEGER_MAX_DIGITS: Final = 1_000
YAML_SUFFIXES: Final = (".yaml", ".yml")
SUFFIXES: Final = (*YAML_SUFFIXES, ".json")

REFERENCE: Final = re.compile(r"\$\{(?P<source>[a-z]+):(?P<name>[^}]*?)(?::-(?P<default>[^}]*))?\}")


class External(str):
    """A string from outside the file (variable, secret, command line). It is converted to the type of its setting."""

    __slots__ = ()


class AboutKey(str):
    """A message about a key, not its value. It is reported at the place of the key, and contains the key's name."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class SourceLocation:
    """The place of a key or value: a file with line and column, from 1; or, without a line, a variable or option."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Document:
    """The values of a file and their places. ``unread`` are the paths of values that could not be read.

    ``absent`` has the message about each value that is left out, because a variable or file that it refers to is not there.
    """

    file: str
    data: Any
    keys: Mapping[Steps, SourceLocation] = field(default_factory=dict)
    values: Mapping[Steps, SourceLocation] = field(default_factory=dict)
    unread: Collection[Steps] = frozenset()
    absent: Mapping[Steps, str] = field(default_factory=dict)

    def location(self, path: Steps, *, key: bool = False) -> SourceLocation:
        """The place of a value or of its key. For a missing one it is the place of the key that should contain it."""
        exact = (self.keys if key else self.values).get(path)
        if exact is not None:
            return exact
        while path:
            path = path[:-1]
            if found := self.keys.get(path) or self.values.get(path):
                return found
        return SourceLocation(self.file, 1, 1)


class Problems:
    """The problems of a run, a line each: those from outside first, then the files by name, line and column."""

    def __init__(self) -> None:
        self._found: dict[tuple[SourceLocation, str], None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: SourceLocation, message: str) -> None:
        """Note one problem. The same problem is noted once."""
        self._found[place, " ".join(message.split())] = None

    def update(self, others: Problems) -> None:
        """Note the problems of another collection."""
        self._found.update(others._found)

    def keys(self, document: Document, *path: str) -> set[str]:
        """The keys of the mapping at a path of the document with which something is wrong, ``""`` for the mapping itself."""
        if not self._found:
            return set()
        found, length = set(), len(path)
        for places in (document.keys, document.values):
            for at, place in places.items():
                if at[:length] == path and any(place == wrong for wrong, _ in self._found):
                    found.add(str(at[length]) if len(at) > length else "")
        outside = {place for place, _ in self._found} - set(document.keys.values()) - set(document.values.values())
        return found | ({""} if outside else set())

    def unrelated(self, names: Collection[str]) -> Problems:
        """The problems that quote none of these names, such as ``'-category__name'``."""
        found = Problems()
        for place, message in self._found:
            quoted = re.findall(r"'([^']*)'", message)
            if not any(part in names for text in quoted for part in re.split(r"__|[^\w-]", text.lstrip("-"))):
                found.add(place, message)
        return found

    def at(self, document: Document, path: Steps, message: str) -> None:
        """Note a problem of the value at a path; the message begins with its name. ``AboutKey`` is about its key.

        Problems that follow from an unread value are left out.
        """
        if any(path[:length] in document.unread for length in range(len(path) + 1)):
            return
        about_key = isinstance(message, AboutKey)
        name = "" if about_key else _value_name(path)
        self.add(document.location(path, key=about_key), f"{name}: {message}" if name else message)

    def tree(self, document: Document, messages: Any, path: Steps = ()) -> None:
        """Note the messages of a marshmallow error: mappings by key and position, with lists of messages inside."""
        if isinstance(messages, Mapping):
            for key, inner in messages.items():
                of_all = key == "_schema" and not any(isinstance(message, AboutKey) for message in inner)
                self.tree(document, inner, path if of_all else (*path, key))
        else:
            for message in messages:
                self.at(document, path, message)

    def lines(self) -> list[str]:
        """Every problem as ``file:line:column: message``."""
        found = sorted(self._found, key=lambda problem: (problem[0].line > 0, *problem))
        return [f"{place}: {message}" for place, message in found]

    def check(self) -> None:
        """Raise a ``ConfigurationError`` with every line, if there is any."""
        if self:
            raise ConfigurationError("\n".join(self.lines()))


def read(
    path: Path,
    environ: Mapping[str, str],
    problems: Problems,
    *,
    optional: Collection[Steps] = (),
    lenient: bool = False,
) -> Document | None:
    """The document in a file, or ``None`` if it cannot be read; the reason is noted in ``problems``.

    A reference to a variable that is not set makes the value at an ``optional`` path null. Elsewhere it is a problem, unless
    the document is read ``lenient``: then the value is left out, and ``Document.absent`` has the message.
    """
    file = str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        problems.add(SourceLocation(file, 1, 1), f"cannot be read: {error.strerror}")
        return None
    except UnicodeDecodeError:
        problems.add(SourceLocation(file, 1, 1), "cannot be read: it is not UTF-8")
        return None
    return parse(text, file, environ, problems, optional=optional, lenient=lenient)


def parse(
    text: str,
    file: str,
    environ: Mapping[str, str],
    problems: Problems,
    *,
    optional: Collection[Steps] = (),
    lenient: bool = False,
) -> Document | None:
    """``read`` for the text of a file."""
    if file.endswith(".json"):  # tabs may indent JSON but not YAML; no JSON string spans lines
        text = re.sub(r"^[ \t]+", lambda blank: " " * len(blank[0]), text, flags=re.MULTILINE)
    try:
        node = _compose(text)
    except Unreadable as error:
        problems.add(SourceLocation(file, error.line, error.column), error.message)
        return None
    builder = _Builder(file, environ, problems, frozenset(optional), lenient=lenient)
    try:
        data = None if node is None else builder.build(node, (), 0)
        data = None if data is _ABSENT else data
    except _LimitExceeded as error:
        problems.add(error.place, error.message)
        return None
    return Document(file, data, builder.keys, builder.values, builder.unread, builder.absent)


def _compose(text: str) -> Node | None:
    node = common_yaml.compose(text)
    if node is not None:
        return node
    from rowcast.configuration import whole_yaml

    return whole_yaml.compose(text)


@dataclass
class _LimitExceeded(Exception):
    place: SourceLocation
    message: str


_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_WORDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def _plain_value(text: str) -> Any:
    """The value of an unquoted scalar (YAML 1.2.2, section 10.3.2). ``ValueError`` for a number that JSON lacks."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if len(text) > INTEGER_MAX_DIGITS:
            raise ValueError("the number is too long")
        return int(text)
    if _BASED.fullmatch(text) and len(text) <= INTEGER_MAX_DIGITS:
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        if math.isinf(float(text)):
            raise ValueError("the number is too large")
        number = float(text)
        return number if Decimal(repr(number)) == Decimal(text) else exact_number(str(Decimal(text)))
    if _NOT_JSON.fullmatch(text):
        raise ValueError(f"{text} is not a valid number here; quote it to make it a string")
    return text


_ABSENT: Final = object()
"""In place of a value that is left out."""


class _Builder:
    """Converts the nodes of one file to values with places."""

    def __init__(
        self,
        file: str,
        environ: Mapping[str, str],
        problems: Problems,
        optional: Collection[Steps],
        *,
        lenient: bool,
    ) -> None:
        self.file = file
        self.environ = environ
        self.problems = problems
        self.optional = optional
        self.keys: dict[Steps, SourceLocation] = {}
        self.values: dict[Steps, SourceLocation] = {}
        self.unread: set[Steps] = set()
        self.lenient = lenient
        self.absent: dict[Steps, str] = {}

    def build(self, node: Node, path: Steps, depth: int) -> Any:
        place = self.values[path] = self._place(node)
        if node.empty and path in self.keys:
            self.values[path] = self.keys[path]  # an empty value, whose mark is that of the next token
        if depth > MAX_DEPTH or len(self.values) > MAX_VALUES:
            raise _LimitExceeded(place, "cannot be read: too many nested or repeated values")
        if node.tag:
            self._unread(path, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not supported; remove it")
            return None
        if node.kind == "mapping":
            return dict(self._items(node, path, depth))
        if node.kind == "list":
            items = [self.build(item, (*path, position), depth + 1) for position, item in enumerate(node.value)]
            return _ABSENT if any(item is _ABSENT for item in items) else items
        return self._scalar(node, path)

    def _items(self, node: Node, path: Steps, depth: int) -> Iterator[tuple[str, Any]]:
        seen: dict[str, SourceLocation] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if key_node.kind != "scalar":
                self.problems.add(place, "a key must be a string")
                continue
            key = self._text(key_node.value)
            if key is None:
                self.problems.add(place, "a key cannot contain this character: U+0000 or half of a surrogate pair")
                continue
            if key in seen:
                self.problems.add(place, f"duplicate key {key!r}; it is already set in line {seen[key].line}")
                continue
            seen[key] = self.keys[*path, key] = place
            value = self.build(value_node, (*path, key), depth + 1)
            if value is not _ABSENT:
                yield key, value

    def _scalar(self, node: Node, path: Steps) -> Any:
        text = self._text(node.value)
        if text is None:
            return self._unread(path, "a string cannot contain this character: U+0000 or half of a surrogate pair")
        if "${" in text:
            return self._replace_references(text, path)
        try:
            return _plain_value(text) if node.plain else text
        except ValueError as error:
            return self._unread(path, str(error))

    def _replace_references(self, text: str, path: Steps) -> Any:
        """The string with its references replaced by the values that they name."""
        found = list(REFERENCE.finditer(text))
        if not found:
            return text
        parts, end = [], 0
        for match in found:
            try:
                value = _look_up(match, self.environ)
            except _NotThere as error:
                if path in self.optional and match[0] == text and match["source"] == "env":
                    return None
                if self.lenient:
                    self.absent[path] = str(error)
                    return _ABSENT
                return self._unread(path, str(error))
            except LookupError as error:
                return self._unread(path, str(error.args[0]))
            parts += [text[end : match.start()], value]
            end = match.end()
        return External("".join([*parts, text[end:]]))

    def _unread(self, path: Steps, message: str) -> Any:
        self.problems.add(self.values[path], message)
        self.unread.add(path)
        return External()

    @staticmethod
    def _text(text: str) -> str | None:
        """The string with JSON's surrogate pairs joined, or ``None`` if PostgreSQL cannot store it."""
        try:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return None
        return None if "\x00" in text else text

    def _place(self, node: Node) -> SourceLocation:
        return SourceLocation(self.file, node.line, node.column)


class _NotThere(Exception):
    """A reference is right, and what it names is not there."""


def _look_up(match: re.Match[str], environ: Mapping[str, str]) -> str:
    """The value that a reference names. ``_NotThere`` says what is missing, ``LookupError`` what is wrong."""
    name = match["name"]
    match match["source"]:
        case "env":
            value = environ.get(name) or match["default"]
            if value is None:
                raise _NotThere(f"the environment variable {name} is not set")
            return value
        case "file":
            try:
                return Path(name).read_text("utf-8").removesuffix("\n").removesuffix("\r")
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise _NotThere(f"the file {name} cannot be read: {reason}") from None
    raise LookupError(f"${{{match['source']}:…}} is unknown; use ${{env:NAME}} or ${{file:/path}}")


def _value_name(path: Sequence[str | int]) -> str:
    """The name of a value in messages: its key, with positions, such as ``choices[1]``."""
    name = ""
    for step in path:
        name = f"{name}[{step}]" if isinstance(step, int) else step
    return name
