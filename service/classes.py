"""The classes that config names: the service's own by name, others as ``module:Class`` of the config directory."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from service import pagination, permissions
from service.errors import ConfigurationError, choices
from service.permissions import BasePermission

PAGINATIONS: Mapping[str, type[pagination.BasePagination]] = {
    cls.__name__: cls
    for cls in (pagination.PageNumberPagination, pagination.LimitOffsetPagination, pagination.CursorPagination)
}
PERMISSIONS: Mapping[str, type[BasePermission]] = {
    cls.__name__: cls
    for cls in (
        permissions.AllowAny,
        permissions.IsAuthenticated,
        permissions.IsAdminUser,
        permissions.IsAuthenticatedOrReadOnly,
    )
}


def find(name: str, own: Mapping[str, type[Any]], base: type[Any]) -> type[Any]:
    """The class of a name, which must be a subclass of ``base``; ``ConfigurationError`` says what is wrong with it."""
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in own:
            raise ConfigurationError(f"there is no {base.__name__} named {name!r}; {choices(name, own)}")
        return own[name]
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{name} cannot be found in the config directory: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigurationError(f"{name} is no {base.__name__}")
    return found


def permission(tree: Any) -> type[BasePermission]:
    """The class of a permission expression, given as its tree."""
    match tree:
        case ("and", left, right):
            return permission(left) & permission(right)
        case ("or", left, right):
            return permission(left) | permission(right)
        case ("not", inner):
            return ~permission(inner)
        case ("class", name, ()):
            return find(name, PERMISSIONS, BasePermission)
    raise ConfigurationError(f"{tree!r} takes no arguments")
