"""Common YAML is parsed line by line, with exactly the nodes and places that the whole parser finds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from rowcast.configuration import common_yaml, whole_yaml
from rowcast.configuration.yaml_nodes import Node, Unreadable

COMMON = r"""# A comment, and an empty line

name: books # what it is about
label: "Books: all" #not less
description: it's [one], {two}, three# four
nothing:
empty: ''
path: ./a-b/c.d
secret: ${env:NAME:-default}
number: -12.50
fields:
  id: {type: uuid, primary_key: true}
  title: {type: string, choices: [a, "b, c", 'd # e'], default: a b}
  nested:
    deep: {a: {b: [[], {}, [1, -2]]}}
  last: Ünïcode
indexes:
- [title]
- fields: [id, title]
  unique: true

-   name: x
    where:
    - a
    -   b
throttle:
  rates:
      anon: 10/min
"""
DECLINED = (
    "",
    "# only a comment",
    "[a]",
    "- a",
    " a: b",
    "a: |\n  text",
    "a: >\n  text",
    "a: b\n  c",
    "a: 'b\n  c'",
    "a: [b,\n  c]",
    'a: "\\n"',
    "a: 'it''s'",
    "a: &x b\nc: *x",
    "a: !!str 1",
    "a: *x",
    "a: b: c",
    "a: b:",
    "a: [b: c]",
    "a: [b:c]",
    "a: {b}",
    "a: [b",
    "a: 'b' c",
    "a: [b]c",
    "a:\tb",
    "a: b\r\nc: d",
    "a: \x85",
    "---\na: b",
    "a: b\n...",
    "? a\n: b",
    "a : b",
    "'a': b",
    "1: b",
    "a:\n  b: c\n d: e",
    "a:\n  - b\n  c: d",
    "a:\n- b\n  c",
    "a:\n- - b",
    "a:\n-\n  b: c\n-",
    "a: " + "[" * 30 + "]" * 30,
    "".join(f"{' ' * level}a:\n" for level in range(30)),
)
PIECES = [
    *"-:#'\"[]{},\n ?|>&*!%@`\\é=~$",
    "- ",
    ": ",
    " #",
    "\n  ",
    "\n- ",
    "  ",
    "...",
    "---",
    "a: b",
    "a:",
    "- x",
    "1:2",
]


@pytest.mark.parametrize("text", [COMMON, Path("config/resources/tasks.yaml").read_text("utf-8")], ids=["all", "demo"])
def test_common_yaml_is_not_declined(text: str) -> None:
    assert _comparable(common_yaml.compose(text)) == _comparable(whole_yaml.compose(text))


@pytest.mark.parametrize("text", DECLINED)
def test_what_is_not_common_is_declined(text: str) -> None:
    assert common_yaml.compose(text) is None


def test_what_is_not_declined_has_the_nodes_of_the_whole_parser() -> None:
    chance, compared = random.Random(15), 0
    for _ in range(800):
        text = _changed(chance)
        found = common_yaml.compose(text)
        if found is None:
            continue
        compared += 1
        try:
            expected = whole_yaml.compose(text)
        except Unreadable as error:
            pytest.fail(f"{text!r} is not YAML: {error.message}")
        assert _comparable(found) == _comparable(expected), text
    assert compared > 100


def _changed(chance: random.Random) -> str:
    """Some lines of the document, with a few characters put in or left out."""
    lines = COMMON.split("\n")
    first = chance.randrange(len(lines))
    text = "\n".join(lines[first : first + chance.randint(1, 8)])
    for _ in range(chance.randint(0, 3)):
        at = chance.randint(0, len(text))
        if chance.random() < 0.3:
            text = text[:at] + text[at + chance.randint(1, 3) :]
        else:
            text = text[:at] + chance.choice(PIECES) + text[at:]
    return text


def _comparable(node: Any) -> Any:
    """A node as plain values. The place of an empty one is that of its key."""
    if isinstance(node, Node):
        place = None if node.empty else (node.line, node.column)
        return node.kind, place, _comparable(node.value), node.plain, node.empty, node.tag
    return [_comparable(each) for each in node] if isinstance(node, list | tuple) else node
