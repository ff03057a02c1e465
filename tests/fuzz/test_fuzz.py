"""A short part of the fuzz, the same every time; and what the fuzz itself promises."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from tests.databases import Databases

from .attacks import GENERATORS, Attack
from .configuration import write_everything
from .judge import BLOCKED_SECONDS, faults_of_response, judge
from .process import Probe
from .service import Service, running
from .wire import Malformed, Response, request, responses

pytestmark = pytest.mark.asyncio(loop_scope="module")

ATTACKS = 12  # of each generator
REGRESSIONS = {
    "repeated keys": Attack(
        (request("POST", "/things/", b"{%b}" % b",".join(b'"a%d":1' % (n % 80_000) for n in range(90_000))),)
    ),
    "long numbers": Attack(
        (request("POST", "/things/", b'{"document":[%b]}' % b",".join([b"0.12345678901234567"] * 50_000)),)
    ),
    "long array": Attack((request("POST", "/things/", b'{"words":[%b]}' % b",".join([b'"a"'] * 240_000)),)),
    "quotes without an end": Attack((request("GET", "/kinds/?string__in=" + 'x",' * 19_000),)),
    "unknown expectation": Attack((request("POST", "/boxes/", b"{}", ("Expect", "a")),)),
    "path of many segments": Attack((request("GET", "/" + "a/" * 25_000),)),
    "client that leaves a stream": Attack(
        (request("GET", "/things/stream/"),), leaves=True, incomplete=True, copies=30
    ),
}
"""What the fuzz has found, each with faults before it was mended."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A process of the service with everything, and rows."""
    config = write_everything(tmp_path_factory.mktemp("fuzz") / "config")
    async with databases.copy() as url, running(config, url) as service:
        await service.fill()
        yield service


@pytest.mark.parametrize("name", GENERATORS)
async def test_attacks_do_no_harm(service: Service, name: str) -> None:
    """No attack of a generator gets a 5xx, takes too long, blocks the loop or leaves a traceback."""
    for number in range(ATTACKS):
        assert await judge(service, GENERATORS[name](Random(f"{name}/0/{number}"), service)) == [], number


@pytest.mark.parametrize("name", REGRESSIONS)
async def test_what_was_found_stays_mended(service: Service, name: str) -> None:
    """No attack that once had faults has them again."""
    assert await judge(service, REGRESSIONS[name]) == []


# --- the fuzz itself --------------------------------------------------------------------------------------------------


async def test_the_same_seed_makes_the_same_attack(service: Service) -> None:
    """So a report can be repeated."""
    for name, generate in GENERATORS.items():
        assert generate(Random(name), service) == generate(Random(name), service), name


async def test_the_probe_reports_a_blocked_loop() -> None:
    """It measures CPU time, and names the place."""

    def block() -> None:
        until = time.thread_time() + 2 * BLOCKED_SECONDS
        while time.thread_time() < until:
            pass

    probe = Probe()
    watching = asyncio.create_task(probe.watch())
    await asyncio.sleep(0.02)
    quiet = probe.take(collect=False)
    for _ in range(20):  # the thread that notes the place may have to wait for a core
        block()
        await asyncio.sleep(0.02)
        if (busy := probe.take(collect=True)).where:
            break
    watching.cancel()
    assert quiet.blocked < BLOCKED_SECONDS < busy.blocked
    assert "block" in busy.where
    assert busy.memory > 10 << 20
    assert busy.tasks >= 2


PROBLEM = [("Content-Type", "application/problem+json")]


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (Response(200, [], b"{}"), ""),
        (Response(400, PROBLEM, b'{"status":400}'), ""),
        (Response(503, PROBLEM, b'{"status":503,"code":"statement_timeout"}'), ""),
        (Response(503, PROBLEM, b'{"status":503,"code":"database_unavailable"}'), "503"),
        (Response(500, PROBLEM, b'{"status":500,"code":"internal_error"}'), "500"),
        (Response(404, [("Content-Type", "text/plain")], b"404"), "not a problem document"),
        (Response(404, PROBLEM, b'{"status":400}'), "without its status"),
        (Response(400, PROBLEM, b'{"status":400,"detail":"' + b"a" * 70_000 + b'"}'), "an error of"),
        (Response(400, PROBLEM, b'{"status":400,"detail":"asyncpg.DataError"}'), "internal"),
        (Response(200, [("X-Injected", "1")]), "client's making"),
    ],
)
async def test_faults_of_a_response(response: Response, fault: str) -> None:
    """Each invariant of a response is checked."""
    found = [each.text for each in faults_of_response(response)]
    assert (len(found) == 1 and fault in found[0]) if fault else found == []


async def test_responses_are_read_as_they_were_sent() -> None:
    """Lengths, chunks, responses without a body and interim ones; what is not HTTP is an error."""
    data = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"
    )
    found = [(response.status, response.body, response.whole) for response in responses(data)]
    assert found == [(200, b"{}", True), (200, b"abc", True), (204, b"", True), (200, b"ab", False)]
    with pytest.raises(Malformed):
        responses(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n")
