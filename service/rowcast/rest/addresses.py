"""Addresses with variable parts: ``/tasks/{id}`` or ``/tasks/{id:[0-9]+}/done``, as aiohttp's routes have them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

VARIABLE_PART: Final = re.compile(r"\{([^\W\d]\w*)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")  # {name} or {name:regex}


def variable_parts(path: str) -> list[str]:
    """The names of the variable parts of an address, in order."""
    return [match[1] for match in VARIABLE_PART.finditer(path)]


def fill(path: str, parts: Iterable[str]) -> str:
    """An address with its variable parts replaced, in order."""
    values = iter(parts)
    return VARIABLE_PART.sub(lambda _: next(values), path)
