"""Tickets for streams: once, for half a minute, at every replica, and for nothing but streams."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
import structlog

from rowcast.changes.retention import forget_tickets
from rowcast.identity.tokens import create_token
from rowcast.testing.client import Client
from tests.conftest import Serve
from tests.identity.conftest import bearer
from tests.sse import listen

NOTES = """
fields: {id: {type: integer, primary_key: true}, text: {type: string}}
viewset: {permission_classes: [IsAuthenticated]}
"""
SEATS = """
fields: {id: {type: integer, primary_key: true}, ticket: {type: string}}
viewset: {permission_classes: [AllowAny], filterset_fields: [ticket]}
"""
KEYED = """
from rowcast import BaseAuthentication, ModelViewSet
from types import SimpleNamespace

class Key(BaseAuthentication):
    def authenticate(self, request):
        sent = request.http.headers.get("X-Key")
        return (SimpleNamespace(id="k", is_authenticated=True, is_staff=False, claims={}), None) if sent else None
"""
RESOURCES = {"notes": NOTES, "seats": SEATS}
pytestmark = pytest.mark.tables(RESOURCES)


async def ticket(client: Client, token: str) -> str:
    """A new ticket of the owner of a token."""
    async with client.post("/stream-ticket/", headers=bearer(token)) as response:
        assert response.status == 201, await response.text()
        assert response.headers["Cache-Control"] == "no-store"
        body = await response.json()
        assert body["expires_in"] == 30
        return str(body["ticket"])


async def refusal(client: Client, path: str) -> tuple[int, str]:
    """The status and the code of a refused request."""
    async with client.get(path) as response:
        return response.status, (await response.json())["code"]


async def test_a_ticket_opens_one_stream_at_any_replica(serve: Serve, sql: asyncpg.Connection) -> None:
    """Of one resource or of several; a second use is a 401, and so is any use elsewhere."""
    one, other = await serve(RESOURCES), await serve(RESOURCES)
    token = await create_token(sql, "ann")
    for path in ("/notes/stream/?", "/stream/?resources=notes,seats&", "/notes/stream/?snapshot=true&"):
        got = await ticket(one, token)
        async with listen(other, f"{path}ticket={got}") as stream:
            assert (await stream.next()).event == "ready"
        for client in (one, other):
            assert await refusal(client, f"{path}ticket={got}") == (401, "authentication_failed")
    got = await ticket(one, token)
    assert await refusal(one, f"/notes/?ticket={got}") == (401, "not_authenticated")
    assert await sql.fetchval("SELECT count(*) FROM rowcast.ticket") == 1


async def test_of_simultaneous_uses_one_succeeds(serve: Serve, sql: asyncpg.Connection) -> None:
    """The others are refused."""
    client = await serve(RESOURCES)
    got = await ticket(client, await create_token(sql, "ann"))
    responses = await asyncio.gather(*(client.get(f"/notes/stream/?ticket={got}") for _ in range(5)))
    assert sorted(response.status for response in responses) == [200, 401, 401, 401, 401]
    for response in responses:
        response.close()


async def test_a_ticket_is_what_its_token_is(serve: Serve, sql: asyncpg.Connection) -> None:
    """A token that is revoked or expired meanwhile opens nothing, and a stream ends with the token that it was opened by."""
    client = await serve(RESOURCES)
    token = await create_token(sql, "ann")
    got = await ticket(client, token)
    await sql.execute("UPDATE rowcast.ticket SET expires_at = clock_timestamp() - interval '1 second'")
    assert await refusal(client, f"/notes/stream/?ticket={got}") == (401, "authentication_failed")
    got = await ticket(client, await create_token(sql, "ann", lifetime=2))
    async with listen(client, f"/notes/stream/?ticket={got}") as stream:
        assert [event.event async for event in stream] == ["ready"]


async def test_who_has_no_credentials_gets_none(serve: Serve, sql: asyncpg.Connection) -> None:
    """Nor does one whose credentials no stream could have; GET is a 405."""
    client = await serve(
        RESOURCES,
        service="auth: {default_authentication_classes: [TokenAuthentication, 'keyed:Key']}",
        modules={"keyed": KEYED},
    )
    for headers, status in (({}, 401), (bearer("rc_no"), 401), ({"X-Key": "k"}, 400)):
        async with client.post("/stream-ticket/", headers=headers) as response:
            assert response.status == status, headers
    assert (await client.get("/stream-ticket/")).status == 405
    assert (await client.options("/stream-ticket/")).status in (200, 401)
    assert await sql.fetchval("SELECT count(*) FROM rowcast.ticket") == 0


async def test_neither_the_database_nor_a_log_has_a_ticket_or_its_token(serve: Serve, sql: asyncpg.Connection) -> None:
    """What is stored is a digest and what only the ticket can decrypt; unused tickets go."""
    with structlog.testing.capture_logs() as logs:
        client = await serve(RESOURCES)
        token = await create_token(sql, "ann")
        got = await ticket(client, token)
        async with listen(client, f"/notes/stream/?ticket={await ticket(client, token)}") as stream:
            await stream.next()
        await client.get(f"/notes/stream/?ticket={got}&colour=red")
        await ticket(client, token)
    stored = b"".join([*await sql.fetchrow("SELECT digest, sealed FROM rowcast.ticket")])
    for secret in (got, token):
        assert secret not in str(logs)
        assert secret.encode() not in stored
    await sql.execute("UPDATE rowcast.ticket SET expires_at = clock_timestamp() - interval '2 minutes'")
    await forget_tickets(sql)
    assert await sql.fetchval("SELECT count(*) FROM rowcast.ticket") == 0


async def test_a_filter_may_be_called_ticket(serve: Serve, sql: asyncpg.Connection) -> None:
    """Anything that has not the form of a ticket is its value; elsewhere that is a 400."""
    client = await serve(RESOURCES)
    async with listen(client, "/seats/stream/?ticket=A1&snapshot=true") as stream:
        await sql.execute("INSERT INTO seats (ticket) VALUES ('B2'), ('A1')")
        assert (await stream.next()).event == "ready"
        assert (await stream.next()).json()["data"]["ticket"] == "A1"
    token = await create_token(sql, "ann")
    async with client.get("/notes/stream/?ticket=A1", headers=bearer(token)) as response:
        assert (response.status, (await response.json())["code"]) == (400, "invalid_parameter")
    async with client.get("/stream/?resources=seats&ticket=A1", headers=bearer(token)) as response:
        assert response.status == 400
