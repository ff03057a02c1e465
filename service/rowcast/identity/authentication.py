"""Who is calling: ``request.user`` and ``request.auth``.

The authentication classes of a viewset are asked in their order, and the first that knows the credentials decides: it
names the user, or refuses. Credentials that none of them knows are refused too, so that bad ones never turn a caller
into an anonymous one. What they need to know of the site is its ``Identity``, in ``request.app[IDENTITY]``.

A token of ours is 256 random bits, of which the database has the SHA-256: it is found by its digest, so nothing is
compared that a clock could measure, and what leaks from the database opens nothing. For a JSON Web Token it is the key
that knows the algorithms it may be used with; the token's header only chooses among the keys (RFC 8725, section 3.1).

RFC 9110 section 11 (401, ``WWW-Authenticate``), RFC 6750 (``Bearer``), RFC 7515 to 7519 (JSON Web Tokens and keys).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakSet

import aiohttp
import asyncpg
import jwt
import orjson
import structlog
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from rowcast.configuration.settings import Auth, Jwt
from rowcast.database.pool import Database
from rowcast.errors import (
    ApiError,
    AuthenticationFailed,
    ConfigurationError,
    NotAuthenticated,
    PermissionDenied,
    Unavailable,
)

PREFIX: Final = "rc_"  # of every token, so that scanners for leaked secrets know one
TOKEN: Final = re.compile(r"rc_[A-Za-z0-9_-]{43}")
JWT: Final = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]*){2}")
JWT_LENGTH: Final = 8192
BEARER: Final = 'Bearer realm="rowcast"'
LEEWAY: Final = 10  # s that the clock of who issues JSON Web Tokens may be off
RECENT: Final = 5.0  # s that what the database said of a token is believed
KEPT: Final = 4096  # answers about tokens at most

Clock: TypeAlias = Callable[[], float]  # unix seconds
Found: TypeAlias = tuple[Any, Any] | None

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class User:
    """A caller. ``id`` is a string; ``claims`` are what the credentials say besides."""

    id: str | None
    is_authenticated: bool = True
    is_staff: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict)


ANONYMOUS: Final = User(id=None, is_authenticated=False)


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Credentials:
    """What a caller was recognised by, in ``request.auth``: until when, in unix seconds, and the id of our token."""

    expires_at: float | None = None
    token: int | None = None


class BaseAuthentication:
    """One way to recognise a caller; subclasses override ``authenticate``, and ``authenticate_header`` for a 401."""

    def authenticate(self, request: Any) -> Found | Awaitable[Found]:
        """The user and what goes into ``request.auth``, or ``None`` where the request has no credentials of this kind.

        May be a coroutine. ``AuthenticationFailed`` for credentials of this kind that are wrong. The user may be any
        object with the attributes of ``User``.
        """
        raise NotImplementedError

    def authenticate_header(self, request: Any) -> str | None:
        """The challenge that tells clients how to identify themselves, for ``WWW-Authenticate``."""
        return None


_GIVEN: Final = web.RequestKey("authorization", tuple)


def authorization(request: Any) -> tuple[str, str] | None:
    """The scheme, in lower case, and the credentials that a request came with; ``None`` where it has none.

    On a stream's route it is ``bearer`` and the ``access_token`` of the query string, if there is no header.
    """
    given: tuple[str, str] | tuple[()] = request.http.get(_GIVEN, ())
    return given or None


async def identify(request: Any, authenticators: Sequence[BaseAuthentication], *, stream: bool = False) -> None:
    """Set ``request.user`` and ``request.auth``; ``AuthenticationFailed`` for credentials that nobody accepts.

    ``stream`` is whether the route is a stream's, which may be given its token in the query string. Without
    authenticators nobody looks at credentials, and everybody is anonymous.
    """
    if not authenticators:
        return
    try:
        given = _read(request.http, stream)
        request.http[_GIVEN] = given or ()
        if given is None and all(type(each) in BUILT_IN for each in authenticators):
            return  # they look nowhere else
        for authenticator in authenticators:
            answer = authenticator.authenticate(request)
            found = await answer if isawaitable(answer) else answer
            if found is not None:
                request.user, request.auth = found
                return
        if given is not None:
            raise AuthenticationFailed()
    except (AuthenticationFailed, NotAuthenticated) as error:
        if "WWW-Authenticate" not in error.headers:
            offered = challenge(request, authenticators, failed=True)
            if not offered:
                raise PermissionDenied(error.detail, code=error.code) from None
            error.headers["WWW-Authenticate"] = offered
        raise


def challenge(request: Any, authenticators: Sequence[BaseAuthentication], *, failed: bool = False) -> str:
    """``WWW-Authenticate``: the challenges of all authenticators, each once; empty if there is none.

    ``failed`` is whether there were credentials, and they were refused.
    """
    offered = dict.fromkeys(authenticator.authenticate_header(request) for authenticator in authenticators)
    suffix = {BEARER: ', error="invalid_token"'} if failed else {}
    return ", ".join(each + suffix.get(each, "") for each in offered if each)


def refusal(
    request: Any, authenticators: Sequence[BaseAuthentication], detail: str | None = None, code: str | None = None
) -> ApiError:
    """What a caller is told whom a permission has refused: 401 to one who could identify himself, else 403."""
    anonymous = request.auth is None and not getattr(request.user, "is_authenticated", True)
    if anonymous and (offered := challenge(request, authenticators)):
        return NotAuthenticated(headers={"WWW-Authenticate": offered})
    return PermissionDenied(detail, code=code)


def _read(http: web.Request, stream: bool) -> tuple[str, str] | None:
    """The scheme and the credentials of a request."""
    headers = http.headers.getall("Authorization", ())
    if len(headers) > 1:
        raise AuthenticationFailed("Send one Authorization header.")
    if headers:
        scheme, _, value = headers[0].strip().partition(" ")
        return scheme.lower(), value.strip()
    tokens = http.query.getall("access_token", ()) if stream else ()
    if len(tokens) > 1:
        raise AuthenticationFailed("Send one access_token.")
    return ("bearer", tokens[0]) if tokens else None


class TokenAuthentication(BaseAuthentication):
    """``Authorization: Token|Bearer rc_…``: tokens made by ``rowcast token create``."""

    async def authenticate(self, request: Any) -> tuple[User, Credentials] | None:
        given = authorization(request)
        if given is None or given[0] not in ("token", "bearer") or not given[1].startswith(PREFIX):
            return None
        return await request.app[IDENTITY].tokens.find(given[1])  # type: ignore[no-any-return]

    def authenticate_header(self, request: Any) -> str:
        return BEARER


_FIND: Final = """
SELECT id, user_id, is_staff, extract(epoch FROM expires_at)::float8 AS expires_at
FROM rowcast.token WHERE digest = $1 AND revoked_at IS NULL
"""
_ALIVE: Final = "SELECT id FROM rowcast.token WHERE id = ANY ($1::bigint[]) AND revoked_at IS NULL"


class Tokens:
    """The tokens in the database. What it says of one is believed for ``RECENT`` seconds."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._found: dict[bytes, tuple[float, User, Credentials]] = {}  # digest → when, and what
        self._issued: WeakSet[Credentials] = WeakSet()  # those that somebody still holds
        self._dead: frozenset[int] = frozenset()
        self._checked = 0.0

    async def find(self, token: str) -> tuple[User, Credentials]:
        """Whose token it is. ``AuthenticationFailed`` for one that is malformed, unknown, revoked or expired."""
        if not TOKEN.fullmatch(token):
            raise AuthenticationFailed("The token is malformed.")
        digest = hashlib.sha256(token.encode()).digest()
        now = self._clock()
        at, user, credentials = self._found.get(digest, (0.0, ANONYMOUS, Credentials()))
        if not 0 <= now - at < RECENT:
            user, credentials = await self._look_up(digest)
            if len(self._found) >= KEPT:
                self._found.clear()
            self._found[digest] = now, user, credentials
        if credentials.expires_at is not None and credentials.expires_at <= now:
            raise AuthenticationFailed("The token has expired.", code="token_expired")
        return user, credentials

    async def _look_up(self, digest: bytes) -> tuple[User, Credentials]:
        row = await self._database.read(_FIND, [digest])
        if row is None:
            raise AuthenticationFailed("The token is unknown or was revoked.")
        credentials = Credentials(row["expires_at"], row["id"])
        self._issued.add(credentials)
        return User(id=row["user_id"], is_staff=row["is_staff"]), credentials

    async def alive(self, token: int) -> bool:
        """Whether a token that was accepted has not been revoked since, as known ``RECENT`` seconds ago or later.

        One query for all tokens in use, however many ask.
        """
        now = self._clock()
        if not 0 <= now - self._checked < RECENT:
            self._checked = now
            asked = {credentials.token for credentials in self._issued if credentials.token is not None}
            try:
                rows = await self._database.fetch_all(_ALIVE, [list(asked)])
            except Unavailable:  # for everybody: no reason to end what is running, and asked again soon
                return token not in self._dead
            self._dead = frozenset(asked - {row["id"] for row in rows})
            self._found = {digest: each for digest, each in self._found.items() if each[2].token not in self._dead}
        return token not in self._dead


