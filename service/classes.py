"""The classes that config names: the service's own by name, others as ``module:Class`` of the config directory."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from service import authentication, filters, pagination, permissions, throttling, viewsets
from service.errors import ConfigurationError, choices
from service.permissions import BasePermission
from service.serializers import Serializer
from service.viewsets import GenericViewSet


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
VIEWSETS: Final = _named(viewsets.ModelViewSet, viewsets.ReadOnlyModelViewSet, viewsets.GenericViewSet)


class Importer:
    """Imports from one config directory, which is on the import path as long as the process lives.

    A module that another config directory gave the same name is imported anew.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()
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
                    f"{name!r} is no {base.__name__} of Rowcast, {choices(name, own)} (one of your own is module:Class)"
                )
            return own[name]
        found = getattr(self._import(module), attribute, None)
        if not (isinstance(found, type) and issubclass(found, base)):
            valid = [
                key
                for key, value in vars(self._import(module)).items()
                if isinstance(value, type) and issubclass(value, base)
            ]
            raise ConfigurationError(f"{name}: there is no {base.__name__} of that name; {choices(attribute, valid)}")
        return found

    def _import(self, module: str) -> ModuleType:
        try:
            return importlib.import_module(module)
        except ConfigurationError as error:
            raise ConfigurationError(f"{module}.py: {error}") from error
        except Exception as error:
            raise ConfigurationError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error

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

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the config with the classes that they name."""
        found = {name: value for name, value in given.items() if name != "class"}
        one: Mapping[str, tuple[Mapping[str, type[Any]], type[Any]]] = {
            "serializer_class": ({}, Serializer),
            "list_serializer_class": ({}, Serializer),
            "pagination_class": (PAGINATIONS, pagination.BasePagination),
        }
        for name, (own, base) in one.items():
            if found.get(name) is not None:
                found[name] = self.find(found[name], own, base)
        if "permission_classes" in found:
            found["permission_classes"] = tuple(map(self.permission, found["permission_classes"]))
        if found.get("authentication_classes") is not None:
            found["authentication_classes"] = self.authenticators(found["authentication_classes"])
        if found.get("throttle_classes") is not None:
            found["throttle_classes"] = self.throttles(found["throttle_classes"])
        if "filter_backends" in found:
            names = found["filter_backends"]
            found["filter_backends"] = tuple(self.find(name, FILTERS, filters.BaseFilterBackend) for name in names)
        return found

    def authenticators(self, names: Iterable[str]) -> tuple[type[Any], ...]:
        """The authentication classes of these names."""
        return tuple(self.find(name, AUTHENTICATIONS, authentication.BaseAuthentication) for name in names)

    def throttles(self, names: Iterable[str]) -> tuple[type[Any], ...]:
        """The throttle classes of these names."""
        return tuple(self.find(name, THROTTLES, throttling.BaseThrottle) for name in names)

    def viewset(self, name: str | None) -> type[GenericViewSet]:
        """The viewset class of a resource: by default a ModelViewSet."""
        found: type[GenericViewSet] = self.find(name or "ModelViewSet", VIEWSETS, GenericViewSet)
        return found
