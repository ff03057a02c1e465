"""Identity over HTTP, on the whole service: which callers are accepted, and the responses to the others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
import structlog

from rowcast.identity.tokens import create_token

from ..conftest import Client, Serve, rowcast
from ..sse import listen
from .conftest import SECRET, bearer

CHALLENGE = 'Bearer realm="rowcast"'
REFUSED = 'Bearer realm="rowcast", error="invalid_token"'
NOTES = "fields: {id: {type: integer, primary_key: true}, text: {type: string}, owner: {type: string, null: true}}\n"
OPEN = NOTES + "viewset: {permission_classes: [AllowAny]}"
VIEWSETS = """
from rowcast import *

class Weekdays(BasePermission):
    message, code = "Come back on Monday.", "closed"
    async def has_permission(self, request, view):
        return request.headers.get("X-Day") != "Sunday"

class Owned(ModelViewSet):
    permission_classes = [IsOwner("owner")]

class Notes(ModelViewSet):
    @action(detail=False, permission_classes=[IsAuthenticated & Weekdays])
    async def whoami(self, request):
        return {"id": request.user.id, "staff": request.user.is_staff}

    @action(detail=False)
    def broken(self, request):
        raise RuntimeError("broken")
"""


pytestmark = pytest.mark.tables({"notes": OPEN})


async def outcome(client: Client, path: str, method: str = "GET", **options: Any) -> tuple[int, str, str | None]:
    """The status, the code of the problem, and the challenge."""
    async with client.request(method, path, **options) as response:
        body = await response.json() if response.content_type.endswith("json") else {}
        code = body.get("code", "") if isinstance(body, dict) else ""
        return response.status, code, response.headers.get("WWW-Authenticate")


async def test_without_a_setting_everybody_reads_and_callers_with_credentials_write(
    serve: Serve, sql: asyncpg.Connection
) -> None:
    """A 401 says how to authenticate; a 403 does not, since the caller has."""
    client = await serve({"notes": NOTES, "rules": NOTES + "viewset: {permission_classes: [IsAdminUser]}"})
    user, staff = bearer(await create_token(sql, "u")), bearer(await create_token(sql, "s", staff=True))
    body = {"json": {"text": "a"}}
    assert await outcome(client, "/notes/") == (200, "", None)
    assert await outcome(client, "/notes/", "OPTIONS") == (200, "", None)
    assert await outcome(client, "/notes/", "POST", **body) == (401, "not_authenticated", CHALLENGE)
    assert await outcome(client, "/notes/", "POST", headers=user, **body) == (201, "", None)
    for method, path in (("PUT", "/notes/1/"), ("PATCH", "/notes/1/"), ("DELETE", "/notes/1/")):
        assert await outcome(client, path, method, **body) == (401, "not_authenticated", CHALLENGE)
    for method, path in (
        ("GET", "/rules/"),
        ("GET", "/rules/stream/"),
        ("OPTIONS", "/rules/"),
        ("DELETE", "/rules/1/"),
    ):
        assert await outcome(client, path, method) == (401, "not_authenticated", CHALLENGE)
        assert await outcome(client, path, method, headers=user) == (403, "permission_denied", None)
    assert await outcome(client, "/rules/", headers=staff) == (200, "", None)


@pytest.mark.parametrize("header", ["Bearer rc_no", f"Token rc_{'x' * 43}", "Bearer a.b.c", "Basic YTpi", "nonsense"])
async def test_bad_credentials_are_a_401_where_none_are_needed(serve: Serve, header: str) -> None:
    """On lists, streams and writes alike."""
    client = await serve({"notes": OPEN}, f"auth: {{jwt: {{secret: {SECRET!r}}}}}")
    headers = {"Authorization": header}
    for method, path in (("GET", "/notes/"), ("GET", "/notes/stream/"), ("POST", "/notes/"), ("OPTIONS", "/notes/")):
        assert await outcome(client, path, method, headers=headers) == (401, "authentication_failed", REFUSED)


async def test_tokens_of_the_command_line_are_accepted(
    serve: Serve, sql: asyncpg.Connection, database_url: str, tmp_path: Path
) -> None:
    """Made, listed and revoked while the service runs; an expired one has its own code."""
    yaml = NOTES + "viewset: {class: 'viewsets:Notes'}"
    client = await serve({"notes": yaml}, modules={"viewsets": VIEWSETS})
    (tmp_path / "config0").rename(tmp_path / "config")

    def run(*arguments: str) -> str:
        code, output = rowcast(tmp_path, "token", *arguments, "--database-url", database_url)
        assert code == 0, output
        return output

    staff, gone, old = (
        run("create", "ann", "--staff"),
        run("create", "bob"),
        run("create", "cy", "--expires", "1h"),
    )
    run("revoke", "2")
    await sql.execute("UPDATE rowcast.token SET expires_at = now() - interval '1 s' WHERE id = 3")
    async with client.get("/notes/whoami/", headers={"Authorization": f"Token {staff}"}) as response:
        assert await response.json() == {"id": "ann", "staff": True}
    assert await outcome(client, "/notes/whoami/", headers=bearer(gone)) == (401, "authentication_failed", REFUSED)
    assert await outcome(client, "/notes/whoami/", headers=bearer(old)) == (401, "token_expired", REFUSED)
    listed = run("list")
    assert [line.split()[1] for line in listed.splitlines()] == ["USER", "ann", "bob", "cy"]


async def test_json_web_tokens_are_accepted(serve: Serve) -> None:
    """HS256 with the configured secret; not with another secret, audience or algorithm, and not after expiry."""
    yaml = NOTES + "viewset: {class: 'viewsets:Notes'}"
    service = f"auth: {{jwt: {{secret: {SECRET!r}, audience: notes}}}}"
    client = await serve({"notes": yaml}, service, modules={"viewsets": VIEWSETS})
    claims = {"sub": "7", "aud": "notes", "exp": time.time() + 60, "is_staff": True}
    async with client.get("/notes/whoami/", headers=bearer(jwt.encode(claims, SECRET, "HS256"))) as response:
        assert await response.json() == {"id": "7", "staff": True}
    for wrong, key, algorithm, code in (
        (claims, "another secret of 32 bytes, or more", "HS256", "authentication_failed"),
        (claims, SECRET * 2, "HS512", "authentication_failed"),
        (claims, None, "none", "authentication_failed"),
        (claims | {"aud": "tasks"}, SECRET, "HS256", "authentication_failed"),
        (claims | {"exp": time.time() - 60}, SECRET, "HS256", "token_expired"),
    ):
        headers = bearer(jwt.encode(wrong, key or "", algorithm))
        assert await outcome(client, "/notes/", headers=headers) == (401, code, REFUSED)


async def test_token_in_the_query_is_for_streams_and_is_never_repeated(serve: Serve, sql: asyncpg.Connection) -> None:
    """Elsewhere it is an unknown parameter, or ignored; it is in no link and in no log."""
    members = NOTES + "viewset: {permission_classes: [IsAuthenticated]}"
    lax = (
        NOTES + "viewset: {class: 'viewsets:Notes', permission_classes: [AllowAny], strict_query: false, page_size: 1}"
    )
    with structlog.testing.capture_logs() as logs:
        client = await serve({"notes": members, "lax": "model: Lax\n" + lax}, modules={"viewsets": VIEWSETS})
        token = await create_token(sql, "u")
        async with listen(client, f"/notes/stream/?access_token={token}") as stream:
            assert (await stream.next()).event == "ready"
        assert await outcome(client, "/notes/stream/") == (401, "not_authenticated", CHALLENGE)
        assert await outcome(client, "/notes/stream/?access_token=rc_no") == (401, "authentication_failed", REFUSED)
        assert await outcome(client, f"/notes/?access_token={token}") == (401, "not_authenticated", CHALLENGE)
        async with client.get(f"/notes/?access_token={token}", headers=bearer(token)) as response:
            assert (response.status, token in await response.text()) == (400, False)
        for text in "ab":
            await sql.execute("INSERT INTO lax (text) VALUES ($1)", text)
        async with client.get(f"/lax/?access_token={token}&x=1") as response:
            page = await response.json()
            assert ("x=1" in page["next"], token in await response.text()) == (True, False)
        assert await outcome(client, f"/lax/whoami/?access_token={token}") == (401, "not_authenticated", CHALLENGE)
        async with client.get(f"/lax/broken/?access_token={token}") as response:
            assert (response.status, token in await response.text()) == (500, False)
    assert any(each["event"] == "request_failed" for each in logs)
    assert token not in str(logs)


@pytest.mark.parametrize(
    "viewset",
    [
        "{class: 'viewsets:Owned'}",
        "{permission_classes: ['IsOwner(\"owner\")']}",
        "{permission_classes: ['IsAdminUser & ~IsAdminUser | (IsAuthenticated & IsOwner(\"owner\"))']}",
    ],
)
async def test_a_row_belongs_to_its_owner(serve: Serve, sql: asyncpg.Connection, viewset: str) -> None:
    """By a class, YAML or an expression, for reading and for writing."""
    client = await serve({"notes": NOTES + f"viewset: {viewset}"}, modules={"viewsets": VIEWSETS})
    ann, bob = bearer(await create_token(sql, "ann")), bearer(await create_token(sql, "bob"))
    await sql.execute("INSERT INTO notes (text, owner) VALUES ('a', 'ann'), ('nobody''s', NULL)")
    for method, body in (("GET", None), ("PATCH", {"text": "b"}), ("PUT", {"text": "b"}), ("DELETE", None)):
        for path in ("/notes/1/", "/notes/2/"):
            assert (await outcome(client, path, method, json=body))[0] == 401
            assert (await outcome(client, path, method, json=body, headers=bob))[0] == 403
        assert (await outcome(client, "/notes/1/", method, json=body, headers=ann))[0] in (200, 204)


async def test_permission_has_its_own_message(serve: Serve, sql: asyncpg.Connection) -> None:
    """``message`` and ``code`` of the class that refused, a coroutine's too; a caller without credentials gets a 401."""
    yaml = NOTES + "viewset: {permission_classes: ['viewsets:Weekdays']}"
    client = await serve({"notes": yaml}, modules={"viewsets": VIEWSETS})
    ann = bearer(await create_token(sql, "ann"))
    assert (await outcome(client, "/notes/"))[0] == 200
    async with client.get("/notes/", headers={**ann, "X-Day": "Sunday"}) as response:
        problem = await response.json()
        assert (response.status, problem["code"], problem["detail"]) == (403, "closed", "Come back on Monday.")
    assert (await outcome(client, "/notes/", headers={"X-Day": "Sunday"}))[0] == 401