@dataclass(frozen=True, slots=True)
class Token:
    """What can be known of a token once it has been given away."""

    id: int
    user_id: str
    is_staff: bool
    created_at: dt.datetime
    expires_at: dt.datetime | None
    revoked_at: dt.datetime | None


async def create_token(
    connection: asyncpg.Connection, user: str, *, staff: bool = False, lifetime: float | None = None
) -> str:
    """Make a token for a user, for ``lifetime`` seconds or for good. It is nowhere else than in the answer."""
    token = PREFIX + secrets.token_urlsafe(32)
    await connection.execute(
        "INSERT INTO rowcast.token (digest, user_id, is_staff, expires_at)"
        " VALUES ($1, $2, $3, clock_timestamp() + $4::interval)",
        hashlib.sha256(token.encode()).digest(),
        user,
        staff,
        None if lifetime is None else dt.timedelta(seconds=lifetime),
    )
    return token


async def list_tokens(connection: asyncpg.Connection) -> list[Token]:
    """Every token, in the order of their making."""
    rows = await connection.fetch(
        "SELECT id, user_id, is_staff, created_at, expires_at, revoked_at FROM rowcast.token ORDER BY id"
    )
    return [Token(*row) for row in rows]


async def revoke_token(connection: asyncpg.Connection, token: int) -> bool:
    """Make a token worthless from now on; whether there is one of this id. Again is no error."""
    done = await connection.execute(
        "UPDATE rowcast.token SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = $1", token
    )
    return bool(done == "UPDATE 1")


