"""Requests that schemathesis makes from the service's own OpenAPI document: those that it allows, and those that it forbids."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.errors import InvalidSchema
from schemathesis.core.result import Ok

from .judge import ANSWER_SECONDS, BLOCKED_SECONDS, REPEATS, Fault, faults_of_response
from .service import Service
from .wire import Response

MODES = {"allowed": GenerationMode.POSITIVE, "forbidden": GenerationMode.NEGATIVE}


@dataclass(frozen=True)
class Broken:
    """A request with faults, as a command."""

    command: str
    faults: list[str]


class Documented:
    """The operations of a service's document, except streams, which never end."""

    def __init__(self, service: Service, document: dict[str, Any]) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._strategies: dict[str, Any] = {}
        self._operations = {
            operation.label: operation
            for result in schemathesis.openapi.from_dict(document).get_all_operations()
            if isinstance(result, Ok) and not (operation := result.ok()).path.endswith("/stream/")
        }
        self.names = [
            f"{mode} {label}" for label in self._operations for mode in MODES
        ]  # such as "allowed GET /tasks/"

    @classmethod
    async def of(cls, service: Service) -> Documented:
        """Read the service's document."""
        async with aiohttp.ClientSession(service.origin) as session, session.get("/openapi.json") as response:
            return cls(service, await response.json())

    async def check(self, name: str, number: int, examples: int) -> Broken | None:
        """Send requests to an operation, and return the first that has faults. The same number makes the same requests."""
        return await asyncio.to_thread(self._check, name, number, examples)

    def _check(self, name: str, number: int, examples: int) -> Broken | None:
        if name not in self._strategies:
            mode, _, label = name.partition(" ")
            self._strategies[name] = self._operations[label].as_strategy(generation_mode=MODES[mode])
        found: list[Broken] = []

        def send(case: Case) -> None:
            if not found and (faults := self._faults(case)):
                found.append(Broken(case.as_curl_command(), [fault.text for fault in faults]))

        proof: Callable[[], None] = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )(seed(number)(given(case=self._strategies[name])(send)))
        # Where no request can be forbidden, or none has the form that was chosen to be forbidden.
        with contextlib.suppress(Unsatisfiable, *([InvalidSchema] if name.startswith("forbidden") else [])):
            proof()
        return found[0] if found else None

    def _faults(self, case: Case) -> list[Fault]:
        faults = self._attempt(case)
        for _ in range(REPEATS - 1):
            if not faults or not all(fault.timing for fault in faults):
                break
            faults = self._attempt(case)
        return faults

    def _attempt(self, case: Case) -> list[Fault]:
        begun = time.monotonic()
        answer = case.call(base_url=self._service.origin, timeout=10 * ANSWER_SECONDS)
        taken = time.monotonic() - begun
        pairs = [(name, value) for name, values in answer.headers.items() for value in values]
        body = b"" if answer.request.method == "HEAD" else answer.content
        faults = list(faults_of_response(Response(answer.status_code, pairs, body)))
        if taken > ANSWER_SECONDS:
            faults.append(Fault(f"a response takes {taken:.1f} s", timing=True))
        reading = asyncio.run_coroutine_threadsafe(self._service.reading(), self._loop).result()
        if reading.blocked > BLOCKED_SECONDS:
            text = f"the loop is blocked for {reading.blocked * 1000:.0f} ms: {reading.where}"
            faults.append(Fault(text, timing=True))
        return faults + [Fault(f"standard error: {text}") for text in self._service.faults()]
