"""The environments of the peers: one for each, next to the service's data, made once for each set of versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

BENCH: Final = Path(__file__).parent
ROOT: Final = BENCH.parent
CACHE: Final = ROOT / ".rowcast" / "bench"


class Unavailable(Exception):
    """A peer cannot be installed on this machine; the message has the reason."""


def python(peer: str) -> Path:
    """The environment of a peer in Python, with the packages of its ``requirements.txt``; its programs are in ``bin``."""
    wanted = BENCH / peer / "requirements.txt"
    install = ("{}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted))
    return _made(peer, [wanted], [(sys.executable, "-m", "venv", "--clear", "{}"), install])


def node(peer: str) -> Path:
    """The environment of a peer in JavaScript: its files, and the packages of its ``package.json``, Node.js included."""
    if shutil.which("npm") is None:
        raise Unavailable("npm is not installed")
    files = sorted((BENCH / peer).iterdir())
    install = ("npm", "install", "--prefix", "{}", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")
    return _made(peer, files, [("mkdir", "{}"), ("cp", *map(str, files), "{}"), (*install, "--silent")])


def _made(peer: str, wanted: Sequence[Path], commands: Sequence[Sequence[str]]) -> Path:
    """A directory that the commands have filled, unless that was done for the same files before."""
    directory, mark = CACHE / peer, CACHE / f"{peer}.made-for"
    state = b"".join(path.read_bytes() for path in wanted)
    if not (directory.exists() and mark.exists() and mark.read_bytes() == state):
        click.echo(f"Installing {peer} into {directory.relative_to(ROOT)}", err=True)
        shutil.rmtree(directory, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        for command in commands:
            done = subprocess.run(
                [part.format(directory) for part in command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                raise Unavailable(f"{command[0].format(peer)} failed: {done.stdout.strip()[-300:]}")
        mark.write_bytes(state)
    return directory
