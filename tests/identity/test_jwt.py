"""JSON Web Tokens: which are accepted, and known attacks that are refused (RFC 8725)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast.configuration.settings import Jwt
from rowcast.errors import ApiError, AuthenticationFailed, ConfigurationError
from rowcast.identity.authentication import IDENTITY, JWTAuthentication
from rowcast.identity.jwt import JwtVerifier

from .conftest import SECRET, Clock, Site, bearer

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, Any] = {
    "RS256": RSA,
    "PS384": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
HS = Jwt(secret=SECRET, issuer="https://issuer.example")


def pem(private: Any) -> str:
    public: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public.decode()


RS = Jwt(secret=pem(RSA), algorithms=("RS256",), issuer="https://issuer.example")


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims with changes; ``None`` leaves one out."""
    good = {"sub": "alice", "aud": "rowcast", "iss": "https://issuer.example", "exp": int(time.time()) + 600, **changes}
    return {name: value for name, value in good.items() if value is not None}


def segment(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: Any, payload: Any, key: bytes = b"", signature: bytes | None = None) -> str:
    """A token with any header, signed by HMAC with any bytes."""
    signed = f"{segment(header)}.{segment(payload)}"
    made = hmac.new(key, signed.encode(), hashlib.sha256).digest() if signature is None else signature
    return f"{signed}.{segment(made)}"


@pytest.mark.parametrize("algorithm", list(PRIVATE))
async def test_public_keys_verify_what_their_owner_signed(site: Site, algorithm: str) -> None:
    """Every family of keys, from PEM."""
    client = await site(jwt=Jwt(secret=pem(PRIVATE[algorithm]), algorithms=(algorithm,)))
    token = jwt.encode(claims(is_staff=True, team="a"), PRIVATE[algorithm], algorithm)
    found = await (await client.get("/", headers=bearer(token))).json()
    assert (found["id"], found["staff"], found["claims"]["team"]) == ("alice", True, "a")


async def test_a_shared_secret_verifies(site: Site) -> None:
    """The audience may be one of several."""
    client = await site(jwt=HS)
    token = jwt.encode(claims(aud=["other", "rowcast"]), SECRET, "HS256")
    assert (await (await client.get("/", headers=bearer(token))).json())["id"] == "alice"
    assert (await (await client.get(f"/stream?access_token={token}")).json())["id"] == "alice"


@pytest.mark.parametrize(("value", "staff"), [(True, True), (False, False), ("true", False), (1, False), ([1], False)])
async def test_only_true_makes_staff(site: Site, value: Any, staff: bool) -> None:
    """The claim of ``staff_claim`` must be ``true``, and not a value that looks like it."""
    client = await site(jwt=Jwt(secret=SECRET, staff_claim="admin"))
    token = jwt.encode(claims(admin=value, is_staff=True), SECRET, "HS256")
    assert (await (await client.get("/", headers=bearer(token))).json())["staff"] is staff


NOW = int(time.time())
BAD_CLAIMS = {
    "just expired": {"exp": NOW - 1},
    "without exp": {"exp": None},
    "exp is no time": {"exp": "soon"},
    "exp is infinite": {"exp": float("inf")},
    "exp is a list": {"exp": [NOW + 600]},
    "not yet valid": {"nbf": NOW + 86_400},
    "issued in the future": {"iat": NOW + 86_400},
    "without aud": {"aud": None},
    "another audience": {"aud": "other"},
    "audiences without ours": {"aud": ["other", "rowcast.example"]},
    "aud is no text": {"aud": {"rowcast": 1}},
    "without iss": {"iss": None},
    "another issuer": {"iss": "https://issuer.example.evil.example"},
    "iss is a list": {"iss": ["https://issuer.example"]},
    "without sub": {"sub": None},
    "empty sub": {"sub": ""},
    "sub is a number": {"sub": 1},
    "sub with a zero byte": {"sub": "alice\0"},
    "sub with half a character": {"sub": "\ud800"},
}


@pytest.mark.parametrize("name", list(BAD_CLAIMS))
async def test_a_signed_token_with_bad_claims_is_a_401(site: Site, name: str) -> None:
    """A signature alone opens nothing."""
    bad = claims(**BAD_CLAIMS[name])  # type: ignore[arg-type]
    if "iss" in bad and not isinstance(bad["iss"], str):
        token = forged({"alg": "HS256", "typ": "JWT"}, bad, SECRET.encode())
    else:
        token = jwt.encode(bad, SECRET, "HS256")
    response = await (await site(jwt=HS)).get("/", headers=bearer(token))
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="rowcast", error="invalid_token"'


