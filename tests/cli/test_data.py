"""``rowcast load`` and ``rowcast dump``: rows from and to files, on PostgreSQL."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from rowcast.resources.types import FIELD_TYPES

from ..conftest import configure, rowcast
from .terminal import Terminal

BOOKS = {
    "authors": "fields: {id: {type: integer, primary_key: true}, name: {type: string, max_length: 20}}",
    "tags": "fields: {id: {type: integer, primary_key: true}, name: {type: string}}",
    "books": """\
fields:
  id: {type: integer, primary_key: true}
  isbn: {type: string, unique: true, null: true, max_length: 13}
  title: {type: string, max_length: 20}
  pages: {type: integer, min: 1, null: true}
  subtitle: {type: string, default: "", null: true}
  sold: {type: boolean, default: false}
  author: {type: foreign_key, to: authors, null: true}
  tags: {type: many_to_many, to: tags}
  added: {type: datetime, auto_now_add: true}
  changed: {type: datetime, auto_now: true}
unique: [[title, pages]]
""",
}
PLAIN = {"plain": "fields: {id: {type: integer, primary_key: true}, note: {type: string, default: x}}"}
pytestmark = pytest.mark.tables(BOOKS)


class Files:
    """A directory with the config and files of rows, whose commands use the test's database."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.directory = directory
        self.database_url = database_url
        configure(directory / "config", BOOKS)

    def load(self, text: str | bytes, *arguments: str, name: str = "books.csv") -> tuple[int, str]:
        """Load a text into books: the exit code and the output, without the directory and the seconds."""
        path = self.directory / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return self.run("load", str(path), "books", *arguments)

    def run(self, *arguments: str) -> tuple[int, str]:
        code, output = rowcast(self.directory, *arguments, DATABASE_URL=self.database_url)
        return code, re.sub(r" \(\d+\.\d s\)", "", output.replace(f"{self.directory}/", ""))


@pytest.fixture
def files(tmp_path: Path, database_url: str) -> Files:
    return Files(tmp_path, database_url)


async def titles(sql: asyncpg.Connection) -> list[Any]:
    return [row["title"] for row in await sql.fetch("SELECT title FROM books ORDER BY id")]


# --- loading


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.csv", 'title,pages,sold\r\none,10,true\r\n"two, ""2""\n2",,\r\n\r\nthree,3,0\r\n'),
        (
            "b.ndjson",
            '{"title": "one", "pages": 10, "sold": true}\n\n{"title": "two, \\"2\\"\\n2"}\n{"title":"three","pages":3}',
        ),
        (
            "b.json",
            '\n[ {"title": "one", "pages": 10, "sold": true},\n{"title": "two, \\"2\\"\\n2"} ,{"title":"three","pages":3}]\n',
        ),
    ],
)
async def test_every_format_is_loaded(files: Files, sql: asyncpg.Connection, name: str, text: str) -> None:
    """With defaults for what is not there, and generated values."""
    assert files.load(text, name=name) == (0, "books: 3 created, 0 updated, 0 failed")
    rows = await sql.fetch("SELECT title, pages, sold, subtitle, added IS NOT NULL FROM books ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("one", 10, True, "", True), ('two, "2"\n2', None, False, "", True), ("three", 3, False, "", True),
    ]  # fmt: skip


async def test_errors_have_physical_lines_and_nothing_is_written(files: Files, sql: asyncpg.Connection) -> None:
    """All of them in one run: what the serializer refuses, what cannot be read, and what the database refuses."""
    await sql.execute("INSERT INTO books (isbn, title) VALUES ('taken', 'old')")
    text = """\
isbn,title,pages,author_id,nonsense
a,fine,1,,
b,"two
lines",0,,
c,,many,,
d,short
taken,again,1,,
e,"lost",1,99,
a,twice,1,,
f,x"y,1,,
g,fine,2,,more
"""
    assert files.load(text) == (
        1,
        "books.csv:3: pages: Must be greater than or equal to 1.\n"
        "books.csv:5: title: This field is required.\n"
        "books.csv:5: pages: Not a valid integer.\n"
        "books.csv:6: The record has 2 values, and the header has 5 names.\n"
        "books.csv:7: isbn: Another row has this value.\n"
        "books.csv:8: author_id: There is no row with this key.\n"
        "books.csv:9: isbn: Another row has this value.\n"
        'books.csv:10: A value with a quote in it has to be in quotes, and the quote twice: "a ""b"" c".\n'
        "books.csv:11: nonsense: Unknown field; valid here: isbn, title, pages, subtitle, sold, author_id, tags\n"
        "books: 1 created, 0 updated, 8 failed; nothing was written",
    )
    assert await titles(sql) == ["old"]


