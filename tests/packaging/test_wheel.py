"""The wheel has everything that an installation needs, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from rowcast import __version__

from ..conftest import ROOT

LAZY = ("aiohttp", "sqlalchemy", "asyncpg", "alembic", "marshmallow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The METADATA of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_string(archive.read(name).decode())


def test_metadata_describes_the_project(metadata: Message) -> None:
    """Name, version, licence, README, addresses, classifiers and extras, as an index shows them."""
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == (
        "rowcast", __version__, "Apache-2.0",
    )  # fmt: skip
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    urls = [line.partition(",")[0] for line in metadata.get_all("Project-URL", [])]
    assert sorted(urls) == ["Changelog", "Documentation", "Homepage", "Issues"]
    classifiers = metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)} <= set(classifiers)
    assert set(metadata.get_all("Provides-Extra", [])) == {"embedded", "nats", "otel", "redis", "testing"}


def test_wheel_has_one_package_with_its_data(wheel: Path) -> None:
    """``rowcast`` with its type marker and each file of the source tree, and no other top-level package."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = ROOT / "service"
    files = {
        str(path.relative_to(source))
        for path in (source / "rowcast").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == files
    assert "rowcast/py.typed" in names


def test_installed_copy_runs(wheel: Path, tmp_path: Path) -> None:
    """``python -m rowcast`` runs from the installed files."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert run("-m", "rowcast", "version") == f"rowcast {__version__}"
    assert run("-c", "import rowcast; print(rowcast.__file__)") == str(tmp_path / "rowcast" / "__init__.py")


def test_command_line_loads_no_large_library_before_it_needs_one() -> None:
    """``rowcast version`` and ``--help`` print at once."""
    code = f"from rowcast.cli import main; import sys; print([name for name in {LAZY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
