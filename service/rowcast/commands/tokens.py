"""``rowcast token create``, ``list`` and ``revoke``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import click

from rowcast.changes.install import install
from rowcast.commands.common import (
    CONFIG,
    DATABASE_SECTIONS,
    DATABASE_URL,
    load_configuration,
    open_database,
)
from rowcast.configuration import value_types
from rowcast.database.connection import open_connection
from rowcast.database.pool import CONNECT_TIMEOUT_SECONDS
from rowcast.errors import ConfigurationError
from rowcast.identity import tokens

T = TypeVar("T")
TOKEN_MAX_SECONDS: Final = 36_500 * 86_400


class _Lifetime(click.ParamType[float]):
    """A duration as in settings, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = value_types.duration_in_seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not 0 < seconds <= TOKEN_MAX_SECONDS:
            self.fail("must be longer than 0 and at most 36500d", param, ctx)
        return seconds


LIFETIME = _Lifetime()


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that callers authenticate with."""


@token.command("create")
@CONFIG
@DATABASE_URL
@click.argument("user")
@click.option("--staff", is_flag=True, help="The user is staff, as IsAdminUser requires.")
@click.option("--expires", type=LIFETIME, metavar="TIME", help="The time after which it is invalid, such as 30d.")
def create_token(config: Path, database_url: str | None, user: str, staff: bool, expires: float | None) -> None:
    """Make a token for USER, and print it this one time."""
    if not user or not user.isprintable():
        raise click.BadParameter("must be the id of a user, in printable characters", param_hint="USER")

    async def create(connection: asyncpg.Connection) -> str:
        return await tokens.create_token(connection, user, staff=staff, lifetime=expires)

    click.echo(_with_tokens(config, database_url, create))


@token.command("list")
@CONFIG
@DATABASE_URL
def list_tokens(config: Path, database_url: str | None) -> None:
    """List the tokens, without their secrets."""
    found = _with_tokens(config, database_url, tokens.list_tokens)
    rows: list[tuple[str, ...]] = [("ID", "USER", "STAFF", "CREATED", "EXPIRES", "REVOKED")]
    for each in found:
        times = (each.created_at, each.expires_at, each.revoked_at)
        shown = ("-" if time is None else f"{time:%Y-%m-%dT%H:%M:%SZ}" for time in times)
        rows.append((str(each.id), each.user_id, "yes" if each.is_staff else "no", *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@token.command("revoke")
@CONFIG
@DATABASE_URL
@click.argument("id", type=click.IntRange(1, 2**63 - 1))
def revoke_token(config: Path, database_url: str | None, id: int) -> None:
    """Make the token with this ID invalid; `token list` shows the IDs."""

    async def revoke(connection: asyncpg.Connection) -> bool:
        return await tokens.revoke_token(connection, id)

    if not _with_tokens(config, database_url, revoke):
        raise ConfigurationError(f"there is no token {id}: `rowcast token list` shows them")
    click.echo(f"Token {id} is revoked.")


def _with_tokens(config: Path, database_url: str | None, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
    """The result of ``work`` on the database, which a service may be using."""
    configuration = load_configuration(config, database_url, sections=DATABASE_SECTIONS)

    async def run() -> T:
        try:
            connection = await open_connection(
                configuration.settings.database.direct_url or url, CONNECT_TIMEOUT_SECONDS
            )
            try:
                if embedded:
                    await install(connection)
                return await work(connection)
            finally:
                await connection.close()
        except asyncpg.UndefinedTableError:
            raise ConfigurationError("this database has no tokens yet: run `rowcast migrate` first") from None

    with open_database(configuration) as (url, embedded):
        return asyncio.run(run())
