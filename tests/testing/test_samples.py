"""Made-up values meet every rule of their field."""

from __future__ import annotations

from typing import Any

import pytest

from rowcast.resources.samples import sample
from rowcast.resources.types import make_field


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        ("string", {}),
        ("string", {"max_length": 2, "unique": True}),
        ("string", {"min_length": 30, "max_length": 30}),
        ("text", {}),
        ("email", {}),
        ("url", {"max_length": 30}),
        ("slug", {}),
        ("uuid", {}),
        ("integer", {"min": -3, "max": 2}),
        ("integer", {"max": -10}),
        ("big_integer", {"min": 2**40}),
        ("float", {"min": 0.25, "max": 0.5}),
        ("decimal", {"max_digits": 4, "decimal_places": 2, "min": "0.5", "max": "9.5"}),
        ("decimal", {"max_digits": 2, "decimal_places": 2}),
        ("boolean", {}),
        ("date", {"min": "2020-01-01"}),
        ("date", {"max": "1999-12-31"}),
        ("time", {"max": "08:00:00"}),
        ("datetime", {"min": "2020-01-01T00:00:00Z"}),
        ("duration", {"min": "PT1H"}),
        ("json", {}),
        ("array", {"of": "integer", "min_length": 2, "min": 3}),
        ("array", {"of": "string", "choices": ("calm", "wild")}),
        ("string", {"choices": ("low", "high")}),
        ("smallint", {"max": 9}),
        ("real", {"min": 0.5}),
        ("citext", {"min_length": 20}),
        ("bytea", {}),
    ],
)
def test_sample_is_valid(type_: str, options: dict[str, Any]) -> None:
    """``sample`` itself checks the rules, and raises if a value breaks one."""
    field = make_field("price", type_, **options)
    made = [sample(field, number) for number in range(1, 8)]
    assert field.field_type.dump(field, made[0]) is not None


def test_samples_differ_where_the_rules_allow_it() -> None:
    """So that unique fields of several rows are no problem."""
    for type_ in ("string", "email", "url", "slug", "integer", "decimal", "date", "datetime", "time", "float", "uuid"):
        field = make_field("code", type_, max_length=9 if type_ in ("string", "slug") else None)
        assert len({sample(field, number) for number in range(1, 50)}) == 49, type_
    field = make_field("state", "string", choices=("a", "b"), unique=True)
    assert [sample(field, number) for number in (1, 2)] == ["a", "b"]


@pytest.mark.parametrize(
    "pattern",
    [
        "^[0-9]{13}$", r"^\d{3}-\d{4}$", "^[A-Z]{2}[0-9]{2,30}$", "^(low|high)$", r"^[^\s@]+@[^\s@]+$", "x", "^.{5}$",
        r"^\+?[1-9]\d{1,14}$", "^(?:[a-f0-9]{2}:){5}[a-f0-9]{2}$", r"^(a|b)\1$", "^[^a]$", "^$|^z$",
    ],
)  # fmt: skip
def test_patterns_have_examples(pattern: str) -> None:
    """The usual ones, and different examples where there are many."""
    field = make_field("code", "string", pattern=pattern, blank=True)
    made = {sample(field, number) for number in range(1, 31)}
    assert len(made) == 30 or pattern in ("^(low|high)$", "x", r"^(a|b)\1$", "^$|^z$"), made


def test_what_cannot_be_made_up_is_an_error() -> None:
    """It says what is in the way."""
    with pytest.raises(ValueError, match="no example of the pattern"):
        sample(make_field("isbn", "string", pattern="^(?=.*[0-9])(?=.*[a-z]).{8}$"), 1)
    with pytest.raises(ValueError, match="Longer than maximum length 3"):
        sample(make_field("isbn", "string", pattern="^[0-9]{13}$", max_length=3), 1)
