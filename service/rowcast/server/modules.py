"""The Python of a config directory, imported again when the service reloads.

Code that runs keeps the modules that it was imported with; what is imported afterwards are new ones. If the new
configuration is rejected, the earlier modules are found again.
"""

from __future__ import annotations

import importlib
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import cache_from_source
from pathlib import Path
from types import ModuleType
from typing import Final

from marshmallow.class_registry import _registry as schemas  # the classes by name; it has no public name

PACKAGE: Final = "rowcast_config"  # of modules whose own name another module has


@contextmanager
def imported_again(directory: Path) -> Iterator[None]:
    """Import the modules of a directory again inside; an error brings the earlier ones back."""
    directory = directory.resolve()
    before, classes = _modules(directory), {name: list(found) for name, found in schemas.items()}
    _forget(before)
    try:
        yield
    except BaseException:
        _forget(_modules(directory))
        sys.modules.update(before)
        schemas.clear()
        schemas.update(classes)
        raise


def forget_modules(directory: Path) -> None:
    """Import the modules of a directory again when they are used next."""
    _forget(_modules(directory.resolve()))


def _modules(directory: Path) -> dict[str, ModuleType]:
    """The imported modules that are files of a directory, or of a package in it, by name."""
    found = {name: module for name, module in sys.modules.items() if isinstance(module, ModuleType)}
    tops = {name for name, module in found.items() if "." not in name and _is_in(directory, name, module)}
    return {
        name: module
        for name, module in found.items()
        if name.partition(".")[0] in tops
        or (name.startswith(f"{PACKAGE}.") and _file(module) == directory / f"{name.removeprefix(f'{PACKAGE}.')}.py")
    }


def _is_in(directory: Path, name: str, module: ModuleType) -> bool:
    """Whether the directory has a module of this name: a file, a package, or a package without a file of its own."""
    if (file := _file(module)) is not None:
        return file in (directory / f"{name}.py", directory / name / "__init__.py")
    return str(directory / name) in list(getattr(module, "__path__", ()))


def _file(module: ModuleType) -> Path | None:
    name = getattr(module, "__file__", None)
    return None if name is None else Path(name)


def _forget(modules: dict[str, ModuleType]) -> None:
    for name, module in modules.items():
        sys.modules.pop(name, None)
        if (file := _file(module)) is not None:  # two edits within a second may have the same time and size
            with suppress(OSError, NotImplementedError):
                Path(cache_from_source(str(file))).unlink()
    for name, found in list(schemas.items()):
        if kept := [schema for schema in found if schema.__module__ not in modules]:
            schemas[name] = kept
        else:
            del schemas[name]
    importlib.invalidate_caches()
    linecache.clearcache()
