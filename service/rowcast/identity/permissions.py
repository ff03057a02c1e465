"""Permissions: what a caller may do. A permission is a class; classes combine with ``&``, ``|`` and ``~``.

``has_permission(request, view)`` is called before anything is read, ``has_object_permission(request, view, obj)`` once
the row is loaded. Both may be plain functions or coroutines. The response shows ``message`` and ``code`` of the class that
refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from inspect import isawaitable
from typing import Any, ClassVar, Final, TypeAlias

from rowcast.errors import ConfigurationError, did_you_mean
from rowcast.identity.protocols import Request, View

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
Decision: TypeAlias = bool | Awaitable[bool]


class _Combinable(type):
    """Lets permission classes combine as sets do: ``IsAdminUser | (IsAuthenticated & IsOwner)``."""

    def __and__(cls, other: _Combinable) -> type[BasePermission]:
        return _combined("and", cls, other)

    def __or__(cls, other: _Combinable) -> type[BasePermission]:
        return _combined("or", cls, other)

    def __invert__(cls) -> type[BasePermission]:
        return _combined("not", cls)


class BasePermission(metaclass=_Combinable):
    """Allows everything; a subclass overrides one method or both."""

    message: ClassVar[str | None] = None
    code: ClassVar[str | None] = None

    def has_permission(self, request: Any, view: Any) -> Decision:
        """Whether the caller may run this action at all. May be a coroutine.

        Args:
            request: The ``rowcast.Request``, with ``user`` and ``auth``.
            view: The viewset; ``view.action`` is the name of the action.
        """
        return True

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> Decision:
        """Whether the caller may run this action on this row. May be a coroutine.

        Args:
            request: The ``rowcast.Request``, with ``user`` and ``auth``.
            view: The viewset; ``view.action`` is the name of the action.
            obj: The row, as an instance of its model.
        """
        return True


class AllowAny(BasePermission):
    """Every caller, anonymous ones included."""


class IsAuthenticated(BasePermission):
    """Callers with valid credentials."""

    def has_permission(self, request: Request, view: View) -> bool:
        return bool(request.user.is_authenticated)


class IsAdminUser(BasePermission):
    """Callers whose credentials mark them as staff."""

    def has_permission(self, request: Request, view: View) -> bool:
        return bool(request.user.is_staff)


class IsAuthenticatedOrReadOnly(BasePermission):
    """Every caller may read; only callers with valid credentials may write."""

    def has_permission(self, request: Request, view: View) -> bool:
        return request.method in SAFE_METHODS or bool(request.user.is_authenticated)


OPEN_TO_READERS: Final = frozenset({AllowAny, IsAuthenticatedOrReadOnly})
"""The permissions that let every caller read."""
BY_CALLER_ALONE: Final = frozenset({AllowAny, IsAuthenticated, IsAdminUser, IsAuthenticatedOrReadOnly})
"""The permissions that read nothing but the caller and the method, so that they need no view."""


class IsOwner(BasePermission):
    """Callers with valid credentials; for a row, only the caller whose id is in its ``owner_field``.

    ``IsOwner("author_id")`` is the class for another field. It does not restrict a list: use ``get_queryset`` for that.
    """

    owner_field: ClassVar[str] = "user_id"

    def __new__(cls, owner_field: str | None = None) -> Any:
        """A permission; with a field, the permission class for that field."""
        return super().__new__(cls) if owner_field is None else cls.of(owner_field)

    @classmethod
    def of(cls, owner_field: str) -> type[BasePermission]:
        """The permission class for a field."""
        return _Combinable(cls.__name__, (cls,), {"owner_field": owner_field})  # type: ignore[return-value]

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.is_authenticated)

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        owner = obj[self.owner_field] if isinstance(obj, Mapping) else getattr(obj, self.owner_field)
        return owner is not None and request.user.id is not None and str(owner) == str(request.user.id)


class _Combination(BasePermission):
    """The result of ``&``, ``|`` and ``~``: ``parts`` joined by ``operator`` (``and``, ``or``, ``not``)."""

    operator: ClassVar[str]
    parts: ClassVar[tuple[type[BasePermission], ...]]

    def __init__(self) -> None:
        self.members = [part() for part in self.parts]

    async def has_permission(self, request: Request, view: View) -> bool:
        if self.operator == "not" and checks_objects(self):
            return True  # for some rows; which ones is decided once a row is loaded
        return await self._combine(lambda member: member.has_permission(request, view))

    async def has_object_permission(self, request: Request, view: View, obj: Any) -> bool:
        async def check(member: BasePermission) -> bool:
            return await allowed(member.has_permission(request, view)) and await allowed(
                member.has_object_permission(request, view, obj)
            )

        if self.operator == "and":  # has_permission of every member has passed already
            return await self._combine(lambda member: member.has_object_permission(request, view, obj))
        return await self._combine(check)

    async def _combine(self, check: Callable[[BasePermission], Decision]) -> bool:
        for member in self.members:
            decision = await allowed(check(member))
            if self.operator == "not":
                return not decision
            if decision != (self.operator == "and"):
                return decision
        return self.operator == "and"


def checks_objects(permission: BasePermission) -> bool:
    """Whether a permission, or a part of it, decides about single rows."""
    if isinstance(permission, _Combination):
        return any(map(checks_objects, permission.members))
    return type(permission).has_object_permission is not BasePermission.has_object_permission


async def refusing_part(permission: BasePermission, request: Request, view: View, *row: Any) -> BasePermission:
    """The part of a permission that refused a request, or a row, and has its own message; else the permission itself."""
    if not isinstance(permission, _Combination) or permission.operator == "not":
        return permission
    for member in permission.members:
        let_in = await allowed(member.has_permission(request, view))
        if let_in and row:
            let_in = await allowed(member.has_object_permission(request, view, *row))
        if not let_in:
            part = await refusing_part(member, request, view, *row)
            if part.message is not None or part.code is not None:
                return part
    return permission


def check_columns(permission: BasePermission, columns: Collection[str]) -> None:
    """``ConfigurationError`` if an ``IsOwner``, or one inside a combination, names a column that rows do not have."""
    if isinstance(permission, _Combination):
        for member in permission.members:
            check_columns(member, columns)
        return
    overridden = type(permission).has_object_permission is not IsOwner.has_object_permission
    if isinstance(permission, IsOwner) and not overridden and permission.owner_field not in columns:
        hint = did_you_mean(permission.owner_field, columns)
        raise ConfigurationError(f"IsOwner({permission.owner_field!r}): rows have no such column; {hint}")


async def allowed(decision: Decision) -> bool:
    """The decision of a permission, awaited if its method is a coroutine."""
    return decision is True or bool(await decision if isawaitable(decision) else decision)


def _combined(operator: str, *parts: _Combinable) -> type[BasePermission]:
    for part in parts:
        if not (isinstance(part, type) and issubclass(part, BasePermission)):
            raise ConfigurationError(f"{part!r} is not a permission class")
    name = f" {operator} ".join(part.__name__ for part in parts)
    combination: Any = _Combinable(name, (_Combination,), {"operator": operator, "parts": parts})
    return combination  # type: ignore[no-any-return]
