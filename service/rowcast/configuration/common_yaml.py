"""The part of YAML that config files mostly consist of, parsed a line at a time.

It is for speed alone: ruamel.yaml takes milliseconds for a file, and some time to load. Whatever is not common is declined, and
what is declined is parsed by ``whole_yaml``: tags, anchors, block scalars, strings over several lines, escapes, lists and
mappings in brackets over several lines, unusual characters, and everything that is wrong. What is not declined has exactly
the nodes and places that ``whole_yaml`` finds.
"""

from __future__ import annotations

import re
from typing import Final, NoReturn

from rowcast.configuration.yaml_nodes import Node

DEPTH_MAX: Final = 20  # of what is not declined

_UNUSUAL: Final = re.compile(r"[^\n\x20-\x7e\xa1-\u1fff\u2010-\u2027\u2030-\ud7ff\uf900-\ufdcf\uff01-\uffef]")
_KEY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_./-]{0,200}):(?: +|$)")
_QUOTED: Final = re.compile(r"""'([^']*)'|"([^"\\]*)\"""")
_START: Final = r"(?:[A-Za-z0-9_./^<=(+~$\xc0-\u1fff]|-(?=[A-Za-z0-9_.]))"
_BLOCK_PLAIN: Final = re.compile(_START + r".*")
_FLOW_PLAIN: Final = re.compile(_START + r"[^ ,\[\]{}:#]*(?: +[^ ,\[\]{}:#]+)*")
_END: Final = re.compile(r" *(?: #.*)?$")
_GAP: Final = re.compile(r" *")


class _Declined(Exception):
    """The document is not common."""


def compose(text: str) -> Node | None:
    """The root of a document that is a mapping; ``None`` if the document is declined."""
    if _UNUSUAL.search(text):
        return None
    lines = []
    for number, line in enumerate(text.split("\n"), 1):
        content = line.lstrip(" ")
        if content and content[0] != "#":
            lines.append((len(line) - len(content), number, content.rstrip(" ")))
    if not lines or lines[0][0] != 0 or lines[0][2][0] == "-":
        return None
    parser = _Parser(lines)
    try:
        root = parser.mapping(0, 0)
    except _Declined:
        return None
    return root if parser.at == len(lines) else None


class _Parser:
    """Parses lines, each with its indentation, number and content; ``at`` is the next one."""

    def __init__(self, lines: list[tuple[int, int, str]]) -> None:
        self.lines = lines
        self.at = 0

    def mapping(self, indentation: int, depth: int) -> Node:
        """The mapping whose keys have this indentation, which begins at the next line."""
        node = Node("mapping", self.lines[self.at][1], indentation + 1)
        while self.at < len(self.lines):
            here, number, content = self.lines[self.at]
            if here < indentation:
                break
            key = _KEY.match(content)
            if here > indentation or key is None:
                _decline()
            name = Node("scalar", number, here + 1, key[1], plain=True)
            node.value.append((name, self._value(indentation, key.end(), depth, in_mapping=True)))
        return node

    def _list(self, indentation: int, depth: int) -> Node:
        """The list whose dashes have this indentation, which begins at the next line."""
        node = Node("list", self.lines[self.at][1], indentation + 1)
        while self.at < len(self.lines):
            here, number, content = self.lines[self.at]
            if here < indentation or (here == indentation and not content.startswith("- ")):
                break
            if here > indentation:
                _decline()
            rest = content[2:].lstrip(" ")
            start = len(content) - len(rest)
            if _KEY.match(rest):
                self.lines[self.at] = (here + start, number, rest)
                node.value.append(self.mapping(here + start, depth + 1))
            else:
                node.value.append(self._value(indentation, start, depth, in_mapping=False))
        return node

    def _value(self, indentation: int, start: int, depth: int, *, in_mapping: bool) -> Node:
        """The value from a character of the next line, or in the lines after it."""
        if depth > DEPTH_MAX:
            _decline()
        here, number, content = self.lines[self.at]
        self.at += 1
        rest = content[start:]
        if not rest or rest[0] == "#":
            return self._below(indentation, number, depth, in_mapping=in_mapping)
        column = here + start + 1
        if rest[0] in "[{":
            node, end = _flow(content, start, here, number, depth)
        elif quoted := _QUOTED.match(rest):
            node, end = Node("scalar", number, column, quoted[quoted.lastindex or 0]), start + quoted.end()
        elif _BLOCK_PLAIN.match(rest):
            value = rest.partition(" #")[0].rstrip(" ")
            if ": " in value or value[-1] == ":":
                _decline()
            return Node("scalar", number, column, value, plain=True)
        else:
            _decline()
        if not _END.match(content, end):
            _decline()
        return node

    def _below(self, indentation: int, number: int, depth: int, *, in_mapping: bool) -> Node:
        """The value in the lines after a key or a dash."""
        here, _, content = self.lines[self.at] if self.at < len(self.lines) else (-1, 0, "")
        dashed = content.startswith("- ")
        if here > indentation or (in_mapping and dashed and here == indentation):
            return self._list(here, depth + 1) if dashed else self.mapping(here, depth + 1)
        if not in_mapping:
            _decline()
        return Node("scalar", number, indentation + 1, "", plain=True, empty=True)


def _flow(content: str, at: int, shift: int, number: int, depth: int) -> tuple[Node, int]:
    """The list or mapping in brackets at a position of a line that is shifted to the right, and its end."""
    if depth > DEPTH_MAX:
        _decline()
    column, closing = shift + at + 1, "]" if content[at] == "[" else "}"
    node = Node("list" if closing == "]" else "mapping", number, column)
    at = _past_gap(content, at + 1)
    if content.startswith(closing, at):
        return node, at + 1
    while True:
        if closing == "}":
            key = _KEY.match(content, at)
            if key is None:
                _decline()
            name = Node("scalar", number, shift + at + 1, key[1], plain=True)
            value, at = _flow_value(content, key.end(), shift, number, depth)
            node.value.append((name, value))
        else:
            value, at = _flow_value(content, at, shift, number, depth)
            node.value.append(value)
        at = _past_gap(content, at)
        if content.startswith(closing, at):
            return node, at + 1
        if not content.startswith(",", at):
            _decline()
        at = _past_gap(content, at + 1)


def _flow_value(content: str, at: int, shift: int, number: int, depth: int) -> tuple[Node, int]:
    """A value inside brackets, and its end."""
    if content.startswith(("[", "{"), at):
        return _flow(content, at, shift, number, depth + 1)
    if quoted := _QUOTED.match(content, at):
        return Node("scalar", number, shift + at + 1, quoted[quoted.lastindex or 0]), quoted.end()
    plain = _FLOW_PLAIN.match(content, at)
    if plain is None:
        _decline()
    return Node("scalar", number, shift + at + 1, plain[0], plain=True), plain.end()


def _past_gap(content: str, at: int) -> int:
    gap = _GAP.match(content, at)
    return at if gap is None else gap.end()


def _decline() -> NoReturn:
    raise _Declined
