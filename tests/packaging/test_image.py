"""The Dockerfile without an engine; ``tests/compose/run`` builds the image and looks into it."""

from __future__ import annotations

import json
import re

from rowcast import __version__

from ..conftest import ROOT


def test_versions_of_the_web_files_are_those_of_the_package() -> None:
    """Their bill of materials names them."""
    for name in ("package.json", "client/package.json", "package-lock.json"):
        assert json.loads((ROOT / "web" / name).read_text())["version"] == __version__, name


def test_everything_that_the_image_installs_is_locked() -> None:
    """By hashes, or without dependencies; so one commit has the same packages whenever it is built."""
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installations = re.findall(r"pip (?:--python \S+ )?install ([^\n]*)", dockerfile)
    assert len(installations) == 3
    for options in installations:
        assert "--require-hashes" in options or {"--no-deps", "--no-build-isolation"} <= {*options.split()}, options
    copied = {name for line in re.findall(r"^COPY ([^-].*) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for name in copied if name.endswith(".lock")} <= sent
