"""Watching the files of a config directory, for ``rowcast serve --reload``.

The system reports changes at once. Once a second the files are looked at as well, because a change may have been made before
the watch began, and because some file systems, such as shared folders of virtual machines, report nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import watchfiles
from watchfiles import Change, DefaultFilter

from rowcast.configuration.yaml import SUFFIXES

Files: TypeAlias = frozenset[tuple[str, int, int]]  # path, time of the last change, size
OPTIONS: Final[dict[str, Any]] = {
    "step": 50,  # milliseconds without another change, since editors write in several steps,
    "debounce": 400,  # but at most so many
    "rust_timeout": 1000,  # milliseconds, after which the files are looked at
    "yield_on_timeout": True,
}


class _Sources(DefaultFilter):
    """The files that make up a configuration; not those that editors and Python leave beside them."""

    def __call__(self, change: Change, path: str) -> bool:
        return path.endswith((".py", *SUFFIXES)) and super().__call__(change, path)


def files_of(directory: Path) -> Files:
    """The files of a directory that make up a configuration, as they are now."""
    return frozenset(_files(directory, _Sources()))


def _files(directory: Path, relevant: _Sources) -> Iterator[tuple[str, int, int]]:
    for parent, children, names in os.walk(directory):
        children[:] = [child for child in children if child not in relevant.ignore_dirs]
        for name in names:
            path = os.path.join(parent, name)
            if relevant(Change.modified, path):
                try:
                    stat = os.stat(path)
                except OSError:  # it has gone
                    continue
                yield path, stat.st_mtime_ns, stat.st_size


async def watch(directory: Path, files: Files, changed: Callable[[], None]) -> None:
    """Call a function whenever the files of a directory are not those of a moment ago, at first ``files``, for ever."""
    async for changes in watchfiles.awatch(directory, watch_filter=_Sources(), **OPTIONS):
        before, files = files, files_of(directory)
        if changes or files != before:
            changed()


def wait_for_change(directory: Path, files: Files) -> None:
    """Wait until the files of a directory are not ``files`` any more, outside an event loop."""
    for changes in watchfiles.watch(directory, watch_filter=_Sources(), **OPTIONS):
        if changes or files_of(directory) != files:
            return
