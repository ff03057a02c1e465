"""Access tokens: made, shown once, found by their digest, expired, revoked."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import asyncpg
import pytest

from rowcast.configuration.settings import Jwt
from rowcast.database.embedded import EmbeddedPostgres
from rowcast.database.pool import Database
from rowcast.errors import AuthenticationFailed
from rowcast.identity.authentication import IDENTITY
from rowcast.identity.tokens import create_token, list_tokens, revoke_token
from rowcast.identity.users import Credentials

from ..conftest import rowcast, rowcast_process
from .conftest import SECRET, Clock, Site, bearer

UNKNOWN = "rc_" + "A" * 43
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("scheme", ["Token", "Bearer", "bearer", "TOKEN"])
async def test_a_token_identifies_its_user(
    site: Site, database: Database, sql: asyncpg.Connection, scheme: str
) -> None:
    """With both schemes, in upper or lower case."""
    client = await site(database=database)
    token = await create_token(sql, "alice")
    response = await client.get("/", headers={"Authorization": f"{scheme} {token}"})
    assert await response.json() == {"id": "alice", "staff": False, "claims": {}}


async def test_a_staff_token_makes_staff(site: Site, database: Database, sql: asyncpg.Connection) -> None:
    """``--staff`` is a property of the token."""
    client = await site(database=database)
    response = await client.get("/", headers=bearer(await create_token(sql, "root", staff=True)))
    assert (await response.json())["staff"] is True


async def test_only_a_digest_is_stored(database: Database, sql: asyncpg.Connection) -> None:
    """A reader of the database, or of its backup, cannot use it to call; 256 bits cannot be guessed."""
    token = await create_token(sql, "alice")
    assert re.fullmatch(r"rc_[A-Za-z0-9_-]{43}", token)
    stored = await sql.fetchrow("SELECT * FROM rowcast.token")
    assert stored["digest"] == hashlib.sha256(token.encode()).digest()
    assert token[3:] not in repr(stored)
    assert await create_token(sql, "alice") != token


@pytest.mark.parametrize(
    "token", [UNKNOWN, "rc_", "rc_short", UNKNOWN + "A", "rc_" + "é" * 43, "rc_" + "A" * 42 + "=", "rc_" + "A" * 6000]
)
async def test_an_invalid_token_is_a_401(site: Site, database: Database, token: str) -> None:
    """Unknown, malformed, too long: all the same."""
    client = await site(database=database, jwt=Jwt(secret=SECRET))
    response = await client.get("/", headers=bearer(token))
    assert response.status == 401
    assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]


@pytest.mark.parametrize("token", ["rc_short", "rc_" + "é" * 43])
async def test_a_malformed_token_does_not_reach_the_database(site: Site, token: str) -> None:
    """Here there is no database: a query would be a 503."""
    assert (await (await site()).get("/", headers=bearer(token))).status == 401


async def test_without_a_database_a_token_is_a_503(site: Site) -> None:
    """A token that cannot be looked up is not called invalid."""
    response = await (await site()).get("/", headers=bearer(UNKNOWN))
    assert (response.status, "Retry-After" in response.headers) == (503, True)


async def test_an_expired_token_is_refused_to_the_second(
    site: Site, database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    """The cache does not extend the life of a token."""
    client = await site(database=database)
    token = await create_token(sql, "alice", lifetime=3600)
    expires_at = await sql.fetchval("SELECT extract(epoch FROM expires_at)::float8 FROM rowcast.token")
    clock.now = expires_at - 1
    assert (await client.get("/", headers=bearer(token))).status == 200
    clock.now = expires_at
    response = await client.get("/", headers=bearer(token))
    assert (response.status, (await response.json())["code"]) == (401, "token_expired")


async def test_a_revoked_token_is_refused_within_five_seconds(
    site: Site, database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    """The cache is used for no longer than that."""
    client = await site(database=database)
    token = await create_token(sql, "alice")
    assert (await client.get("/", headers=bearer(token))).status == 200
    (token_info,) = await list_tokens(sql)
    assert await revoke_token(sql, token_info.id)
    clock.advance(5)
    assert (await client.get("/", headers=bearer(token))).status == 401


async def test_a_token_in_use_is_looked_up_once_in_five_seconds(
    site: Site, database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    """A busy caller costs no query per request; an unknown token is never cached."""
    client = await site(database=database)
    token = await create_token(sql, "alice")
    for _ in range(10):
        await client.get("/", headers=bearer(token))
    assert database.statements == 1
    clock.advance(-3600)
    await client.get("/", headers=bearer(token))
    assert database.statements == 2, "a clock that was set back does not make an answer last longer"
    for _ in range(2):
        await client.get("/", headers=bearer(UNKNOWN))
    assert database.statements == 4


async def test_revocation_reaches_open_streams(
    site: Site, database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    """One query checks all of them, at most every five seconds."""
    identity = (await site(database=database)).app[IDENTITY]
    tokens = [await create_token(sql, name) for name in "abc"]
    held = [(await identity.tokens.find(token))[1] for token in tokens]
    clock.advance(5)
    before = database.statements
    assert [await identity.still_valid(each) for each in held] == [True, True, True]
    assert database.statements == before + 1
    clock.advance(4)
    await identity.tokens.find(tokens[1])  # remembered once more, before it is revoked
    before += 1
    await revoke_token(sql, 2)
    await sql.execute("DELETE FROM rowcast.token WHERE id = 3")
    assert [await identity.still_valid(each) for each in held] == [True, True, True]
    assert database.statements == before + 1
    clock.advance(1)
    assert [await identity.still_valid(each) for each in held] == [True, False, False]
    assert database.statements == before + 2
    with pytest.raises(AuthenticationFailed):
        await identity.tokens.find(tokens[1])


async def test_a_stream_outlives_a_database_that_is_away(clock: Clock, site: Site) -> None:
    """A failed check is not a revocation; expiry counts all the same."""
    identity = (await site()).app[IDENTITY]
    assert await identity.still_valid(Credentials(token=1))
    assert await identity.still_valid(Credentials(expires_at=clock() + 1, token=1))
    assert not await identity.still_valid(Credentials(expires_at=clock(), token=1))


async def test_credentials_of_other_classes_end_with_their_expiry(clock: Clock, site: Site) -> None:
    """``expires_at`` of any ``request.auth`` counts, and an object without it does not expire."""

    class Session:
        expires_at = clock() + 60

    identity = (await site()).app[IDENTITY]
    assert await identity.still_valid(Session())
    assert await identity.still_valid(None)
    clock.advance(60)
    assert not await identity.still_valid(Session())


async def test_a_stream_may_have_its_token_in_the_query(
    site: Site, database: Database, sql: asyncpg.Connection
) -> None:
    """``EventSource`` cannot send headers; other routes ignore the parameter, and a header takes precedence."""
    client = await site(database=database)
    token = await create_token(sql, "alice")
    other = await create_token(sql, "bob")
    assert (await (await client.get(f"/stream?access_token={token}")).json())["id"] == "alice"
    assert (await (await client.get(f"/?access_token={token}")).json())["id"] is None
    both = await client.get(f"/stream?access_token={token}", headers=bearer(other))
    assert (await both.json())["id"] == "bob"
    for query in (f"access_token={UNKNOWN}", "access_token=", "access_token=x", f"access_token={token}&access_token=x"):
        assert (await client.get(f"/stream?{query}")).status == 401


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a configuration."""
    (tmp_path / "config" / "resources").mkdir(parents=True)
    (tmp_path / "config" / "resources" / "tasks.yaml").write_text("fields: {title: {type: string}}")
    return tmp_path


