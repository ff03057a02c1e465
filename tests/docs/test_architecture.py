"""The code map (docs/architecture.md) is correct: its files and names exist, and its packages are those of the contract."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "service" / "rowcast"
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PLACES = sorted(set(re.findall(r"`([\w/]+\.(?:py|sql))`(?::\s+`([\w.]+)`)?", PAGE)))  # `path`, or `path`: `name`
WALKS = ("A list request", "A change")


@cache
def names(path: Path) -> frozenset[str]:
    """The functions, classes and values of a module, and the members of its classes as ``Class.member``."""

    def defined(body: list[ast.stmt], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for node in body:
            match node:
                case ast.ClassDef(name=name, body=members):
                    found |= {prefix + name, *defined(members, f"{prefix}{name}.")}
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(prefix + name)
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    found.add(prefix + name)
        return found

    return frozenset(defined(ast.parse(path.read_text()).body))


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_every_file_and_name_on_the_map_exists(path: str, name: str) -> None:
    """A file is under service/rowcast, and the name after it is defined in it."""
    assert (PACKAGE / path).exists()
    assert not name or name in names(PACKAGE / path)


@pytest.mark.parametrize("heading", WALKS)
def test_every_step_of_a_walk_names_its_place(heading: str) -> None:
    """Each numbered step begins with a file, and with a name in it if it is Python."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    steps = re.findall(r"^\d+\. (.*)$", section[1], re.MULTILINE)
    assert len(steps) > 5
    for step in steps:
        assert re.match(r"`[\w/]+\.(sql`|py`: `[\w.]+`)", step), step


def test_packages_of_the_map_are_those_of_the_contract() -> None:
    """The table has the layers of the import contract, from bottom to top, and every package is among them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["rowcast"])
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", PAGE, re.MULTILINE)
    entrances = ("api", "cli", "__main__")
    packages = [name for layer in reversed(layers) for name in layer.split(" | ") if name not in entrances]
    assert [row for row in rows if row not in entrances] == packages
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} <= set(packages)
