"""YAML and JSON as plain values with places, and the references in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.configuration.yaml import Document, External, Problems, SourceLocation, parse, read


def parsed(text: str, file: str = "f.yaml", **environ: str) -> Any:
    problems = Problems()
    document = parse(text, file, environ, problems)
    assert document is not None, problems.lines()
    assert problems.lines() == []
    return document.data


def lines(text: str, **environ: str) -> list[str]:
    problems = Problems()
    parse(text, "f.yaml", environ, problems)
    return problems.lines()


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "y", "2026-01-31", "1:30", "0b1", "1_000", "=", "."])
def test_words_that_yaml_1_1_converts_are_strings(word: str) -> None:
    """Only the core schema of YAML 1.2 gives a plain scalar a type."""
    assert parsed(f"a: {word}") == {"a": word}


def test_the_core_schema_gives_plain_scalars_a_type() -> None:
    """Numbers, booleans and null have their types, unless they are quoted."""
    text = "[1, -2, 0x10, 0o10, 1.5, 1e3, .5, true, False, null, ~, , '1', \"true\"]".replace(", ,", ",")
    assert parsed(text) == [1, -2, 16, 8, 1.5, 1000.0, 0.5, True, False, None, None, "1", "true"]


def test_a_directive_does_not_bring_yaml_1_1_back() -> None:
    """``no`` stays a string under ``%YAML 1.1``."""
    assert parsed("%YAML 1.1\n---\na: no") == {"a": "no"}


def test_a_key_is_a_string_as_written() -> None:
    """For example, ``null: true`` sets the option ``null``."""
    assert parsed("null: true\n1: a\ntrue: b") == {"null": True, "1": "a", "true": "b"}


def test_keys_and_values_have_places() -> None:
    """Line and column count from 1, in block and in flow style."""
    document = parse("a:\n  - b: {c: 5}\n", "f.yaml", {}, Problems())
    assert isinstance(document, Document)
    assert document.location(("a", 0, "b"), key=True) == SourceLocation("f.yaml", 2, 5)
    assert document.location(("a", 0, "b", "c")) == SourceLocation("f.yaml", 2, 12)
    assert document.location(("a", 0, "b", "missing")) == SourceLocation("f.yaml", 2, 5)


def test_anchors_are_followed() -> None:
    """An alias has the value of its anchor."""
    assert parsed("a: &x {k: [1]}\nb: *x") == {"a": {"k": [1]}, "b": {"k": [1]}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "f.yaml:1:5: cannot be read: expected the node content, but found '<stream end>'"),
        ("a: b: c", "f.yaml:1:5: cannot be read: mapping values are not allowed here"),
        ("a: 1\nb: \x07", "f.yaml:2:4: cannot be read: the character U+0007"),
        ('"\\UFFFFFFFF"', "f.yaml:1:1: cannot be read: no such character"),
        ("a: 1\n--- 2", "f.yaml:2:1: cannot be read: but found another document"),
        ("*x", "f.yaml:1:1: cannot be read: found undefined alias 'x'"),
        ("&a [*a]", "f.yaml:1:1: cannot be read: too many nested or repeated values"),
        ("[" * 9999, "f.yaml:1:65: cannot be read: nested too deeply"),
        ("a: 1\nb: 2\na: 3", "f.yaml:3:1: duplicate key 'a'; it is already set in line 1"),
        ("? [a]\n: 1", "f.yaml:1:3: a key must be a string"),
        (
            "a: !!python/object:os.system x",
            "f.yaml:1:4: the tag !!python/object:os.system is not supported; remove it",
        ),
        ("a: !mine x", "f.yaml:1:4: the tag !mine is not supported; remove it"),
        ("a: .inf", "f.yaml:1:4: .inf is not a valid number here; quote it to make it a string"),
        ("a: 1e999", "f.yaml:1:4: the number is too large"),
        (f"a: {'9' * 5000}", "f.yaml:1:4: the number is too long"),
        ('a: "\\0"', "f.yaml:1:4: a string cannot contain this character: U+0000 or half of a surrogate pair"),
        ('a: "\\ud800"', "f.yaml:1:4: a string cannot contain this character: U+0000 or half of a surrogate pair"),
    ],
)
def test_unreadable_parts_are_reported_with_their_places(text: str, problem: str) -> None:
    """Syntax errors, duplicates, tags, endless aliases, and values that JSON does not have."""
    assert lines(text) == [problem]


def test_a_billion_laughs_are_refused() -> None:
    """Aliases of aliases are followed up to a limit, before memory runs out."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    assert [line.partition(": ")[2] for line in lines(text)] == ["cannot be read: too many nested or repeated values"]


