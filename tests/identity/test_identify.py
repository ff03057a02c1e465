"""Which class identifies a caller, and the response to credentials that no class accepts."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from rowcast.errors import AuthenticationFailed
from rowcast.identity.authentication import (
    BaseAuthentication,
    JWTAuthentication,
    TokenAuthentication,
    authorization,
)
from rowcast.identity.users import ANONYMOUS, User

from .conftest import Client, Site, bearer

CHALLENGE = 'Bearer realm="rowcast"'
REFUSED = 'Bearer realm="rowcast", error="invalid_token"'


class ApiKey(BaseAuthentication):
    """A user of ``X-Api-Key``, in a plain function."""

    def authenticate(self, request: Any) -> Any:
        key = request.headers.get("X-Api-Key")
        if key == "wrong":
            raise AuthenticationFailed("No such key.")
        return None if key is None else (User(id=f"key {key}"), key)

    def authenticate_header(self, request: Any) -> str:
        return "ApiKey"


class Basic(BaseAuthentication):
    """Anybody with the scheme ``Basic``, in a coroutine, and without a challenge."""

    async def authenticate(self, request: Any) -> Any:
        sent = authorization(request)
        return (User(id=sent[1]), None) if sent is not None and sent[0] == "basic" else None


class Guest(BaseAuthentication):
    """Everybody, as an anonymous caller."""

    def authenticate(self, request: Any) -> Any:
        return ANONYMOUS, None


async def test_without_credentials_a_caller_is_anonymous(site: Site) -> None:
    """Missing credentials are not an error, and get no challenge."""
    client = await site()
    response = await client.get("/")
    assert await response.json() == {"id": None, "staff": False, "claims": {}}
    assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize(
    "header",
    [
        "Bearer x",
        "Bearer",
        "",
        "Basic YTpi",
        "Token x",
        "Digest username=a",
        "Bearer a b",
        "x" * 5000,
        "Bearer \xff\xfe",
    ],
)
async def test_credentials_that_no_class_accepts_are_a_401(site: Site, header: str) -> None:
    """Bad or unknown credentials never make a caller anonymous."""
    response = await (await site()).get("/", headers={"Authorization": header})
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == REFUSED
    assert (await response.json())["code"] == "authentication_failed"


async def test_bytes_that_are_not_text_are_a_401(site: Site) -> None:
    """A header that is neither ASCII nor UTF-8 is refused like any other."""
    client = await site()
    status = await _raw(client, b"Authorization: Bearer rc_\xff\xfe\x80")
    assert status == 401


async def test_two_authorization_headers_are_refused(site: Site) -> None:
    """Otherwise two parts of a system could look at two different credentials."""
    client = await site(authenticators=[Basic])
    status = await _raw(client, b"Authorization: Basic a\r\nAuthorization: Basic b")
    assert status in (400, 401, 403)


async def test_the_first_class_that_recognises_the_credentials_decides(site: Site) -> None:
    """Classes are tried in their order, plain functions and coroutines alike."""
    client = await site(authenticators=[ApiKey, Basic, Guest])
    assert (await (await client.get("/", headers={"X-Api-Key": "1"})).json())["id"] == "key 1"
    assert (await (await client.get("/", headers={"Authorization": "bAsIc me"})).json())["id"] == "me"
    assert (await (await client.get("/")).json())["id"] is None


async def test_a_401_has_the_challenges_of_all_classes(site: Site) -> None:
    """A client learns every way to identify itself, each once."""
    client = await site(authenticators=[TokenAuthentication, JWTAuthentication, ApiKey])
    response = await client.get("/", headers={"X-Api-Key": "wrong"})
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, f"{REFUSED}, ApiKey")
    assert (await response.json())["detail"] == "No such key."


async def test_without_authenticators_credentials_are_ignored(site: Site) -> None:
    """A viewset without authentication leaves the header to its own code or a proxy."""
    response = await (await site(authenticators=[])).get("/", headers=bearer("x"))
    assert (response.status, (await response.json())["id"]) == (200, None)


async def test_refused_without_credentials_is_a_401_with_them_a_403(site: Site) -> None:
    """An anonymous caller is asked to log in; a known caller gets the reason of the refusal."""
    client = await site(authenticators=[ApiKey, TokenAuthentication])
    response = await client.get("/members")
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, f"ApiKey, {CHALLENGE}")
    assert (await response.json())["code"] == "not_authenticated"
    response = await client.get("/members", headers={"X-Api-Key": "1"})
    assert (response.status, "WWW-Authenticate" in response.headers) == (403, False)
    body = await response.json()
    assert (body["detail"], body["code"]) == ("members only", "no_member")


@pytest.mark.parametrize("authenticators", [[], [Basic]])
async def test_without_a_challenge_a_refusal_is_a_403(site: Site, authenticators: list[Any]) -> None:
    """A 401 must have a challenge (RFC 9110, section 15.5.2)."""
    response = await (await site(authenticators=authenticators)).get("/members")
    assert response.status == 403


async def _raw(client: Client, headers: bytes) -> int:
    """The status of a request with headers that a client library would not send."""
    reader, writer = await asyncio.open_connection(client.host, client.port, family=socket.AF_INET)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])
