"""The packages that an installation brings along."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_dependency_is_imported() -> None:
    """Each package that an installation requires is imported by the service; optional ones are extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {_as_indexes_compare(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in project["dependencies"]}
    imported: set[str] = set()
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    imported |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    imported.add(module.partition(".")[0])
    distributions = packages_distributions()
    found = {distribution for name in imported for distribution in distributions.get(name, ())}
    used = set(map(_as_indexes_compare, found))
    greenlet = {"greenlet"}  # which SQLAlchemy's asyncio bridge imports
    assert required - used - greenlet == set()


def _as_indexes_compare(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
