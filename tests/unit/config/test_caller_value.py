"""Scopes, streams and settings of the database find the values of a caller in the same way."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.configuration.caller_value import caller_value
from rowcast.identity.users import ANONYMOUS, User

USER = User(
    "ann", is_staff=True, claims={"org": 1, "app": {"org": 2}, "https://x.example/org": 3, "a.b": 4, "a": {"b": 5}}
)


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("user.id", "ann"), ("user.is_staff", True), ("user.name", None), ("claims.org", 1), ("claims.app.org", 2),
        ("claims.https://x.example/org", 3), ("claims.a.b", 4), ("claims.app.org.id", None), ("claims.team", None),
    ],
)  # fmt: skip
def test_value_of_a_caller(reference: str, value: Any) -> None:
    """A claim with dots in its name precedes a path; what is missing is None."""
    assert caller_value(USER, reference) == value
    assert caller_value(ANONYMOUS, reference) in (None, False)
