"""Functions of a config directory that run beside requests: when a service starts and stops, and in the background.

A decorator marks a function, and nothing else happens. The service finds the marked functions in the modules of its
own config directory, so several services of one process have each their own.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import extract_tb
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, Final, TypeVar, overload

import structlog
from aiohttp import web

from rowcast.configuration.value_types import duration_in_seconds
from rowcast.errors import ConfigurationError, did_you_mean
from rowcast.orm.bridge import spawn
from rowcast.tasks import Supervisor

F = TypeVar("F", bound=Callable[..., Any])
STARTUP: Final = "on_startup"
SHUTDOWN: Final = "on_shutdown"
BACKGROUND: Final = "background"
_MARK: Final = "__rowcast_hooks__"

_logger = structlog.get_logger(__name__)


class State(SimpleNamespace):
    """What the functions of ``on_startup`` have made: a client, a pool. Handlers find it as ``request.state``."""

    def __getattr__(self, name: str) -> Any:
        hint = did_you_mean(name, vars(self)) if vars(self) else "set it in a function with @on_startup"
        raise AttributeError(f"the service's state has no {name!r}; {hint}")


STATE: Final = web.AppKey("state", State)


@dataclass(frozen=True, slots=True)
class Hook:
    """A marked function; ``every`` is the pause of a background task that takes steps, in seconds."""

    event: str
    function: Callable[..., Any]
    every: float | None = None

    @property
    def name(self) -> str:
        """The function's name with its module's."""
        return f"{self.function.__module__.removeprefix('rowcast_config.')}.{self.function.__name__}"

    async def call(self, state: State) -> None:
        """Run the function, which may have an argument for the state."""
        await spawn(self.function, *([state] if inspect.signature(self.function).parameters else []))

    def failure(self, error: BaseException) -> str:
        """What to report about an error of the function: its file, the line in it, and the error."""
        file = Path(self.function.__code__.co_filename)
        lines = [each.lineno for each in extract_tb(error.__traceback__) if Path(each.filename) == file]
        place = f"{file.name}:{lines[-1] if lines else self.function.__code__.co_firstlineno}"
        return f"{place}: {self.event} {self.function.__name__} has failed: {type(error).__name__}: {error}"


def on_startup(function: F) -> F:
    """Run a function when the service starts: when the database is ready, and before the first request.

    Args:
        function: A coroutine function or a plain one, at the top of a module of the config directory. It may take the
            service's ``State``. If it raises, the service does not start.
    """
    return _marked(function, STARTUP)


def on_shutdown(function: F) -> F:
    """Run a function when the service stops: after the last request, while the database can still be used.

    Args:
        function: As for ``on_startup``. They run in reverse order, if all functions of ``on_startup`` have succeeded.
    """
    return _marked(function, SHUTDOWN)


@overload
def background(function: F) -> F: ...
@overload
def background(*, every: float | str) -> Callable[[F], F]: ...
def background(function: F | None = None, *, every: float | str | None = None) -> F | Callable[[F], F]:
    """Run a function as a task from start to stop, in each process. It is started again if it fails.

    Args:
        function: As for ``on_startup``. At the end it is cancelled, and awaited.
        every: Call it again and again, with this pause: in seconds, or such as ``"5m"``.
    """
    seconds = None if every is None else _seconds(every)
    if function is None:
        return lambda marked: _marked(marked, BACKGROUND, seconds)
    return _marked(function, BACKGROUND, seconds)


def _seconds(every: float | str) -> float:
    try:
        seconds = duration_in_seconds(every) if isinstance(every, str) else float(every)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"background(every={every!r}): {error}") from None
    if not seconds > 0:
        raise ConfigurationError(f"background(every={every!r}) must be longer than 0 seconds")
    return seconds


def _marked(function: F, event: str, every: float | None = None) -> F:
    if not isinstance(function, FunctionType):
        raise ConfigurationError(
            f"@{event} is for functions, not for {type(function).__name__}: write @{event} above def"
        )
    if function.__qualname__ != function.__name__:
        raise ConfigurationError(f"@{event}: {function.__qualname__} must be a function at the top of a module")
    parameters = inspect.signature(function).parameters.values()
    if len(parameters) > 1 or any(each.kind not in _POSITIONAL for each in parameters):
        raise ConfigurationError(f"@{event}: {function.__name__} must have no argument, or one for the service's state")
    vars(function).setdefault(_MARK, []).append(Hook(event, function, every))
    return function


_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def hooks_in(modules: Iterable[ModuleType]) -> Iterator[Hook]:
    """The marked functions of modules, each once, in the order of the modules and of their definition."""
    found: set[int] = set()
    for module in modules:
        for value in list(vars(module).values()):
            if isinstance(value, FunctionType) and id(value) not in found:
                found.add(id(value))
                yield from vars(value).get(_MARK, ())


class Hooks:
    """The marked functions of one service, and what runs of them."""

    def __init__(self, hooks: Iterable[Hook], state: State) -> None:
        self.state = state
        self._hooks = list(hooks)
        self._started = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Run the functions of ``on_startup``; ``ConfigurationError`` for the first that fails."""
        for hook in self._of(STARTUP):
            try:
                await hook.call(self.state)
            except (Exception, SystemExit) as error:
                raise ConfigurationError(hook.failure(error)) from error
        self._started = True

    def start_tasks(self) -> None:
        """Start the background tasks. One that fails is logged and started again; it does not turn the service not ready."""
        supervisor = Supervisor()
        for hook in self._of(BACKGROUND):
            if hook.every is None:
                self._tasks.append(supervisor.run(hook.name, partial(self._run, hook)))
            else:
                self._tasks.append(supervisor.every(hook.name, hook.every, partial(hook.call, self.state)))

    async def stop(self, seconds: float) -> None:
        """Cancel the tasks, and run the functions of ``on_shutdown``; all this takes at most so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
                for hook in reversed(self._of(SHUTDOWN)) if self._started else ():
                    try:
                        await hook.call(self.state)
                    except Exception as error:
                        _logger.error("on_shutdown_failed", hook=hook.name, exc_info=error)
        except TimeoutError:
            _logger.error("on_shutdown_took_too_long", seconds=seconds)

    async def _run(self, hook: Hook) -> None:
        """A task of the supervisor, which is not to start a function again that has returned."""
        await hook.call(self.state)
        await asyncio.get_running_loop().create_future()

    def _of(self, event: str) -> list[Hook]:
        return [hook for hook in self._hooks if hook.event == event]
