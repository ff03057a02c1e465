"""Rowcast: REST resources and a live change stream over PostgreSQL, declared in config.

``from rowcast import ModelViewSet, action, model`` gives every name that user code needs; ``rowcast.api`` lists them. They
are imported on first use (PEP 562), so ``rowcast version`` does not load the whole service.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowcast.api import *  # noqa: F403

__version__ = "0.2.0"

_FUNCTIONS = frozenset(
    {
        "action",
        "authorization",
        "background",
        "get_object_or_404",
        "model",
        "on_shutdown",
        "on_startup",
        "raw",
        "status",
        "transaction",
        "wait",
    }
)
_MODULES = {  # Django REST framework's modules: ``from rowcast import mixins, viewsets``
    "authentication": "rowcast.identity.authentication",
    "decorators": "rowcast.rest.decorators",
    "filters": "rowcast.rest.filters",
    "mixins": "rowcast.rest.mixins",
    "pagination": "rowcast.rest.pagination",
    "permissions": "rowcast.identity.permissions",
    "routers": "rowcast.rest.routers",
    "serializers": "rowcast.rest.serializers",
    "throttling": "rowcast.identity.throttling",
    "viewsets": "rowcast.rest.viewsets",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name == "__all__" or name[0].isupper() or name in _FUNCTIONS:
        return getattr(import_module("rowcast.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
