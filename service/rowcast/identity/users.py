"""The values that authentication produces: a user, and the credentials that identified them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Clock: TypeAlias = Callable[[], float]  # unix seconds


@dataclass(frozen=True, slots=True)
class User:
    """The caller of a request, in ``request.user``.

    Attributes:
        id: A string; ``None`` for an anonymous caller.
        is_authenticated: Whether the request had valid credentials.
        is_staff: Whether the credentials mark the user as staff.
        claims: The claims of a JSON Web Token; empty for other credentials.
    """

    id: str | None
    is_authenticated: bool = True
    is_staff: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict)


ANONYMOUS: Final = User(id=None, is_authenticated=False)


def id_of(user: Any) -> Any:
    """The id of a user, who may be of the user's own class; ``None`` for an anonymous caller."""
    return getattr(user, "id", None) if getattr(user, "is_authenticated", True) else None


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Credentials:
    """The credentials of a request, in ``request.auth``.

    ``expires_at`` is in unix seconds. ``token`` is the id of an access token, ``None`` for a JSON Web Token.
    """

    expires_at: float | None = None
    token: int | None = None
