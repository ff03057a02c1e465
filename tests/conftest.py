"""The base of all tests: a PostgreSQL server for the run, a new database for each test, and the service on it."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import asyncpg
import pytest
import structlog
from aiohttp import web
from click.testing import CliRunner
from hypothesis import HealthCheck, settings

from rowcast.changes import install
from rowcast.cli import main
from rowcast.configuration import yaml
from rowcast.configuration.load import Configuration, load
from rowcast.database.pool import Database
from rowcast.resources.tables import Tables
from rowcast.server.app import create_app
from rowcast.server.prepare import prepare
from rowcast.testing import client
from rowcast.testing.client import Client, running

from .databases import EMPTY, EXTERNAL_URL, Databases, databases_of, temporary_server
from .edges import BEHIND_EDGE, running_behind_edge
from .pgbouncer import BEHIND_POOLER, Poolers, behind_pooler
from .replicating import WITH_REPLICA, Standbys, reading_from_standbys

OPERATE = Path(__file__).parent / "operate"
ROOT = Path(__file__).parent.parent
DEMO = ("categories", "comments", "tags", "tasks")  # a reader who follows the README has further files
Serve = Callable[..., Awaitable[Client]]

# Tracebacks without local variables, as the service logs them: with them, each takes more than a second.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process that a test starts would compile the service again

gc.set_threshold(20_000, 20, 50)  # collections of the imported libraries' objects take a tenth of the time otherwise

# How long an example takes says nothing on a machine that has other work.
settings.register_profile("at_any_pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("at_any_pace")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the tests that need servers of others, unless the command line names them: `make operate`."""
    if collection_path != OPERATE:
        return None
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(OPERATE) for path in named) else True


@pytest.fixture(scope="session", autouse=True)
def poolers() -> Iterator[Poolers | None]:
    """With ``ROWCAST_TEST_POOLER=pgbouncer`` requests of all services go through a pooler in transaction mode."""
    if not BEHIND_POOLER:
        yield None
        return
    with Poolers() as running_poolers:

        def create(configuration: Configuration, url: str, **options: Any) -> web.Application:
            pooled = running_poolers.url(url)
            if pooled is None or configuration.settings.database.direct_url is not None:
                return create_app(configuration, url, **options)
            return create_app(behind_pooler(configuration, url), pooled, **options)

        with mock.patch("rowcast.testing.client.create_app", create):
            yield running_poolers


@pytest.fixture(scope="session", autouse=True)
def relay(poolers: Poolers | None) -> Iterator[None]:
    """With ``ROWCAST_TEST_RELAY`` all services have this relay, such as ``nats://127.0.0.1:4222``."""
    if (url := os.environ.get("ROWCAST_TEST_RELAY")) is None:
        yield
        return
    create_without = vars(client)["create_app"]  # which may be that of the poolers

    def create(configuration: Configuration, *arguments: Any, **options: Any) -> web.Application:
        settings = configuration.settings
        relayed = replace(settings, stream=replace(settings.stream, relay=url))
        return create_without(replace(configuration, settings=relayed), *arguments, **options)

    with (
        mock.patch("rowcast.testing.client.create_app", create),
        mock.patch.dict(os.environ, {"ROWCAST_STREAM_RELAY": url}),
    ):
        yield


@pytest.fixture(scope="session", autouse=True)
def standbys(relay: None) -> Iterator[Standbys | None]:
    """With ``ROWCAST_TEST_REPLICA=1`` all services read from a standby."""
    if not WITH_REPLICA:
        yield None
        return
    create_without = vars(client)["create_app"]
    with reading_from_standbys() as running_standbys:

        def create(configuration: Configuration, url: str, **options: Any) -> web.Application:
            made: web.Application = create_without(running_standbys.with_replica(configuration, url), url, **options)
            return made

        with mock.patch("rowcast.testing.client.create_app", create):
            yield running_standbys
        assert running_standbys.reads, "no read has come from a standby"


@pytest.fixture(scope="session", autouse=True)
def parsed_yaml() -> Iterator[None]:
    """Parse each text once: most tests load files that others have loaded."""
    with mock.patch.object(yaml, "_compose", lru_cache(maxsize=512)(yaml._compose)):
        yield


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database on the run's own server."""
    if EXTERNAL_URL:
        yield EXTERNAL_URL
        return
    with temporary_server({}) as server:
        yield server.url


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """The databases of the run's server. A directory with a server of its own overrides this together with the URL."""
    with databases_of(postgres_url) as databases:
        yield databases


