"""The threat model is kept: each of its guarantees names tests, and these exist."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.conftest import ROOT

TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
PAGE = (ROOT / "docs" / "security.md").read_text()
GUARANTEES, _, LIMITS = PAGE.partition("\n## What is not guaranteed\n")


@cache
def names_in(path: str) -> frozenset[str]:
    """The names of the tests in a file, which is parsed and not run."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize(("path", "name"), sorted(set(TEST.findall(PAGE))))
def test_a_linked_test_exists(path: str, name: str) -> None:
    """A test that is renamed or deleted is renamed or missed here."""
    assert name in names_in(path)


def items(text: str) -> list[str]:
    """The items of the page's lists, each with its indented lines."""
    return re.findall(r"^- .*(?:\n  .*)*", text, re.MULTILINE)


@pytest.mark.parametrize("item", items(GUARANTEES), ids=lambda item: item[2:50])
def test_every_guarantee_names_a_test(item: str) -> None:
    """A sentence that no test checks is not a guarantee, and belongs to the limits."""
    assert TEST.search(item)


def test_the_page_has_both_parts() -> None:
    """Guarantees and limits, neither of them empty."""
    assert items(GUARANTEES)
    assert items(LIMITS)