async def test_combined_permission_has_the_message_of_the_part_that_refused(
    serve: Serve, sql: asyncpg.Connection
) -> None:
    """If that part has none, another part's message is used, and otherwise the default one."""
    yaml = (
        NOTES
        + "viewset: {permission_classes: ['IsAuthenticated & (viewsets:Author | viewsets:Weekdays & IsAdminUser)']}"
    )
    words = """
class Author(IsOwner):
    owner_field = "owner"
    message, code = "Only its author.", "not_author"
"""
    client = await serve({"notes": yaml}, modules={"viewsets": VIEWSETS + words})
    ann, bob = bearer(await create_token(sql, "ann")), bearer(await create_token(sql, "bob"))
    await sql.execute("INSERT INTO notes (text, owner) VALUES ('a', 'ann')")
    assert await outcome(client, "/notes/1/") == (401, "not_authenticated", CHALLENGE)
    assert await outcome(client, "/notes/1/", headers=ann) == (200, "", None)
    assert await outcome(client, "/notes/1/", headers=bob) == (403, "not_author", None)
    client = await serve(
        {"notes": NOTES + "viewset: {permission_classes: ['IsAdminUser & viewsets:Weekdays']}"},
        modules={"viewsets": VIEWSETS},
    )
    assert await outcome(client, "/notes/", headers=bob) == (403, "permission_denied", None)
    client = await serve(
        {"notes": NOTES + "viewset: {permission_classes: ['IsAuthenticated & viewsets:Weekdays']}"},
        modules={"viewsets": VIEWSETS},
    )
    assert await outcome(client, "/notes/", headers={**bob, "X-Day": "Sunday"}) == (403, "closed", None)