async def test_an_expired_token_has_its_own_code(site: Site) -> None:
    """A program sees from the code that it needs a new token."""
    token = jwt.encode(claims(exp=NOW - 3600), SECRET, "HS256")
    response = await (await site(jwt=HS)).get("/", headers=bearer(token))
    assert (await response.json())["code"] == "token_expired"


GOOD = claims()
OTHER_JWK = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))
PUBLIC = pem(RSA).encode()
ATTACKS = {
    "no signature, alg none": f"{segment({'alg': 'none'})}.{segment(GOOD)}.",
    "alg None": forged({"alg": "None"}, GOOD),
    "alg nOnE and a signature": forged({"alg": "nOnE"}, GOOD, PUBLIC),
    "without alg": forged({"typ": "JWT"}, GOOD, PUBLIC),
    "alg is a list": forged({"alg": ["RS256"]}, GOOD, PUBLIC),
    "alg is null": forged({"alg": None}, GOOD, PUBLIC),
    "HS256 with the public key as secret": forged({"alg": "HS256"}, GOOD, PUBLIC),
    "HS256 with the public key, stripped": forged({"alg": "HS256"}, GOOD, PUBLIC.strip()),
    "HS256 with an empty secret": forged({"alg": "HS256"}, GOOD, b""),
    "RS256 signed by HMAC": forged({"alg": "RS256"}, GOOD, PUBLIC),
    "RS256 without a signature": forged({"alg": "RS256"}, GOOD, signature=b""),
    "signed by somebody else": jwt.encode(GOOD, OTHER_RSA, "RS256"),
    "an algorithm that is not allowed": jwt.encode(GOOD, RSA, "PS256"),
    "brings its own key": jwt.encode(
        GOOD,
        OTHER_RSA,
        "RS256",
        headers={"jwk": json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))},
    ),
    "says where its key is": jwt.encode(GOOD, OTHER_RSA, "RS256", headers={"jku": "https://evil.example/keys"}),
    "kid is a path": jwt.encode(GOOD, OTHER_RSA, "RS256", headers={"kid": "../../../../dev/null"}),
    "kid is SQL": jwt.encode(GOOD, OTHER_RSA, "RS256", headers={"kid": "x' UNION SELECT 'key"}),
    "kid is a number": forged({"alg": "RS256", "kid": 1}, GOOD, PUBLIC),
    "kid is an object": forged({"alg": "RS256", "kid": {"a": 1}}, GOOD, PUBLIC),
    "an unknown critical header": jwt.encode(GOOD, RSA, "RS256", headers={"crit": ["x"], "x": 1}),
    "payload not encoded": forged({"alg": "RS256", "b64": False, "crit": ["b64"]}, b"", PUBLIC),
    "header is deeper than any stack": f"{segment(b'[' * 4000)}.{segment(GOOD)}.x",
    "payload is deeper than any stack": forged({"alg": "RS256"}, b"[" * 4000, PUBLIC),
    "header is no JSON": f"{segment(b'{')}.{segment(GOOD)}.x",
    "header is a list": f"{segment([1])}.{segment(GOOD)}.x",
    "header has a number without end": segment(b'{"alg":%b}' % (b"9" * 5000)) + ".e.x",
    "segments are empty": "..",
    "two segments": f"{segment({'alg': 'RS256'})}.{segment(GOOD)}",
    "five segments": "a.b.c.d.e",
    "changed after signing": jwt.encode(GOOD, RSA, "RS256").replace(".", ".e", 1),
}


@pytest.mark.parametrize("attack", list(ATTACKS))
async def test_attacks_are_a_401(site: Site, attack: str) -> None:
    """Whatever a client writes into a token, the key determines how it is verified."""
    response = await (await site(jwt=RS)).get("/", headers=bearer(ATTACKS[attack]))
    assert (response.status, (await response.json())["code"]) == (401, "authentication_failed")


async def test_a_secret_verifies_nothing_but_its_own_algorithms(site: Site) -> None:
    """The other way round: a token for public keys where a secret is configured."""
    client = await site(jwt=HS)
    for token in (jwt.encode(GOOD, RSA, "RS256"), jwt.encode(GOOD, SECRET + SECRET, "HS512"), ATTACKS["alg None"]):
        assert (await client.get("/", headers=bearer(token))).status == 401


async def test_a_huge_token_is_refused_unread(site: Site) -> None:
    """The limit is 8 KiB, even if the server accepts longer headers."""
    client = await site(jwt=HS, max_field_size=65536)
    good = jwt.encode(claims(), SECRET, "HS256")
    huge = jwt.encode(claims(more="x" * 9000), SECRET, "HS256")
    assert (await client.get("/", headers=bearer(good))).status == 200
    response = await client.get("/", headers=bearer(huge))
    assert (response.status, (await response.json())["detail"]) == (401, "The token is too long.")


