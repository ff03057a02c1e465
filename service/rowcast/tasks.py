"""Background work: tasks that run as long as the service and are restarted when they fail, and tasks for one purpose.

No task ends silently. An exception that nobody expected, or a cancellation that nobody asked for, is logged with its
traceback. A task of the ``Supervisor`` then starts again, and the service is not ready until it works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog

RESTART_SECONDS: Final = 0.1, 5.0  # the pause before a task starts again: at first, and at most
STEADY_SECONDS: Final = 1.0  # for which a task has to work after a restart before it counts as working

Result = TypeVar("Result")

_logger = structlog.get_logger(__name__)


class Supervisor:
    """Runs the background tasks of one service. ``down`` has the names of those that have failed and do not work yet."""

    def __init__(self) -> None:
        self.down: dict[str, Exception] = {}

    def run(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Start a task for work that does not return. If it does, or raises, it starts again after a pause."""
        return asyncio.create_task(self._run(name, work), name=name)

    def every(self, name: str, seconds: float, step: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Start a task that takes a step now, and again so many seconds after each one; sooner after one that failed."""
        return asyncio.create_task(self._every(name, seconds, step), name=name)

    async def _run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        pause, longest = RESTART_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            steady = loop.call_later(STEADY_SECONDS, self.down.pop, name, None)
            started = loop.time()
            try:
                if await self._succeeds(name, work):
                    self._failed(name, RuntimeError("The task has returned."))
            finally:
                steady.cancel()
            if loop.time() - started > STEADY_SECONDS:
                pause = RESTART_SECONDS[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    async def _every(self, name: str, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        pause, longest = RESTART_SECONDS
        while True:
            if await self._succeeds(name, step):
                self.down.pop(name, None)
                pause = RESTART_SECONDS[0]
                await asyncio.sleep(seconds)
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _succeeds(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether work ends without an exception."""
        try:
            await work()
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            cancelled = RuntimeError("The task was cancelled from within.")
            cancelled.__cause__ = error
            self._failed(name, cancelled)
        except Exception as error:  # noqa: BLE001 - the log gets it
            self._failed(name, error)
        else:
            return True
        return False

    def _failed(self, name: str, error: Exception) -> None:
        self.down[name] = error
        _logger.error("background_task_failed", task=name, exc_info=error)


def _is_cancelled() -> bool:
    """Whether somebody has cancelled the current task, rather than something that it waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def spawn(work: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
    """A task for one purpose; if it fails, that is logged at once. The caller keeps the task and ends what it was for."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_end)
    return task


def _log_end(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("background_task_failed", task=task.get_name(), exc_info=error)
