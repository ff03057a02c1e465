"""The classes that config names: the service's own by name, others as ``module:Class`` of the config directory."""

from __future__ import annotations

import importlib
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
from rowcast.rest import filters, pagination, viewset
from rowcast.rest.serializers import Serializer
from rowcast.rest.viewset import GenericViewSet


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
VIEWSETS: Final = _named(viewset.ModelViewSet, viewset.ReadOnlyModelViewSet, viewset.GenericViewSet)


_MANY: Final = ("permission_classes", "authentication_classes", "throttle_classes", "filter_backends")


class Importer:
    """Imports from one config directory, which is on the import path as long as the process lives.

    A module that another config directory gave the same name is imported anew.
    """

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
            "class": self.viewset,
        }
        path = str(self._directory)
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)
        for file in self._directory.glob("*.py"):
            known = sys.modules.get(file.stem)
            if known is not None and Path(getattr(known, "__file__", None) or "/") != file:
                del sys.modules[file.stem]

    def module(self, name: str) -> ModuleType | None:
        """A module of the directory, if it has one of that name; ``ConfigurationError`` for one that does not import."""
        if not (self._directory / f"{name}.py").is_file():
            return None
        return self._import(name)

    def find(self, name: str, own: Mapping[str, type[Any]], base: type[Any]) -> type[Any]:
        """The class of a name, a subclass of ``base``; ``ConfigurationError`` says what is wrong with it."""
        module, colon, attribute = name.partition(":")
        if not colon:
            if name not in own:
                raise ConfigurationError(
                    f"{name!r} is no {base.__name__} of Rowcast, {did_you_mean(name, own)} (one of your own is module:Class)"
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
            return importlib.import_module(module)
        except ConfigurationError as error:
            raise ConfigurationError(f"{module}.py: {error}") from error
        except Exception as error:
            where = self._line(error)
            raise ConfigurationError(f"{module} cannot be imported: {where}{type(error).__name__}: {error}") from error

    def _line(self, error: Exception) -> str:
        """The last line of the directory's own that an error came through."""
        if isinstance(error, SyntaxError):
            return ""  # which says it itself
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
        raise AssertionError(f"{tree!r} is no permission")

    def option(self, name: str, value: Any, told: Callable[[Steps, str], None]) -> Any:
        """The value of an option of the config with the classes that it names.

        ``told`` hears what is wrong with one, and at which place of the list if it is one.
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
                told(() if position is None else (position,), str(error))
        return tuple(found) if name in _MANY else found[0] if found else None

    def viewset(self, name: str | None) -> type[GenericViewSet]:
        """The viewset class of a resource: by default a ModelViewSet."""
        found: type[GenericViewSet] = self.find(name or "ModelViewSet", VIEWSETS, GenericViewSet)
        return found
