"""The classes that the config names: Rowcast's own by name, a user's as ``module:Class`` of the config directory.

A file of the config directory never replaces a module that Python or the environment has: the directory comes last on the
import path, and a file with the name of such a module is loaded under the package ``rowcast_config``. So
``logging:MyPermission`` is a class in ``config/logging.py``, and ``import logging`` is Python's module everywhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, Final

from rowcast.configuration.yaml import Steps
from rowcast.errors import ConfigurationError, did_you_mean
from rowcast.identity import authentication, permissions, throttling
from rowcast.identity.permissions import BasePermission
from rowcast.rest import filters, pagination, viewsets
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.serializers import Serializer
from rowcast.rest.viewset import ViewSet
from rowcast.server.modules import PACKAGE


def _named(*classes: type[Any]) -> Mapping[str, type[Any]]:
    return {cls.__name__: cls for cls in classes}


PERMISSIONS: Final = _named(
    permissions.AllowAny,
    permissions.IsAuthenticated,
    permissions.IsAdminUser,
    permissions.IsAuthenticatedOrReadOnly,
    permissions.IsOwner,
)
AUTHENTICATIONS: Final = _named(authentication.TokenAuthentication, authentication.JWTAuthentication)
THROTTLES: Final = _named(throttling.AnonRateThrottle, throttling.UserRateThrottle, throttling.ScopedRateThrottle)
PAGINATIONS: Final = _named(
    pagination.PageNumberPagination, pagination.LimitOffsetPagination, pagination.CursorPagination
)
FILTERS: Final = _named(filters.FieldFilter, filters.SearchFilter, filters.OrderingFilter)
VIEWSETS: Final = _named(viewsets.ModelViewSet, viewsets.ReadOnlyModelViewSet, GenericViewSet)


_MANY: Final = ("permission_classes", "authentication_classes", "throttle_classes", "filter_backends")


_directories: list[Path] = []  # every config directory of this process, the newest first


def _enter(directory: Path) -> None:
    """Put a directory on the import path, after everything else but other config directories.

    Modules that another config directory has given the same names are imported again.
    """
    path = str(directory)
    while path in sys.path:
        sys.path.remove(path)
    others = [sys.path.index(str(other)) for other in _directories if str(other) in sys.path]
    sys.path.insert(min(others, default=len(sys.path)), path)
    for file in directory.glob("*.py"):
        for name in (file.stem, f"{PACKAGE}.{file.stem}"):
            known = getattr(sys.modules.get(name), "__file__", None)
            if known is not None and Path(known).parent in _directories and Path(known) != file:
                del sys.modules[name]
    if directory not in _directories:
        _directories.insert(0, directory)


def _load(directory: Path, name: str) -> ModuleType:
    """A module of the directory, under its own name unless another module has that."""
    file = directory / f"{name}.py"
    if not file.is_file():
        return importlib.import_module(name)
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin == str(file):
        return importlib.import_module(name)
    name = f"{PACKAGE}.{name}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


class Importer:
    """Imports from one config directory, which stays on the import path as long as the process lives."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
        self._makers: Mapping[str, Callable[[Any], Any]] = {
            "permission_classes": self.permission,
            "authentication_classes": lambda name: self.find(name, AUTHENTICATIONS, authentication.BaseAuthentication),
            "throttle_classes": lambda name: self.find(name, THROTTLES, throttling.BaseThrottle),
            "filter_backends": lambda name: self.find(name, FILTERS, filters.BaseFilterBackend),
            "serializer_class": lambda name: self.find(name, {}, Serializer),
            "list_serializer_class": lambda name: self.find(name, {}, Serializer),
            "pagination_class": lambda name: self.find(name, PAGINATIONS, pagination.BasePagination),
            "scope_unless": self.permission,
            "class": self.viewset,
        }
        _enter(self._directory)

    def module(self, name: str) -> ModuleType | None:
        """A module of the directory, or ``None``; ``ConfigurationError`` for one that cannot be imported."""
        if not (self._directory / f"{name}.py").is_file():
            return None
        return self._import(name)

    def modules(self) -> list[ModuleType]:
        """The modules of the directory that have been imported, in that order."""
        inside = f"{self._directory}{os.sep}"
        return [
            module
            for module in list(sys.modules.values())
            if isinstance(module, ModuleType) and str(vars(module).get("__file__")).startswith(inside)
        ]

    def find(self, name: str, own: Mapping[str, type[Any]], base: type[Any]) -> type[Any]:
        """The class of a name, a subclass of ``base``; ``ConfigurationError`` if there is no such class."""
        module, colon, attribute = name.partition(":")
        if not colon:
            if name not in own:
                raise ConfigurationError(
                    f"{name!r} is not a {base.__name__} of Rowcast, {did_you_mean(name, own)} (your own is module:Class)"
                )
            return own[name]
        found = getattr(self._import(module), attribute, None)
        if not (isinstance(found, type) and issubclass(found, base)):
            valid = [
                key
                for key, value in vars(self._import(module)).items()
                if isinstance(value, type) and issubclass(value, base) and not value.__module__.startswith("rowcast.")
            ]
            raise ConfigurationError(
                f"{name}: there is no {base.__name__} of that name; {did_you_mean(attribute, valid)}"
            )
        return found

    def _import(self, module: str) -> ModuleType:
        try:
            return _load(self._directory, module)
        except ConfigurationError as error:
            raise ConfigurationError(f"{module}.py: {error}") from error
        except (Exception, SystemExit) as error:
            where = self._line(error)
            raise ConfigurationError(f"{module} cannot be imported: {where}{type(error).__name__}: {error}") from error

    def _line(self, error: BaseException) -> str:
        """The last line in the directory's own files that an error passed through."""
        if isinstance(error, SyntaxError):
            return ""  # its message has the line
        frames = [frame for frame in extract_tb(error.__traceback__) if Path(frame.filename).parent == self._directory]
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: " if frames else ""

    def permission(self, tree: Any) -> type[BasePermission]:
        """The class of a permission expression, given as its tree."""
        match tree:
            case ("and", left, right):
                return self.permission(left) & self.permission(right)
            case ("or", left, right):
                return self.permission(left) | self.permission(right)
            case ("not", inner):
                return ~self.permission(inner)
            case ("class", name, arguments):
                found: Any = self.find(name, PERMISSIONS, BasePermission)
                if not arguments:
                    return found  # type: ignore[no-any-return]
                maker: Callable[..., type[BasePermission]] | None = getattr(found, "of", None)
                if maker is None:
                    raise ConfigurationError(f"{name} takes no arguments")
                return maker(*arguments)
        raise AssertionError(f"{tree!r} is not a permission")

    def option(self, name: str, value: Any, report: Callable[[Steps, str], None]) -> Any:
        """The value of an option of the config, with the classes that it names.

        ``report`` is called for each that is wrong, with its position in the list, if it is one, and a message.
        """
        make = self._makers.get(name)
        if make is None or value is None:
            return value
        found = []
        parts = list(enumerate(value)) if name in _MANY else [(None, value)]
        for position, part in parts:
            try:
                found.append(make(part))
            except ConfigurationError as error:
                report(() if position is None else (position,), str(error))
        return tuple(found) if name in _MANY else found[0] if found else None

    def viewset(self, name: str | None) -> type[ViewSet]:
        """The viewset class of a resource: by default a ModelViewSet."""
        found: type[ViewSet] = self.find(name or "ModelViewSet", VIEWSETS, ViewSet)
        return found