@pytest.mark.parametrize("proxies", [0, 1])
async def test_too_many_requests_are_a_429_with_retry_after(
    serve: Serve, sql: asyncpg.Connection, proxies: int
) -> None:
    """Responses have the caller's limits; ``X-Forwarded-For`` identifies a caller only behind trusted proxies."""
    service = f"""
        server: {{trusted_proxies: {proxies}}}
        throttle: {{classes: [AnonRateThrottle, UserRateThrottle], rates: {{anon: 1/hour, user: 2/hour}}}}
        """
    client = await serve({"notes": OPEN}, service)
    user = bearer(await create_token(sql, "u"))
    first = await client.get("/notes/", headers={"X-Forwarded-For": "192.0.2.1"})
    assert first.status == 200
    assert first.headers["RateLimit-Policy"] == '"anon";q=1;w=3600, "user";q=2;w=3600'
    assert first.headers["RateLimit"].startswith('"anon";r=0;')
    with_snapshot = await client.get("/notes/", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (with_snapshot.status, (await with_snapshot.json())["code"]) == (429, "throttled")
    assert 3500 < int(with_snapshot.headers["Retry-After"]) <= 3600
    assert with_snapshot.headers["RateLimit"].startswith('"anon";r=0;')
    other = await client.get("/notes/", headers={"X-Forwarded-For": "192.0.2.2"})
    assert other.status == (200 if proxies else 429)
    assert [(await outcome(client, "/notes/", headers=user))[0] for _ in range(3)] == [200, 200, 429]


async def test_pages_of_other_origins_can_read_the_headers_about_the_caller(serve: Serve) -> None:
    """Challenges, limits and positions are among the headers that CORS exposes."""
    service = (
        "server: {cors_origins: ['https://a.example']}\nthrottle: {classes: [AnonRateThrottle], rates: {anon: 1/hour}}"
    )
    client = await serve({"notes": NOTES}, service)
    sent: set[str] = set()
    for method in ("GET", "GET", "POST"):
        response = await client.request(method, "/notes/", headers={"Origin": "https://a.example"})
        exposed = {name.strip().lower() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
        expected = {
            "x-stream-position",
            "x-request-id",
            "retry-after",
            "ratelimit",
            "ratelimit-policy",
            "www-authenticate",
        }
        mine = expected & {name.lower() for name in response.headers}
        assert mine <= exposed
        sent |= mine
    assert sent == expected
