"""Values of a caller that the config names: ``user.id``, ``claims.org``, ``claims.app.org``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def caller_value(user: object, reference: str) -> Any:
    """The value that a reference names; ``None`` if the user has none.

    A claim may have dots in its name. Otherwise they lead into claims that are objects.
    """
    kind, _, name = reference.partition(".")
    if kind == "user":
        return getattr(user, name, None)
    found: Any = getattr(user, "claims", None)
    if isinstance(found, Mapping) and name in found:
        return found[name]
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found
