"""Which serializers a viewset and its actions may have; checked once, at start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rowcast.errors import ConfigurationError
from rowcast.resources.resource import Resource
from rowcast.rest.serializers import Serializer

_OF_ACTIONS: Final = ("request_serializer", "response_serializer")


def check_serializers(cls: type[Any], resource: Resource, options: Mapping[str, Any]) -> None:
    """``ConfigurationError`` for a serializer of another resource, or one that only an action may have."""
    for name in _OF_ACTIONS:
        if getattr(cls, name) is not None:
            raise ConfigurationError(f"{cls.__module__}.{cls.__name__}.{name} is for actions: @action({name}=…)")
    for name in ("serializer_class", "list_serializer_class"):
        _check(cls, resource, name, options[name])


def check_serializers_of_action(cls: type[Any], resource: Resource, initkwargs: Mapping[str, Any]) -> None:
    """The same for what ``@action`` says that it takes and returns."""
    for name in _OF_ACTIONS:
        own = initkwargs.get(name)
        if own is not None and not (isinstance(own, type) and issubclass(own, Serializer)):
            raise ConfigurationError(f"{cls.__name__}: @action({name}={own!r}) is not a serializer class")
        _check(cls, resource, name, own)


def _check(cls: type[Any], resource: Resource, name: str, own: type[Serializer] | None) -> None:
    if own is not None and (named := own.opts.model) is not None and named.resource() is not resource:
        message = f"{own.__name__} is of {named.resource().name}, not of {resource.name}"
        raise ConfigurationError(f"{cls.__name__}.{name}: {message}")
