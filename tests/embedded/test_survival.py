"""What happens when processes are killed: the server goes with its owner, and the next start works."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from .processes import Own, is_alive, kill, query, wait_until

ENDLESS = "DO $$ BEGIN LOOP END LOOP; END $$"


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with PostgreSQL, of the account that runs the server."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def occupy() -> Iterator[Callable[[str], int]]:
    """Keep a backend busy with a loop that does not look for its postmaster; give its process id."""
    code = f"""if True:
        import asyncio, asyncpg, sys
        async def main():
            connection = await asyncpg.connect(sys.argv[1])
            print(connection.get_server_pid(), flush=True)
            await connection.execute({ENDLESS!r})
        asyncio.run(main())
    """
    with ExitStack() as stack:

        def run(url: str) -> int:
            command = [sys.executable, "-c", code, url]
            client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            stack.callback(client.wait)
            assert client.stdout is not None
            backend = int(client.stdout.readline())
            stack.callback(end, os.pidfd_open(backend))
            wait_until(lambda: query(url, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") == "active")
            return backend

        yield run


def end(process: int) -> None:
    """Kill what a pidfd stands for, if it still runs."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)


def test_server_dies_with_its_owner(own: Own, data: Path, account: str) -> None:
    """An owner that is killed takes its server along, by a clean shutdown."""
    owner = own(data, account=account)
    owner.kill()
    wait_until(lambda: not is_alive(owner.server))
    assert "database system is shut down" in (data / "server.log").read_text()


def test_start_follows_a_killed_owner_at_once(own: Own, data: Path, account: str) -> None:
    """The next start waits for the dying server and finds all that was committed."""
    first = own(data, account=account)
    first.query("CREATE TABLE kept AS SELECT 1 AS one")
    first.kill()
    second = own(data, account=account)
    assert second.query("SELECT one FROM kept") == 1


def test_start_follows_a_killed_owner_and_postmaster(
    own: Own, data: Path, account: str, occupy: Callable[[str], int]
) -> None:
    """Backends that outlive both are ended, and what was committed is recovered."""
    first = own(data, account=account)
    first.query("CREATE TABLE kept AS SELECT 1 AS one")
    backend = occupy(first.url)
    kill(first.server)
    first.kill()
    assert is_alive(backend)
    second = own(data, account=account)
    assert not is_alive(backend)
    assert second.query("SELECT one FROM kept") == 1


def test_owner_restarts_a_killed_postmaster(own: Own, data: Path, account: str, occupy: Callable[[str], int]) -> None:
    """The same owner may start again after its postmaster was killed, whatever backends were left."""
    owner = own(data, account=account)
    backend = occupy(owner.url)
    killed = owner.server
    kill(killed)
    wait_until(lambda: owner.send("start") != "" and owner.server != killed)
    assert not is_alive(backend)
    assert owner.query("SELECT 1") == 1


def test_stranger_with_the_number_of_the_postmaster_is_left_alone(
    own: Own, data: Path, account: str, stranger: subprocess.Popen[bytes]
) -> None:
    """A stale postmaster.pid whose number now is another program's neither stops a start nor harms the program."""
    first = own(data, account=account)
    kill(first.server)
    first.kill()
    stale = data / "cluster" / "postmaster.pid"
    stale.write_text(stale.read_text().replace(str(first.server), str(stranger.pid), 1))
    (data / "lock").write_text(f"{stranger.pid:10} {stranger.pid:10}\n")
    assert own(data, account=account).query("SELECT 1") == 1
    assert stranger.poll() is None


def test_empty_postmaster_pid_is_no_obstacle(own: Own, data: Path) -> None:
    """A power failure may leave the file empty."""
    first = own(data)
    kill(first.server)
    first.kill()
    (data / "cluster" / "postmaster.pid").write_text("")
    assert own(data).query("SELECT 1") == 1


def test_second_owner_is_told_of_the_first(own: Own, data: Path) -> None:
    """Two cannot have one directory: the second start fails, names the first, and leaves it alone."""
    first = own(data)
    second = own(data, start=False)
    assert f"is in use by process {first.pid}: " in second.send("start")
    assert first.query("SELECT 1") == 1


def test_of_two_first_starts_one_succeeds(own: Own, place: Path) -> None:
    """Two processes that make the same directory at the same time end with one server and one clear error."""
    owners = [own(place / "data", start=False) for _ in range(2)]
    for owner in owners:
        owner.order("start")
    answers = [owner.answer() for owner in owners]
    assert sorted(answer.startswith("error:") for answer in answers) == [False, True]
    assert sum("is in use by process" in answer for answer in answers) == 1


def test_death_during_initdb_leaves_no_cluster(own: Own, place: Path, account: str) -> None:
    """A half made cluster is never used: the next start makes a whole one."""
    data = place / "data"
    first = own(data, account=account, start=False)
    first.order("start")
    wait_until((data / "cluster.new" / "global").exists)
    first.kill()
    assert not (data / "cluster").exists()
    assert own(data, account=account).query("SELECT current_database()") == "rowcast"
    assert not (data / "cluster.new").exists()


def test_server_outlives_the_thread_that_started_it(own: Own, data: Path) -> None:
    """Threads of a pool come and go; the server is bound to the process."""
    owner = own(data)
    assert owner.query("SELECT 1 FROM pg_sleep(0.2)") == 1


def test_forked_child_does_not_stop_the_server(own: Own, data: Path) -> None:
    """A worker process that unwinds its parent's `with` leaves the parent's server running."""
    owner = own(data)
    server = owner.server
    owner.send("fork")
    assert owner.server == server
    assert owner.query("SELECT 1") == 1


def test_stop_ends_busy_connections(own: Own, data: Path, occupy: Callable[[str], int]) -> None:
    """A client at work does not hold up the shutdown."""
    owner = own(data)
    backend = occupy(owner.url)
    assert owner.send("stop") == "stopped"
    assert not is_alive(backend)
