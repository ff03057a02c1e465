"""Revisions: written from the difference, applied, taken back, and side by side with syncs."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext

from rowcast.migrations import commands
from rowcast.migrations.failures import SchemaError
from rowcast.migrations.revisions import script_directory
from rowcast.resources.tables import Tables

from .declarations import OWN, Database, declare, field, key, resource

Create = Callable[[], Awaitable[Database]]
REPOSITORY = Path(__file__).parents[2]
NAME = field("name", "string", max_length=50)
OLD = field("old", "text", null=True)
BOOK = field("book", "foreign_key", to="books")


def evolution() -> list[Tables]:
    """A configuration as it grows and changes: every kind of difference occurs between two of its steps."""
    return [
        declare(
            resource("authors", NAME, field("awkward", "text", default="a :b it's")),
            resource(
                "books", field("title", "text"), field("pages", "string", default="1"), field("old", "text", null=True)
            ),
        ),
        declare(  # a table, columns, an index, a foreign key, a check, a unique rule, comments
            resource(
                "authors", field("name", "string", max_length=50, unique=True), field("awkward", "text", default=":x")
            ),
            resource(
                "books",
                field("title", "text", index=True, help_text="What: it's"),
                field("pages", "string", default="1", pattern="^[0-9]+:?$"),
                field("author", "foreign_key", to="authors", null=True, on_delete="set_null"),
                replace(OLD, min_length=1),
                unique=(("author", "title"),),
                description="All: books",
            ),
            resource(
                "genres",
                key("integer"),
                field("book", "foreign_key", to="books"),
                field("top", "foreign_key", to="genres"),
            ),
        ),
        declare(  # another type, a column and an index less, other rules and a link
            resource("authors", field("name", "text")),
            resource(
                "books",
                field("title", "string", max_length=100, choices=("a", ":b", "it's")),
                field("pages", "integer", default=1, min=1),
                field("author", "foreign_key", to="authors"),
                field("genres", "many_to_many", to="genres"),
                field("meta", "json", default={"a": [1, ":b"]}),
                field("tags", "array", of="string", default=["a:b"]),
            ),
            resource(
                "genres",
                key("big_integer"),
                field("book", "foreign_key", to="books"),
                field("top", "foreign_key", to="genres"),
            ),
        ),
        declare(  # a circle of foreign keys, narrower types, a resource less
            resource(
                "authors", field("name", "string", max_length=10), field("best", "foreign_key", to="books", null=True)
            ),
            resource(
                "books",
                field("title", "string", max_length=100),
                field("pages", "big_integer", min=1, null=True),
                field("author", "foreign_key", to="authors", null=True),
                field("price", "decimal", max_digits=8, decimal_places=2, default="0.00"),
                field("shop", "foreign_key", to="shops", null=True),
            ),
            resource(
                "shops",
                field("owner", "foreign_key", to="authors", null=True),
                field("flagship", "foreign_key", to="books"),
            ),
        ),
        declare(  # a primary key that is another
            resource("authors", key("text", "name"), field("id", "uuid", null=True)),
            resource("books", field("title", "text", default="untitled"), field("pages", "float", null=True)),
        ),
    ]


async def write(database: Database, steps: list[Tables]) -> None:
    """A revision for each step, each applied before the next is written."""
    for number, tables in enumerate(steps):
        await database.makemigrations(tables, f"step {number}")
        done = await database.migrate(tables, sync=False)
        assert len(done.revisions) == 1
        assert (await database.compare(tables)).statements == []


async def test_each_difference_becomes_a_revision_that_does_it(database: Database) -> None:
    """A revision written for a difference leaves none, whatever kinds of difference there are."""
    await write(database, evolution()[:4])
    names = [path.name for path in (database.directory / "versions").glob("*.py")]
    assert len(names) == 4
    assert all(
        name.endswith(f"step_{number}.py") for number, name in zip([0, 1, 2, 3], sorted(names, key=tail), strict=True)
    )


def tail(name: str) -> str:
    return name[-10:]


async def test_stairway(create: Create) -> None:
    """Every revision can be applied, taken back and applied again, one after the other and all at once."""
    author = await create()
    await write(author, evolution()[:4])
    for directory in (author.directory, REPOSITORY / "migrations"):
        walker = await create()
        await walker.execute(OWN)
        revisions = [script.revision for script in reversed(list(script_directory(directory).walk_revisions()))]
        for earlier, revision in itertools.pairwise(["base", *revisions]):
            for target in (revision, earlier, revision):
                await walk(walker, directory, target)
        await walk(walker, directory, "base")
        if revisions:
            assert await walker.column("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []
        await walk(walker, directory, "head")


async def test_a_revision_taken_back_restores_what_was(database: Database) -> None:
    """The downgrade of a revision leads to exactly the state before it."""
    steps = evolution()[:4]
    await write(database, steps)
    for before in reversed(steps[:-1]):
        await walk(database, database.directory, "-1")
        differences = [statement.sql for statement in (await database.compare(before)).statements]
        assert differences == []


async def test_a_new_database_gets_all_revisions_and_then_the_rest(create: Create) -> None:
    """Revisions come before the sync, hand-written ones too."""
    first = await create()
    steps = evolution()
    await write(first, steps[:3])
    path = await first.makemigrations(steps[2], "by hand", empty=True)
    path.write_text(path.read_text().replace("    pass", "    op.execute('CREATE TABLE extra ()')", 1))
    second = await create()
    done = await second.migrate(steps[3])
    assert [name.split("(")[1] for name in done.revisions] == ["step 0)", "step 1)", "step 2)", "by hand)"]
    assert done.statements
    assert await second.column("SELECT to_regclass('extra')::text") == ["extra"]


async def test_revisions_that_start_from_a_synced_database_run_on_a_new_one(create: Create) -> None:
    """Where a sync had created the tables, a revision alters them; a database without tables gets them first."""
    first = await create()
    await first.migrate(declare(resource("books", field("title", "text"), field("old", "text"))))
    smaller = declare(resource("books", field("title", "text")))
    await first.makemigrations(smaller, "drop old", drop=["books.old"])
    done = await first.migrate(smaller)
    assert len(done.revisions) == 1
    assert (await first.compare(smaller)).statements == []
    second = await create()
    done = await second.migrate(smaller)
    assert len(done.revisions) == 1
    assert (await second.compare(smaller)).statements == []
    assert await second.pending(smaller) == []


async def test_a_revision_runs_where_a_sync_has_done_its_steps(create: Create) -> None:
    """The columns that a revision adds may exist already; the sync need not be undone."""
    written, synced = await create(), await create()
    steps = evolution()
    await write(written, steps[:1])
    await synced.migrate(steps[0])
    await synced.migrate(steps[1])
    await written.makemigrations(steps[1], "also synced")
    assert len((await synced.migrate(steps[1])).revisions) == 1
    assert (await synced.compare(steps[1])).statements == []


async def test_pending_names_unapplied_revisions(create: Create) -> None:
    """A service does not run on a database that lacks a revision, and names it."""
    first, second = await create(), await create()
    tables = declare(resource("books", field("title", "text")))
    await first.migrate(tables, sync=False)
    path = await first.makemigrations(tables, "first")
    pending = await second.pending(tables)
    assert pending[0].startswith("revision not applied yet: ")
    assert pending[0].endswith("(first)")
    assert path.name.split("_")[1] in pending[0]
    assert pending[1].startswith("CREATE TABLE books")
    await second.migrate(tables, sync=False)
    assert await second.pending(tables) == []


async def test_without_sync_nothing_but_revisions_is_applied(database: Database) -> None:
    """A migration without sync leaves even additive steps, and returns them."""
    tables = declare(resource("books", field("title", "text")))
    done = await database.migrate(tables, sync=False)
    assert done.statements == []
    assert [statement.additive for statement in done.left] == [True]
    assert await database.column("SELECT to_regclass('books')::text") == [None]
    assert done.pending == await database.pending(tables)


async def test_makemigrations_refuses_without_a_difference(database: Database) -> None:
    """A revision without steps is only written with ``empty``."""
    tables = declare(resource("books", field("title", "text")))
    await database.migrate(tables)
    with pytest.raises(SchemaError, match="nothing to write a revision of"):
        await database.makemigrations(tables)
    path = await database.makemigrations(tables, "by hand", empty=True)
    assert path.read_text().count("    pass\n") == 2


async def test_makemigrations_refuses_on_a_database_that_is_behind(database: Database) -> None:
    """A revision starts from the last one, so the database has to be at that one."""
    steps = evolution()
    await database.migrate(steps[0], sync=False)
    await database.makemigrations(steps[0], "first")
    with pytest.raises(SchemaError, match=r"not at the last revision: [0-9a-f]+ \(first\)"):
        await database.makemigrations(steps[1], "second")


async def test_a_database_of_a_newer_configuration_is_refused(database: Database, tmp_path: Path) -> None:
    """If the directory lacks the database's revision, the configuration is older than the database."""
    steps = evolution()
    await write(database, steps[:1])
    older = Database(database.url, tmp_path / "older")
    for attempt in (older.plan, older.migrate, older.pending, older.makemigrations):
        with pytest.raises(SchemaError, match=r"which .*older.*versions does not have"):
            await attempt(steps[0])