class JWTAuthentication(BaseAuthentication):
    """``Authorization: Bearer <JSON Web Token>``, verified as ``auth.jwt`` says; without it no such token is known."""

    async def authenticate(self, request: Any) -> tuple[User, Credentials] | None:
        given = authorization(request)
        verifier: Verifier | None = request.app[IDENTITY].jwt
        if verifier is None or given is None or given[0] != "bearer":
            return None
        if len(given[1]) > JWT_LENGTH:
            raise AuthenticationFailed("The token is too long.")
        return await verifier.verify(given[1]) if JWT.fullmatch(given[1]) else None

    def authenticate_header(self, request: Any) -> str:
        return BEARER


BUILT_IN: Final = frozenset({TokenAuthentication, JWTAuthentication})


@dataclass(frozen=True, slots=True)
class Key:
    """What verifies a signature: a secret's bytes or a public key, its id, and the algorithms that it is used with."""

    value: Any = field(repr=False)
    algorithms: tuple[str, ...]
    id: str | None = None


class Keys(Protocol):
    """Where keys come from."""

    async def find(self, kid: str | None, algorithm: object) -> Key | None:
        """The key of this id that is used with this algorithm, both as an unverified header says."""


class Verifier:
    """Verifies JSON Web Tokens; ``ConfigurationError`` for keys that cannot be used."""

    def __init__(self, settings: Jwt, clock: Clock) -> None:
        self._settings = settings
        self.keys: Keys
        if settings.jwks is None:
            self.keys = OneKey(_own_key(settings))
        elif settings.secret is None:
            self.keys = KeySet(settings.jwks, settings.algorithms, clock)
        else:
            raise ConfigurationError("auth.jwt: give public keys in secret or in jwks, not in both")

    async def verify(self, token: str) -> tuple[User, Credentials]:
        """Whose token it is. ``AuthenticationFailed`` says what is wrong with it, ``Unavailable`` that no key is known.

        A caller learns what is wrong with the claims only of a token that was signed for us.
        """
        try:
            header = jwt.get_unverified_header(token)
            key = await self.keys.find(header.get("kid"), header.get("alg"))
            if key is None:
                raise AuthenticationFailed("The token is not signed with a key and an algorithm that are in use here.")
            claims = jwt.decode(
                token,
                key.value,
                algorithms=key.algorithms,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationFailed("The token has expired.", code="token_expired") from None
        except (jwt.ImmatureSignatureError, jwt.InvalidAudienceError, jwt.InvalidIssuerError) as error:
            raise AuthenticationFailed(f"The token is not valid: {error}.") from None
        except jwt.MissingRequiredClaimError as error:
            raise AuthenticationFailed(f"{error}.") from None
        except jwt.PyJWTError:
            raise AuthenticationFailed("The token is not valid.") from None
        if not claims["sub"] or not claims["sub"].isprintable():  # what PostgreSQL cannot store, among others
            raise AuthenticationFailed("The sub of the token cannot be a user's id.")
        user = User(id=claims["sub"], is_staff=claims.get(self._settings.staff_claim) is True, claims=claims)
        return user, Credentials(int(claims["exp"]) + LEEWAY)


class OneKey:
    """The only key there is, whatever a token calls it."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, kid: str | None, algorithm: object) -> Key | None:
        return self._key if algorithm in self._key.algorithms else None


def _own_key(settings: Jwt) -> Key:
    """The key in ``auth.jwt.secret``: a shared secret, or a public key in PEM."""
    secret = (settings.secret or "").strip()
    if not secret.startswith("-----BEGIN"):
        return Key((settings.secret or "").encode(), settings.algorithms)
    try:
        key: Any = load_pem_public_key(secret.encode())
    except ValueError as error:
        raise ConfigurationError(
            "auth.jwt.secret: is no public key in PEM (write the public half, -----BEGIN PUBLIC KEY-----)"
        ) from error
    usable = tuple(name for name in settings.algorithms if _fits(name, key))
    if not usable:
        raise ConfigurationError(f"auth.jwt.secret: this key cannot be used with {', '.join(settings.algorithms)}")
    return Key(key, usable)


_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


def _fits(algorithm: str, key: Any) -> bool:
    """Whether a public key is one of this algorithm's, and strong enough."""
    match key:
        case RSAPublicKey():
            return algorithm[:2] in ("RS", "PS") and key.key_size >= 2048
        case EllipticCurvePublicKey():
            return _CURVES.get(algorithm) == key.curve.name
        case Ed25519PublicKey() | Ed448PublicKey():
            return algorithm == "EdDSA"
    return False


KEYS_FRESH: Final = 600.0  # s after which keys are read again, behind the scenes
KEYS_STALE: Final = 3600.0  # s for which they are used when they cannot be read
KEYS_PAUSE: Final = 10.0  # s between two attempts to read them
KEYS_TIMEOUT: Final = 5.0  # s
KEYS_BYTES: Final = 256 * 1024
KEYS_COUNT: Final = 100


class KeySet:
    """The public keys of a JWK Set at an http(s) URL or in a file, read when they are first needed.

    They are read again when they are old, and when a token names a key that is not among them: keys rotate. However
    many tokens do, that is once in ``KEYS_PAUSE`` seconds.
    """

    def __init__(self, source: str, algorithms: Sequence[str], clock: Clock) -> None:
        self._source = source
        self._algorithms = algorithms
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._read_at = self._tried_at = float("-inf")
        self._failing = False
        self._reading: asyncio.Task[None] | None = None
        if not _is_url(source):
            self._keys = self._load(_read_file(source))
            self._read_at = clock()

    async def find(self, kid: str | None, algorithm: object) -> Key | None:
        """As ``Keys`` says; without an id, the only key of the algorithm. ``Unavailable`` where it cannot be known."""
        if algorithm not in self._algorithms:
            return None
        age = self._clock() - self._read_at
        if age >= KEYS_STALE:
            self._keys = ()
        if age >= KEYS_FRESH:
            self._refresh()
        found = self._look(kid, algorithm)
        if found is None and (reading := self._refresh()) is not None:
            await asyncio.shield(reading)
            found = self._look(kid, algorithm)
        if found is None and self._failing:
            raise Unavailable("The keys that tokens are verified with cannot be read; try again.")
        return found

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def _look(self, kid: str | None, algorithm: object) -> Key | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.id)]
        return fitting[0] if len(fitting) == 1 else None

    def _refresh(self) -> asyncio.Task[None] | None:
        """The attempt to read the keys that is under way, a new one if it is time; ``None`` if it is not."""
        if self._reading is None or self._reading.done():
            now = self._clock()
            if 0 <= now - self._tried_at < KEYS_PAUSE:
                return None
            self._tried_at = now
            self._reading = asyncio.create_task(self._read(), name="read keys")
        return self._reading

    async def _read(self) -> None:
        """Read the keys; if that fails those that are known stay."""
        try:
            if _is_url(self._source):
                keys = self._load(await _download(self._source))
            else:
                keys = self._load(await asyncio.to_thread(_read_file, self._source))
        except (aiohttp.ClientError, OSError, TimeoutError, ConfigurationError) as error:
            if not self._failing:
                log.warning("jwks_unavailable", host=urlsplit(self._source).hostname, error=str(error) or repr(error))
            self._failing = True
            return
        self._keys, self._read_at, self._failing = keys, self._clock(), False

    def _load(self, document: bytes) -> tuple[Key, ...]:
        """The usable keys of a JWK Set; ``ConfigurationError`` if there are none."""
        try:
            written = orjson.loads(document)["keys"]
            keys = tuple(_usable(written[:KEYS_COUNT], self._algorithms))
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError("auth.jwt.jwks: is no JWK Set") from None
        if not keys:
            raise ConfigurationError(f"auth.jwt.jwks: has no public key for {', '.join(self._algorithms)}")
        return keys


