"""What the end of a message suggests for a name that is not known."""

from __future__ import annotations

import doctest

import pytest

from rowcast import errors
from rowcast.errors import parameter_hint

VALID = ["author", "author__in", "author__name__icontains", "pages", "pages__gte", "page", "search"]


def test_examples_of_the_functions() -> None:
    """The examples are run as doctests."""
    assert doctest.testmod(errors).failed == 0


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("author_id", "did you mean author?"),  # as bodies have it
        ("author_id__in", "did you mean author__in?"),
        ("autor__in", "did you mean author__in?"),
        ("pages__gt", "did you mean pages__gte?"),
        ("pages__contains", "valid for pages: pages, pages__gte"),
        ("page__gte", "did you mean pages__gte?"),
        ("serach", "did you mean search?"),
        ("title__icontains", f"valid here: {', '.join(VALID)}"),  # not the filter of another field
        ("__", f"valid here: {', '.join(VALID)}"),
    ],
)
def test_hints_for_parameters(name: str, hint: str) -> None:
    """A filter is suggested for the same field, or for one with a similar name."""
    assert parameter_hint(name, VALID) == hint
