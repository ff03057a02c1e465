"""Rowcast: REST resources and a live change stream over PostgreSQL, declared in config.

``from rowcast import ModelViewSet, action, model`` gives every name that user code needs; ``rowcast.api`` lists them. They
are imported on first use (PEP 562), so ``rowcast version`` does not load the whole service.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rowcast.api import *  # noqa: F403

__version__ = "0.1.0"

_FUNCTIONS = frozenset({"action", "authorization", "get_object_or_404", "model", "status", "transaction", "wait"})


def __getattr__(name: str) -> Any:
    if name == "__all__" or name[0].isupper() or name in _FUNCTIONS:
        from rowcast import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
