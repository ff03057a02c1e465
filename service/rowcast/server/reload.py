"""Reloading: a running service goes on with its configuration as it is in the files now, or with its last good one.

An application for the new configuration is made and started beside the one that answers. When it is ready, it gets every
further request, also on connections that are open; the earlier one ends its streams, whose clients resume from their
positions, answers what it has begun, and stops. A configuration that does not check, or that the database does not fit,
changes nothing. docs/decisions/0022-reload.md has the reasons.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from aiohttp import web

from rowcast.configuration.load import Configuration
from rowcast.configuration.yaml import REFERENCE, SUFFIXES, Problems
from rowcast.errors import ConfigurationError, Unavailable
from rowcast.garbage import keep_pauses_short
from rowcast.server.health import READINESS
from rowcast.server.http import Runner
from rowcast.server.lifecycle import START_ERRORS, STARTED
from rowcast.server.modules import imported_again
from rowcast.server.prepare import startup_error
from rowcast.server.running import Outcome, now

RETRY_SECONDS: Final = 1.0
START_SECONDS: Final = 60.0  # for the new application to start, its DDL included
_TOO_SLOW: Final = "The new config was not ready in time; DDL that takes longer is for `rowcast migrate`."
SECRET_MIN_CHARACTERS: Final = 8  # shorter values are parts of many other words
_PLAIN_VARIABLES: Final = frozenset(
    ("HOME", "HOSTNAME", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "ROWCAST_CONFIG", "SHELL", "TERM", "USER")
)
FIXED: Final = (
    ("server", "host"), ("server", "port"), ("server", "workers"), ("server", "admin"), ("database", "data"),
)  # fmt: skip
_EXCEPTION: Final = re.compile(r"( (?:cannot be imported|has failed): (?:[^:\s]+:[0-9]+: )?(?:\w+)): .*")
_USER_INFO: Final = re.compile(r"://[^/\s]*@")
_logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where configurations come from, and what applications are made of them.

    ``read`` may run in a thread; ``ConfigurationError`` if the files do not check. ``make(configuration, once)`` makes an
    application, which starts ``once``, or tries until it can.
    """

    read: Callable[[], Configuration]
    make: Callable[[Configuration, bool], web.Application]


class Reloader:
    """Reloads a service when ``request`` is called. ``report`` is called with each outcome.

    ``configuration`` is the one that the service works with. With ``retries`` a configuration that the database does not fit
    is tried again until it does.
    """

    def __init__(
        self,
        runner: Runner,
        configuration: Configuration,
        source: Source,
        report: Callable[[Outcome], None],
        *,
        retries: bool = False,
    ) -> None:
        self.configuration = configuration
        self._runner = runner
        self._source = source
        self._report = report
        self._retries = retries
        self._requested = asyncio.Event()
        self._applied = asyncio.Event()

    def request(self) -> None:
        """Reload soon. A request while the service reloads is another reload after it, since files may have changed."""
        self._requested.set()

    async def run(self) -> None:
        """Reload at each request, for ever."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._report(await self.reload())

    async def started(self) -> None:
        """Wait until the service has started, be it with its first configuration or with a later one.

        Raises the error that keeps it from starting.
        """
        starting = self._runner.app[STARTED]
        applied = asyncio.create_task(self._applied.wait())
        try:
            await asyncio.wait([starting, applied], return_when=asyncio.FIRST_COMPLETED)
        finally:
            applied.cancel()
        if not self._applied.is_set():
            starting.result()

    async def reload(self) -> Outcome:
        """Reload now, or keep the last good configuration; the outcome has the problems."""
        began, at = now(), dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        try:
            configuration = await asyncio.to_thread(self._source.read)
            _check_fixed(self.configuration, configuration)
            with imported_again(configuration.directory):
                runner = await asyncio.create_task(self._start(configuration))  # in a context of its own
        except ConfigurationError as error:
            problems = str(error).splitlines()
        except START_ERRORS as error:
            problems = [startup_error(error)]
            if self._retries:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self.request)
        except Exception:
            problems = ["An error that nobody expected; the service's log has its traceback."]
            _logger.exception("reload_failed")
        else:
            retiring = self._runner.answer_with(runner)
            retiring.add_done_callback(lambda _: keep_pauses_short(replaced=True))
            self.configuration = configuration
            runner.app[READINESS].config = {"state": "applied", "at": at}
            self._applied.set()
            return Outcome((), began, os.getpid())
        shown = list(_public(problems, self.configuration.directory))
        self._runner.app[READINESS].config = {"state": "rejected", "problems": shown, "at": at}
        return Outcome(tuple(problems), began, os.getpid())

    async def _start(self, configuration: Configuration) -> Runner:
        """The runner of an application for a configuration, which has started."""
        app = self._source.make(configuration, True)
        runner = Runner(app, configuration.settings.server)
        try:
            await runner.setup()
            try:
                async with asyncio.timeout(START_SECONDS) as limit:
                    await app[STARTED]
            except TimeoutError:
                if limit.expired():
                    raise Unavailable(_TOO_SLOW) from None
                raise
        except BaseException:
            await app.shutdown()
            await app.cleanup()
            raise
        return runner


def log_outcome(outcome: Outcome) -> None:
    """Log what has become of a reload."""
    if outcome.problems:
        _logger.error("config_rejected", problems=outcome.problems)
    else:
        _logger.info("config_reloaded", seconds=round(now() - outcome.began, 3))


def _check_fixed(before: Configuration, after: Configuration) -> None:
    """Raise ``ConfigurationError`` for settings that a process cannot change while it runs."""
    problems, document = Problems(), after.files[""]
    for section, name in FIXED:
        old, new = (getattr(getattr(each.settings, section), name) for each in (before, after))
        if old != new and not (name == "data" and after.settings.database.url):
            problems.at(document, (section, name), f"was {old} and is now {new}, which takes a restart")
    if (before.settings.database.url is None) != (after.settings.database.url is None):
        problems.at(document, ("database", "url"), "changing to or from the embedded database takes a restart")
    problems.check()


def _public(problems: list[str], directory: Path) -> Iterator[str]:
    """The problems as everybody may read them: without values from outside the files, and without words of exceptions."""
    hidden = sorted({*_values_of_variables(), *_values_of_files(directory)}, key=len, reverse=True)
    for problem in problems:
        line = _USER_INFO.sub("://…@", _EXCEPTION.sub(r"\1; the service's log has its message", problem))
        for value in hidden:
            line = line.replace(value, "…")
        yield line


def _values_of_variables() -> Iterator[str]:
    for name, value in os.environ.items():
        if name not in _PLAIN_VARIABLES and len(value) >= SECRET_MIN_CHARACTERS:
            yield value


def _values_of_files(directory: Path) -> Iterator[str]:
    """What the references ``${file:…}`` of a config directory stand for."""
    for path in (path for suffix in SUFFIXES for path in directory.rglob(f"*{suffix}")):
        with suppress(OSError, ValueError):
            for match in REFERENCE.finditer(path.read_text("utf-8")):
                if match["source"] == "file":
                    with suppress(OSError, ValueError):
                        yield from (
                            each
                            for each in Path(match["name"]).read_text("utf-8").splitlines()
                            if len(each) >= SECRET_MIN_CHARACTERS
                        )
