"""Waiting without ``await``: code in blocking style runs on the event loop without blocking it.

Each handler runs in its own greenlet. When code in it calls ``wait(x)``, control leaves the greenlet, the event loop
awaits ``x``, and the greenlet continues with the result. Other tasks run in the meantime. This is SQLAlchemy's bridge
(``sqlalchemy.util.greenlet_spawn`` and ``await_only``). Here it also runs coroutine handlers, so that a helper may be
called with or without ``await`` in both kinds of handler. Decision 13 has the reasons.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from inspect import iscoroutine
from typing import Any, TypeVar

from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from rowcast.orm.awaiting import run_checked

Result = TypeVar("Result")


async def spawn(handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a plain or coroutine function in a greenlet, where ``wait`` works, and return its result.

    Raises:
        NeverAwaited: it has called ``save()`` or the like without ``await``.
    """
    return await run_checked(greenlet_spawn(_call, handler, args, kwargs))


def wait(awaitable: Awaitable[Result]) -> Result:
    """Wait for an awaitable without ``await``, as in a plain ``def`` handler.

    Args:
        awaitable: A coroutine, a query set, or anything else that can be awaited.

    Returns:
        The awaitable's result.

    Raises:
        RuntimeError: This is not inside a viewset's handler or hook.
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
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            pending = coroutine.send(result) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value
        result, error = None, None
        try:
            result = await_only(_Pending(pending))
        except BaseException as raised:  # raised again inside the coroutine
            error = raised


class _Pending:
    """A future that a coroutine has yielded, as an awaitable for the event loop."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self._future)
