"""JSON Web Tokens: who signed one, and whether its claims are valid (RFC 7515 to 7519, RFC 8725)."""

from __future__ import annotations

import time
from typing import Any, Final

import jwt
import orjson
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from rowcast.configuration.settings import Jwt
from rowcast.errors import AuthenticationFailed, ConfigurationError, TokenExpired
from rowcast.identity.jwks import Key, KeySet, KeySource, SingleKey, key_fits
from rowcast.identity.users import Clock, Credentials, User

LEEWAY_SECONDS: Final = 10  # that the issuer's clock may be ahead of ours: a token is used as soon as it is made
EXPIRES_MAX_SECONDS: Final = 253_402_300_799  # the end of the year 9999


class JwtVerifier:
    """Verifies JSON Web Tokens; ``ConfigurationError`` if the configured keys cannot be used."""

    def __init__(self, settings: Jwt, clock: Clock) -> None:
        self._settings = settings
        self.keys: KeySource
        if settings.jwks is None:
            self.keys = SingleKey(_configured_key(settings))
        elif settings.secret is None:
            self.keys = KeySet(settings.jwks, settings.algorithms, clock)
        else:
            raise ConfigurationError("auth.jwt: give public keys in secret or in jwks, not in both")

    async def verify(self, token: str) -> tuple[User, Credentials]:
        """The user of a token. ``AuthenticationFailed`` if it is invalid, ``Unavailable`` if its key cannot be read.

        The error describes the claims only if the signature was valid.
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
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "aud", "sub"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired() from None
        except (jwt.ImmatureSignatureError, jwt.InvalidAudienceError, jwt.InvalidIssuerError) as error:
            raise AuthenticationFailed(f"The token is not valid: {error}.") from None
        except jwt.MissingRequiredClaimError as error:
            raise AuthenticationFailed(f"{error}.") from None
        except (jwt.PyJWTError, OverflowError, RecursionError):  # the last two for 1e400, and JSON nested too deeply
            raise AuthenticationFailed("The token is not valid.") from None
        if not claims["sub"] or not claims["sub"].isprintable():  # PostgreSQL cannot store a zero byte, among others
            raise AuthenticationFailed("The sub of the token cannot be a user's id.")
        try:
            orjson.dumps(claims)
        except TypeError:
            raise AuthenticationFailed(
                "The claims of the token are nested too deeply, or have a number beyond 64 bits or a string that is not"
                " Unicode."
            ) from None
        expires_at = int(claims["exp"])
        if expires_at > EXPIRES_MAX_SECONDS:
            raise AuthenticationFailed("The exp of the token is too large: it is a time before the year 10000.")
        if expires_at <= time.time():
            raise TokenExpired()
        user = User(id=claims["sub"], is_staff=claims.get(self._settings.staff_claim) is True, claims=claims)
        return user, Credentials(expires_at)

    async def close(self) -> None:
        """Stop reading keys in the background."""
        if isinstance(self.keys, KeySet):
            await self.keys.close()


def _configured_key(settings: Jwt) -> Key:
    """The key in ``auth.jwt.secret``: a shared secret, or a public key in PEM."""
    secret = (settings.secret or "").strip()
    if not secret.startswith("-----BEGIN"):
        return Key((settings.secret or "").encode(), settings.algorithms)
    try:
        key: Any = load_pem_public_key(secret.encode())
    except ValueError as error:
        raise ConfigurationError(
            "auth.jwt.secret: is not a public key in PEM (write the public half, -----BEGIN PUBLIC KEY-----)"
        ) from error
    usable = tuple(name for name in settings.algorithms if key_fits(name, key))
    if not usable:
        raise ConfigurationError(f"auth.jwt.secret: this key cannot be used with {', '.join(settings.algorithms)}")
    return Key(key, usable)
