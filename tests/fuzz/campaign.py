"""A campaign: both services, attacked in rounds for as long as there is time."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final

import aiohttp

from tests.databases import Databases

from .attacks import GENERATORS
from .configuration import write_demo, write_everything
from .documented import Documented
from .judge import Baseline, judge
from .service import Service, running

CONFIGURATIONS: Final = {"everything": write_everything, "demo": write_demo}
ATTACKS: Final = 8  # of a generator, in each round
OPERATIONS: Final = 30  # of each service, with a mode, in each round
EXAMPLES: Final = 3  # of such an operation
SHOWN_BYTES: Final = 600
SHOWN_CHARACTERS: Final = 3000
KIND_CHARACTERS: Final = 150  # of a generator and a fault, without numbers: equal ones are one kind


class Campaign:
    """Makes attacks and documented requests by their names, and reports each kind of fault once.

    A case is ``everything:cursors:17:4`` (configuration, generator or operation, seed, number).
    """

    def __init__(self, services: dict[str, Service], documented: dict[str, Documented], report: Callable[[str], None]):
        self.begun = time.monotonic()
        self.tried: Counter[str] = Counter()
        self.found: set[str] = set()
        self.requests: dict[str, bytes] = {}  # of attacks with faults of a new kind, by case
        self._services = services
        self._documented = documented
        self._report = report

    @classmethod
    @asynccontextmanager
    async def on(cls, databases: Databases, directory: Path, report: Callable[[str], None]) -> AsyncIterator[Campaign]:
        """A campaign against a service for each configuration, on databases of their own. Its time begins with their start."""
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            services = {}
            for name, write in CONFIGURATIONS.items():
                url = await stack.enter_async_context(databases.copy())
                services[name] = await stack.enter_async_context(running(write(directory / name), url))
            await services["everything"].fill()
            campaign = cls(services, {name: await Documented.of(each) for name, each in services.items()}, report)
            campaign.begun = begun
            yield campaign

    async def run(self, seconds: float, seed: int) -> None:
        """Attack in rounds until the time is over. In its second half memory stays flat."""
        half, end = self.begun + seconds / 2, self.begun + seconds
        baselines: dict[str, Baseline] = {}
        for case in self._cases(seed):
            if not baselines and time.monotonic() > half:
                baselines = {name: await Baseline.of(each) for name, each in self._services.items()}
            if time.monotonic() > end:
                break
            await self.make(case)
        for name, baseline in baselines.items():
            self._add(f"{name}:memory:{seed}:0", await baseline.faults(self._services[name]), "all of them together")
            longest = self._services[name].longest
            self._report(f"{name}: {baseline}; blocked for at most {longest.blocked * 1000:.0f} ms ({longest.where})")
        await self._check_health()

    def _cases(self, seed: int) -> Iterator[str]:
        """The cases of one round after the other, without end."""
        for number in itertools.count():
            chance = Random(f"{seed}/{number}")
            cases = [f"everything:{name}:{seed}:{number * ATTACKS + n}" for name in GENERATORS for n in range(ATTACKS)]
            for which, documented in self._documented.items():
                cases += [f"{which}:{name}:{seed}:{number}" for name in chance.sample(documented.names, OPERATIONS)]
            chance.shuffle(cases)
            yield from cases

    async def make(self, case: str) -> None:
        """Make one case, and report its faults."""
        which, name, seed, number = case.rsplit(":", 3)
        if name in GENERATORS:
            attack = GENERATORS[name](Random(f"{name}/{seed}/{number}"), self._services[which])
            data = b"".join(attack.pieces)
            faults = await judge(self._services[which], attack)
            shown = repr(data[:SHOWN_BYTES])
            if self._add(case, faults, f"{shown} of {len(data)} bytes" if len(data) > SHOWN_BYTES else shown):
                self.requests[case] = data
            self.tried["attacks"] += 1
            return
        broken = await self._documented[which].check(name, int(seed) * 1_000_003 + int(number), EXAMPLES)
        if broken is not None:
            self._add(case, broken.faults, broken.command[:SHOWN_CHARACTERS])
        self.tried["documented requests"] += EXAMPLES

    async def _check_health(self) -> None:
        for name, service in self._services.items():
            async with aiohttp.ClientSession(service.origin) as session, session.get("/health/ready") as response:
                if response.status != 200:
                    self._add(f"{name}:health:0:0", [await response.text()], "the end")

    def _add(self, case: str, faults: list[str], request: str) -> bool:
        """Report the faults of a case that are of a new kind, and return whether there are any."""
        kinds = {}
        for fault in faults:
            kind = re.sub(r"\d+|blocked .*", "", f"{case.split(':')[1]}: {fault}", flags=re.DOTALL)[:KIND_CHARACTERS]
            if kind not in self.found:
                kinds[kind] = fault
                self._report(f"FAULT {fault}\n  request: {request}\n  again: make fuzz FUZZ_CASE={case!r}\n")
        self.found.update(kinds)
        return bool(kinds)
