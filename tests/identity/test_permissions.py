"""``IsOwner``, alone and combined."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from rowcast.identity.permissions import (
    AllowAny,
    BasePermission,
    IsAdminUser,
    IsAuthenticated,
    IsAuthenticatedOrReadOnly,
    IsOwner,
    allowed,
)
from rowcast.identity.users import ANONYMOUS, User

KEY = uuid.UUID("018f0000-0000-7000-8000-000000000001")
ALICE, BOB, STAFF = User(id="alice"), User(id="bob"), User(id="root", is_staff=True)


async def may(permission: type[BasePermission], user: User, row: Any = None, method: str = "PUT") -> bool:
    """Whether a viewset with this permission lets a user run an action, on a row if one is given."""
    tested, request = permission(), SimpleNamespace(user=user, method=method)
    if not await allowed(tested.has_permission(request, None)):
        return False
    return row is None or await allowed(tested.has_object_permission(request, None, row))


class IsAuthor(IsOwner):
    owner_field = "author"


@pytest.mark.parametrize(
    "permission", [IsOwner("author"), IsAuthor, IsOwner("x")("author")], ids=["call", "subclass", "again"]
)
@pytest.mark.parametrize("make", [dict, SimpleNamespace])
async def test_a_row_belongs_to_its_owner(permission: type[BasePermission], make: Any) -> None:
    """Written as a call or as a subclass, for an instance or a mapping."""
    assert await may(permission, ALICE, make(author="alice"))
    assert not await may(permission, BOB, make(author="alice"))
    assert not await may(permission, ANONYMOUS, make(author="alice"))


async def test_the_class_without_a_field_uses_user_id() -> None:
    """As in the examples of the reference pages."""
    assert await may(IsOwner, ALICE, {"user_id": "alice"})
    assert not await may(IsOwner, BOB, {"user_id": "alice"})


async def test_owners_are_compared_as_strings() -> None:
    """A user's id is a string, whatever the column's type is."""
    assert await may(IsOwner, User(id=str(KEY)), {"user_id": KEY})
    assert await may(IsOwner, User(id="7"), {"user_id": 7})


@pytest.mark.parametrize("user", [ANONYMOUS, User(id="None"), User(id=None)])
async def test_a_row_without_an_owner_belongs_to_nobody(user: User) -> None:
    """Neither to an anonymous caller nor to a user called None."""
    assert not await may(IsOwner, user, {"user_id": None})


async def test_it_combines() -> None:
    """With ``&``, ``|`` and ``~``; each part decides about callers and about rows."""
    row, owner = {"user_id": "alice"}, IsOwner("user_id")
    either = IsAdminUser | (IsAuthenticated & owner)
    assert [await may(either, user, row) for user in (ALICE, BOB, STAFF, ANONYMOUS)] == [
        True,
        False,
        True,
        False,
    ]
    others = IsAuthenticated & ~owner
    assert [await may(others, user, row) for user in (ALICE, BOB, STAFF, ANONYMOUS)] == [False, True, True, False]
    readers = IsAuthenticatedOrReadOnly & (owner | IsReading)
    assert [await may(readers, user, row) for user in (ALICE, BOB)] == [True, False]
    assert [await may(readers, user, row, "GET") for user in (ALICE, BOB, ANONYMOUS)] == [True, True, True]
    assert [await may(~~owner, user, row) for user in (ALICE, BOB, ANONYMOUS)] == [True, False, False]
    neither = ~(IsAdminUser | owner)
    assert [await may(neither, user, row) for user in (ALICE, BOB, STAFF, ANONYMOUS)] == [False, True, False, True]


class IsReading(BasePermission):
    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.method == "GET")


class IsBlocked(BasePermission):
    async def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.id == "bob")


@pytest.mark.parametrize("user", [ALICE, BOB])
async def test_not_inverts_a_permission_for_rows_too(user: User) -> None:
    """The negation of a part that does not look at rows does not forbid all rows."""
    row = {"user_id": user.id}
    assert await may(~IsBlocked, user, row) is (user is ALICE)
    assert await may(IsOwner & ~IsBlocked, user, row) is (user is ALICE)
    assert await may(~AllowAny, user, row) is False
