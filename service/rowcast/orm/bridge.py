"""Waiting without ``await``: how code written in blocking style runs on the event loop without blocking it.

A handler runs in a greenlet of its own. When code inside it calls ``wait(x)``, the greenlet is left, the loop awaits
``x``, and the greenlet goes on with the result; everything else on the loop runs meanwhile. This is SQLAlchemy's
asyncio bridge (``sqlalchemy.util.greenlet_spawn`` and ``await_only``); here it also carries coroutine handlers, so that
a helper may be called with or without ``await`` in either kind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from inspect import iscoroutine
from typing import Any, TypeVar

from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

Result = TypeVar("Result")


async def spawn(handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a handler, plain or coroutine, so that ``wait`` works inside it; what it returns."""
    return await greenlet_spawn(_call, handler, args, kwargs)


def wait(awaitable: Awaitable[Result]) -> Result:
    """The result of an awaitable, waited for here: the way to ``await`` in a plain ``def`` handler.

    Raises ``RuntimeError`` outside of a handler.
    """
    if not in_greenlet():
        if iscoroutine(awaitable):
            awaitable.close()
        raise RuntimeError("this waits for the database, which works inside a viewset's handler only; use await here")
    return await_only(awaitable)


def _call(handler: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = handler(*args, **kwargs)
    return _drive(result) if iscoroutine(result) else result


def _drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine inside the greenlet: what it awaits is awaited by the loop."""
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            pending = coroutine.send(answer) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        answer, error = None, None
        try:
            answer = await_only(_Pending(pending))
        except BaseException as raised:  # handed into the coroutine, where it belongs
            error = raised


class _Pending:
    """A future that a coroutine has yielded, on its way to the loop."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self._future)