async def test_skipped_errors(files: Files, sql: asyncpg.Connection) -> None:
    """What is valid is written, as long as not too many records fail."""
    text = "title,pages\none,1\ntwo,0\nthree,3\nfour,0\n"
    code, output = files.load(text, "--errors", "skip", "--max-errors", "1")
    assert (code, output.splitlines()[1:]) == (
        1,
        [
            "More than 1 records have failed; the rest was not read.",
            "books: 0 created, 0 updated, 2 failed; nothing was written",
        ],
    )
    code, output = files.load(text, "--errors", "skip", "--dry-run")
    assert (code, output.splitlines()[-1]) == (0, "books: 2 created, 0 updated, 2 failed; nothing was written")
    assert await titles(sql) == []
    code, output = files.load(text, "--errors", "skip")
    assert (code, output.splitlines()[-1]) == (0, "books: 2 created, 0 updated, 2 failed")
    assert await titles(sql) == ["one", "three"]


async def test_rows_that_exist_are_changed(files: Files, sql: asyncpg.Connection) -> None:
    """By a unique field, or several; a record with the same value as an earlier one of the file changes that row."""
    await sql.execute("INSERT INTO books (isbn, title, pages, changed) VALUES ('1', 'old', 5, '2020-01-01')")
    text = "isbn,title\n1,new\n2,two\n2,second\n"
    assert files.load(text, "--on", "isbn") == (0, "books: 1 created, 2 updated, 0 failed")
    rows = await sql.fetch("SELECT isbn, title, pages, changed > '2020-01-02' FROM books ORDER BY isbn")
    assert [tuple(row) for row in rows] == [("1", "new", 5, True), ("2", "second", None, True)]
    assert files.load("title,pages,isbn\nnew,5,3\nnew,6,4\n", "--on", "title,pages")[1].startswith(
        "books: 1 created, 1 up"
    )
    assert [row["isbn"] for row in await sql.fetch("SELECT isbn FROM books ORDER BY isbn")] == ["2", "3", "4"]
    assert files.load("isbn,title\n,x\n", "--on", "isbn")[1].startswith("books.csv:2: isbn: Is needed to find the row.")
    for on, message in (
        ("titel", "--on: books has no column 'titel'; did you mean title?"),
        ("title", "--on title: no unique rule has these fields alone; valid here: id; isbn; title,pages"),
        ("id", "--on id: books.id is not set by a body; with --restore a file sets it"),
    ):
        assert files.load("id,title\n1,x\n", "--on", on) == (1, message)


@pytest.mark.parametrize(
    ("empty", "found"),
    [("default", [("x", "", None)]), ("null", [("x", None, None)]), ("text", "pages: Not a valid integer.")],
)
async def test_empty_cells(files: Files, sql: asyncpg.Connection, empty: str, found: Any) -> None:
    """Nothing, null, or an empty string; quotes around nothing are always the empty string."""
    code, output = files.load("title,subtitle,pages\nx,,\n", "--empty", empty)
    if isinstance(found, str):
        assert (code, found in output) == (1, True)
        return
    assert (code, [tuple(row) for row in await sql.fetch("SELECT title, subtitle, pages FROM books")]) == (0, found)
    assert files.load('title,subtitle\ny,""\n', "--empty", empty)[0] == 0
    assert await sql.fetchval("SELECT subtitle FROM books WHERE title = 'y'") == ""


