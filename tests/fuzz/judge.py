"""Sends attacks, and finds what must not be: the invariants of the service under any request.

- No response is a 5xx, except a 503 with a code of ``SHED``.
- A response arrives within its time limit, and is well-formed. An error is a problem document of a bounded size.
- Nothing internal is in a response, and no header of the client's making.
- No request that was hidden in another one is answered.
- The event loop is never blocked for ``BLOCKED_SECONDS``, in CPU time of its thread.
- Nothing on standard error is a traceback, an error or a warning of the interpreter.
- Memory, descriptors and tasks stay flat (``Baseline``).

Times are measured again before they count: a fault of time is one that every one of ``REPEATS`` shows.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .attacks import Attack
from .configuration import STATEMENT_SECONDS
from .process import Reading
from .service import Service
from .wire import Malformed, Response, exchange, responses

SHED = {"statement_timeout", "database_busy", "overloaded"}
ANSWER_SECONDS = 5 * STATEMENT_SECONDS + 5.0  # of a request: it may wait for a connection, and then for its statements
WAIT_SECONDS = 0.15  # for a response that need not come
LEAVES_SECONDS = 0.01
BLOCKED_SECONDS = float(os.environ.get("FUZZ_BLOCKED_SECONDS", "0.050"))
REPEATS = 3
ERROR_BYTES = 64 * 1024
INTERNAL = re.compile(
    rb"Traceback|asyncpg|sqlalchemy|psycopg|/service/rowcast|SELECT .* FROM|pg_catalog|rowcast_test_", re.IGNORECASE
)
MEMORY_BYTES = 512 << 20
GROWTH_BYTES = 160 << 20  # in the second half of a campaign: the peak of a crowd may come late
GROWTH_BLOCKS = 400_000
GROWTH_FILES = 20
GROWTH_TASKS = 20
QUIET_SECONDS = 20.0


@dataclass(frozen=True)
class Fault:
    """What must not be, in a sentence; ``timing`` if it has to show again before it counts."""

    text: str
    timing: bool = False


async def judge(service: Service, attack: Attack) -> list[str]:
    """Send an attack and return its faults."""
    faults = await _attempt(service, attack)
    for _ in range(REPEATS - 1):
        if not faults or not all(fault.timing for fault in faults):
            break
        faults = await _attempt(service, attack)
    return [fault.text for fault in faults]


async def _attempt(service: Service, attack: Attack) -> list[Fault]:
    try:
        exchanges = await asyncio.gather(*(_exchange(service, attack) for _ in range(attack.copies)))
    except ConnectionRefusedError:
        return [Fault("the service does not accept connections")]
    faults = list(dict.fromkeys(fault for each in exchanges for fault in _faults_of(attack, *each)))
    try:
        reading = await service.reading()
    except ConnectionError:
        return [*faults, Fault(f"the process has ended: {''.join(service.errors)[-2000:]}")]
    if attack.copies == 1 and reading.blocked > BLOCKED_SECONDS:
        faults.append(Fault(f"the loop is blocked for {reading.blocked * 1000:.0f} ms: {reading.where}", timing=True))
    return faults + [Fault(f"standard error: {text}") for text in service.faults()]


async def _exchange(service: Service, attack: Attack) -> tuple[bytes, bool]:
    seconds = LEAVES_SECONDS if attack.leaves else WAIT_SECONDS if attack.incomplete else ANSWER_SECONDS
    return await exchange(
        service.host, service.port, attack.pieces, seconds=seconds, pause=attack.pause, enough=attack.enough
    )


def _faults_of(attack: Attack, received: bytes, closed: bool) -> Iterator[Fault]:
    if b"smuggled-in" in received.partition(b"\r\n\r\n")[2] and b"live" in received and _contradicts(attack):
        yield Fault("a request that was hidden in another one is answered")
    try:
        found = responses(received, attack.methods)
    except (Malformed, ValueError) as error:
        yield Fault(f"not HTTP: {error}")
        return
    if not attack.incomplete and not attack.leaves:
        if not found:
            yield Fault(
                "there is no response" if closed else f"no response within {ANSWER_SECONDS:g} s", timing=not closed
            )
        elif not closed or not (found[-1].whole or attack.enough):
            yield Fault(f"a response does not end within {ANSWER_SECONDS:g} s", timing=True)
    if len(found) > attack.most:
        yield Fault(f"{len(found)} responses: {[response.status for response in found]}")
    for response in found:
        yield from faults_of_response(response)


def _contradicts(attack: Attack) -> bool:
    """Whether the length of the first request's body is not clear, so that nothing after it may be answered."""
    head = attack.pieces[0].partition(b"\r\n\r\n")[0].lower()
    return head.count(b"\r\ncontent-length:") + head.count(b"\r\ntransfer-encoding:") > 1


def faults_of_response(response: Response) -> Iterator[Fault]:
    """What must not be in any response."""
    document = response.json() if response.whole else None
    code = document.get("code") if isinstance(document, dict) else None
    if response.status >= 500 and not (response.status == 503 and code in SHED):
        yield Fault(f"{response.status}: {response.body[:500]!r}")
    if any(
        name.lower() == "x-injected" or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value)
        for name, value in response.headers
    ):
        yield Fault(f"a header of the client's making: {response.headers}")
    if response.status >= 400 and response.whole and response.body:
        if response.header("Content-Type") != "application/problem+json":
            yield Fault(f"{response.status} is not a problem document: {response.body[:300]!r}")
        elif not isinstance(document, dict) or document.get("status") != response.status:
            yield Fault(f"a problem document without its status: {response.body[:300]!r}")
        if len(response.body) > ERROR_BYTES:
            yield Fault(f"an error of {len(response.body)} bytes: {response.body[:300]!r}")
        if match := INTERNAL.search(response.body):
            yield Fault(f"something internal in an error: {response.body[max(0, match.start() - 100) :][:300]!r}")


class Baseline:
    """The process at some time, and how far it may grow from there."""

    def __init__(self, reading: Reading) -> None:
        self._before = self.now = reading

    @classmethod
    async def of(cls, service: Service) -> Baseline:
        """Measure now."""
        return cls(await service.reading(collect=True))

    async def faults(self, service: Service) -> list[str]:
        """What has grown, and does not shrink again for a while when nobody sends anything."""
        found: list[str] = []
        for _ in range(int(QUIET_SECONDS)):
            self.now = await service.reading(collect=True)
            found = list(self._growth())
            if not found:
                return []
            await asyncio.sleep(1)
        return found

    def __str__(self) -> str:
        before, now = self._before, self.now
        return (
            f"{before.memory >> 20} MiB and {before.blocks:,} blocks at half time, "
            f"{now.memory >> 20} MiB and {now.blocks:,} at the end"
        )

    def _growth(self) -> Iterator[str]:
        before, now = self._before, self.now
        if now.memory - before.memory > GROWTH_BYTES or now.memory > MEMORY_BYTES:
            yield f"memory has grown from {before.memory >> 20} to {now.memory >> 20} MiB"
        if now.blocks - before.blocks > GROWTH_BLOCKS:
            yield f"Python's blocks of memory have grown from {before.blocks:,} to {now.blocks:,}"
        if now.files - before.files > GROWTH_FILES:
            yield f"open descriptors have grown from {before.files} to {now.files}"
        if now.tasks - before.tasks > GROWTH_TASKS:
            yield f"tasks have grown from {before.tasks} to {now.tasks}"
