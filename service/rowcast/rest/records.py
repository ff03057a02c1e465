"""Files of rows: CSV with a header line, NDJSON, and one JSON array, read as records with their lines, and written.

In CSV an empty cell is nothing, and a pair of quotes (``""``) is the empty string. A value that is a list or an object is
JSON. A record's line is the physical line on which it begins. Files are read piece by piece, so they may be of any length.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

import orjson

from rowcast.errors import ValidationError
from rowcast.resources.fields import Kind
from rowcast.resources.lossless_json import Raw, encode, parse, parse_body
from rowcast.resources.resource import Resource

FORMATS: Final = ("csv", "ndjson", "json")
SUFFIXES: Final = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json"}
RECORD_MAX_BYTES: Final = 64 << 20  # a longer one is not a record, but a quote that nobody has closed
_CHUNK_CHARACTERS: Final = 1 << 16
_CELL: Final = re.compile(r'(?:"((?:[^"]|"")*)"|([^",]*))(,|\Z)')
_QUOTED: Final = re.compile(r'[",\r\n]')
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
_SIGNED_NUMBER: Final = re.compile(r"[-+][0-9]+(?:\.[0-9]+)?")
_WHITE: Final = re.compile(r"[ \t\r\n]*")
_DECODER: Final = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its line, and its values by name, or why it has none. ``text`` is whether they are CSV's strings."""

    line: int
    values: Mapping[str, Any]
    problem: str | None = None
    text: bool = False