async def test_links_and_references(files: Files, sql: asyncpg.Connection) -> None:
    """As keys, with commas or as JSON; a link to nothing is an error of its line."""
    await sql.execute("INSERT INTO authors (name) VALUES ('a'); INSERT INTO tags (name) VALUES ('x'), ('y')")
    assert files.load('title,author_id,tags\none,1,"1,2"\ntwo,,"[2]"\nthree,,\n')[0] == 0
    rows = await sql.fetch(
        "SELECT title, author_id, array(SELECT tag_id FROM books_tags WHERE book_id = id ORDER BY 1) FROM books ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [("one", 1, [1, 2]), ("two", None, [2]), ("three", None, [])]
    assert "books.csv:2: tags: There is no row with this key." in files.load("title,tags\nx,7\n")[1]


async def test_large_files_are_loaded_in_batches(files: Files, sql: asyncpg.Connection) -> None:
    """Of several shapes; one wrong row among them is found."""
    lines = [json.dumps({"title": f"t{n}", "isbn": str(n), **({"pages": n} if n % 3 else {})}) for n in range(1, 2501)]
    lines[1776] = json.dumps({"title": "again", "isbn": "5", "pages": 7})
    code, output = files.load("\n".join(lines), name="b.ndjson")
    assert (code, output.splitlines()[0]) == (1, "b.ndjson:1777: isbn: Another row has this value.")
    del lines[1776]
    assert files.load("\n".join(lines), name="b.ndjson") == (0, "books: 2,499 created, 0 updated, 0 failed")
    assert await sql.fetchval("SELECT count(*) FROM books WHERE pages IS NULL") == 833


@pytest.mark.tables(PLAIN)
async def test_records_without_values(tmp_path: Path, database_url: str, sql: asyncpg.Connection) -> None:
    """Each is a row with the defaults."""
    configure(tmp_path / "config", PLAIN)
    (tmp_path / "rows.ndjson").write_text("{}\n{}\n{}\n")
    code, _ = rowcast(tmp_path, "load", str(tmp_path / "rows.ndjson"), "plain", DATABASE_URL=database_url)
    assert (code, await sql.fetchval("SELECT count(*) FROM plain")) == (0, 3)


@pytest.mark.parametrize("trigger", ["", "RETURN NULL", "RAISE EXCEPTION 'no'"])
async def test_tables_with_triggers(files: Files, sql: asyncpg.Connection, trigger: str) -> None:
    """A trigger that skips a row, or refuses it, is an error of the row's line."""
    if trigger:
        await sql.execute(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.title = 'two' THEN {trigger}; "
            "END IF; RETURN NEW; END $$; CREATE TRIGGER t BEFORE INSERT ON books FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    code, output = files.load("title\none\ntwo\nthree\n", "--errors", "skip")
    assert (code, output.splitlines()[-1]) == (
        0,
        f"books: {2 if trigger else 3} created, 0 updated, {int(bool(trigger))} failed",
    )
    assert not trigger or output.startswith("books.csv:3: ")
    assert await titles(sql) == (["one", "three"] if trigger else ["one", "two", "three"])


async def test_sequence_that_is_behind(files: Files, sql: asyncpg.Connection) -> None:
    """It is moved on, as for a POST."""
    await sql.execute("INSERT INTO books (id, title) VALUES (1, 'one'), (2, 'two')")
    assert files.load("title\nthree\nfour\n") == (0, "books: 2 created, 0 updated, 0 failed")


async def test_own_serializers_save(files: Files, sql: asyncpg.Connection) -> None:
    """Their rules and their ``create`` have their say; ``perform_create`` is of requests."""
    modules = {
        "viewsets": """\
from marshmallow import validate
from rowcast import ModelViewSet, Serializer, model

Book = model("books")

class BookSerializer(Serializer):
    class Meta:
        model = Book
        extra = {"title": {"validate": validate.Length(max=3)}}

    async def create(self, validated_data):
        return await super().create({**validated_data, "subtitle": "by hand"})

class BookViewSet(ModelViewSet):
    model = Book
    serializer_class = BookSerializer

    def perform_create(self, serializer):
        raise AssertionError
"""
    }
    books = BOOKS["books"] + "viewset: viewsets:BookViewSet\n"
    configure(files.directory / "config", {**BOOKS, "books": books}, modules=modules)
    code, output = files.load("title,pages\none,1\nthree,2\n", "--errors", "skip")
    assert (code, output.splitlines()[0]) == (0, "books.csv:3: title: Longer than maximum length 3.")
    assert await sql.fetchval("SELECT subtitle FROM books") == "by hand"


async def test_progress_is_shown_on_a_terminal(files: Files) -> None:
    """On standard error, and not between rows that are printed on the same terminal."""
    (files.directory / "b.csv").write_text("title\n" + "".join(f"t{n}\n" for n in range(1000)))
    for arguments, printed, bar in (
        (("load", str(files.directory / "b.csv"), "books"), "1,000 created", True),
        (("dump", "books", str(files.directory / "d.json")), "rows [", True),
        (("dump", "authors", "--format", "json"), "[\r\n]", False),
    ):
        terminal = Terminal(files.directory, *arguments, "--database-url", files.database_url)
        try:
            shown = terminal.until(printed)
            assert (re.search(r"\r(books|authors): .*\|.*B/s|rows \[", shown) is not None) == bar, shown
            assert terminal.process.wait(30) == 0
        finally:
            terminal.process.kill()
            os.close(terminal.screen)


async def test_mistakes_are_a_line(files: Files) -> None:
    """Files that are none, and options that do not fit."""
    for arguments, message in (
        (("load", "nowhere.csv", "books"), "nowhere.csv: No such file or directory"),
        (("load", str(files.directory), "books", "--format", "csv"), "Is a directory"),
        (("load", "-", "books"), "standard input has no suffix that names its format: pass --format csv|ndjson|json"),
        (("dump", "books", "b.txt"), "b.txt has no suffix that names its format: pass --format csv|ndjson|json"),
        (("dump", "boks"), "there is no resource 'boks'; did you mean books?"),
        (("dump", "books", str(files.directory / "no/b.csv")), "No such file or directory"),
    ):
        code, output = files.run(*arguments)
        assert (code, output.count("\n"), message in output) == (1, 0, True), output


# --- dumping

EVERY_TYPE: dict[str, tuple[str, Any]] = {  # type → its options, and a value that is hard to represent
    "string": ("max_length: 40", 'a "b", c\r\nd'),
    "text": ("default: ''", ""),
    "email": ("", "a@example.com"),
    "url": ("", "https://example.com/?a=1,2"),
    "slug": ("", "a-b"),
    "uuid": ("", "01a223a5-c7e9-7262-9f2a-435fa2b250a8"),
    "integer": ("read_only: true, default: 0", -5),
    "big_integer": ("", 9007199254740993),
    "float": ("", 0.1),
    "decimal": ("", "12345678901234567890.10"),
    "boolean": ("", False),
    "date": ("", "0001-01-01"),
    "time": ("", "10:00:00.5"),
    "datetime": ("auto_now: true", "2026-01-31T10:00:00.123456+00:00"),
    "duration": ("", "P1DT2H"),
    "json": ("", {"a": [1, None, "x,y", 12345678901234567890123]}),
    "array": ("of: string", ["a,b", 'c"', "[", ""]),
    "foreign_key": ("to: targets", 2),
    "many_to_many": ("to: targets", [1, 2]),
    "smallint": ("", -32768),
    "real": ("", 0.1),
    "citext": ("", "A, b"),
    "bytea": ("", "AP8s"),
    "native": ("as: inet", "10.0.0.1"),
}


JSON_STRINGS = ["a,b", "5", "true", "null", "[1]", ""]  # which are no numbers, booleans, nulls and lists


@pytest.mark.empty_database
@pytest.mark.parametrize("format", ["csv", "ndjson", "json"])
async def test_dump_loads_again(tmp_path: Path, database_url: str, sql: asyncpg.Connection, format: str) -> None:
    """With values of every type, and with nulls: the rows are the same, with their keys and read-only fields."""
    assert set(EVERY_TYPE) == set(FIELD_TYPES)
    await sql.execute("CREATE EXTENSION citext")
    lines = ["  id: {type: integer, primary_key: true}", "  secret: {type: string, write_only: true, null: true}"]
    for name, (options, _) in EVERY_TYPE.items():
        null = "" if name == "many_to_many" or "auto" in options else ", null: true"
        lines.append(f"  f_{name}: {{type: {name}{null}{', ' if options else ''}{options}}}")
    resources = {
        "targets": "fields: {id: {type: integer, primary_key: true}}",
        "things": "\n".join(["fields:", *lines]),
    }
    configure(tmp_path / "config", resources)

    def run(*arguments: str) -> str:
        code, output = rowcast(tmp_path, *arguments, DATABASE_URL=database_url)
        assert code == 0, output
        return output

    run("migrate", "--sync")
    await sql.execute("INSERT INTO targets DEFAULT VALUES; INSERT INTO targets DEFAULT VALUES")
    row = {"id": 7, "secret": "s", **{f"f_{name}": value for name, (_, value) in EVERY_TYPE.items()}}
    row["f_foreign_key_id"] = row.pop("f_foreign_key")
    empty = {"id": 9, "f_datetime": "2026-01-31T10:00:00Z"}
    rows = [row, *({**empty, "id": 20 + n, "f_json": each} for n, each in enumerate(JSON_STRINGS)), empty]
    (tmp_path / "rows.ndjson").write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    run("load", str(tmp_path / "rows.ndjson"), "things", "--restore")
    file = str(tmp_path / f"dump.{format}")
    run("dump", "things", file, "--write-only")
    select = "SELECT to_jsonb(t)::text, array(SELECT target_id FROM things_f_many_to_many WHERE thing_id = id) FROM things t ORDER BY id"
    before = [tuple(each) for each in await sql.fetch(select)]
    assert (len(before), '"a,b"' in before[0][0], before[0][1]) == (len(rows), True, [1, 2])
    await sql.execute("DELETE FROM things; ALTER SEQUENCE things_id_seq RESTART")
    empty_option = ("--empty", "null") if format == "csv" else ()
    run("load", file, "things", "--restore", *empty_option)
    assert [tuple(each) for each in await sql.fetch(select)] == before
    assert await sql.fetchval("SELECT nextval('things_id_seq')") == max(each["id"] for each in rows) + 1
    run("load", file, "things", *empty_option)  # with new keys, as POST gives them
    assert await sql.fetchval("SELECT count(*) FROM things") == 2 * len(rows)
    assert "secret" not in run("dump", "things", "--format", format)


async def test_dump_of_nothing(files: Files) -> None:
    """Is a file that can be loaded."""
    assert files.run("dump", "authors", "--format", "csv") == (0, "id,name")
    assert files.run("dump", "authors", "--format", "json") == (0, "[\n]")
    assert files.run("dump", "authors") == (0, "")