@pytest.fixture(scope="session")
def rowcast_server(databases: Databases) -> Databases:
    """The fixtures of ``rowcast.testing`` use the run's server, too, and no other one."""
    return databases


async def with_change_log(databases: Databases) -> str:
    """The template that has the change log and no tables."""
    return await databases.template("change log", install_change_log)


async def install_change_log(url: str) -> None:
    """Install the change log."""
    connection = await asyncpg.connect(url)
    try:
        await install.install(connection)
    finally:
        await connection.close()


async def with_tables(databases: Databases, resources: Mapping[str, str] | None, directory: Path) -> str:
    """The template that a service with these resources has migrated; without resources it is the demo configuration."""

    async def migrate(url: str) -> None:
        configuration = load(ROOT / "config", environ={}) if resources is None else configure(directory, resources)
        tables = Tables(configuration.resources)
        database = Database(url, tables.guards)
        await prepare(configuration, tables, database, migrate=True)
        await database.close()

    return await databases.template(json.dumps(resources), migrate)


@pytest.fixture
async def template(
    databases: Databases, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The name of the database that the test's database is a copy of.

    It has the change log. The marker ``tables(resources)`` adds the tables of these resources, so that the service
    starts without DDL. With the marker ``empty_database`` it is empty.
    """
    for marker in request.node.iter_markers():
        if marker.name == "empty_database":
            return EMPTY
        if marker.name == "tables":
            return await with_tables(databases, marker.args[0], tmp_path_factory.mktemp("template"))
    return await with_change_log(databases)


@pytest.fixture
async def database_url(databases: Databases, template: str) -> AsyncIterator[str]:
    """The URL of a new database, which is dropped after the test."""
    async with databases.copy(template) as url:
        yield url


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database, as psql would have."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def configure(
    directory: Path,
    resources: Mapping[str, str],
    service: str = "{}",
    modules: Mapping[str, str] | None = None,
    **overrides: object,
) -> Configuration:
    """Write YAML by resource name and Python by module name to a directory, and load it as a configuration."""
    write_config(directory, resources, service, modules)
    return load(directory, environ={}, overrides=overrides)


def write_config(
    directory: Path, resources: Mapping[str, str], service: str = "{}", modules: Mapping[str, str] | None = None
) -> None:
    """Write YAML by resource name and Python by module name to a directory."""
    (directory / "resources").mkdir(parents=True, exist_ok=True)
    (directory / "service.yaml").write_text(service)
    for name, text in (modules or {}).items():
        (directory / f"{name}.py").write_text(text)
    for name, text in resources.items():
        (directory / "resources" / f"{name}.yaml").write_text(text)


def without_settings() -> dict[str, None]:
    """The variables of the environment that a command must not see, as nothing."""
    return {name: None for name in os.environ if name.startswith(("ROWCAST", "DATABASE"))}


def rowcast(directory: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and the output of a command, errors included, run by this process: a new one takes a second.

    It blocks the caller's event loop, so that nothing else is printed in the meantime.
    """
    places = {"ROWCAST_DATA": str(directory / "data"), "ROWCAST_CONFIG": str(directory / "config")}
    environment = {**without_settings(), **places, **variables}
    with mock.patch("structlog.configure"), ThreadPoolExecutor() as thread:  # whose event loops are its own
        result = thread.submit(CliRunner().invoke, main, arguments, env=environment).result()
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output.strip()


def rowcast_process(directory: Path, *arguments: str) -> tuple[int, str]:
    """The same, run by a process of its own."""
    hidden = without_settings()
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-m", "rowcast", *arguments, "--config", str(directory / "config")]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "ROWCAST_DATA": str(directory / "data")}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.strip()


@pytest.fixture
async def serve(database_url: str, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start the service on the test's database: ``client = await serve({"tasks": "fields: …"})``.

    Without resources it is the demo configuration. Several services may share the database, as replicas do.
    """
    numbers = itertools.count()
    async with AsyncExitStack() as stack:

        async def start(
            resources: Mapping[str, str] | None = None,
            service: str = "{}",
            url: str | None = None,
            modules: Mapping[str, str] | None = None,
        ) -> Client:
            if resources is None:
                configuration = load(ROOT / "config", environ={})
            else:
                configuration = configure(tmp_path / f"config{next(numbers)}", resources, service, modules)
            run = running_behind_edge if BEHIND_EDGE else running
            return await stack.enter_async_context(run(configuration, url or database_url))

        yield start