def _usable(written: Sequence[Any], algorithms: Sequence[str]) -> Iterator[Key]:
    """The public keys of a JWK Set that verify signatures of these algorithms; secrets and all else are passed over."""
    for each in written:
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(each).key
        except jwt.PyJWTError:
            continue
        usable = tuple(name for name in algorithms if _fits(name, key) and each.get("alg", name) == name)
        if usable:
            yield Key(key, usable, each.get("kid"))


def _is_url(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"auth.jwt.jwks: {path} cannot be read: {error.strerror}") from error


async def _download(url: str) -> bytes:
    """The document at a URL, which must be there itself: no redirect takes us to another host, or to plain http."""
    timeout = aiohttp.ClientTimeout(total=KEYS_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise aiohttp.ClientError(f"the answer is {response.status}")
        document = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            document += chunk
            if len(document) > KEYS_BYTES:
                raise aiohttp.ClientError(f"the answer has more than {KEYS_BYTES} bytes")
        return bytes(document)


class Identity:
    """What the authentication classes of one service share. ``ConfigurationError`` if ``auth.jwt`` cannot be used."""

    def __init__(self, settings: Auth, database: Database, *, clock: Clock = time.time) -> None:
        self._clock = clock
        self.tokens = Tokens(database, clock)
        self.jwt = None if settings.jwt is None else Verifier(settings.jwt, clock)

    async def still_valid(self, auth: object) -> bool:
        """Whether credentials that opened something long, a stream, are still good: not expired, and not revoked.

        ``auth`` is a ``request.auth``; of a class not ours ``expires_at`` counts, if it has one. What it says of
        revocation was true ``RECENT`` seconds ago or later.
        """
        expires_at = getattr(auth, "expires_at", None)
        if expires_at is not None and expires_at <= self._clock():
            return False
        if isinstance(auth, Credentials) and auth.token is not None:
            return await self.tokens.alive(auth.token)
        return True

    async def close(self) -> None:
        """Stop what runs in the background."""
        if self.jwt is not None and isinstance(self.jwt.keys, KeySet):
            await self.jwt.keys.close()


IDENTITY: Final = web.AppKey("identity", Identity)
