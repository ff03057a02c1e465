"""Signatures of handlers: how the variable parts of an address become the arguments of a viewset's method.

Handlers are written as ``(self, request)``, ``(self, request, id)``, ``(self, request, pk=None)`` or with ``**kwargs``.
A handler that cannot be called at its address is an error when the service starts.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from rowcast.errors import ConfigurationError

KEY_NAMES: Final = ("id", "pk")  # argument names that hold the row's key, whatever its name in the address


@dataclass(frozen=True, slots=True)
class Call:
    """How to call a handler: ``arguments`` are pairs of argument and part of the address.

    ``own`` is the function of a handler of Rowcast's, which needs no greenlet; ``None`` for the user's.
    """

    own: Callable[..., Awaitable[Any]] | None
    arguments: tuple[tuple[str, str], ...]


def call_of(owner: type, name: str, parts: Collection[str], key: str | None) -> Call:
    """How to call ``owner``'s method ``name`` at an address with these variable parts.

    ``key`` is the part that holds the row's key, if there is one. ``ConfigurationError`` if the signature does not fit.
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
    takes_rest = False
    for parameter in parameters[1:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            takes_rest = True
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        elif parameter.name in parts:
            arguments[parameter.name] = parameter.name
        elif key is not None and parameter.name in KEY_NAMES:
            arguments[parameter.name] = key
        elif parameter.default is inspect.Parameter.empty:
            raise ConfigurationError(
                f"{where} takes {parameter.name!r}, which is not in its address: write ({_example(parts, key)})"
            )
    missing = [part for part in parts if part not in arguments.values()]
    if missing and not takes_rest and not own:
        raise ConfigurationError(f"{where} does not take {missing[0]!r} of its address: write ({_example(parts, key)})")
    rest = [(part, part) for part in missing] if takes_rest else []
    return Call(inspect.unwrap(function) if own else None, (*arguments.items(), *rest))


def _example(parts: Collection[str], key: str | None) -> str:
    return ", ".join(["self", "request", *(part for part in parts if part != key), *([key] if key else [])])