async def test_a_revision_that_fails_leaves_nothing(database: Database) -> None:
    """Revisions before it, tables, and the schema of the service are all rolled back."""
    tables = declare(resource("books", field("title", "text")))
    await database.migrate(declare(), sync=False)
    for number, statement in enumerate(["CREATE TABLE one ()", "CREATE TABLE two (); SELECT 1/0"]):
        path = await database.makemigrations(tables, f"step {number}", empty=True)
        if number == 0:
            path.write_text(path.read_text().replace("    pass", f"    op.execute({statement!r})", 1))
            await database.execute("CREATE TABLE public.kept ()")
            await database.migrate(declare(), sync=False)
        else:
            body = "; ".join(f"op.execute({part!r})" for part in statement.split("; "))
            path.write_text(path.read_text().replace("    pass", f"    {body}", 1))
    with pytest.raises(SchemaError, match="division by zero"):
        await database.migrate(tables)
    assert await database.column(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    ) == ["kept", "one"]


async def test_a_revision_may_leave_the_transaction(database: Database) -> None:
    """An index is created concurrently in an autocommit block, even while others wait for this migration."""
    tables = declare(resource("books", field("title", "text")))
    await database.migrate(tables)
    path = await database.makemigrations(tables, "index", empty=True)
    path.write_text(
        path.read_text().replace(
            "    pass",
            "    with op.get_context().autocommit_block():\n"
            "        op.create_index('books_title', 'books', ['title'], postgresql_concurrently=True)",
            1,
        )
    )
    await database.migrate(tables)
    assert await database.column("SELECT to_regclass('books_title')::text") == ["books_title"]
    assert await database.pending(tables) == []


