"""Tokens and tickets at an edge: the origin has them, and gets their digests only."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

from rowcast.changes.connection import OriginLost
from rowcast.changes.origin import TICKET, TOKEN, TOKENS, Origin
from rowcast.database.pool import Database
from rowcast.errors import Unavailable
from rowcast.identity.tickets import TicketStore
from rowcast.identity.tokens import TokenStore
from rowcast.identity.users import Clock

_AWAY = "The origin of this edge cannot be reached; try again."


class OriginTokens(TokenStore):
    """Access tokens, about which the origin is asked. A result is used for ``TOKEN_FRESH_SECONDS``, as everywhere."""

    def __init__(self, origin: Origin, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        self._origin = origin

    async def read(self, digest: bytes) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = await _ask(self._origin, TOKEN, digest=digest.hex())
        return found

    async def active(self, tokens: Collection[int]) -> Collection[int]:
        found: list[int] = await _ask(self._origin, TOKENS, ids=",".join(map(str, tokens))) if tokens else []
        return found


class OriginTickets(TicketStore):
    """Tickets, which the origin issues and redeems."""

    def __init__(self, origin: Origin, database: Database) -> None:
        super().__init__(database)
        self._origin = origin

    async def take(self, digest: bytes) -> bytes | None:
        sealed: str | None = await _ask(self._origin, TICKET, digest=digest.hex())
        return None if sealed is None else base64.b64decode(sealed)


async def _ask(origin: Origin, path: str, **params: str) -> Any:
    """The origin's answer, or ``Unavailable``."""
    try:
        return await origin.ask(path, **params)
    except OriginLost:
        raise Unavailable(_AWAY, code="origin_unavailable") from None
