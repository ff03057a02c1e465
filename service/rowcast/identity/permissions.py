"""Who may do what. A permission is a class; classes combine with ``&``, ``|`` and ``~``.

``has_permission(request, view)`` is asked before anything is read, ``has_object_permission(request, view, obj)`` once
the row is known. Both may be plain functions or coroutines. ``message`` and ``code`` of the class that refused show in
the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from inspect import isawaitable
from typing import Any, ClassVar, Final

from rowcast.errors import ConfigurationError, did_you_mean

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
Answer = bool | Awaitable[bool]


class _Algebra(type):
    """Lets permission classes combine as sets do: ``IsAdminUser | (IsAuthenticated & IsOwner)``."""

    def __and__(cls, other: _Algebra) -> type[BasePermission]:
        return _combined("and", cls, other)

    def __or__(cls, other: _Algebra) -> type[BasePermission]:
        return _combined("or", cls, other)

    def __invert__(cls) -> type[BasePermission]:
        return _combined("not", cls)


class BasePermission(metaclass=_Algebra):
    """Allows everything; a subclass says otherwise by overriding one method or both."""

    message: ClassVar[str | None] = None
    code: ClassVar[str | None] = None

    def has_permission(self, request: Any, view: Any) -> Answer:
        """Whether the caller may run this action at all."""
        return True

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> Answer:
        """Whether the caller may run this action on this row."""
        return True


class AllowAny(BasePermission):
    """Everybody, anonymous callers included."""


class IsAuthenticated(BasePermission):
    """Callers with valid credentials."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.is_authenticated)


class IsAdminUser(BasePermission):
    """Callers whose credentials say that they are staff."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.is_staff)


class IsAuthenticatedOrReadOnly(BasePermission):
    """Everybody for reading, callers with valid credentials for the rest."""

    def has_permission(self, request: Any, view: Any) -> bool:
        return request.method in SAFE_METHODS or bool(request.user.is_authenticated)


OPEN_TO_READERS: Final = frozenset({AllowAny, IsAuthenticatedOrReadOnly})
"""Those that let anybody read."""


class IsOwner(BasePermission):
    """Callers with valid credentials and, of rows, those whose ``owner_field`` is the caller's id.

    ``IsOwner("author_id")`` is the class for another field. A list is not cut by it: ``get_queryset`` does that.
    """

    owner_field: ClassVar[str] = "user_id"

    def __new__(cls, owner_field: str | None = None) -> Any:
        """A permission; given a field, the class of permissions that look at it."""
        return super().__new__(cls) if owner_field is None else cls.of(owner_field)

    @classmethod
    def of(cls, owner_field: str) -> type[BasePermission]:
        """The class of permissions that look at a field."""
        return _Algebra(cls.__name__, (cls,), {"owner_field": owner_field})  # type: ignore[return-value]

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.is_authenticated)

    def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        owner = obj[self.owner_field] if isinstance(obj, Mapping) else getattr(obj, self.owner_field)
        return owner is not None and request.user.id is not None and str(owner) == str(request.user.id)


class _Combination(BasePermission):
    """What ``&``, ``|`` and ``~`` make: ``parts`` joined by ``word``."""

    word: ClassVar[str]
    parts: ClassVar[tuple[type[BasePermission], ...]]

    def __init__(self) -> None:
        self.members = [part() for part in self.parts]

    async def has_permission(self, request: Any, view: Any) -> bool:
        if self.word == "not" and asks_about_objects(self):
            return True  # to some rows; to which, can be said when one is known
        return await self._decide(lambda member: member.has_permission(request, view))

    async def has_object_permission(self, request: Any, view: Any, obj: Any) -> bool:
        async def ask(member: BasePermission) -> bool:
            return await allowed(member.has_permission(request, view)) and await allowed(
                member.has_object_permission(request, view, obj)
            )

        if self.word == "and":  # all have let the caller in to begin with
            return await self._decide(lambda member: member.has_object_permission(request, view, obj))
        return await self._decide(ask)

    async def _decide(self, ask: Any) -> bool:
        for member in self.members:
            answer = await allowed(ask(member))
            if self.word == "not":
                return not answer
            if answer != (self.word == "and"):
                return answer
        return self.word == "and"


def asks_about_objects(permission: BasePermission) -> bool:
    """Whether a permission, or a part of it, has something to say about single rows."""
    if isinstance(permission, _Combination):
        return any(map(asks_about_objects, permission.members))
    return type(permission).has_object_permission is not BasePermission.has_object_permission


async def refusing(permission: BasePermission, request: Any, view: Any, *row: Any) -> BasePermission:
    """Of a permission that has refused a request, or a row, the part with words of its own for that; or itself."""
    if not isinstance(permission, _Combination) or permission.word == "not":
        return permission
    for member in permission.members:
        let_in = await allowed(member.has_permission(request, view))
        if let_in and row:
            let_in = await allowed(member.has_object_permission(request, view, *row))
        if not let_in:
            part = await refusing(member, request, view, *row)
            if part.message is not None or part.code is not None:
                return part
    return permission


def check_columns(permission: BasePermission, columns: Collection[str]) -> None:
    """``ConfigurationError`` for an ``IsOwner``, also as a part, that looks at what rows do not have."""
    if isinstance(permission, _Combination):
        for member in permission.members:
            check_columns(member, columns)
        return
    theirs = type(permission).has_object_permission is not IsOwner.has_object_permission
    if isinstance(permission, IsOwner) and not theirs and permission.owner_field not in columns:
        told = did_you_mean(permission.owner_field, columns)
        raise ConfigurationError(f"IsOwner({permission.owner_field!r}): rows have no such column; {told}")


async def allowed(answer: Answer) -> bool:
    """The answer of a permission, awaited where it is a coroutine's."""
    return answer is True or bool(await answer if isawaitable(answer) else answer)


def _combined(word: str, *parts: _Algebra) -> type[BasePermission]:
    for part in parts:
        if not (isinstance(part, type) and issubclass(part, BasePermission)):
            raise ConfigurationError(f"{part!r} is no permission class and cannot be combined with one")
    name = f" {word} ".join(part.__name__ for part in parts)
    combination: Any = _Algebra(name, (_Combination,), {"word": word, "parts": parts})
    return combination  # type: ignore[no-any-return]
