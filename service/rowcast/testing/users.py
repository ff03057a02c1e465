"""Callers in tests, who are authenticated without a token in the database and without a key that signs one."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from rowcast.identity.authentication import IDENTITY, Identity
from rowcast.identity.jwt import JwtVerifier
from rowcast.identity.tokens import TOKEN_PREFIX, TokenStore
from rowcast.identity.users import Credentials, User


class Users:
    """The users that tests have named, by their tokens. Both built-in authentication classes accept these."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._numbers = itertools.count(1)
        self._secret = secrets.token_hex(16)

    def token_for(self, id: object, *, staff: bool, claims: Mapping[str, Any]) -> str:
        """A new token of a user. It looks like an access token and like a JSON Web Token."""
        token = f"{TOKEN_PREFIX}test.{next(self._numbers)}.{self._secret}"
        self._users[token] = User(str(id), is_staff=staff, claims=claims)
        return token

    def find(self, token: str) -> tuple[User, Credentials] | None:
        """The user of a token that was made here."""
        user = self._users.get(token)
        return None if user is None else (user, Credentials())


USERS = web.AppKey("test_users", Users)


def accept_test_users(app: web.Application) -> None:
    """Let the authentication classes of a service accept the tokens of ``Users``, beside those that they accept anyway."""
    users = app[USERS] = Users()
    identity = app[IDENTITY]
    identity.tokens = _Tokens(identity.tokens, users)  # type: ignore[assignment]
    identity.jwt = _Verifier(identity, users)  # type: ignore[assignment]


class _Tokens:
    """A ``TokenStore`` that also finds test users."""

    def __init__(self, tokens: TokenStore, users: Users) -> None:
        self._tokens = tokens
        self._users = users
        self.is_active, self.active, self.read = tokens.is_active, tokens.active, tokens.read

    async def find(self, token: str) -> tuple[User, Credentials]:
        return self._users.find(token) or await self._tokens.find(token)


class _Verifier:
    """A ``JwtVerifier`` that also accepts test users, and is there without ``auth.jwt``."""

    def __init__(self, identity: Identity, users: Users) -> None:
        self._verifier: JwtVerifier | None = identity.jwt
        self._users = users

    async def verify(self, token: str) -> tuple[User, Credentials] | None:
        found = self._users.find(token)
        if found is not None or self._verifier is None:
            return found
        return await self._verifier.verify(token)

    async def close(self) -> None:
        if self._verifier is not None:
            await self._verifier.close()