async def test_the_command_line_makes_lists_and_revokes(
    directory: Path, database_url: str, database: Database, site: Site
) -> None:
    """A token is shown once; the list has everything but the token."""
    at = ("--database-url", database_url)
    client = await site(database=database)
    code, token = rowcast(directory, "token", "create", "alice", "--staff", "--expires", "30d", *at)
    assert code == 0
    assert (await (await client.get("/", headers=bearer(token))).json())["id"] == "alice"
    rowcast(directory, "token", "create", "bob", *at)
    assert rowcast(directory, "token", "revoke", "2", *at) == (0, "Token 2 is revoked.")
    code, listed = rowcast(directory, "token", "list", *at)
    titles, alice, bob = (line.split() for line in listed.splitlines())
    assert titles == ["ID", "USER", "STAFF", "CREATED", "EXPIRES", "REVOKED"]
    assert (alice[:3], alice[4] != "-", alice[5]) == (["1", "alice", "yes"], True, "-")
    assert (bob[:3], bob[4], bob[5] != "-") == (["2", "bob", "no"], "-", True)
    assert token[3:] not in listed


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("revoke", "9"), 1, "there is no token 9"),
        (("create", "x", "--expires", "99999999999d"), 2, "36500d"),
        (("create", "\n"), 2, "printable"),
    ],
)
async def test_the_command_line_reports_errors(
    directory: Path, database_url: str, database: Database, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """An impossible command is reported, and changes nothing."""
    found, output = rowcast(directory, "token", *arguments, "--database-url", database_url)
    assert (found, says in output) == (code, True), output


@pytest.mark.empty_database
async def test_without_the_table_the_command_asks_for_a_migration(directory: Path, database_url: str) -> None:
    """The command does not change a database that it did not create."""
    code, output = rowcast(directory, "token", "list", "--database-url", database_url)
    assert (code, "rowcast migrate" in output) == (1, True)


def test_tokens_are_made_while_a_service_runs_the_embedded_database(directory: Path) -> None:
    """Without a running service the command starts the database itself."""
    with EmbeddedPostgres(directory / "data"):
        code, token = rowcast_process(directory, "token", "create", "alice")
        assert (code, token[:3]) == (0, "rc_"), token
    code, listed = rowcast_process(directory, "token", "list")
    assert (code, "alice" in listed) == (0, True), listed
