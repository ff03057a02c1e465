"""Calls that have to be awaited and are not: ``task.save()`` where ``await task.save()`` is meant.

Python makes a coroutine of such a call, which does nothing. While the user's code runs, each coroutine of the functions that
are marked here is recorded with its line. One that has not begun when the code returns is a ``NeverAwaited`` error, so that
the request fails and its transaction is rolled back. Elsewhere nothing is recorded.

``watch_coroutines`` does the same for all coroutine functions, those of the user included: Python then remembers where each
coroutine was made, which takes time, and warns when one ends that has not begun.
"""

from __future__ import annotations

import asyncio
import linecache
import re
import sys
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Sequence
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
    """The user's code has called a coroutine function without ``await``. A mistake in the program: a logged 500.

    ``calls`` are the files and lines of the calls.
    """

    def __init__(self, message: str, calls: Sequence[tuple[str, int]]) -> None:
        super().__init__(message)
        self.calls = calls


@dataclass(frozen=True, slots=True)
class _Call:
    coroutine: Coroutine[Any, Any, Any] | None  # None if it has ended without having begun
    name: str
    file: str
    line: int

    @property
    def begun(self) -> bool:
        return self.coroutine is not None and getcoroutinestate(self.coroutine) != CORO_CREATED

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
                if call.coroutine is not None:
                    call.coroutine.close()
            raise NeverAwaited(
                f"{' and '.join(map(str, forgotten))} was never awaited, so it has done nothing: put await before the call, "
                "or wait(…) around it in a plain function",
                [(call.file, call.line) for call in forgotten],
            )
    return result


_WARNING: Final = re.compile(
    r"coroutine '(?P<name>.+?)' was never awaited(?:\n.*\n  File \"(?P<file>.+?)\", line (?P<line>\d+))?"
)
_FILTER: Final = "coroutine .* was never awaited"


class _Watch:
    """How many services watch coroutines, and what Python did with warnings before."""

    services = 0
    show: Callable[..., None] = staticmethod(warnings.showwarning)


def watch_coroutines() -> Callable[[], None]:
    """Record every coroutine of the user's code that ends without having begun; the result is a function that ends this."""
    if _Watch.services == 0:
        _Watch.show = warnings.showwarning
        warnings.filterwarnings("always", _FILTER, RuntimeWarning)
        warnings.showwarning = _record
        sys.set_coroutine_origin_tracking_depth(1)
    _Watch.services += 1

    def end() -> None:
        _Watch.services -= 1
        if _Watch.services == 0:
            sys.set_coroutine_origin_tracking_depth(0)
            if warnings.showwarning is _record:
                warnings.showwarning = _Watch.show

    return end


def _record(message: Any, category: type[Warning], filename: str, lineno: int, *args: Any, **kwargs: Any) -> None:
    """Take the place of ``warnings.showwarning``, which Python calls where the coroutine ends."""
    calls, found = _CALLS.get(), _WARNING.match(str(message)) if category is RuntimeWarning else None
    if calls is None or found is None:
        _Watch.show(message, category, filename, lineno, *args, **kwargs)
    else:
        calls.append(_Call(None, found["name"], found["file"] or filename, int(found["line"] or lineno)))
