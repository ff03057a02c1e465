"""How the methods of a viewset are called: which parts of the address become which arguments.

Handlers are written as ``(self, request)``, ``(self, request, id)``, ``(self, request, pk=None)`` or with ``**kwargs``.
What a handler cannot be called with is found when the service starts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from rowcast.errors import ConfigurationError

KEY_NAMES = ("id", "pk")


@dataclass(frozen=True, slots=True)
class Call:
    """How one handler is called: ``own`` if it is the framework's, and each argument with its name in the address."""

    own: bool
    arguments: tuple[tuple[str, str], ...]


def call_of(owner: type, name: str, parts: Collection[str], key: str | None) -> Call:
    """How ``owner``'s method is called at an address with these named parts, of which ``key`` is the row's key.

    ``ConfigurationError`` says what is wrong with its signature.
    """
    function: Callable[..., Any] = getattr(owner, name)
    own = function.__module__.startswith("rowcast.")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    where = f"{owner.__name__}.{name}"
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL
    ):  # fmt: skip
        raise ConfigurationError(f"{where} must take the request: write ({_example(parts, key)})")
    arguments: dict[str, str] = {}
    anything = False
    for parameter in parameters[1:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            anything = True
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        elif parameter.name in parts:
            arguments[parameter.name] = parameter.name
        elif key is not None and parameter.name in KEY_NAMES:
            arguments[parameter.name] = key
        elif parameter.default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"{where} takes {parameter.name!r}, which its address does not have: write ({_example(parts, key)})"
            )
    missing = [part for part in parts if part not in arguments.values()]
    if missing and not anything and not own:
        raise ConfigurationError(f"{where} does not take {missing[0]!r} of its address: write ({_example(parts, key)})")
    rest = [(part, part) for part in missing] if anything else []
    return Call(own, (*arguments.items(), *rest))


def _example(parts: Collection[str], key: str | None) -> str:
    return ", ".join(["self", "request", *(part for part in parts if part != key), *([key] if key else [])])
