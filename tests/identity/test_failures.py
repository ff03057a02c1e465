"""Wrong credentials are throttled by the address of the caller, and nothing else is."""

from __future__ import annotations

import json
import time

import asyncpg
import jwt
import pytest

from rowcast.identity.throttling import THROTTLES
from rowcast.identity.tokens import create_token

from ..conftest import Client, Serve, configure
from .conftest import SECRET, bearer

NOTES = "fields: {id: {type: integer, primary_key: true}}\nviewset: {permission_classes: [AllowAny]}"
KEYED = "fields: {id: {type: integer, primary_key: true}}\nviewset: {class: 'views:Keyed'}"
VIEWS = """
from rowcast import AuthenticationFailed, BaseAuthentication, ModelViewSet, User

class Keys(BaseAuthentication):
    def authenticate(self, request):
        key = request.headers.get("X-Key")
        if key is not None and key != "right":
            raise AuthenticationFailed("No such key.", code="unknown_key")
        return None if key is None else (User(id="k"), key)

class Keyed(ModelViewSet):
    authentication_classes = [Keys]
    permission_classes = []
"""
WRONG = bearer("rc_" + "x" * 43)


def settings(failures: str = "3/min", **server: object) -> str:
    return json.dumps(
        {"throttle": {"authentication_failures": failures}, "auth": {"jwt": {"secret": SECRET}}, "server": server}
    )


@pytest.fixture
async def client(serve: Serve) -> Client:
    """A service that accepts three wrong credentials a minute, behind one proxy."""
    return await serve({"notes": NOTES, "keyed": KEYED}, settings(trusted_proxies=1), modules={"views": VIEWS})


async def status(client: Client, path: str = "/notes/", address: str = "192.0.2.1", **headers: str) -> int:
    async with client.get(path, headers={"X-Forwarded-For": address, **headers}) as response:
        if response.status == 429:
            assert 0 < int(response.headers["Retry-After"]) <= 60
            assert (await response.json())["code"] == "throttled"
        return response.status


async def test_wrong_credentials_are_throttled_by_address(client: Client) -> None:
    """On every address of the service, whatever kind they are; another address has its own count."""
    sent = [
        ("/notes/", WRONG), ("/notes/stream/", bearer("a.b.c")), ("/notes/1/", {"Authorization": "Basic eDp5"}),
        ("/notes/", WRONG), ("/notes/stream/", WRONG), ("/stream/?resources=notes", WRONG), ("/notes/1/stream/", WRONG),
    ]  # fmt: skip
    assert [await status(client, path, **headers) for path, headers in sent] == [401] * 3 + [429] * 4
    assert await status(client, address="192.0.2.2", **WRONG) == 401
    assert await status(client, address="203.0.113.5, 192.0.2.1", **WRONG) == 429  # what a client writes does not count


async def test_right_credentials_are_never_refused(client: Client, sql: asyncpg.Connection) -> None:
    """Nor are callers without any: others may be behind the same address, and try while somebody else guesses."""
    for _ in range(4):
        last = await status(client, **WRONG)
    assert last == 429
    claims = {"sub": "ann", "aud": "rowcast", "exp": time.time() + 60}
    for right in (bearer(await create_token(sql, "ann")), bearer(jwt.encode(claims, SECRET, "HS256")), {}):
        assert [await status(client, **right) for _ in range(5)] == [200] * 5
    assert await status(client, **WRONG) == 429


async def test_expired_tokens_are_not_guesses(client: Client) -> None:
    """A client learns from the 401 that it needs a new one, however many there are behind its address."""
    claims = {"sub": "ann", "aud": "rowcast", "exp": time.time() - 60}
    expired = bearer(jwt.encode(claims, SECRET, "HS256"))
    assert [await status(client, **expired) for _ in range(6)] == [401] * 6
    assert await status(client, **WRONG) == 401


async def test_authentication_of_ones_own_is_counted(client: Client) -> None:
    """Also where a refusal is a 403 with a code of its own, because there is no challenge."""
    found = [await status(client, "/keyed/", **{"X-Key": "wrong"}) for _ in range(5)]
    assert found == [403, 403, 403, 429, 429]
    assert await status(client, "/keyed/", **{"X-Key": "right"}) == 200


async def test_limit_may_be_off(serve: Serve) -> None:
    """Then every wrong credential is a 401; by default there is a limit."""
    client = await serve({"notes": NOTES}, settings("off"))
    assert {await status(client, **WRONG) for _ in range(70)} == {401}
    client = await serve({"notes": NOTES})
    found = [await status(client, **WRONG) for _ in range(62)]
    assert found == [401] * 60 + [429] * 2
    assert client.app[THROTTLES].rates == {}


def test_setting_is_a_rate(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Or the word ``off``; the message names both."""
    with pytest.raises(Exception, match=r"authentication_failures: must be a rate such as 60/min.* or off"):
        configure(tmp_path_factory.mktemp("config"), {}, settings("never"))
