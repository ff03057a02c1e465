"""Who is calling: ``request.user`` and ``request.auth``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class User:
    """A caller. ``id`` is a string; ``claims`` are what the credentials say besides."""

    id: str | None
    is_authenticated: bool = True
    is_staff: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict)


ANONYMOUS: Final = User(id=None, is_authenticated=False)
