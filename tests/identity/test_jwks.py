"""Public keys from a JWK Set: rotated, unreachable, or malformed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from rowcast.configuration.settings import Jwt
from rowcast.errors import AuthenticationFailed, ConfigurationError, Unavailable
from rowcast.identity import jwks
from rowcast.identity.jwks import (
    KEYS_MAX_AGE_SECONDS,
    KEYS_MAX_BYTES,
    KEYS_REFRESH_SECONDS,
    KEYS_RETRY_SECONDS,
    KeySet,
)
from rowcast.identity.jwt import JwtVerifier

from .conftest import Clock

OLD, NEW, STRANGER = (rsa.generate_private_key(65537, 2048) for _ in range(3))
EC = ec.generate_private_key(ec.SECP256R1())


def jwk(private: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    rsa_key = isinstance(private, rsa.RSAPrivateKey)
    algorithm = jwt.algorithms.RSAAlgorithm if rsa_key else jwt.algorithms.ECAlgorithm
    key = json.loads(algorithm.to_jwk(private.public_key()))
    return {**key, **({} if kid is None else {"kid": kid}), **more}


def sign(private: Any, kid: str | None, algorithm: str = "RS256") -> str:
    claims = {"sub": "alice", "aud": "rowcast", "exp": int(time.time()) + 600}
    return jwt.encode(claims, private, algorithm, headers={"kid": kid} if kid else None)


class Issuer:
    """An endpoint with keys, which counts its requests."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk(OLD, "old")]
        self.requests = 0
        self.status = 200
        self.body: bytes | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        await self.gate.wait()
        if self.status in (301, 302):
            raise web.HTTPFound("/elsewhere")
        return web.Response(status=self.status, body=self.body or json.dumps({"keys": self.keys}).encode())


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/keys", issuer.answer)

    async def elsewhere(request: web.Request) -> web.Response:
        return web.json_response({"keys": [jwk(NEW, "old")]})

    app.router.add_get("/elsewhere", elsewhere)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("/keys"))
        yield issuer


@pytest.fixture
async def verifier(issuer: Issuer, clock: Clock) -> AsyncIterator[JwtVerifier]:
    verifier = JwtVerifier(Jwt(jwks=issuer.url, algorithms=("RS256", "ES256")), clock)
    yield verifier
    assert isinstance(verifier.keys, KeySet)
    await verifier.keys.close()


async def accepted(verifier: JwtVerifier, token: str) -> bool:
    try:
        return (await verifier.verify(token))[0].id == "alice"
    except AuthenticationFailed:
        return False


async def settled(verifier: JwtVerifier) -> None:
    """Wait until the keys have been read in the background."""
    assert isinstance(verifier.keys, KeySet)
    await verifier.keys.settled()


async def test_keys_are_read_once_for_many_tokens(verifier: JwtVerifier, issuer: Issuer) -> None:
    """One request serves all tokens that arrive at the same time."""
    assert all(await asyncio.gather(*(accepted(verifier, sign(OLD, "old")) for _ in range(20))))
    assert issuer.requests == 1


async def test_a_new_key_works_as_soon_as_it_is_used(verifier: JwtVerifier, issuer: Issuer, clock: Clock) -> None:
    """Rotation needs no restart, and a withdrawn key is no longer accepted."""
    assert await accepted(verifier, sign(OLD, "old"))
    issuer.keys = [jwk(NEW, "new")]
    clock.advance(KEYS_RETRY_SECONDS)
    assert await accepted(verifier, sign(NEW, "new"))
    assert not await accepted(verifier, sign(OLD, "old"))


async def test_unknown_keys_do_not_cause_many_requests(verifier: JwtVerifier, issuer: Issuer, clock: Clock) -> None:
    """Anybody can write any kid into a token; the issuer gets a request once in a while."""
    assert await accepted(verifier, sign(OLD, "old"))
    for number in range(50):
        assert not await accepted(verifier, sign(STRANGER, f"kid {number}"))
    assert issuer.requests == 1
    clock.advance(KEYS_RETRY_SECONDS)
    for number in range(50):
        assert not await accepted(verifier, sign(STRANGER, f"kid {number}"))
    assert issuer.requests == 2


