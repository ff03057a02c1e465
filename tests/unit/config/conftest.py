from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent

import pytest

from rowcast.configuration.load import Configuration, load
from rowcast.errors import ConfigurationError

Files = Mapping[str, str]
Load = Callable[..., Configuration]
Problems = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load a config directory with these files. A name without a folder is that of a resource file."""

    def _read(files: Files, environ: Files | None = None, **overrides: object) -> Configuration:
        directory = tmp_path / "config"
        (directory / "resources").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = directory / (name if name.startswith("service.") else f"resources/{name}")
            path.write_text(dedent(text).lstrip("\n"), "utf-8", newline="")
        return load(directory, environ=environ or {}, overrides={k.replace("__", "."): v for k, v in overrides.items()})

    return _read


@pytest.fixture
def problems(read: Load, tmp_path: Path) -> Problems:
    """The problems of these files, without the directory at the beginning of each line; none if they load."""

    def _problems(files: Files, environ: Files | None = None, **overrides: object) -> list[str]:
        try:
            read(files, environ, **overrides)
        except ConfigurationError as error:
            prefix = f"{tmp_path / 'config'}/"
            return [line.removeprefix(prefix).removeprefix("resources/") for line in str(error).splitlines()]
        return []

    return _problems
