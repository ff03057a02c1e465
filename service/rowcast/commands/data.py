"""``rowcast load`` and ``rowcast dump``: rows of a resource from and to CSV, NDJSON and JSON files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import click
from tqdm import tqdm

from rowcast.commands.common import CONFIG, DATABASE_URL, load_configuration, open_database
from rowcast.database.codecs import set_codecs
from rowcast.database.connection import SESSION_SETTINGS
from rowcast.database.sequences import move_behind
from rowcast.errors import ConfigurationError, Messages, did_you_mean
from rowcast.query.projection import Projection
from rowcast.resources.resource import Resource
from rowcast.rest.loading import Loader, Outcome, TableWriter, TooManyErrors
from rowcast.rest.plan import ModelPlan, Service
from rowcast.rest.records import FORMATS, SUFFIXES, Record, RecordWriter, json_columns, read_records, with_keys_alone
from rowcast.server.standalone import standalone_service

STANDARD: Final = "-"  # the file that is standard input or output
PAGE_ROWS: Final = 2000
BAR_RECORDS: Final = 500  # after which the progress bar moves

FORMAT: Final = click.option(
    "--format", type=click.Choice(FORMATS), help="The format.  [default: by the file's suffix]"
)  # fmt: skip


class _Undone(Exception):
    """Ends a transaction whose writes are not to stay."""


@click.command()
@CONFIG
@DATABASE_URL
@click.argument("file")
@click.argument("resource")
@FORMAT
@click.option(
    "--on", metavar="FIELD", help="Change the rows that exist, by this unique field, or several: author,title."
)
@click.option(
    "--errors",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="All or nothing, or all that are valid.",
)
@click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="How many records may fail; with one more nothing is written.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing, and report what would be.")
@click.option(
    "--empty",
    type=click.Choice(["default", "null", "text"]),
    default="default",
    show_default=True,
    help="What an empty cell of CSV is: no value, null, or an empty string.",
)
@click.option("--restore", is_flag=True, help="Also set generated keys and read-only fields, as a dump has them.")
def load(
    config: Path, database_url: str | None, file: str, resource: str, format: str | None, on: str | None, errors: str,
    max_errors: int, dry_run: bool, empty: Any, restore: bool,
) -> None:  # fmt: skip
    """Load the rows in FILE into RESOURCE, each validated as the body of a POST; - is standard input."""
    configuration = load_configuration(config, database_url)
    form = _format(file, format)
    source = _opened(file)

    async def work(service: Service) -> int:
        plan = _plan(service, resource, writes=True)
        writer = TableWriter(plan, on=[name.strip() for name in on.split(",")] if on else (), restore=restore)
        database, began, enough = service.store.database, time.monotonic(), False
        loader = Loader(database, writer, empty=empty, max_errors=max_errors)
        with contextlib.suppress(_Undone), _bar(_size(source), "B", resource) as bar:
            async with database.transaction():
                try:
                    outcome = await loader.load(_followed(read_records(source, form), source, bar))
                except TooManyErrors:
                    outcome, enough = loader.outcome, True
                failed = enough or outcome.unreadable or (outcome.failed > 0 and errors == "fail")
                if dry_run or failed:
                    raise _Undone
                if restore:
                    await move_behind(lambda sql: database.fetch_all(sql, ()), plan.resource)
        _report(file, resource, outcome, time.monotonic() - began, dry_run=dry_run, failed=failed, enough=enough)
        return int(failed)

    with source, open_database(configuration) as (url, embedded):
        sys.exit(asyncio.run(_in_service(configuration, url, embedded, work)))


@click.command()
@CONFIG
@DATABASE_URL
@click.argument("resource")
@click.argument("file", default=STANDARD)
@FORMAT
@click.option("--write-only", is_flag=True, help="Also the fields that no response shows, such as hashes of passwords.")
def dump(
    config: Path, database_url: str | None, resource: str, file: str, format: str | None, write_only: bool
) -> None:
    """Write all rows of RESOURCE to FILE, by default to standard output."""
    configuration = load_configuration(config, database_url)
    form = _format(file, format or ("ndjson" if file == STANDARD else None))

    async def work(service: Service) -> int:
        declared = _plan(service, resource, writes=False).resource
        writer = RecordWriter(form, _names(declared, write_only), as_json=json_columns(declared))
        with _target(file) as target:
            await _dump(service, declared, writer, target, write_only)
        return 0

    with open_database(configuration) as (url, embedded):
        sys.exit(asyncio.run(_in_service(configuration, url, embedded, work)))


async def _in_service(configuration: Any, url: str, embedded: bool, work: Callable[[Service], Any]) -> int:
    async with standalone_service(configuration, url, migrate=embedded) as service:
        code: int = await work(service)
        return code


def _format(file: str, format: str | None) -> str:
    """The format of a file; ``ConfigurationError`` if nothing says it."""
    found = format or SUFFIXES.get(Path(file).suffix.lower())
    if found is None:
        what = "standard input" if file == STANDARD else file
        raise ConfigurationError(f"{what} has no suffix that names its format: pass --format {'|'.join(FORMATS)}")
    return found


def _opened(file: str) -> IO[bytes]:
    if file == STANDARD:
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error


def _plan(service: Service, name: str, *, writes: bool) -> ModelPlan:
    if name not in service.resources:
        raise ConfigurationError(f"there is no resource {name!r}; {did_you_mean(name, service.resources)}")
    if writes and service.resources[name].view:
        raise ConfigurationError(f"{name} is a view, which is only read")
    if name not in service.plans:
        raise ConfigurationError(
            f"{name} is served by a plain ViewSet, which has no serializer: derive it from ModelViewSet"
        )
    return service.plans[name]


# --- loading


def _size(source: IO[bytes]) -> int | None:
    return os.fstat(source.fileno()).st_size if source.seekable() else None


def _bar(total: int | None, unit: str, resource: str, *, hidden: bool = False) -> Any:
    """A progress bar on standard error, if that is a terminal."""
    return tqdm(total=total, unit=unit, unit_scale=True, desc=resource, disable=hidden or None, leave=False)


def _followed(records: Iterable[Record], source: IO[bytes], bar: Any) -> Iterator[Record]:
    """Records, whose place in the file the bar shows."""
    follows = not bar.disable and source.seekable()
    for number, record in enumerate(records):
        if follows and number % BAR_RECORDS == 0:
            bar.update(source.tell() - bar.n)
        yield record


def _report(
    file: str, resource: str, outcome: Outcome, seconds: float, *, dry_run: bool, failed: bool, enough: bool
) -> None:
    """Print the errors, in the order of their lines, and the numbers."""
    name = "<stdin>" if file == STANDARD else file
    for line, messages in sorted(outcome.errors, key=lambda error: error[0]):
        for message in _lines(messages):
            click.echo(f"{name}:{line}: {message}", err=True)
    if enough:
        click.echo(f"More than {len(outcome.errors)} records have failed; the rest was not read.", err=True)
    numbers = f"{outcome.created:,} created, {outcome.updated:,} updated, {outcome.failed:,} failed"
    note = "; nothing was written" if dry_run or failed else ""
    click.echo(f"{resource}: {numbers}{note} ({seconds:.1f} s)", err=True)


def _lines(messages: Messages, path: str = "") -> Iterator[str]:
    for name, found in messages.items():
        place = path if name == "non_field_errors" else f"{path}{name}: "
        if isinstance(found, dict):
            yield from _lines(found, place)
        else:
            yield from (f"{place}{message}" for message in found)


# --- dumping


def _names(resource: Resource, write_only: bool) -> list[str]:
    """The columns and many_to_many fields of a dump."""
    shown = {**resource.columns, **resource.links}
    return [name for name, field in shown.items() if write_only or not field.write_only]


@contextlib.contextmanager
def _target(file: str) -> Iterator[IO[bytes]]:
    """What to write to. A file gets its name when it is complete."""
    if file == STANDARD:
        yield sys.stdout.buffer
        return
    path, part = Path(file), Path(f"{file}.part")
    try:
        with part.open("wb") as target:
            yield target
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


async def _dump(
    service: Service, resource: Resource, writer: RecordWriter, target: IO[bytes], write_only: bool
) -> None:
    """Write all rows, as one transaction sees them, with a cursor."""
    names = _names(resource, write_only)
    keys = {
        name: service.resources[resource.links[name].to or ""].key.column_name
        for name in names
        if name in resource.links
    }
    related = tuple(
        (name, Projection(service.resources.relations(resource.name)[name].target, (key,)))
        for name, key in keys.items()
    )
    shown = Projection(resource.name, tuple(name for name in names if name in resource.columns), related)
    statement = service.store.queries.every_row(shown)
    connection = await service.store.database.connect(**SESSION_SETTINGS)
    try:
        await set_codecs(connection)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            cursor = await connection.cursor(statement.sql)
            target.write(writer.start())
            with _bar(None, " rows", resource.name, hidden=target.isatty()) as bar:
                while found := await cursor.fetch(PAGE_ROWS):
                    rows = (with_keys_alone(row["result"], keys) if keys else row["result"] for row in found)
                    target.write(writer.rows(rows))
                    bar.update(len(found))
            target.write(writer.end())
            target.flush()
    finally:
        connection.terminate()
