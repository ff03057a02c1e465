"""What is never in a span: credentials, wherever a client sends them, and the data of requests and statements."""

from __future__ import annotations

import json

import asyncpg
import pytest

from rowcast.identity.tokens import create_token
from tests.spans import Spans

from ..conftest import Serve
from ..sse import listen

SECRET = "s3cr3t"  # is part of all that must not be recorded
NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: string, unique: true, max_length: 30}
viewset: {filterset_fields: {text: [exact, regex]}, search_fields: [text]}
"""
PYTHON = """
from rowcast import ModelViewSet, action, raw

class Notes(ModelViewSet):
    @action(detail=False, methods=["POST"])
    async def fail(self, request):
        await raw("SELECT CAST(:text AS int)", text=request.data["text"])
"""
RESOURCES = {"notes": NOTES.replace("viewset: {", "viewset: {class: viewsets:Notes, ")}
pytestmark = pytest.mark.tables({"notes": NOTES})


async def test_nothing_that_a_client_sends_is_in_a_span(serve: Serve, spans: Spans, sql: asyncpg.Connection) -> None:
    """Tokens in headers and queries, tickets, filters, bodies and headers; with all that goes wrong."""
    settings = json.dumps({"database": {"session": {"app.name": "$user.id"}}})
    client = await serve(RESOURCES, settings, modules={"viewsets": PYTHON})
    token = await create_token(sql, f"ann-{SECRET}")
    bearer = {"Authorization": f"Bearer {token}", "X-Request-ID": f"{SECRET}-{SECRET}", "User-Agent": SECRET}
    got = (await (await client.post("/stream-ticket/", headers=bearer)).json())["ticket"]
    for address in (f"/notes/stream/?access_token={token}&text={SECRET}", f"/notes/stream/?ticket={got}"):
        async with listen(client, address) as source:
            assert (await source.next()).event == "ready"
    for method, address, body in (
        ("POST", "/notes/", {"text": SECRET}),
        ("POST", "/notes/", {"text": SECRET}),  # not unique
        ("POST", "/notes/", {"text": SECRET * 30}),
        ("POST", "/notes/", {SECRET: SECRET}),
        ("POST", "/notes/fail/", {"text": SECRET}),
        ("PATCH", "/notes/1/", {"text": f"{SECRET}!"}),
        ("GET", f"/notes/?text={SECRET}&nonsense={SECRET}", None),
        ("GET", f"/notes/?text__regex=[{SECRET}", None),
        ("GET", f"/notes/stream/?access_token={token}x", None),
        ("GET", f"/notes/stream/?ticket={got}", None),
        ("GET", "/notes/", {"Authorization": f"Bearer {SECRET}"}),
    ):
        await client.request(method, address, json=body, headers=bearer)
    await client.get("/notes/", headers={"Authorization": f"Bearer {SECRET}"})
    recorded = "".join(span.to_json() for span in spans.all)
    assert len(spans.requests) == 15
    assert "INSERT notes" in recorded
    assert "23505" in recorded
    for secret in (SECRET, token, got):
        assert secret not in recorded
