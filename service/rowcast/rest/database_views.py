"""What a viewset's class may not do with rows of a view (``view: true``): write them, stream them, or keep them in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rowcast.configuration.view_rules import NO_STREAM, NOT_CACHED, READ_ONLY, WRITES
from rowcast.errors import ConfigurationError
from rowcast.resources.actions import STREAM
from rowcast.resources.resource import Resource
from rowcast.rest.introspection import is_ours, owner_of


def check_view(cls: type, resource: Resource, options: Mapping[str, Any], overridden: Collection[str]) -> None:
    """Raise ``ConfigurationError`` if the class asks for what a view does not have. The config has been checked before."""
    where = f"{cls.__module__}.{cls.__name__}"
    allowed, excluded = options["allowed_actions"], options["excluded_actions"]
    writes = [
        name for name in WRITES if hasattr(cls, name) and name not in excluded and (allowed is None or name in allowed)
    ]
    if writes:
        raise ConfigurationError(
            f"{where}.{writes[0]}: {resource.name} is a view, and {READ_ONLY}: derive the class from ReadOnlyModelViewSet"
        )
    if (options["stream_enabled"] and not is_ours(owner_of(cls, "stream_enabled"))) or STREAM in overridden:
        raise ConfigurationError(f"{where}: {resource.name} is a view: {NO_STREAM}")
    if options["cache"] != "off" and not is_ours(owner_of(cls, "cache")):
        raise ConfigurationError(f"{where}.cache: {resource.name} is a view: {NOT_CACHED}")
