"""A stranger's project, with the wheel and nothing of the checkout."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

from ..conftest import ROOT
from .conftest import environment, run

READY = re.compile(r"http://127\.0\.0\.1:[0-9]+")


@pytest.fixture(scope="module")
def shop(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project."""
    directory = tmp_path_factory.mktemp("work")
    output = run(python, directory, "rowcast", "init", "shop")
    assert output.endswith("Now: cd shop && rowcast serve\n")
    return directory / "shop"


def test_nothing_comes_from_the_checkout(python: Path, shop: Path) -> None:
    """Neither a module nor a file: SQL, templates and the type marker are in the installed package."""
    code = """
import sys, rowcast
from importlib import metadata, resources
from pathlib import Path
package = resources.files("rowcast")
assert package.joinpath("py.typed").is_file()
assert len([*package.joinpath("changes/sql").iterdir()]) > 10
assert package.joinpath("commands/project/products.yaml").is_file()
from rowcast.migrations.revisions import script_directory
assert script_directory(Path("migrations")).dir
assert [each.value for each in metadata.entry_points(group="pytest11", name="rowcast.testing")][:1] == ["rowcast.testing"]
print(rowcast.__file__, *sys.path)
"""
    output = run(python, shop, "-c", code)
    assert output.startswith(str(python.parent.parent))
    assert not [place for place in output.split() if place.startswith(str(ROOT)) and ".venv" not in place]


def test_the_source_distribution_has_the_same_package(dist: Path) -> None:
    """So that a wheel that is built from it is the same."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"service/{name}" for name in installed} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"} <= names


def test_a_new_project_checks_and_its_tests_pass(python: Path, shop: Path) -> None:
    """With the commands of its README; a second ``init`` changes nothing."""
    assert run(python, shop, "rowcast", "check") == "config: 1 resource, no problems.\n"
    output = run(python, shop, "-m", "pytest", "-p", "no:cacheprovider")
    assert "3 passed" in output
    again = run(python, shop.parent, "rowcast", "init", "shop", code=1)
    assert "nothing was written" in again


def test_a_connection_and_a_schema_of_ones_own(python: Path, shop: Path, tmp_path: Path) -> None:
    """``sql`` is another program's connection; ``rowcast_schema`` makes what the config does not."""
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n@pytest.fixture(scope='session')\ndef rowcast_schema():\n"
        "    return 'CREATE TABLE other (a int); INSERT INTO other VALUES (3)'\n"
    )
    (tmp_path / "test_own.py").write_text(
        "async def test_own(client, make, sql):\n    assert await sql.fetchval('SELECT a FROM other') == 3\n"
        "    product = await make('products')\n"
        "    assert await sql.fetchval('SELECT name FROM products') == product.name\n"
    )
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nasyncio_mode = auto\nrowcast_config = {shop / 'config'}\n")
    assert "1 passed" in run(python, tmp_path, "-m", "pytest", "-p", "no:cacheprovider")


def test_a_new_project_is_served(python: Path, shop: Path) -> None:
    """On an embedded database, with the action of its Python; every command attaches to that database meanwhile."""
    process = subprocess.Popen(
        [str(python.parent / "rowcast"), "serve", "--port", "0"],
        cwd=shop, env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline())
        assert ready is not None
        token = run(python, shop, "rowcast", "token", "create", "ann").split()[-1]

        def post(path: str, body: object) -> tuple[int, dict[str, object]]:
            request = urllib.request.Request(
                f"{ready[0]}{path}", json.dumps(body).encode(),
                {"Authorization": f"Token {token}", "Content-Type": "application/json"},
            )  # fmt: skip
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as response:
                return response.status, json.load(response)

        status, tea = post("/products/", {"name": "Tea", "price": "3.50"})
        assert (status, tea["stock"]) == (201, 0)
        assert post(f"/products/{tea['id']}/restock/", {"amount": 5}) == (200, {"id": tea["id"], "stock": 5})
        (shop / "count.py").write_text("from rowcast import model\nprint(await model('products').objects.count())\n")
        assert run(python, shop, "rowcast", "run", "count.py") == "1\n"
        assert "in line with the config" in run(python, shop, "rowcast", "plan")
        assert "WRONG" not in run(python, shop, "rowcast", "doctor")
        written = run(python, shop, "rowcast", "makemigrations", "--empty", "-m", "first").strip()
        assert "revision applied" in run(python, shop, "rowcast", "migrate")
        assert (shop / written).is_file()
        run(python, shop, "rowcast", "reload")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{ready[0]}/docs/") as response:
            assert "shop" in response.read().decode()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