async def test_old_keys_are_read_again_in_the_background(verifier: JwtVerifier, issuer: Issuer, clock: Clock) -> None:
    """No caller waits for that, not even for an endpoint that hangs."""
    assert await accepted(verifier, sign(OLD, "old"))
    issuer.gate.clear()
    issuer.keys = [jwk(NEW, "old")]
    clock.advance(KEYS_REFRESH_SECONDS)
    assert await accepted(verifier, sign(OLD, "old"))
    issuer.gate.set()
    await settled(verifier)
    assert not await accepted(verifier, sign(OLD, "old"))
    assert await accepted(verifier, sign(NEW, "old"))


async def test_keys_outlast_an_endpoint_that_is_away_for_a_while(
    verifier: JwtVerifier, issuer: Issuer, clock: Clock
) -> None:
    """After that a token cannot be verified: a 503, since it may be valid. When the endpoint is back, so are the keys."""
    assert await accepted(verifier, sign(OLD, "old"))
    issuer.status = 500
    clock.advance(KEYS_MAX_AGE_SECONDS - 1)
    assert await accepted(verifier, sign(OLD, "old"))
    await settled(verifier)
    with pytest.raises(Unavailable):
        await verifier.verify(sign(NEW, "new"))
    clock.advance(KEYS_RETRY_SECONDS)
    with pytest.raises(Unavailable):
        await verifier.verify(sign(OLD, "old"))
    issuer.status = 200
    clock.advance(KEYS_RETRY_SECONDS)
    assert await accepted(verifier, sign(OLD, "old"))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"no JSON"),
        (200, b"[]"),
        (200, b'{"keys": 1}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [1, null, {"kty": "RSA"}]}'),
        (200, json.dumps({"keys": [jwk(NEW, "old")]}).encode() + b" " * KEYS_MAX_BYTES),
        (302, None),
        (404, None),
    ],
    ids=["no JSON", "a list", "no list", "empty", "no keys", "too much", "redirect", "not found"],
)
async def test_a_malformed_key_set_changes_nothing(
    verifier: JwtVerifier, issuer: Issuer, clock: Clock, status: int, body: bytes | None
) -> None:
    """Not JSON, an empty set, too much, and a redirect, which could lead anywhere."""
    assert await accepted(verifier, sign(OLD, "old"))
    issuer.status, issuer.body = status, body
    clock.advance(KEYS_REFRESH_SECONDS)
    assert await accepted(verifier, sign(OLD, "old"))
    await settled(verifier)
    assert issuer.requests == 2
    assert await accepted(verifier, sign(OLD, "old"))


async def test_an_endpoint_that_hangs_times_out(
    verifier: JwtVerifier, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller waits for it no longer than the timeout."""
    monkeypatch.setattr(jwks, "KEYS_TIMEOUT_SECONDS", 0.05)
    issuer.gate.clear()
    with pytest.raises(Unavailable):
        await verifier.verify(sign(OLD, "old"))
    issuer.gate.set()


async def test_an_error_that_nobody_expected_is_logged_and_tried_again(
    verifier: JwtVerifier, issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens get a 503 until the keys are read."""
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(jwks, "_usable_keys", lambda *_: 1 / 0)
        with pytest.raises(Unavailable):
            await verifier.verify(sign(OLD, "old"))
    assert [(each["event"], each["log_level"]) for each in logs] == [("jwks_failed", "error")]
    clock.now += jwks.KEYS_RETRY_SECONDS
    assert await accepted(verifier, sign(OLD, "old"))


async def test_only_public_keys_for_signatures_are_used(verifier: JwtVerifier, issuer: Issuer) -> None:
    """Secrets, private keys, keys for encryption, for other algorithms and beyond the bound are skipped."""
    secret = {"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "secret"}
    private = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(STRANGER)), "kid": "private"}
    small = rsa.generate_private_key(65537, 1024)
    issuer.keys = [
        secret, private, jwk(STRANGER, "enc", use="enc"), jwk(STRANGER, "alg", alg="RS512"), jwk(small, "small"),
        jwk(EC, "ec"), *[jwk(OLD, f"old {number}") for number in range(200)],
    ]  # fmt: skip
    assert await accepted(verifier, sign(EC, "ec", "ES256"))
    for kid in ("private", "enc", "alg", "old 199"):
        assert not await accepted(verifier, sign(OLD if kid.startswith("old") else STRANGER, kid))
    assert not await accepted(verifier, sign(small, "small"))
    assert not await accepted(verifier, jwt.encode({"sub": "alice"}, "secret" * 8, "HS256", headers={"kid": "secret"}))


