"""Throttles: which requests are counted together, refusals beyond the rate, and a storage that fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from rowcast.configuration.settings import Rate, Throttle
from rowcast.errors import ConfigurationError
from rowcast.identity import throttle_storage
from rowcast.identity.throttle_storage import SLOTS_PER_WINDOW, MemoryStorage, RedisStorage
from rowcast.identity.throttling import (
    STORAGE_RETRY_SECONDS,
    THROTTLES,
    AnonRateThrottle,
    BaseThrottle,
    ScopedRateThrottle,
    SimpleRateThrottle,
    Throttles,
    UserRateThrottle,
    check,
    check_rates,
    client_address,
)
from rowcast.identity.users import ANONYMOUS, User
from rowcast.rest.request import Request
from rowcast.server.middleware import add_headers, errors

from .conftest import Clock

Client = TestClient[web.Request, web.Application]
Throttled = Callable[..., Awaitable[Client]]


@pytest.fixture
async def throttled(clock: Clock) -> AsyncIterator[Throttled]:
    """Start a service of one view with throttles; ``?user=`` and ``?scope=`` are the user and the scope of a request.

    ``client = await throttled([UserRateThrottle], user=Rate(2, 60))``
    """
    clients: list[Client] = []

    async def start(classes: list[type[BaseThrottle]], *, proxies: int = 0, **rates: Rate) -> Client:
        async def view(http: web.Request) -> web.Response:
            request = Request(http)
            request.user = User(id=http.query["user"]) if "user" in http.query else ANONYMOUS

            class View:
                throttle_scope = http.query.get("scope")

            viewset: Any = View()  # all that a throttle reads of one
            await check(request, viewset, [each() for each in classes])
            return web.Response()

        app = web.Application(middlewares=[errors(lambda _: None)])
        app[THROTTLES] = Throttles(Throttle(rates=rates), trusted_proxies=proxies, clock=clock)
        app.on_response_prepare.append(add_headers)
        app.router.add_get("/", view)
        client = TestClient(TestServer(app))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


async def statuses(client: Client, count: int, path: str = "/", **headers: str) -> list[int]:
    return [(await client.get(path, headers=headers)).status for _ in range(count)]


async def test_beyond_the_rate_is_a_429_until_the_window_has_moved_on(throttled: Throttled, clock: Clock) -> None:
    """Retry-After is the time until a request is accepted, to the second."""
    client = await throttled([AnonRateThrottle], anon=Rate(2, 60))
    assert (await client.get("/")).status == 200
    clock.advance(20)
    assert (await client.get("/")).status == 200
    clock.advance(10)
    response = await client.get("/")
    assert (response.status, response.headers["Retry-After"]) == (429, "30")
    body = await response.json()
    assert (body["code"], body["detail"]) == ("throttled", "Too many requests; try again in 30 seconds.")
    clock.advance(29)
    assert (await client.get("/")).status == 429
    clock.advance(1)
    assert await statuses(client, 2) == [200, 429]
    clock.advance(20)
    assert await statuses(client, 2) == [200, 429]


async def test_refused_requests_do_not_count(throttled: Throttled, clock: Clock) -> None:
    """A caller that keeps trying is accepted again as early as one that waits."""
    client = await throttled([AnonRateThrottle], anon=Rate(1, 10))
    assert await statuses(client, 50) == [200] + [429] * 49
    clock.advance(10)
    assert (await client.get("/")).status == 200


async def test_responses_have_the_rate_limit_headers(throttled: Throttled, clock: Clock) -> None:
    """``RateLimit`` and ``RateLimit-Policy``, on accepted and on refused requests."""
    client = await throttled([AnonRateThrottle], anon=Rate(2, 60))
    response = await client.get("/")
    assert response.headers["RateLimit-Policy"] == '"anon";q=2;w=60'
    assert response.headers["RateLimit"] == '"anon";r=1;t=60'
    clock.advance(15)
    assert (await client.get("/")).headers["RateLimit"] == '"anon";r=0;t=45'
    response = await client.get("/")
    assert (response.status, response.headers["RateLimit"]) == (429, '"anon";r=0;t=45')


async def test_users_are_counted_by_themselves_and_others_by_address(throttled: Throttled) -> None:
    """Users do not share a count, and a user's id cannot be taken for an address."""
    client = await throttled([UserRateThrottle], user=Rate(1, 60))
    for path in ("/?user=a", "/?user=b", "/?user=127.0.0.1", "/?user=address:127.0.0.1", "/"):
        assert await statuses(client, 2, path) == [200, 429]


