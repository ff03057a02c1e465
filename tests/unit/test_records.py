"""Files of rows: what is read of them, piece by piece, and where they are wrong."""

from __future__ import annotations

import io
import json
from typing import Any
from unittest import mock

import pytest

from rowcast.rest import records
from rowcast.rest.records import RecordWriter, UnreadableFile, read_records, split_cells


def read(text: str | bytes, format: str) -> list[tuple[int, Any]]:
    """The lines of the records, with the values or what is wrong with them."""
    file = io.BytesIO(text.encode() if isinstance(text, str) else text)
    return [(each.line, each.problem or each.values) for each in read_records(file, format)]


def broken(text: str | bytes, format: str) -> tuple[int, str]:
    """The line and the message at which a file cannot be read on."""
    with pytest.raises(UnreadableFile) as raised:
        read(text, format)
    return raised.value.line, str((raised.value.errors or {})["non_field_errors"][0])


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("a,b", ["a", "b"]),
        ("a,", ["a", None]),
        (",", [None, None]),
        ('"",', ["", None]),
        ('"a,b","c ""d"""', ["a,b", 'c "d"']),
        ('" a" ,b', None),
        ('a"b,c', None),
        ('"a"b', None),
    ],
)
def test_cells(text: str, cells: list[str | None] | None) -> None:
    """An empty cell is none, a pair of quotes the empty string, and a quote elsewhere a mistake."""
    if cells is None:
        with pytest.raises(ValueError, match="in quotes"):
            split_cells(text)
    else:
        assert split_cells(text) == cells


def test_csv_lines_are_physical() -> None:
    """With quoted values of several lines, blank lines, and both ends of lines; the file may begin with a mark."""
    text = '\ufeffa,b\r\n1,"x\n\ny"\n\n"2",z\r\n3,q"\n4,ok'
    problem = 'A value with a quote in it has to be in quotes, and the quote twice: "a ""b"" c".'
    assert read(text, "csv") == [
        (2, {"a": "1", "b": "x\n\ny"}), (6, {"a": "2", "b": "z"}), (7, problem), (8, {"a": "4", "b": "ok"}),
    ]  # fmt: skip
    assert read(b"a\n\xff\nb", "csv") == [(2, "The record is not UTF-8."), (3, {"a": "b"})]
    assert broken("", "csv") == (1, "the first line must have a name for each column; the file is empty")
    assert broken("a,,b\n", "csv") == (1, "the first line must have a name for each column")
    assert broken("a,b,a\n", "csv") == (1, "the header has the name 'a' twice")
    assert broken("a;b\n", "csv") == (1, "the columns are separated by ';': separate them by commas")
    assert broken('a\n1\n"2\n3\n', "csv") == (3, "a quote opens here that is not closed")


def test_ndjson() -> None:
    """Numbers keep their digits, and blank lines are none."""
    found = read(b'\xef\xbb\xbf{"a": 1}\n\n [1]\n{"a": 1, "a": 2}\n{"b": 12345678901234567890.5}', "ndjson")
    assert [line for line, _ in found] == [1, 3, 4, 5]
    assert found[1][1] == "The record must be a JSON object."
    assert "there twice" in found[2][1]
    assert str(found[3][1]["b"]) == "12345678901234567890.5"


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 16])
def test_json_array_is_read_in_pieces(size: int) -> None:
    """Wherever a piece ends."""
    rows = [{"a": 'x "}]{[,\\', "b": [1, {"c": "é\n"}]}, {}, {"a": None}]
    text = "\ufeff \n[\n" + ",\n".join(json.dumps(row, ensure_ascii=False, indent=1) for row in rows) + "\n]\n"
    with mock.patch.object(records, "_CHUNK_CHARACTERS", size):
        found = read(text, "json")
        assert [values for _, values in found] == rows
        assert [line for line, _ in found] == [3, 12, 13]
        assert read("[]", "json") == []
        assert read("[{}]", "json") == [(1, {})]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file must be one JSON array of objects"),
        ('{"a": 1}', 1, "the file must be one JSON array of objects"),
        ('[\n{"a": 1}', 2, "the array is not closed"),
        ("[\n1]", 2, "here must be an object of the array"),
        ("[{}\n{}]", 2, "here must be an object of the array"),
        ("[{},,{}]", 1, "here must be an object of the array"),
        ("[{},\n]", 2, "here must be an object of the array"),
        ("[{}]\n[]", 2, "the file goes on after its array"),
        ('[\n{"a": 1\n', 2, "the object that begins here is not valid JSON: Expecting ',' delimiter"),
        (b"[\n\xff]", 1, "what follows here is not UTF-8"),
    ],
)
def test_json_that_is_no_array(text: str | bytes, line: int, message: str) -> None:
    """The line is named."""
    assert broken(text, "json") == (line, message)


@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
def test_what_is_written_can_be_read(format: str) -> None:
    """Of CSV the values are strings, and JSON."""
    rows = [b'{"a":"x \\"y\\",\\nz","b":null,"c":[1,"2"]}', b'{"a":"","b":true,"c":12345678901234567890123}']
    writer = RecordWriter(format, ["a", "b", "c"])
    text = writer.start() + writer.rows(rows[:1]) + writer.rows(rows[1:]) + writer.end()
    found = [values for _, values in read(text, format)]
    if format == "csv":
        assert found == [
            {"a": 'x "y",\nz', "b": None, "c": '[1,"2"]'}, {"a": "", "b": "true", "c": "12345678901234567890123"},
        ]  # fmt: skip
    else:
        assert [list(each.values())[:2] for each in found] == [['x "y",\nz', None], ["", True]]
        assert str(found[1]["c"]) == "12345678901234567890123"
