"""``rowcast run`` and ``rowcast shell``: Python with the models of a config directory, outside requests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import linecache
import sys
import threading
import traceback
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from code import InteractiveConsole
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import click
import sqlalchemy

import rowcast
from rowcast import __version__
from rowcast.commands.common import CONFIG, DATABASE_URL, load_configuration, open_database
from rowcast.configuration.load import Configuration
from rowcast.errors import ApiError, ConfigurationError
from rowcast.orm.bridge import spawn
from rowcast.orm.expressions import F, Q
from rowcast.orm.model import model
from rowcast.orm.writing import transaction
from rowcast.query.store import STORE
from rowcast.rest.plan import Service
from rowcast.server.standalone import standalone_service

MODULE: Final = "rowcast_script"  # the name of a script as a module: what others have under ``__main__`` does not run
STDIN: Final = "-"


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@CONFIG
@DATABASE_URL
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(config: Path, database_url: str | None, script: str, args: tuple[str, ...]) -> None:
    """Run a Python SCRIPT with the models, outside requests.

    Its top level may use await. If it has a function main, that is called with the ARGS, and what it returns is the exit code.
    Options of rowcast come before SCRIPT; - reads the script from standard input.
    """
    name, source = _source(script)
    code = _compiled(source, name)
    sys.argv = [script, *args]
    if script != STDIN:
        sys.path.append(str(Path(script).resolve().parent))
    module = ModuleType(MODULE)
    module.__file__ = name
    sys.modules[MODULE] = module

    def work() -> Any:
        return _execute(code, vars(module), list(args))

    sys.exit(_run_in_service(config, database_url, name, work))


@click.command()
@CONFIG
@DATABASE_URL
@click.option("-c", "--command", metavar="CODE", help="Run this Python, and end.")
def shell(config: Path, database_url: str | None, command: str | None) -> None:
    """Open a Python console with await, the models and transaction.

    If standard input is not a terminal, what it has is run as a script.
    """
    if command is None and sys.stdin.isatty():
        configuration = load_configuration(config, database_url)
        with open_database(configuration) as (url, embedded):
            _interact(configuration, url, embedded)
        return
    name = "<stdin>" if command is None else "<command>"
    code = _compiled(sys.stdin.read() if command is None else command, name)
    sys.exit(_run_in_service(config, database_url, name, lambda: _execute(code, _names(), None)))


def _source(script: str) -> tuple[str, str]:
    """The name and the text of a script; ``ConfigurationError`` if it cannot be read."""
    if script == STDIN:
        return "<stdin>", sys.stdin.read()
    try:
        return str(Path(script).resolve()), Path(script).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{script}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"{script}: it is not UTF-8") from None


def _compiled(source: str, name: str) -> CodeType:
    try:
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # for tracebacks
        code: CodeType = compile(source, name, "exec", PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError for a NUL
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigurationError(f"{name}{line}: {message}") from None
    return code


async def _execute(code: CodeType, names: dict[str, Any], args: list[str] | None) -> Any:
    """Run compiled Python, and with arguments its function ``main``; the exit code as ``sys.exit`` takes it."""
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result
    main = names.get("main")
    if args is None or not isinstance(main, FunctionType) or main.__globals__ is not names:
        return None
    return await spawn(main, *([args] if inspect.signature(main).parameters else []))


def _run_in_service(config: Path, database_url: str | None, name: str, work: Callable[[], Any]) -> Any:
    """Do work with models, and return its exit code. An error of it is printed with the frames of the user's own."""
    configuration = load_configuration(config, database_url)

    async def run() -> Any:
        async with standalone_service(configuration, url, migrate=embedded, report=_warn):
            try:
                return await spawn(work)
            except SystemExit as end:
                return end.code
            except Exception as error:  # noqa: BLE001 - a script's own, which is printed as Python does
                click.echo(_traceback(error, name), err=True, nl=False)
                return 1

    with open_database(configuration) as (url, embedded):
        return asyncio.run(run())


def _warn(pending: str) -> None:
    click.echo(pending, err=True)


def _traceback(error: BaseException, name: str) -> str:
    """The traceback of an error, from the first frame in a file on; for an error of the API without Rowcast's own frames."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename != name:
        frame = frame.tb_next
    if isinstance(error, ApiError):
        if error.errors:
            error.add_note(str(error.errors))
        error.__suppress_context__, error.__cause__ = True, None
    printed = traceback.TracebackException(type(error), error, frame)
    if isinstance(error, ApiError):
        own = [each for each in printed.stack if not each.filename.startswith(_OTHERS)]
        printed.stack = traceback.StackSummary.from_list(own)
    return "".join(printed.format())


_OTHERS: Final = tuple(str(Path(module.__file__ or "").parent) for module in (rowcast, sqlalchemy))


def _names() -> dict[str, Any]:
    """The names of a shell."""
    models = {resource.model: model(name) for name, resource in STORE.get().queries.resources.items()}
    return {"__name__": "__console__", "F": F, "Q": Q, "model": model, "transaction": transaction, **models}


def _interact(configuration: Configuration, url: str, embedded: bool) -> None:
    """A console in this thread, and the service in another one: Ctrl-C ends a line, and not the event loop."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - input() has line editing then
    with _loop_in_thread() as loop:
        service: Service | None = None
        opened = standalone_service(configuration, url, migrate=embedded, report=_warn)
        try:
            service = asyncio.run_coroutine_threadsafe(opened.__aenter__(), loop).result()
            STORE.set(service.store)
            names = {**_names(), "state": service.hooks.state}
            models = ", ".join(resource.model for resource in service.resources.values())
            banner = (
                f"Rowcast {__version__}, Python {sys.version.split()[0]}. Models: {models}. Also transaction, Q, F, state.\n"
                f"Write await: await {next(iter(service.resources.values())).model}.objects.count(). Ctrl-D ends."
            )
            _Console(names, loop).interact(banner, exitmsg="")
        finally:
            if service is not None:
                asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), loop).result()


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="service", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Console(InteractiveConsole):
    """A console whose lines run on the event loop of another thread."""

    def __init__(self, names: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._loop = loop

    def runcode(self, code: CodeType) -> None:
        async def work() -> SystemExit | None:
            try:
                await spawn(_execute, code, self.locals, None)
            except SystemExit as end:  # which would end the loop
                return end
            return None

        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            end = future.result()
        except KeyboardInterrupt:
            future.cancel()
            self.write("\nKeyboardInterrupt\n")
        except BaseException as error:  # noqa: BLE001 - printed, as Python's console does
            self.write(_traceback(error, "<console>"))
        else:
            if end is not None:
                raise end