class UnreadableFile(ValidationError):
    """The rest of a file cannot be read as records."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def read_records(file: IO[bytes], format: str) -> Iterator[Record]:
    """The records of a file; ``UnreadableFile`` where what follows cannot be read."""
    return _READERS[format](file)


def _read_csv(file: IO[bytes]) -> Iterator[Record]:
    """With ``None`` for empty cells. The first record has the names."""
    rows = _csv_rows(file)
    line, text = next(rows, (1, ""))
    try:
        header = [name or "" for name in split_cells(text.removeprefix("\ufeff"))]
    except ValueError as error:
        raise UnreadableFile(line, str(error)) from None
    if wrong := next((name for name in header if not name or header.count(name) > 1), None):
        raise UnreadableFile(line, f"the header has the name {wrong!r} twice")
    if "" in header:
        hint = "" if text else "; the file is empty"
        raise UnreadableFile(line, f"the first line must have a name for each column{hint}")
    if len(header) == 1 and (other := next((each for each in ";\t|" if each in header[0]), None)):
        raise UnreadableFile(line, f"the columns are separated by {other!r}: separate them by commas")
    for line, text in rows:
        try:
            cells = split_cells(text)
        except ValueError as error:
            yield Record(line, {}, str(error))
            continue
        if len(cells) != len(header):
            yield Record(line, {}, f"The record has {len(cells)} values, and the header has {len(header)} names.")
        elif not text.isascii() and not _is_unicode(text):
            yield Record(line, {}, "The record is not UTF-8.")
        else:
            yield Record(line, dict(zip(header, cells, strict=True)), text=True)


def _csv_rows(file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """The line and the text of each record, which has several lines if a quoted value has; blank lines are none."""
    parts: list[bytes] = []
    quotes = size = start = 0
    for number, line in enumerate(file, 1):
        if not parts:
            start = number
            if not line.strip(b"\r\n"):
                continue
        parts.append(line)
        quotes += line.count(b'"')
        size += len(line)
        if quotes % 2 == 0 or (len(parts) == 1 and not _is_open(line)):
            yield start, b"".join(parts).rstrip(b"\r\n").decode(errors="surrogateescape")
            parts, quotes, size = [], 0, 0
        elif size > RECORD_MAX_BYTES:
            break
    if parts:
        raise UnreadableFile(start, "a quote opens here that is not closed")


def _is_open(line: bytes) -> bool:
    """Whether a cell of a record that begins with this line goes on in the next line."""
    text, place = line.decode(errors="surrogateescape"), 0
    while (match := _CELL.match(text, place)) is not None and match[3]:
        place = match.end()
    return text.startswith('"', place)


def split_cells(text: str) -> list[str | None]:
    """The cells of a CSV record, ``None`` for empty ones; ``ValueError`` for a quote in the wrong place."""
    if '"' not in text:
        return [cell or None for cell in text.split(",")]
    cells: list[str | None] = []
    place = 0
    while True:
        match = _CELL.match(text, place)
        if match is None:
            raise ValueError('A value with a quote in it has to be in quotes, and the quote twice: "a ""b"" c".')
        cells.append(match[2] or None if match[1] is None else match[1].replace('""', '"'))
        if not match[3]:
            return cells
        place = match.end()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_ndjson(file: IO[bytes]) -> Iterator[Record]:
    """One object a line; blank lines are none."""
    for number, line in enumerate(file, 1):
        if text := (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip():
            yield _json_record(number, text)


def _read_json(file: IO[bytes]) -> Iterator[Record]:
    """The objects of one array."""
    text = _Text(file)
    if text.next_character() != "[":
        raise UnreadableFile(text.line, "the file must be one JSON array of objects")
    text.skip()
    separator = ""
    while (mark := text.next_character()) != "]":
        if separator == "," and mark == separator:
            text.skip()
            mark, separator = text.next_character(), ""
        if separator or mark != "{":
            raise UnreadableFile(
                text.line, "here must be an object of the array" if mark else "the array is not closed"
            )
        line = text.line
        yield _json_record(line, text.take_object().encode())
        separator = ","
    text.skip()
    if text.next_character():
        raise UnreadableFile(text.line, "the file goes on after its array")


class _Text:
    """The text of a file from a place on. ``line`` is the line of that place."""

    def __init__(self, file: IO[bytes]) -> None:
        self.line = 1
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        self._buffer = ""
        self._place = 0

    def next_character(self) -> str:
        """The next character that is not white space; an empty string at the end."""
        while True:
            space = _WHITE.match(self._buffer, self._place)
            assert space is not None
            self.line += self._buffer.count("\n", self._place, space.end())
            self._place = space.end()
            if self._place < len(self._buffer):
                return self._buffer[self._place]
            if not self._read(_CHUNK_CHARACTERS):
                return ""

    def skip(self) -> None:
        """Pass the next character."""
        self._place += 1

    def take_object(self) -> str:
        """The text of the object that begins here."""
        more = _CHUNK_CHARACTERS
        while True:
            try:
                _, end = _DECODER.raw_decode(self._buffer, self._place)
                break
            except (json.JSONDecodeError, RecursionError) as error:
                if len(self._buffer) - self._place > RECORD_MAX_BYTES or not self._read(more):
                    raise UnreadableFile(
                        self.line, f"the object that begins here is not valid JSON: {_reason(error)}"
                    ) from None
                more *= 2
        text = self._buffer[self._place : end]
        self.line += text.count("\n")
        self._place = end
        return text

    def _read(self, size: int) -> bool:
        try:
            more = self._file.read(size)
        except UnicodeDecodeError:
            raise UnreadableFile(self.line, "what follows here is not UTF-8") from None
        self._buffer = self._buffer[self._place :] + more
        self._place = 0
        return bool(more)


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"


def _json_record(line: int, text: bytes) -> Record:
    try:
        values = parse_body(text)
    except ValueError as error:
        return Record(line, {}, f"The record is not valid JSON: {error}.")
    return Record(line, values) if isinstance(values, dict) else Record(line, {}, "The record must be a JSON object.")


_READERS: Final[Mapping[str, Callable[[IO[bytes]], Iterator[Record]]]] = {
    "csv": _read_csv,
    "ndjson": _read_ndjson,
    "json": _read_json,
}


class RecordWriter:
    """Makes the pieces of a file of rows, which are given as JSON; ``names`` are their columns.

    In CSV the values of the names ``as_json`` are JSON, strings too. With ``excel`` other strings that a spreadsheet would take for
    formulas begin with an apostrophe in CSV.
    """

    def __init__(self, format: str, names: Iterable[str], *, as_json: Container[str] = (), excel: bool = False) -> None:
        self._format = format
        self._names = list(names)
        cell = _harmless_cell if excel else _cell
        self._cells = [(name, _json_cell if name in as_json else cell) for name in self._names]
        self._before = b""

    def start(self) -> bytes:
        """What is before the first row."""
        return {"csv": _csv_line(self._names), "json": b"["}.get(self._format, b"")

    def rows(self, rows: Iterable[bytes]) -> bytes:
        """Some rows, after those before."""
        if self._format == "csv":
            return b"".join(_csv_line([cell(row.get(name)) for name, cell in self._cells]) for row in map(parse, rows))
        if self._format == "ndjson":
            return b"".join(row + b"\n" for row in rows)
        pieces = []
        for row in rows:
            pieces.append(self._before + b"\n" + row)
            self._before = b","
        return b"".join(pieces)

    def end(self) -> bytes:
        """What is after the last row."""
        return b"\n]\n" if self._format == "json" else b""


def _cell(value: Any) -> str | None:
    """A value of JSON as a cell; ``None`` for an empty one."""
    if value is None:
        return None
    return value if type(value) is str else _json_cell(value)


def _json_cell(value: Any) -> str | None:
    """A value of JSON as a cell that is JSON; ``None`` for an empty one."""
    if value is None:
        return None
    return bytes(value).decode() if isinstance(value, Raw) else encode(value).decode()


def json_columns(resource: Resource) -> list[str]:
    """The columns of a resource whose cells are JSON."""
    return [name for name, field in resource.columns.items() if field.field_type.kind is Kind.JSON]


def _harmless_cell(value: Any) -> str | None:
    """A cell that no spreadsheet takes for a formula; a number with a sign is none."""
    cell = _cell(value)
    if type(value) is str and value.startswith(_FORMULA_STARTS) and not _SIGNED_NUMBER.fullmatch(value):
        return f"'{cell}"
    return cell


def with_crlf(lines: bytes) -> bytes:
    """Whole records of CSV as PostgreSQL writes them, with the line ends of ``RecordWriter``; those in quotes stay."""
    if b'"' not in lines:
        return lines.replace(b"\n", b"\r\n")
    parts = lines.split(b'"')
    parts[::2] = [part.replace(b"\n", b"\r\n") for part in parts[::2]]
    return b'"'.join(parts)


def _csv_line(cells: Iterable[str | None]) -> bytes:
    return (",".join("" if cell is None else _quoted(cell) for cell in cells) + "\r\n").encode()


def _quoted(cell: str) -> str:
    if cell and not _QUOTED.search(cell):
        return cell
    return '"' + cell.replace('"', '""') + '"'


def json_of_text(text: str) -> Any:
    """The value of a cell that is JSON; ``ValueError`` if it is not."""
    return parse_body(text.encode())


def with_keys_alone(row: bytes, links: Mapping[str, str]) -> bytes:
    """A row whose linked rows are their keys: ``links`` has the name of the key by relation."""
    values = parse(row)
    for name, key in links.items():
        values[name] = [linked[key] for linked in orjson.loads(encode(values[name]))]
    return encode(values)
