"""Tickets for streams: what a browser puts into the address of a stream instead of its token.

A ticket is 256 random bits, and stands for the ``Authorization`` header with which it was requested, once and for some
seconds, at every replica. Whoever opens a stream with it is identified by that header, whatever class recognises it. The
database has the ticket's digest, and the header encrypted with a key that is made of the ticket. So neither a leaked database
nor an address in a log, which is used or expired by then, gives anybody a credential.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Final

from rowcast.database.pool import Database
from rowcast.errors import AuthenticationFailed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TICKET_SECONDS: Final = 30  # for which a ticket can be used
TICKET_PREFIX: Final = "st_"
TICKET_PATTERN: Final = re.compile(r"st_[A-Za-z0-9_-]{43}")
TICKET_PARAMETER: Final = "ticket"
_NONCE: Final = bytes(12)  # a key encrypts one header

_ISSUE: Final = """
INSERT INTO rowcast.ticket (digest, sealed, expires_at)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
"""
_REDEEM: Final = (
    "DELETE FROM rowcast.ticket WHERE digest = $1 RETURNING sealed, expires_at > clock_timestamp() AS fresh"
)


class TicketStore:
    """Makes tickets and redeems them, each once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def issue(self, authorization: str) -> str:
        """A ticket that stands for an ``Authorization`` header."""
        ticket = TICKET_PREFIX + secrets.token_urlsafe(32)
        sealed = _cipher(ticket).encrypt(_NONCE, authorization.encode("utf-8", "surrogateescape"), None)
        with self._database.as_service():
            await self._database.fetch(_ISSUE, (_digest(ticket), sealed, TICKET_SECONDS))
        return ticket

    async def redeem(self, ticket: str) -> str:
        """The header that a ticket stands for; ``AuthenticationFailed`` if it is unknown, used or too old."""
        sealed = await self.take(_digest(ticket))
        if sealed is None:
            raise AuthenticationFailed("The ticket was used already, or has expired: get a new one.")
        return _cipher(ticket).decrypt(_NONCE, sealed, None).decode("utf-8", "surrogateescape")

    async def take(self, digest: bytes) -> bytes | None:
        """Remove a ticket, and return what it stands for, encrypted; ``None`` if it is unknown, used or too old."""
        with self._database.as_service():
            row = await self._database.fetch(_REDEEM, (digest,))
        return None if row is None or not row["fresh"] else row["sealed"]


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode()).digest()


def _cipher(ticket: str) -> AESGCM:
    """Encrypts a ticket's header, with a key that the ticket's digest does not give."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hashlib.sha256(b"rowcast ticket key\0" + ticket.encode()).digest())