async def test_a_user_is_not_counted_as_anonymous(throttled: Throttled) -> None:
    """``AnonRateThrottle`` ignores callers with credentials, and sends them no headers."""
    client = await throttled([AnonRateThrottle], anon=Rate(1, 60))
    assert await statuses(client, 3, "/?user=a") == [200] * 3
    assert "RateLimit" not in (await client.get("/?user=a")).headers


async def test_scopes_are_counted_by_themselves(throttled: Throttled) -> None:
    """``throttle_scope`` names the rate; a view without one has no limit."""
    client = await throttled([ScopedRateThrottle], uploads=Rate(1, 60), reports=Rate(2, 60))
    assert await statuses(client, 2, "/?scope=uploads") == [200, 429]
    assert await statuses(client, 3, "/?scope=reports") == [200, 200, 429]
    assert await statuses(client, 3) == [200] * 3


class Burst(UserRateThrottle):
    scope = "burst"


async def test_all_throttles_count_and_the_longest_wait_wins(throttled: Throttled, clock: Clock) -> None:
    """A caller that waits for ``Retry-After`` is accepted by all of them."""
    client = await throttled([Burst, UserRateThrottle], burst=Rate(2, 10), user=Rate(3, 3600))
    assert await statuses(client, 2) == [200, 200]
    response = await client.get("/")  # the burst refuses, and the other throttle counts it
    assert (response.status, response.headers["Retry-After"]) == (429, "10")
    assert response.headers["RateLimit"] == '"burst";r=0;t=10, "user";r=0;t=3600'
    response = await client.get("/")
    assert response.headers["Retry-After"] == "3600"
    clock.advance(3600)
    assert (await client.get("/")).status == 200


class Own(SimpleRateThrottle):
    rate = "1/min"

    def get_cache_key(self, request: Any, view: Any) -> str | None:
        return request.query.get("key")


async def test_a_throttle_may_have_its_own_key_and_rate(throttled: Throttled) -> None:
    """``get_cache_key`` is the key of the count; ``None`` counts nothing."""
    client = await throttled([Own])
    assert await statuses(client, 2, "/?key=a") == [200, 429]
    assert await statuses(client, 2, "/?key=b") == [200, 429]
    assert await statuses(client, 2) == [200, 200]


class Closed(BaseThrottle):
    def allow_request(self, request: Any, view: Any) -> bool:
        return "open" in request.query


class ClosedForAnHour(Closed):
    def wait(self) -> float:
        return 3599.5


async def test_a_throttle_may_be_a_plain_function(throttled: Throttled) -> None:
    """With or without a time to wait."""
    client = await throttled([Closed])
    response = await client.get("/")
    assert (response.status, response.headers["Retry-After"]) == (429, "1")
    assert (await client.get("/?open")).status == 200
    client = await throttled([Closed, ClosedForAnHour])
    assert (await client.get("/")).headers["Retry-After"] == "3600"


async def test_a_rate_of_zero_refuses_every_request(throttled: Throttled) -> None:
    """0/min closes a viewset."""
    client = await throttled([AnonRateThrottle], anon=Rate(0, 60))
    response = await client.get("/")
    assert (response.status, response.headers["Retry-After"]) == (429, "60")


class Misspelt(SimpleRateThrottle):
    rate = "often"


class NamedView:
    throttle_scope = "uploads"


