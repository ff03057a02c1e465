"""``rowcast init`` writes a project, which checks, and never overwrites one; tests/packaging runs its tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ruamel.yaml import YAML

from rowcast.cli import main
from rowcast.commands.projects import DATABASES
from rowcast.configuration.json_schema import schema_texts

from ..conftest import ROOT, rowcast


@pytest.fixture(autouse=True)
def _own_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands run in this process, whose logs stay as they are."""
    monkeypatch.setattr("structlog.configure", lambda **_: None)


def init(*arguments: str) -> Result:
    """The result of the command."""
    return CliRunner().invoke(main, ["init", *arguments])


def files(directory: Path) -> dict[str, bytes]:
    """Every file by its path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("database", DATABASES)
def test_a_new_project_checks(tmp_path: Path, database: str) -> None:
    """It has everything that a project needs, and nothing is left to be filled in."""
    shop = tmp_path / "shop"
    result = init(str(shop), "--database", database)
    assert result.exit_code == 0, result.output
    written = files(shop)
    assert {
        ".dockerignore", ".env.example", ".gitignore", "Dockerfile", "README.md", "compose.yaml", "pytest.ini",
        "config/resources/products.yaml", "config/service.yaml", "config/viewsets.py", "requirements.txt",
        "config/schema/resource.schema.json", "config/schema/service.schema.json", "tests/test_products.py",
    } == written.keys() - {"docker/create-role.sql"}  # fmt: skip
    assert {*result.output.splitlines()[:-2]} == {f"{shop}/{name}" for name in written}
    for name, text in written.items():
        assert b"@project@" not in text, name
        assert b"@version@" not in text, name
    assert rowcast(shop, "check") == (0, f"{shop}/config: 1 resource, no problems.")


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    """What exists is named, and nothing else is written."""
    shop = tmp_path / "shop"
    assert init(str(shop)).exit_code == 0
    (shop / "README.md").write_text("mine")
    (shop / "Dockerfile").unlink()
    before = files(shop)
    result = init(str(shop))
    assert result.exit_code == 1
    assert "has a project already, and nothing was written" in result.output
    assert "README.md" in result.output
    assert files(shop) == before
    other = tmp_path / "other"
    (other / ".git").mkdir(parents=True)
    assert init(str(other)).exit_code == 0


@pytest.mark.parametrize("name", ["Shop", "my shop", "9lives", "-x", "a__b", "s" * 51, "été", "a.b"])
def test_a_name_that_compose_or_a_database_does_not_take_is_refused(tmp_path: Path, name: str) -> None:
    """With a name that is like it and valid."""
    result = CliRunner().invoke(main, ["init", "--", str(tmp_path / name)])
    assert (result.exit_code, result.output.count("such as ")) == (1, 1), result.output
    suggested = result.output.partition("such as ")[2].partition(",")[0]
    assert init(str(tmp_path / suggested)).exit_code == 0
    assert not (tmp_path / name).exists()


def test_a_directory_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    """A file in the way, for example."""
    (tmp_path / "file").write_text("")
    result = init(str(tmp_path / "file" / "shop"))
    assert (result.exit_code, result.output.count("\n")) == (1, 1)


def test_compose_files_are_valid_and_of_one_kind(tmp_path: Path) -> None:
    """The database of a project is secured as that of the demo is; its service is built on the image of Rowcast."""
    demo = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())["services"]
    for database in DATABASES:
        shop = tmp_path / database / "shop"
        init(str(shop), "--database", database)
        compose = YAML(typ="safe").load((shop / "compose.yaml").read_text())
        service = compose["services"]["service"]
        assert compose["name"] == "shop"
        for key in ("read_only", "tmpfs", "cap_drop", "security_opt", "restart", "stop_grace_period", "ports"):
            assert service[key] == demo["rowcast"][key], key
        if database == "embedded":
            for key in ("image", "healthcheck", "security_opt", "volumes"):
                assert compose["services"]["db"][key] == demo["db"][key], key
            assert compose["services"]["password"].keys() == demo["password"].keys()


def test_schemas_are_those_of_this_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the directory that the first line of config files names."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["schemas"])
    assert result.output.split() == [f"config/schema/{name}" for name in schema_texts()]
    assert {name: (tmp_path / "config/schema" / name).read_text() for name in schema_texts()} == schema_texts()
    assert os.listdir(tmp_path) == ["config"]