async def test_another_applications_revisions_are_not_ours(database: Database) -> None:
    """The version table is in the service's own schema."""
    await database.execute("CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('x')")
    steps = evolution()
    await write(database, steps[:1])
    assert await database.column("SELECT version_num FROM public.alembic_version") == ["x"]


async def walk(database: Database, directory: Path, target: str) -> None:
    """Up or down to a revision, as the ``alembic`` command would."""
    script = script_directory(directory)

    def steps(heads: object, context: object) -> object:
        current = list(heads)  # type: ignore[call-overload]
        order = ["base", *(each.revision for each in reversed(list(script.walk_revisions())))]
        here = current[0] if current else "base"
        wanted = {"head": order[-1], "-1": order[order.index(here) - 1]}.get(target, target)
        if order.index(wanted) < order.index(here):
            return script._downgrade_revs(wanted, heads)  # type: ignore[arg-type]
        return script._upgrade_revs(wanted, heads) if wanted != here else []  # type: ignore[arg-type]

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        await commands.run_alembic(database.connect, environment)


async def test_an_empty_revision_needs_nothing_of_the_database(database: Database) -> None:
    """It is written although revisions and differences are pending, and follows the last one."""
    tables = evolution()[0]
    await database.migrate(tables, sync=False)
    await database.makemigrations(tables, "first")
    second = await database.makemigrations(tables, "by hand", empty=True)
    third = await database.makemigrations(tables, "by hand again", empty=True)
    assert f"Revises: {second.name.split('_')[1]}" in third.read_text()
    assert len((await database.migrate(tables)).revisions) == 3


async def test_what_is_left_comes_with_the_command_that_does_it(database: Database) -> None:
    """For additive steps, destructive ones, and revisions."""
    text = field("n", "text", blank=True)
    await database.migrate(declare(resource("books", text)))
    additive = declare(resource("books", text, field("more", "text", null=True)))
    assert (await database.migrate(additive, sync=False)).advice == "run `rowcast migrate --sync`"
    destructive = declare(resource("books", field("n", "integer")))
    write = "write a revision with `rowcast makemigrations -m 'what it does'` and run `rowcast migrate`"
    assert (await database.migrate(destructive)).advice == (await database.plan(destructive)).advice == write
    await database.makemigrations(declare(resource("books", text)), "by hand", empty=True)
    assert (await database.plan(declare(resource("books", text)))).advice == "run `rowcast migrate`"
