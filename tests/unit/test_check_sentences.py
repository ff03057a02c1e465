"""What a CHECK of a table's owner asks for, in a sentence; and what has none."""

from __future__ import annotations

import doctest

import pytest

from rowcast.database import check_sentences
from rowcast.database.check_sentences import sentence_of

FIELDS = {"a": "a", "b": "b", "Odd Name": "odd", "author_id": "author_id"}


def test_examples_of_the_function() -> None:
    """The examples are run as doctests."""
    assert doctest.testmod(check_sentences).failed == 0


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("(a > 0)", "Must be greater than 0."),
        ("(0 <= a)", "Must be at least 0."),
        ("(a <> 'it''s'::text)", "Must not be it's."),
        ("((a)::text <> ''::text)", "May not be blank."),
        ("(a = ANY (ARRAY[1, '-2'::integer, -3]))", "Must be one of: 1, -2, -3."),
        (
            "(\"Odd Name\" < '2026-01-01 00:00:00+00'::timestamp with time zone)",
            "Must be less than 2026-01-01 00:00:00+00.",
        ),
        ("(length(a) >= 3)", "Must have at least 3 characters."),
        ("(a <= b)", "a must be at most b."),
        ("((a >= 1) AND (b > a))", "a must be at least 1. b must be greater than a."),
        ("(a > (-1.5)::double precision)", "Must be greater than -1.5."),
        ("((a)::numeric(10,2) <= 5)", "Must be at most 5."),
    ],
)
def test_sentences(expression: str, sentence: str) -> None:
    """Casts and parentheses are PostgreSQL's, and left out."""
    assert sentence_of(expression, FIELDS) == sentence


@pytest.mark.parametrize(
    "expression",
    [
        "", "(", "a", "true", "((a > 0) OR (b > 0))", "(NOT (a > 0))", "((a % 2) = 1)", "(a IS NOT NULL)", "(hidden > 0)",
        "(a ~ '^x'::text)", "(lower(a) = a)", "((a > 0) = (b > 0))", "(a > 0", "(a > 0))", "(a = ANY (b))", "(a <> ALL (ARRAY[1]))",
        "(length(a) <> 3)", "(a = ''::text)", "(1 > 0)", "(a > (ARRAY[1, 2])[1])", f"(a <> '{'x' * 400}'::text)", "('now'::text)::date",
    ],
)  # fmt: skip
def test_what_has_no_sentence(expression: str) -> None:
    """Other expressions, those about columns that are no fields, and those that are too long."""
    assert sentence_of(expression, FIELDS) is None
