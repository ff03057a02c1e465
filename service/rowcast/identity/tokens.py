"""Access tokens (``rc_…``) in the database.

A token is 256 random bits. The database stores its SHA-256 and finds it by that digest. So no comparison leaks timing,
and a leaked database does not contain anything that a caller could present.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from rowcast.database.pool import Database
from rowcast.errors import AuthenticationFailed, TokenExpired, Unavailable
from rowcast.identity.users import ANONYMOUS, Clock, Credentials, User

TOKEN_PREFIX: Final = "rc_"  # lets scanners for leaked secrets recognise a token
TOKEN_PATTERN: Final = re.compile(r"rc_[A-Za-z0-9_-]{43}")
TOKEN_FRESH_SECONDS: Final = 5.0  # for which a result of the database is used again
TOKENS_CACHED_MAX: Final = 4096

_FIND: Final = """
SELECT id, user_id, is_staff, extract(epoch FROM expires_at)::float8 AS expires_at
FROM rowcast.token WHERE digest = $1 AND revoked_at IS NULL
"""
_NOT_REVOKED: Final = "SELECT id FROM rowcast.token WHERE id = ANY ($1::bigint[]) AND revoked_at IS NULL"


class TokenStore:
    """Looks up access tokens. A result of the database is used for ``TOKEN_FRESH_SECONDS``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._cached: dict[bytes, tuple[float, User, Credentials]] = {}  # digest → time of reading, result
        self._in_use: WeakSet[Credentials] = WeakSet()  # those that a request or a stream still holds
        self._revoked: frozenset[int] = frozenset()
        self._checked_at = 0.0

    async def find(self, token: str) -> tuple[User, Credentials]:
        """The user of a token. ``AuthenticationFailed`` if it is malformed, unknown, revoked or expired."""
        if not TOKEN_PATTERN.fullmatch(token):
            raise AuthenticationFailed("The token is malformed.")
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock()
        read_at, user, credentials = self._cached.get(digest, (0.0, ANONYMOUS, Credentials()))
        if not 0 <= now - read_at < TOKEN_FRESH_SECONDS:
            user, credentials = await self._look_up(digest)
            if len(self._cached) >= TOKENS_CACHED_MAX:
                self._cached.clear()
            self._cached[digest] = now, user, credentials
        if credentials.expires_at is not None and credentials.expires_at <= now:
            raise TokenExpired()
        return user, credentials

    async def _look_up(self, digest: bytes) -> tuple[User, Credentials]:
        row = await self.read(digest)
        if row is None:
            raise AuthenticationFailed("The token is unknown or was revoked.")
        credentials = Credentials(row["expires_at"], row["id"])
        self._in_use.add(credentials)
        return User(id=row["user_id"], is_staff=row["is_staff"]), credentials

    async def read(self, digest: bytes) -> Mapping[str, Any] | None:
        """``id``, ``user_id``, ``is_staff`` and ``expires_at`` of a token that was not revoked; ``None`` if there is none."""
        with self._database.as_service():
            return await self._database.read(_FIND, [digest])

    async def active(self, tokens: Collection[int]) -> Collection[int]:
        """Those of some tokens that have not been revoked. Raises ``Unavailable``."""
        with self._database.as_service():
            rows = await self._database.fetch_all(_NOT_REVOKED, [list(tokens)])
        return {row["id"] for row in rows}

    async def is_active(self, token: int) -> bool:
        """Whether an accepted token has not been revoked since. The result is at most ``TOKEN_FRESH_SECONDS`` old.

        One query checks all tokens in use, however many streams ask.
        """
        now = self._clock()
        if not 0 <= now - self._checked_at < TOKEN_FRESH_SECONDS:
            self._checked_at = now
            in_use = {credentials.token for credentials in self._in_use if credentials.token is not None}
            try:
                active = await self.active(in_use)
            except Unavailable:  # is not a reason to end a running stream; the next check comes soon
                return token not in self._revoked
            self._revoked = frozenset(in_use.difference(active))
            self._cached = {
                digest: entry for digest, entry in self._cached.items() if entry[2].token not in self._revoked
            }
        return token not in self._revoked


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A row of the token table, without the digest. The token itself is not stored anywhere."""

    id: int
    user_id: str
    is_staff: bool
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


async def create_token(
    connection: asyncpg.Connection, user: str, *, staff: bool = False, lifetime: float | None = None
) -> str:
    """Make a token for a user and return it. Only its digest is stored, so it cannot be shown again.

    ``lifetime`` is in seconds; ``None`` makes a token that does not expire.
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    await connection.execute(
        "INSERT INTO rowcast.token (digest, user_id, is_staff, expires_at)"
        " VALUES ($1, $2, $3, clock_timestamp() + $4::interval)",
        hashlib.sha256(token.encode()).digest(),
        user,
        staff,
        None if lifetime is None else dt.timedelta(seconds=lifetime),
    )
    return token


async def list_tokens(connection: asyncpg.Connection) -> list[TokenInfo]:
    """Every token, oldest first."""
    rows = await connection.fetch(
        "SELECT id, user_id, is_staff, created_at, expires_at, revoked_at FROM rowcast.token ORDER BY id"
    )
    return [TokenInfo(*row) for row in rows]


async def revoke_token(connection: asyncpg.Connection, token: int) -> bool:
    """Revoke a token from now on, and return whether the id exists. Revoking it again changes nothing."""
    done = await connection.execute(
        "UPDATE rowcast.token SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1", token
    )
    return bool(done == "UPDATE 1")
