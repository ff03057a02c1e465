"""What a service shows while it is developed: the exception of a 500, with the lines of one's own files.

``server.debug``, and ``serve --reload``, switch it on. It is for a machine's own user, so ``check_debug`` refuses it where
others can reach the service.
"""

from __future__ import annotations

import linecache
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final

from aiohttp import web

from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Server
from rowcast.errors import ConfigurationError, InternalError
from rowcast.orm.awaiting import NeverAwaited, watch_coroutines

CAUSES_MAX: Final = 5
FRAMES_MAX: Final = 100
MESSAGE_MAX_CHARACTERS: Final = 5_000
UNAWAITED: Final = ". Write await before the call that has returned it, in a handler with async def."


class DescribedError(InternalError):
    """A defect, with its exception in the problem document."""

    def __init__(self, exception: dict[str, Any]) -> None:
        hint = UNAWAITED if "'coroutine' object" in exception["message"] else ""
        super().__init__(f"{exception['type']}: {exception['message']}{hint}")
        self.exception = exception

    def problem(self, request_id: str) -> dict[str, Any]:
        """The problem document, with ``exception``."""
        return {**super().problem(request_id), "exception": self.exception}


def describe_errors(directory: Path) -> Callable[[Exception], InternalError]:
    """A function that makes the response for an exception, with the frames of a directory's files."""
    inside = directory.resolve()

    def describe(error: Exception) -> InternalError:
        return DescribedError(_described(error, inside, directory, CAUSES_MAX))

    return describe


def _described(error: BaseException, inside: Path, directory: Path, causes: int) -> dict[str, Any]:
    places = [(frame.filename, frame.lineno or 0, frame.name) for frame in extract_tb(error.__traceback__)]
    if isinstance(error, NeverAwaited):
        places += [(file, line, "") for file, line in error.calls]
    document: dict[str, Any] = {
        "type": type(error).__name__,
        "message": str(error)[:MESSAGE_MAX_CHARACTERS].encode("utf-8", "replace").decode(),
        "frames": [
            {
                "file": str(directory / Path(file).relative_to(inside)),
                "line": line,
                **({"function": function} if function else {}),
                "code": linecache.getline(file, line).strip(),
            }
            for file, line, function in places[-FRAMES_MAX:]
            if Path(file).is_relative_to(inside) and "site-packages" not in Path(file).parts
        ],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and causes:
        document["cause"] = _described(cause, inside, directory, causes - 1)
    return document


async def watching_coroutines(app: web.Application) -> AsyncIterator[None]:
    """From an application's start to its clean-up, a coroutine of a handler that is not awaited is an error."""
    end = watch_coroutines()
    yield
    end()


def in_debug(configuration: Configuration) -> Configuration:
    """The same configuration with ``server.debug``."""
    settings = configuration.settings
    return replace(configuration, settings=replace(settings, server=replace(settings.server, debug=True)))


class DebugRefused(ConfigurationError):
    """Others can reach a service in debug."""


def check_debug(configuration: Configuration, switch: str) -> None:
    """Raise ``DebugRefused`` if a service in debug can be reached by others; ``switch`` is what has switched it on."""
    if (reason := _reachable(configuration.settings.server)) is not None:
        raise DebugRefused(
            f"{switch}: a service in debug shows exceptions and values to everybody who reaches it, and {reason}; "
            "--insecure-debug accepts that"
        )


def refused_debug(configuration: Configuration) -> Iterator[str]:
    """A line if ``rowcast serve`` refuses ``server.debug``."""
    if configuration.settings.server.debug and (reason := _reachable(configuration.settings.server)) is not None:
        location = configuration.files[""].location(("server", "debug"))
        yield f"{location}: debug: `rowcast serve` refuses this without --insecure-debug, since {reason}"


def _reachable(server: Server) -> str | None:
    """Why others than this machine's users may reach the service; ``None`` if they cannot."""
    if server.trusted_proxies:
        return "server.trusted_proxies says that it is behind a proxy"
    try:
        loopback = ip_address(server.host).is_loopback
    except ValueError:
        loopback = server.host == "localhost"
    return None if loopback else f"it listens on {server.host}, not on 127.0.0.1"