@pytest.mark.parametrize(
    ("throttle", "says"),
    [
        (UserRateThrottle, r"UserRateThrottle has no rate: .*lacks 'user' \(it has anon\).*rates: \{user: 60/min\}"),
        (ScopedRateThrottle, r"ScopedRateThrottle has no rate: .*'uploads'"),
        (Misspelt, r"Misspelt.rate: must be a rate such as 60/min"),
    ],
)
def test_a_throttle_without_a_rate_stops_the_start(throttle: type[BaseThrottle], says: str) -> None:
    """The error shows the missing setting."""
    with pytest.raises(ConfigurationError, match=says):
        check_rates([throttle], NamedView, {"anon": Rate(1, 60)})


def test_throttles_with_rates_pass() -> None:
    """So do throttles that need none."""
    check_rates([UserRateThrottle, ScopedRateThrottle, Own, Closed], NamedView, dict.fromkeys(("user", "uploads"), 1))  # type: ignore[arg-type]
    check_rates([ScopedRateThrottle], object, {})


@pytest.mark.parametrize("package", ["redis", "limits"])
def test_redis_without_its_packages_stops_the_start(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """The error names the command that installs them."""
    for module in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'rowcast\[redis\]'"):
        Throttles(Throttle(storage="redis://127.0.0.1:1"))


def test_wrong_address_of_redis_is_reported_without_its_password() -> None:
    """The address is a secret."""
    pytest.importorskip("redis")
    with pytest.raises(ConfigurationError, match="redis://:password@host:6379/0") as raised:
        Throttles(Throttle(storage="redis://:hunter2@host:port"))
    assert "hunter2" not in str(raised.value)


class Away:
    """A storage of ``limits`` that cannot be reached, with the number of attempts."""

    def __init__(self, error: Exception) -> None:
        self.attempts = 0
        self.error: Exception | None = error

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        self.attempts += 1
        if self.error is not None:
            raise self.error
        return False

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return 0.0, limit


async def test_without_its_storage_a_throttle_accepts_every_request(clock: Clock) -> None:
    """It is logged once, the storage is left alone for a while, and is used again when it is back."""
    errors = pytest.importorskip("limits.errors")
    away = Away(errors.StorageError(OSError("connection refused")))
    throttles = Throttles(Throttle(storage="redis://127.0.0.1:1"), clock=clock, storage=RedisStorage(away))
    with structlog.testing.capture_logs() as logs:
        for _ in range(20):
            assert await throttles.count("user", Rate(1, 60), "a") == (True, None)
        assert away.attempts == 1
        clock.advance(STORAGE_RETRY_SECONDS)
        assert await throttles.count("user", Rate(1, 60), "a") == (True, None)
        away.error = None
        clock.advance(STORAGE_RETRY_SECONDS)
        allowed, window = await throttles.count("user", Rate(1, 60), "a")
    assert (allowed, window is not None, away.attempts) == (False, True, 3)
    assert [each["event"] for each in logs] == ["throttle_storage_unavailable", "throttle_storage_available"]


async def test_a_window_never_accepts_more_than_its_rate(clock: Clock) -> None:
    """However the requests are spread, although requests close together share a slot."""
    memory, let_through = MemoryStorage(clock), []
    for step in range(5000):
        clock.advance((step * 7919 % 97) / 500)
        if await memory.acquire_entry("a", 100, 60):
            let_through.append(clock.now)
        oldest, used = await memory.get_moving_window("a", 100, 60)
        assert used <= 100
        assert oldest > clock.now - 60
    for place in range(len(let_through) - 100):
        assert let_through[place + 100] - let_through[place] > 60 - 1e-6


async def test_counting_takes_little_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is small at any rate, windows that are over are dropped, and their number is bounded."""
    memory = MemoryStorage(clock)
    for _ in range(5000):
        clock.advance(0.05)
        await memory.acquire_entry("busy", 10**9, 60)
    assert memory.slots("busy", 60) <= SLOTS_PER_WINDOW + 1
    for number in range(1000):
        await memory.acquire_entry(f"once {number}", 10, 60)
    clock.advance(61)
    for number in range(600):
        await memory.acquire_entry(f"later {number}", 10, 60)
    assert memory.windows == 600
    monkeypatch.setattr(throttle_storage, "WINDOWS_MAX", 500)
    for number in range(600):
        await memory.acquire_entry(f"more {number}", 10, 60)
    assert memory.windows == 500


def request_of(peer: object, *forwarded: str, headers: dict[str, str] | None = None) -> web.Request:
    class Transport:
        def get_extra_info(self, name: str, default: object = None) -> object:
            return peer if name == "peername" else default

    sent = CIMultiDict([*(("X-Forwarded-For", line) for line in forwarded), *(headers or {}).items()])
    return make_mocked_request("GET", "/", sent, transport=Transport())


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "address"),
    [
        ("192.0.2.1", [], 0, "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], 0, "192.0.2.1"),  # nobody is trusted: anybody can write it
        ("192.0.2.1", ["203.0.113.9"], 1, "203.0.113.9"),
        ("192.0.2.1", ["6.6.6.6, 203.0.113.9"], 1, "203.0.113.9"),  # what is further left the client has written
        ("192.0.2.1", ["6.6.6.6", "203.0.113.9"], 1, "203.0.113.9"),
        ("192.0.2.1", ["6.6.6.6, 203.0.113.9, 10.0.0.1"], 2, "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.9"], 2, "203.0.113.9"),
        ("192.0.2.1", [], 1, "192.0.2.1"),
        ("192.0.2.1", ["unknown"], 1, "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9:4711"], 1, "203.0.113.9"),
        ("192.0.2.1", ["[2001:db8:1:2:3::1]:4711"], 1, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:aaaa::1", [], 0, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:bbbb::2", [], 0, "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", [], 0, "192.0.2.1"),
        ("fe80::1%eth0", [], 0, "fe80::/64"),
        ("", [], 0, "local"),
    ],
)
def test_address_of_a_client(peer: str, forwarded: list[str], proxies: int, address: str) -> None:
    """Only trusted proxies are believed; an IPv6 caller has a whole /64."""
    peername: object = (peer, 4711, 0, 0) if ":" in peer else (peer, 4711) if peer else ""
    assert client_address(request_of(peername, *forwarded), proxies) == address


@pytest.mark.parametrize(
    ("forwarded", "more", "proxies", "address"),
    [
        ("for=203.0.113.9", {}, 0, "192.0.2.1"),
        ("for=203.0.113.9", {}, 1, "203.0.113.9"),
        ('for=6.6.6.6, For="203.0.113.9:4711";proto=https', {}, 1, "203.0.113.9"),
        ('for="[2001:db8:1:2:3::1]:4711", for=10.0.0.1', {}, 2, "2001:db8:1:2::/64"),
        ("for=unknown", {}, 1, "192.0.2.1"),
        ("for=_hidden", {}, 1, "192.0.2.1"),
        ("proto=https", {}, 1, "192.0.2.1"),
        ("for=6.6.6.6", {"X-Forwarded-For": "203.0.113.9"}, 1, "203.0.113.9"),
        ("for=6.6.6.6", {"X-Forwarded-Proto": "https"}, 1, "192.0.2.1"),
    ],
)
def test_address_in_forwarded(forwarded: str, more: dict[str, str], proxies: int, address: str) -> None:
    """The form of RFC 7239 counts where no proxy uses the other one, which a client cannot change."""
    request = request_of(("192.0.2.1", 4711), headers={"Forwarded": forwarded, **more})
    assert client_address(request, proxies) == address


async def test_a_caller_cannot_choose_an_address(throttled: Throttled) -> None:
    """Neither directly nor through the proxy."""
    client = await throttled([AnonRateThrottle], proxies=1, anon=Rate(1, 60))
    assert await statuses(client, 1, **{"X-Forwarded-For": "203.0.113.9"}) == [200]
    for number in range(5):
        assert await statuses(client, 1, **{"X-Forwarded-For": f"10.0.0.{number}, 203.0.113.9"}) == [429]


def test_the_package_limits_is_imported_only_for_redis() -> None:
    """It is in the extra ``redis``: a service that counts in memory runs without it."""
    script = "import sys, rowcast.identity.throttling, rowcast.server.app; assert 'limits' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
