"""Permission expressions of config files, such as ``IsAdminUser | (IsAuthenticated & ~viewsets:IsBlocked)``.

The syntax is part of Python's, and the parser is still our own: an error names the character where reading stopped.
Python's parser reports another character for six of the sixteen wrong expressions in the tests and accepts seven, of
which a trailing comma cannot be found in its tree at all.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, TypeAlias

CLASS_NAME: Final = r"(?:[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:)?[A-Za-z_][A-Za-z0-9_]*"

PermissionTree: TypeAlias = tuple[Any, ...]
"""``("class", name, arguments)``, ``("not", tree)``, ``("and", tree, tree)`` or ``("or", tree, tree)``."""

_TOKEN: Final = re.compile(
    rf"""\s*(?:(?P<name>{CLASS_NAME})|(?P<string>"[^"]*"|'[^']*')|(?P<sign>[|&~(),])|(?P<end>$))"""
)


def permission_tree(text: str) -> PermissionTree:
    """The tree of an expression. ``~`` binds tightest, then ``&``, then ``|``.

    ``ValueError`` names the character where reading stopped.
    """
    parser = _Parser(text)
    tree = parser.disjunction()
    parser.expect("")
    return tree


class _Parser:
    """A recursive descent over the tokens. ``kind``, ``token`` and ``start`` describe the current one."""

    MAX_DEPTH: ClassVar = 50

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.end = 0
        self.step()

    def step(self) -> None:
        """Go to the next token."""
        self.start = self.end
        match = _TOKEN.match(self.text, self.end)
        if match is None:
            self.start += len(self.text[self.end :]) - len(self.text[self.end :].lstrip())
            raise self.error()
        self.kind, self.token, self.end = str(match.lastgroup), match[str(match.lastgroup)], match.end()
        self.start = match.start(self.kind)

    def error(self) -> ValueError:
        """The error of a token that cannot stand where it is."""
        found = repr(self.text[self.start : self.start + 10]) if self.start < len(self.text) else "the end"
        return ValueError(
            f"no permission can be read at character {self.start + 1} ({found}); "
            "write for example IsAdminUser | (IsAuthenticated & ~viewsets:IsBlocked)"
        )

    def expect(self, token: str) -> None:
        """Step over one token, which must be this one."""
        if self.token != token or self.kind == "string":
            raise self.error()
        if token:
            self.step()

    def disjunction(self) -> PermissionTree:
        """``conjunction | conjunction …``"""
        tree = self.conjunction()
        while self.token == "|":
            self.step()
            tree = ("or", tree, self.conjunction())
        return tree

    def conjunction(self) -> PermissionTree:
        """``operand & operand …``"""
        tree = self.operand()
        while self.token == "&":
            self.step()
            tree = ("and", tree, self.operand())
        return tree

    def operand(self) -> PermissionTree:
        """``~operand``, ``(disjunction)``, a name, or a name with arguments."""
        self.depth += 1
        if self.depth > self.MAX_DEPTH:
            raise self.error()
        if self.token == "~":
            self.step()
            tree: PermissionTree = ("not", self.operand())
        elif self.token == "(":
            self.step()
            tree = self.disjunction()
            self.expect(")")
        elif self.kind == "name":
            name = self.token
            self.step()
            tree = ("class", name, self.arguments())
        else:
            raise self.error()
        self.depth -= 1
        return tree

    def arguments(self) -> tuple[str, ...]:
        """``("string", …)``, or nothing."""
        if self.token != "(":
            return ()
        found: list[str] = []
        while self.token == ("," if found else "("):
            self.step()
            if self.kind != "string":
                raise self.error()
            found.append(self.token[1:-1])
            self.step()
        self.expect(")")
        return tuple(found)