texts = st.text(st.characters(exclude_characters="\0$", exclude_categories=["Cs"]), max_size=80)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(values, st.sampled_from([None, 2, "\t"]))
def test_json_is_read_as_json_reads_it(value: object, indent: int | str | None) -> None:
    """With any indentation and escapes."""
    assert parsed(json.dumps(value, indent=indent), "f.json") == value


def test_references_are_replaced_within_strings(tmp_path: Path) -> None:
    """By environment variables, their defaults, and files without the last line break."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    text = f'a: "x-${{env:A}}-${{env:B:-b}}"\nb: ${{file:{secret}}}\nc: ${{env:B:-}}\nd: "$5 {{}} ${{x}}"'
    assert parsed(text, A="1") == {"a": "x-1-b", "b": "s3cret", "c": "", "d": "$5 {} ${x}"}
    assert isinstance(parsed("${env:A}", A="1"), External)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: ${env:A}", "f.yaml:1:4: the environment variable A is not set"),
        ("a: 'x${env:EMPTY}'", "f.yaml:1:4: the environment variable EMPTY is not set"),
        ("a: ${file:/no/such}", "f.yaml:1:4: the file /no/such cannot be read: No such file or directory"),
        ("a: ${vault:x}", "f.yaml:1:4: ${vault:…} is unknown; use ${env:NAME} or ${file:/path}"),
    ],
)
def test_a_reference_that_is_not_set_is_a_problem(text: str, problem: str) -> None:
    """An empty variable counts as not set."""
    assert lines(text, EMPTY="") == [problem]


def test_an_optional_reference_may_be_unset_but_only_as_a_whole() -> None:
    """A URL with a missing password is a mistake, and does not count as a missing URL."""
    problems = Problems()
    optional = [("a",), ("b",)]
    document = parse("a: ${env:A}\nb: x${env:A}", "f.yaml", {}, problems, optional=optional)
    assert document is not None
    assert document.data["a"] is None
    assert problems.lines() == ["f.yaml:2:4: the environment variable A is not set"]


def test_problems_are_sorted_by_place() -> None:
    """Lines and columns are sorted as numbers, and the same problem is reported once."""
    problems = Problems()
    for line, column in ((10, 1), (2, 30), (2, 4), (2, 4)):
        problems.add(SourceLocation("f", line, column), "x")
    assert problems.lines() == ["f:2:4: x", "f:2:30: x", "f:10:1: x"]


def test_a_file_that_cannot_be_opened_or_decoded_is_a_problem(tmp_path: Path) -> None:
    """It does not raise an exception of the file system."""
    (tmp_path / "latin.yaml").write_bytes(b"\xe9")
    for name, reason in (("latin.yaml", "it is not UTF-8"), ("none.yaml", "No such file or directory")):
        problems = Problems()
        assert read(tmp_path / name, {}, problems) is None
        assert problems.lines() == [f"{tmp_path / name}:1:1: cannot be read: {reason}"]


@given(st.text())
def test_any_string_is_a_document_or_a_problem(text: str) -> None:
    """No string makes the reader fail in another way."""
    problems = Problems()
    assert parse(text, "f.yaml", {}, problems) is not None or problems


@given(st.text("[]{}:,-?&*!|>'\"%@`#\\ \n\tab01xuU$~.<", max_size=40))
def test_any_punctuation_is_a_document_or_a_problem(text: str) -> None:
    """The same for strings of characters with a meaning in YAML."""
    problems = Problems()
    assert parse(text, "f.yaml", {}, problems) is not None or problems
