"""Authentication: from the credentials of a request to ``request.user`` and ``request.auth``.

The authentication classes of a viewset are tried in order. The first one that recognises the credentials decides: it
returns the user, or refuses. Credentials that no class recognises are refused too, so a wrong token never makes a caller
anonymous. The built-in classes share the service's ``Identity``, in ``request.app[IDENTITY]``.

RFC 9110 section 11 (401, ``WWW-Authenticate``), RFC 6750 (``Bearer``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Sequence
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aiohttp import web

from rowcast.configuration.settings import Auth
from rowcast.database.pool import Database
from rowcast.errors import ApiError, AuthenticationFailed, NotAuthenticated, ParseError, PermissionDenied, TokenExpired
from rowcast.identity.protocols import Request
from rowcast.identity.tickets import TICKET_PARAMETER, TICKET_PATTERN, TicketStore
from rowcast.identity.tokens import TOKEN_PREFIX, TokenStore
from rowcast.identity.users import Clock, Credentials, User

if TYPE_CHECKING:
    from rowcast.changes.origin import Origin
    from rowcast.identity.jwt import JwtVerifier

BEARER_CHALLENGE: Final = 'Bearer realm="rowcast"'
JWT_PATTERN: Final = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]*){2}")
JWT_MAX_CHARACTERS: Final = 8192
PARAMETERS_MAX: Final = 1000  # of a request

Authenticated: TypeAlias = tuple[Any, Any]  # request.user and request.auth


class BaseAuthentication:
    """One way to recognise a caller; subclasses override ``authenticate``, and ``authenticate_header`` for a 401."""

    def authenticate(self, request: Any) -> Authenticated | Awaitable[Authenticated | None] | None:
        """Recognise the caller of a request. May be a coroutine.

        Args:
            request: The ``rowcast.Request``.

        Returns:
            ``(user, auth)`` for ``request.user`` and ``request.auth``, or ``None`` if the request has no credentials of
            this kind. The user may be any object with the attributes of ``User``.

        Raises:
            AuthenticationFailed: The request has credentials of this kind, and they are wrong.
        """
        raise NotImplementedError

    def authenticate_header(self, request: Any) -> str | None:
        """The challenge for ``WWW-Authenticate`` of a 401: how clients identify themselves."""
        return None


class Identity:
    """What the authentication classes of one service share. ``ConfigurationError`` if ``auth.jwt`` cannot be used.

    With ``origin`` it is that of an edge.
    """

    def __init__(
        self, settings: Auth, database: Database, *, clock: Clock = time.time, origin: Origin | None = None
    ) -> None:
        self._clock = clock
        self.tokens, self.tickets = TokenStore(database, clock), TicketStore(database)
        if origin is not None:
            from rowcast.identity.at_origin import OriginTickets, OriginTokens

            self.tokens, self.tickets = OriginTokens(origin, database, clock), OriginTickets(origin, database)
        self.jwt: JwtVerifier | None = None
        if settings.jwt is not None:
            from rowcast.identity.jwt import JwtVerifier

            self.jwt = JwtVerifier(settings.jwt, clock)

    async def still_valid(self, auth: object) -> bool:
        """Whether the credentials of an open stream are neither expired nor revoked.

        ``auth`` is a ``request.auth``. Of an object of another class only ``expires_at`` is used, if it has one.
        Revocation is noticed within ``TOKEN_FRESH_SECONDS``.
        """
        expires_at = getattr(auth, "expires_at", None)
        if expires_at is not None and expires_at <= self._clock():
            return False
        if isinstance(auth, Credentials) and auth.token is not None:
            return await self.tokens.is_active(auth.token)
        return True

    async def close(self) -> None:
        """Stop background work."""
        if self.jwt is not None:
            await self.jwt.close()


IDENTITY: Final = web.AppKey("identity", Identity)


class TokenAuthentication(BaseAuthentication):
    """``Authorization: Token|Bearer rc_…``: tokens made by ``rowcast token create``."""

    async def authenticate(self, request: Request) -> tuple[User, Credentials] | None:
        sent = authorization(request)
        if sent is None or sent[0] not in ("token", "bearer") or not sent[1].startswith(TOKEN_PREFIX):
            return None
        return await request.app[IDENTITY].tokens.find(sent[1])

    def authenticate_header(self, request: Request) -> str:
        return BEARER_CHALLENGE


class JWTAuthentication(BaseAuthentication):
    """``Authorization: Bearer <JSON Web Token>``, verified with ``auth.jwt``; without that setting it accepts none."""

    async def authenticate(self, request: Request) -> tuple[User, Credentials] | None:
        sent = authorization(request)
        verifier = request.app[IDENTITY].jwt
        if verifier is None or sent is None or sent[0] != "bearer":
            return None
        if len(sent[1]) > JWT_MAX_CHARACTERS:
            raise AuthenticationFailed("The token is too long.")
        return await verifier.verify(sent[1]) if JWT_PATTERN.fullmatch(sent[1]) else None

    def authenticate_header(self, request: Request) -> str:
        return BEARER_CHALLENGE


BUILT_IN: Final = frozenset({TokenAuthentication, JWTAuthentication})
"""The classes that read nothing but the ``Authorization`` header (``access_token`` or ``ticket`` for a stream)."""

_SENT: Final = web.RequestKey("authorization", tuple)
_TICKET: Final = web.RequestKey("ticket", tuple)  # what it stands for
Redeemed: TypeAlias = tuple[str, str] | None  # the scheme and the credentials that a ticket has stood for


def authorization(request: Request) -> tuple[str, str] | None:
    """The scheme, in lower case, and the credentials of the ``Authorization`` header; ``None`` without the header.

    For a stream without the header it is ``bearer`` and the ``access_token`` of the query string, or what its ``ticket``
    stands for.
    """
    sent: tuple[str, str] | tuple[()] = request.http.get(_SENT, ())
    return sent or None


async def identify(request: Request, authenticators: Sequence[BaseAuthentication], *, stream: bool = False) -> None:
    """Set ``request.user`` and ``request.auth``; ``AuthenticationFailed`` for credentials that no class accepts.

    ``stream`` allows a token in the query string, because a browser's ``EventSource`` cannot send headers. Without
    authenticators the credentials are ignored and every caller is anonymous.
    """
    if not authenticators:
        return
    try:
        sent = await _redeemed(request.http) if stream else None
        sent = sent or _read_authorization(request.http, stream)
        request.http[_SENT] = sent or ()
        if sent is None and BUILT_IN.issuperset(map(type, authenticators)):
            return
        for authenticator in authenticators:
            outcome = authenticator.authenticate(request)
            found = await outcome if isawaitable(outcome) else outcome
            if found is not None:
                request.user, request.auth = found
                return
        if sent is not None:
            raise AuthenticationFailed()
    except (AuthenticationFailed, NotAuthenticated) as error:
        if "WWW-Authenticate" not in error.headers:
            offered = challenge(request, authenticators, failed=True)
            if not offered:
                raise PermissionDenied(error.detail, code=error.code) from None
            error.headers["WWW-Authenticate"] = offered
        raise


def failed(error: ApiError) -> bool:
    """Whether an error is about wrong credentials. Expired ones were right, and a client that has them gets new ones."""
    refused = isinstance(error, AuthenticationFailed) or isinstance(error.__context__, AuthenticationFailed)
    return refused and error.code != TokenExpired.code


def challenge(request: Request, authenticators: Sequence[BaseAuthentication], *, failed: bool = False) -> str:
    """``WWW-Authenticate``: the challenges of all authenticators, without duplicates; empty if there is none.

    ``failed`` marks a request whose credentials were refused.
    """
    offered = dict.fromkeys(authenticator.authenticate_header(request) for authenticator in authenticators)
    suffix = {BEARER_CHALLENGE: ', error="invalid_token"'} if failed else {}
    return ", ".join(header + suffix.get(header, "") for header in offered if header)


def refusal(
    request: Request, authenticators: Sequence[BaseAuthentication], detail: str | None = None, code: str | None = None
) -> ApiError:
    """The error for a caller whom a permission refused: 401 for an anonymous caller who could log in, else 403."""
    anonymous = request.auth is None and not getattr(request.user, "is_authenticated", True)
    if anonymous and (offered := challenge(request, authenticators)):
        return NotAuthenticated(headers={"WWW-Authenticate": offered})
    return PermissionDenied(detail, code=code)


def check_size_of_query(http: web.Request) -> None:
    """Raise ``ParseError`` if a request has more than ``PARAMETERS_MAX`` parameters; before ``http.query`` parses them.

    Parsed parameters take many times the memory of their bytes, and yarl caches them with the last addresses.
    """
    if http.rel_url.raw_query_string.count("&") >= PARAMETERS_MAX:
        raise ParseError(f"There are more than {PARAMETERS_MAX} parameters.", code="invalid_parameter")


def redeemed(http: web.Request) -> Redeemed:
    """What the ticket of a request has stood for; ``None`` if none was redeemed."""
    return http.get(_TICKET)


def take_redeemed(http: web.Request, found: Redeemed) -> None:
    """Let a request need no ticket that another one of the same message has redeemed."""
    if found is not None:
        http[_TICKET] = found


async def redeem_ticket(http: web.Request) -> None:
    """Use the ticket of a stream, if it has one; requests that are made of this one need no other."""
    await _redeemed(http)


def redeemed_header(http: web.Request) -> str | None:
    """The ``Authorization`` header that the ticket of a stream stood for; ``None`` if no ticket was redeemed."""
    sent = http.get(_TICKET)
    return None if sent is None else " ".join(sent)


async def _redeemed(http: web.Request) -> tuple[str, str] | None:
    """The scheme and the credentials that the ticket of a stream stands for; ``None`` without a ticket."""
    if _TICKET in http:
        return http[_TICKET]
    check_size_of_query(http)
    sent = [text for text in http.query.getall(TICKET_PARAMETER, ()) if TICKET_PATTERN.fullmatch(text)]
    if not sent:
        return None
    if len(sent) > 1 or "Authorization" in http.headers or "access_token" in http.query:
        raise AuthenticationFailed("Send one ticket, and no other credentials with it.")
    scheme, _, value = (await http.app[IDENTITY].tickets.redeem(sent[0])).strip().partition(" ")
    http[_TICKET] = scheme.lower(), value.strip()
    return http[_TICKET]


def _read_authorization(http: web.Request, stream: bool) -> tuple[str, str] | None:
    """The scheme and the credentials of a request."""
    headers = http.headers.getall("Authorization", ())
    if len(headers) > 1:
        raise AuthenticationFailed("Send one Authorization header.")
    if headers:
        scheme, _, value = headers[0].strip().partition(" ")
        return scheme.lower(), value.strip()
    if not stream:
        return None
    check_size_of_query(http)
    tokens = http.query.getall("access_token", ())
    if len(tokens) > 1:
        raise AuthenticationFailed("Send one access_token.")
    return ("bearer", tokens[0]) if tokens else None
