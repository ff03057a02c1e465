"""Calls that have to be awaited and are not: ``task.save()`` where ``await task.save()`` is meant.

Python makes a coroutine of such a call, which does nothing. While the user's code runs, each coroutine of the functions that
are marked here is recorded with its line. One that has not begun when the code returns is a ``NeverAwaited`` error, so that
the request fails and its transaction is rolled back. Elsewhere nothing is recorded.
"""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from inspect import CORO_CREATED, currentframe, getcoroutinestate
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

RECORDED_CALLS: Final = 1000  # after which those that have begun are dropped
P = ParamSpec("P")
Result = TypeVar("Result")


class NeverAwaited(RuntimeError):
    """The user's code has called a coroutine function without ``await``. A mistake in the program: a logged 500."""


@dataclass(frozen=True, slots=True)
class _Call:
    coroutine: Coroutine[Any, Any, Any]
    name: str
    file: str
    line: int

    @property
    def begun(self) -> bool:
        return getcoroutinestate(self.coroutine) != CORO_CREATED

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.line).strip()
        return f"{self.name}() in {Path(self.file).name}:{self.line} ({source})"


_CALLS: ContextVar[list[_Call] | None] = ContextVar("calls", default=None)


def must_be_awaited(
    function: Callable[P, Coroutine[Any, Any, Result]],
) -> Callable[P, Coroutine[Any, Any, Result]]:
    """Mark a coroutine function. It still returns a coroutine; ``inspect.unwrap`` gives the function itself."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, Result]:
        coroutine = function(*args, **kwargs)
        if (calls := _CALLS.get()) is not None:
            if len(calls) >= RECORDED_CALLS:
                calls[:] = [call for call in calls if not call.begun]
            frame = currentframe()
            while frame is not None and frame.f_globals.get("__name__", "").startswith("rowcast."):
                frame = frame.f_back
            if frame is not None:
                calls.append(_Call(coroutine, function.__qualname__, frame.f_code.co_filename, frame.f_lineno))
        return coroutine

    return call


async def run_checked(code: Awaitable[Result]) -> Result:
    """The result of the user's code; ``NeverAwaited`` if it has left a marked call behind."""
    calls: list[_Call] = []
    token = _CALLS.set(calls)
    try:
        result = await code
    finally:
        _CALLS.reset(token)
    if calls and not all(call.begun for call in calls):
        await asyncio.sleep(0)  # a task that the code has created begins now
        if forgotten := [call for call in calls if not call.begun]:
            for call in forgotten:
                call.coroutine.close()
            raise NeverAwaited(
                f"{' and '.join(map(str, forgotten))} was never awaited, so it has done nothing: put await before the call, "
                "or wait(…) around it in a plain function"
            )
    return result