async def test_without_configuration_every_token_is_refused(site: Site) -> None:
    """Nothing could verify it."""
    response = await (await site()).get("/", headers=bearer(jwt.encode(claims(), SECRET, "HS256")))
    assert response.status == 401


async def test_an_access_token_is_not_a_json_web_token(site: Site) -> None:
    """A viewset with JSON Web Tokens alone refuses it, and does not look it up."""
    client = await site(jwt=HS, authenticators=[JWTAuthentication])
    assert (await client.get("/", headers=bearer("rc_" + "A" * 43))).status == 401


async def test_a_token_ends_with_its_exp(site: Site, clock: Clock) -> None:
    """A stream ends at the time after which the token could not open another one."""
    identity = (await site(jwt=HS)).app[IDENTITY]
    assert identity.jwt is not None
    user, credentials = await identity.jwt.verify(jwt.encode(claims(), SECRET, "HS256"))
    assert credentials.expires_at == user.claims["exp"]
    assert await identity.still_valid(credentials)
    clock.now = user.claims["exp"]
    assert not await identity.still_valid(credentials)


SMALL = rsa.generate_private_key(65537, 1024)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (Jwt(secret="-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----", algorithms=("RS256",)), "public key"),
        (
            Jwt(
                secret=RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                algorithms=("RS256",),
            ),
            "public half",
        ),
        (Jwt(secret=pem(RSA), algorithms=("ES256", "EdDSA")), "ES256, EdDSA"),
        (Jwt(secret=pem(PRIVATE["ES512"]), algorithms=("ES256",)), "ES256"),
        (Jwt(secret=pem(SMALL), algorithms=("RS256",)), "RS256"),
        (Jwt(secret=pem(RSA), jwks="https://x.example", algorithms=("RS256",)), "not in both"),
        (Jwt(jwks="/nowhere/keys.json", algorithms=("RS256",)), "/nowhere/keys.json"),
    ],
)
def test_keys_that_cannot_be_used_stop_the_start(written: Jwt, says: str) -> None:
    """They are found before the first request."""
    with pytest.raises(ConfigurationError, match=says):
        JwtVerifier(written, time.time)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_names = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "exp", "nbf", "iat", "aud", "iss", "sub", "jti", "x"])
_objects = st.dictionaries(_names, _values | st.sampled_from(["HS256", "RS256", "none"]), max_size=6)


@settings(max_examples=300, deadline=None)
@given(header=_objects | _values, payload=_objects | _values | st.binary(max_size=50), signed=st.booleans())
def test_no_token_is_a_server_error(header: Any, payload: Any, signed: bool) -> None:
    """Signed or not, a token is accepted or refused, never a 500."""
    if signed and isinstance(header, dict):
        header = {**header, "alg": "HS256"}
        header.pop("crit", None)
        header.pop("b64", None)
        if isinstance(payload, dict):
            payload = {**claims(), **payload}
    _verify(HS, forged(header, payload, SECRET.encode()))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abcdefeyJ0_-=.", max_size=60))
def test_no_string_is_a_server_error(token: str) -> None:
    """A string that only looks like a token is refused too."""
    _verify(RS, token)


def _verify(written: Jwt, token: str) -> None:
    try:
        user, _ = asyncio.run(JwtVerifier(written, time.time).verify(token))
    except ApiError as error:
        assert isinstance(error, AuthenticationFailed)  # noqa: PT017 - an error that is none of ours shall show
    else:
        assert user.id


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e400", "-1e400", "[" * 1500 + "]" * 1500])
async def test_claims_without_a_moment_are_refused(site: Site, name: str, number: str) -> None:
    """A number beyond every clock is a 401 as any invalid claim is."""
    client = await site(jwt=HS)
    payload = json.dumps({**claims(), name: "number"}).replace('"number"', number)
    token = forged({"alg": "HS256", "typ": "JWT"}, payload.encode(), SECRET.encode())
    assert (await client.get("/", headers=bearer(token))).status == 401


@pytest.mark.parametrize(
    "claim", ["1" + "0" * 30, "[" * 300 + "]" * 300, '{"a": {"b": -99999999999999999999}}', r'"\ud800"']
)
async def test_claims_that_have_no_json_form_are_refused(site: Site, claim: str) -> None:
    """A token's other claims go into settings of the database, scopes and logs, so they have bounds as well."""
    client = await site(jwt=HS)
    payload = json.dumps({**claims(), "org": "value"}).replace('"value"', claim)
    token = forged({"alg": "HS256", "typ": "JWT"}, payload.encode(), SECRET.encode())
    assert (await client.get("/", headers=bearer(token))).status == 401
