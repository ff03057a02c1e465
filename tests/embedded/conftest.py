"""Servers for the tests of the embedded PostgreSQL, owned by processes of their own."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowcast.database.embedded import EmbeddedPostgres

from ..databases import fast_directory
from .processes import Own, Owner, is_alive, wait_until

HERE = Path(__file__).parent
UIDS = {"ordinary": 65534, "nameless": 54321}
ACCOUNTS = ["this", "ordinary"] if os.geteuid() == 0 else ["this"]


@pytest.fixture
def own(place: Path) -> Iterator[Own]:
    """Owners for this test; they and their servers are gone when it ends."""
    owners: list[Owner] = []

    def make(data: Path, *settings: str, account: str = "this", start: bool = True) -> Owner:
        command = [sys.executable, str(HERE / "owner.py"), str(data), "fsync=off", *settings]
        if account in UIDS and place.stat().st_uid == 0:
            for path in (place, *place.rglob("*")):
                os.chown(path, UIDS[account], UIDS[account], follow_symlinks=False)
        if account != "this":
            command = [sys.executable, str(HERE / "account.py"), account, *command]
        environment = {**os.environ, "PYTHONPATH": f"{place / 'packages'}:{HERE.parents[1] / 'service'}"}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        owners.append(Owner(process))
        if start:
            answer = owners[-1].send("start")
            assert owners[-1].url, answer
        return owners[-1]

    yield make
    for owner in owners:
        owner.kill()
        wait_until(lambda owner=owner: not is_alive(owner.server))  # type: ignore[misc]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a server that was made and stopped."""
    data = tmp_path_factory.mktemp("template") / "data"
    with EmbeddedPostgres(data, settings={"fsync": "off"}):
        return data


@pytest.fixture
def place() -> Iterator[Path]:
    """A closed directory with a space in its name, below one that is open to all accounts (as `tmp_path` is not)."""
    with tempfile.TemporaryDirectory(prefix="a place ", dir=fast_directory()) as place:
        yield Path(place)


@pytest.fixture
def data(template: Path, place: Path) -> Path:
    """A data directory of this test's own, from the template: several times faster than a first start."""
    return Path(shutil.copytree(template, place / "data", symlinks=True))


@pytest.fixture(params=ACCOUNTS)
def account(request: pytest.FixtureRequest) -> str:
    """The kinds of account that a server can be run by here: this one and, if this is root, an ordinary one."""
    return str(request.param)