UNUSABLE: list[Any] = [
    None, 7, "key", [], {}, {"kty": None}, {"kty": ["RSA"]}, {"kty": "oct", "k": 5}, {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
    {"kty": "OKP", "crv": ["Ed25519"], "x": "AAAA"}, {"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"},
    {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}, {"kty": "EC", "crv": {}, "x": "AA", "y": "AA"},
    {"kty": "RSA", "n": 5, "e": "AQAB"}, {"kty": "RSA", "n": "", "e": ""}, {"kty": "RSA", "n": "!!", "e": "AQAB"},
    {"kty": "RSA", "n": "\u00e9", "e": "AQAB"}, {"kty": "RSA", "n": "AAAA", "e": "AAAA"}, {"kty": "RSA"},
    {**jwk(NEW, "new"), "alg": ["RS256"]}, {**jwk(NEW, "new"), "alg": {}}, {**jwk(NEW, "new"), "alg": 1},
    {**jwk(NEW, "new"), "alg": None}, {**jwk(NEW, "new"), "alg": "nonsense"}, {**jwk(NEW, "new"), "kty": "EC"},
    {**jwk(NEW, "new"), "kid": ["old"]}, {**jwk(NEW, "new"), "kid": {}}, {**jwk(NEW, "new"), "use": ["sig"]},
    {**jwk(EC, "new"), "x": None}, {**jwk(EC, "new"), "kty": "RSA"},
]  # fmt: skip


@pytest.mark.parametrize("position", range(len(UNUSABLE)))
async def test_an_unusable_key_does_not_spoil_the_others(verifier: JwtVerifier, issuer: Issuer, position: int) -> None:
    """Whatever is wrong with it: its ``alg`` is a list, its type another one, its numbers are none."""
    issuer.keys = [UNUSABLE[position], jwk(OLD, "old")]
    assert await accepted(verifier, sign(OLD, "old"))
    assert not await accepted(verifier, sign(NEW, "new"))


async def test_many_unusable_keys_do_not_spoil_the_others(verifier: JwtVerifier, issuer: Issuer) -> None:
    """The number of keys is limited, not that of entries."""
    issuer.keys = [*UNUSABLE * 10, jwk(OLD, "old")]
    assert await accepted(verifier, sign(OLD, "old"))


async def test_a_key_is_used_with_its_own_algorithms(verifier: JwtVerifier, issuer: Issuer) -> None:
    """A token cannot combine a key with another algorithm."""
    issuer.keys = [jwk(OLD, "old", alg="RS256"), jwk(EC, "ec")]
    assert await accepted(verifier, sign(OLD, "old"))
    assert not await accepted(verifier, sign(OLD, "ec"))
    assert not await accepted(verifier, sign(EC, "old", "ES256"))
    assert not await accepted(verifier, sign(OLD, "old", "RS512"))


async def test_a_token_without_kid_needs_the_only_key_of_its_algorithm(verifier: JwtVerifier, issuer: Issuer) -> None:
    """It is verified with that key."""
    issuer.keys = [jwk(OLD, None), jwk(EC, "ec")]
    assert await accepted(verifier, sign(OLD, None))
    assert await accepted(verifier, sign(EC, None, "ES256"))


async def test_a_token_without_kid_is_refused_where_there_are_several_keys(
    verifier: JwtVerifier, issuer: Issuer
) -> None:
    """A caller cannot make the service try every key."""
    issuer.keys = [jwk(OLD, "old"), jwk(NEW, "new")]
    assert not await accepted(verifier, sign(OLD, None))


async def test_keys_may_be_in_a_file(tmp_path: Path, clock: Clock) -> None:
    """It is read at start, and again when a token needs it."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [jwk(OLD, "old")]}))
    verifier = JwtVerifier(Jwt(jwks=str(path), algorithms=("RS256",)), clock)
    assert await accepted(verifier, sign(OLD, "old"))
    path.write_text(json.dumps({"keys": [jwk(NEW, "new")]}))
    assert await accepted(verifier, sign(NEW, "new"))
    path.unlink()
    clock.advance(KEYS_REFRESH_SECONDS)
    assert await accepted(verifier, sign(NEW, "new"))
    await settled(verifier)
    assert await accepted(verifier, sign(NEW, "new"))


@pytest.mark.parametrize("text", ["", "{}", '{"keys": [{"kty": "oct", "k": "AAAA"}]}'])
def test_a_file_without_keys_stops_the_start(tmp_path: Path, clock: Clock, text: str) -> None:
    """The file belongs to the configuration, so its faults are found at once."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="jwks"):
        JwtVerifier(Jwt(jwks=str(path), algorithms=("RS256",)), clock)
