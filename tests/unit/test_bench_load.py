"""The load of the benchmarks: what both generators send."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bench import load
from bench.cases import CREATE, GET, KEY, MIXED, Case


class Server(ThreadingHTTPServer):
    """Answers everything, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str, str | None, bytes]] = []

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        tag = self.headers.get("If-None-Match")
        self.server.requests.append((self.command, self.path, tag, body))
        self.send_response(304 if tag else 200)
        if tag is None:
            self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server, for as long as a test."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(params=["wrk", "Python"], autouse=True)
def generator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both generators."""
    if request.param == "Python":
        monkeypatch.setattr(load.shutil, "which", lambda _: None)
    elif shutil.which("wrk") is None:
        pytest.skip("wrk is not installed")


def put(server: Server, case: Case, path: str, tags: Path | None = None) -> load.Load:
    return load.put(server.origin, case, path, seconds=1, seed=1, tasks=3, connections=2, tags=tags)


def test_a_mixed_load_has_its_shares(server: Server) -> None:
    """Each part has its method and path, and only writes have a body."""
    paths = {"get": "/tasks/TASK/", "uncounted": "/tasks/?a=b&c=d", "create": "/tasks/"}
    done = put(server, MIXED, load.mixed(MIXED, paths))
    assert done.requests > 100
    assert not done.failed
    rows = {f"/tasks/{KEY.format(n)}/" for n in (1, 2, 3)}
    kinds = Counter("get" if path in rows else f"{method} {path}" for method, path, _, _ in server.requests)
    assert set(kinds) == {"get", "GET /tasks/?a=b&c=d", "POST /tasks/"}
    total = len(server.requests)
    assert 0.5 < kinds["get"] / total < 0.9
    assert 0.05 < kinds["GET /tasks/?a=b&c=d"] / total < 0.4
    assert 0.01 < kinds["POST /tasks/"] / total < 0.3
    for method, _, _, body in server.requests:
        assert (b"Water it" in body) is (method == "POST")
        assert b"AUTHOR" not in body


def test_conditional_requests_have_the_tag_of_their_row(server: Server, tmp_path: Path) -> None:
    """A 304 is a success, and the next request follows it on its connection."""
    tags = tmp_path / "tags"
    tags.write_text('"one"\n"two"\n"three"\n')
    done = put(server, GET, "/tasks/TASK/", tags)
    assert not done.failed
    assert done.requests > 10
    found = {(path, tag) for _, path, tag, _ in server.requests}
    assert found == {
        (f"/tasks/{KEY.format(n)}/", tag) for n, tag in ((1, '"one"'), (2, '"two"'), (3, '"three"'))
    }  # fmt: skip


def test_a_page_has_one_tag(server: Server, tmp_path: Path) -> None:
    """Whichever row is drawn."""
    tags = tmp_path / "tags"
    tags.write_text('"page"\n')
    assert not put(server, GET, "/tasks/", tags).failed
    assert {tag for _, _, tag, _ in server.requests} == {'"page"'}


def test_a_create_has_its_body(server: Server) -> None:
    """With a random author."""
    assert not put(server, CREATE, "/tasks/").failed
    bodies = {body for _, _, _, body in server.requests}
    assert len(bodies) > 1
    assert all(body.startswith(b'{"title": "Water it"') for body in bodies)
