"""Keys that verify JSON Web Tokens: one configured key, or a JWK Set from a URL or a file (RFC 7517).

The key determines the algorithms that it may be used with. The unverified header of a token only selects among the keys
(RFC 8725, section 3.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from rowcast.errors import ConfigurationError, Unavailable
from rowcast.identity.users import Clock
from rowcast.tasks import spawn

KEYS_REFRESH_SECONDS: Final = 600.0  # after which keys are read again, in the background
KEYS_MAX_AGE_SECONDS: Final = 3600.0  # for which keys are used while the source cannot be read
KEYS_RETRY_SECONDS: Final = 10.0  # between two attempts to read the source
KEYS_TIMEOUT_SECONDS: Final = 5.0
KEYS_MAX_BYTES: Final = 256 * 1024
KEYS_MAX_COUNT: Final = 100
RSA_MIN_BITS: Final = 2048
UNUSABLE_KEY: Final = (jwt.PyJWTError, UnsupportedAlgorithm, ArithmeticError, AttributeError, TypeError, ValueError)
"""What PyJWT and cryptography raise for an entry that is not a key, or whose members have the wrong types."""
UNREADABLE_KEYS: Final = (aiohttp.ClientError, OSError, TimeoutError, ConfigurationError)
"""What is raised for a source that cannot be read, or that has no usable key."""

_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies signatures: a shared secret's bytes or a public key, its algorithms, and its id."""

    value: Any = field(repr=False)
    algorithms: tuple[str, ...]
    id: str | None = None


class KeySource(Protocol):
    """Where keys come from."""

    async def find(self, kid: str | None, algorithm: object) -> Key | None:
        """The key with this id for this algorithm; both are read from an unverified header."""


class SingleKey:
    """One key for every token; the ``kid`` of a token is ignored."""

    def __init__(self, key: Key) -> None:
        self._key = key

    async def find(self, kid: str | None, algorithm: object) -> Key | None:
        return self._key if algorithm in self._key.algorithms else None


class KeySet:
    """The public keys of a JWK Set at an http(s) URL or in a file, read when they are first needed.

    The set is read again when it is old, and when a token names an unknown key, because issuers rotate keys. However many
    tokens name one, there is one attempt in ``KEYS_RETRY_SECONDS``.
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
            self._keys = _parse(_read_file(source), algorithms)
            self._read_at = clock()

    async def find(self, kid: str | None, algorithm: object) -> Key | None:
        """Find a key by id and algorithm; without an id, the only key of the algorithm.

        ``Unavailable`` if the key is not among those in memory and the source cannot be read.
        """
        if algorithm not in self._algorithms:
            return None
        age = self._clock() - self._read_at
        if age >= KEYS_MAX_AGE_SECONDS:
            self._keys = ()
        if age >= KEYS_REFRESH_SECONDS:
            self._refresh()
        found = self._select(kid, algorithm)
        if found is None and (reading := self._refresh()) is not None:
            await asyncio.shield(reading)
            found = self._select(kid, algorithm)
        if found is None and self._failing:
            raise Unavailable("The keys that verify tokens cannot be read; try again.")
        return found

    async def settled(self) -> None:
        """Wait for the attempt to read the source that is under way, if there is one."""
        if self._reading is not None:
            await asyncio.wait([self._reading])

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
            await self.settled()

    def _select(self, kid: str | None, algorithm: object) -> Key | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and kid in (None, key.id)]
        return fitting[0] if len(fitting) == 1 else None

    def _refresh(self) -> asyncio.Task[None] | None:
        """The attempt to read the keys that is under way, or a new one; ``None`` so soon after the last one."""
        if self._reading is None or self._reading.done():
            now = self._clock()
            if 0 <= now - self._tried_at < KEYS_RETRY_SECONDS:
                return None
            self._tried_at = now
            self._reading = spawn(self._read(), "read keys")
        return self._reading

    async def _read(self) -> None:
        """Read the keys; the present ones stay if that fails."""
        try:
            keys = await read_keys(self._source, self._algorithms)
        except UNREADABLE_KEYS as error:
            if not self._failing:
                _logger.warning(
                    "jwks_unavailable", host=urlsplit(self._source).hostname, error=str(error) or repr(error)
                )
            self._failing = True
            return
        except Exception:
            _logger.exception("jwks_failed", host=urlsplit(self._source).hostname)
            self._failing = True
            return
        self._keys, self._read_at, self._failing = keys, self._clock(), False


async def read_keys(source: str, algorithms: Sequence[str]) -> tuple[Key, ...]:
    """The keys of a JWK Set at a URL or in a file that verify signatures of these algorithms; at least one.

    Raises one of ``UNREADABLE_KEYS``.
    """
    if _is_url(source):
        return _parse(await _download(source), algorithms)
    return _parse(await asyncio.to_thread(_read_file, source), algorithms)


def _parse(document: bytes, algorithms: Sequence[str]) -> tuple[Key, ...]:
    """The usable keys of a JWK Set; ``ConfigurationError`` if there are none."""
    try:
        entries = orjson.loads(document)["keys"]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError("auth.jwt.jwks: is not a JWK Set") from None
    if not isinstance(entries, list):
        raise ConfigurationError("auth.jwt.jwks: is not a JWK Set")
    keys = tuple(islice(_usable_keys(entries, algorithms), KEYS_MAX_COUNT))
    if not keys:
        raise ConfigurationError(f"auth.jwt.jwks: has no public key for {', '.join(algorithms)}")
    return keys


def _usable_keys(entries: Sequence[Any], algorithms: Sequence[str]) -> Iterator[Key]:
    """The public keys of a JWK Set that verify signatures of these algorithms; other entries are skipped."""
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        kid = entry.get("kid")
        if not isinstance(kid, str | None) or not isinstance(entry.get("alg", ""), str):
            continue
        try:
            key = jwt.PyJWK(entry).key
        except UNUSABLE_KEY:
            continue
        usable = tuple(name for name in algorithms if key_fits(name, key) and entry.get("alg", name) == name)
        if usable:
            yield Key(key, usable, kid)


_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


def key_fits(algorithm: str, key: Any) -> bool:
    """Whether a key is a public key of this algorithm, and strong enough."""
    match key:
        case RSAPublicKey():
            return algorithm[:2] in ("RS", "PS") and key.key_size >= RSA_MIN_BITS
        case EllipticCurvePublicKey():
            return _CURVES.get(algorithm) == key.curve.name
        case Ed25519PublicKey() | Ed448PublicKey():
            return algorithm == "EdDSA"
    return False


def _is_url(source: str) -> bool:
    return source.startswith(("https://", "http://"))


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"auth.jwt.jwks: {path} cannot be read: {error.strerror}") from error


async def _download(url: str) -> bytes:
    """The document at a URL. Redirects are refused: they could lead to another host, or to plain http."""
    timeout = aiohttp.ClientTimeout(total=KEYS_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise aiohttp.ClientError(f"the status is {response.status}")
        document = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            document += chunk
            if len(document) > KEYS_MAX_BYTES:
                raise aiohttp.ClientError(f"the document has more than {KEYS_MAX_BYTES} bytes")
        return bytes(document)
