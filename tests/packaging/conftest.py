"""A stranger's environment: a virtual environment with the wheel, and nothing of the checkout.

It sees the packages that Rowcast needs where the tests' own environment has them; nothing is downloaded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from sysconfig import get_path

import pytest

from ..conftest import ROOT


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make dist`` builds."""
    directory = tmp_path_factory.mktemp("dist")
    rule = re.search(r"^dist:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    command = rule[1].replace(".venv/bin/python", sys.executable).split()
    subprocess.run([*command, "--directory", str(directory)], cwd=ROOT, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="session")
def python(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with the wheel."""
    home = tmp_path_factory.mktemp("stranger") / "venv"
    venv.create(home, symlinks=True)
    executable = home / "bin" / "python"
    (wheel,) = dist.glob("*.whl")
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        executable,
        wheel,
    ]
    subprocess.run([*map(str, command)], check=True, capture_output=True, env=environment())
    (packages,) = home.glob("lib/python3*/site-packages")
    (packages / "others.pth").write_text(
        f"{get_path('purelib')}\n"
    )  # whose own .pth files, of the checkout, have no effect
    script = home / "bin" / "pytest"
    script.write_text(f'#!/bin/sh\nexec {executable} -m pytest -p no:cacheprovider "$@"\n')
    script.chmod(0o755)
    return executable


def environment(**variables: str) -> dict[str, str]:
    """The environment of a stranger."""
    hidden = ("ROWCAST", "DATABASE", "PYTHON", "PYTEST", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | variables


def run(python: Path, directory: Path, *arguments: str, code: int = 0, **variables: str) -> str:
    """The output of a program of the virtual environment."""
    program, *rest = arguments
    command = [
        str(python.parent / program) if program == "rowcast" else str(python),
        *([] if program == "rowcast" else [program]),
        *rest,
    ]
    done = subprocess.run(
        command, cwd=directory, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout
