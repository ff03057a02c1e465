"""``@action``: a method of a viewset as a route of its own.

What is wrong with a definition is said when the class is defined, with the way to write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import update_wrapper
from http import HTTPMethod
from types import FunctionType
from typing import Any, Final, TypeVar

from rowcast.errors import ConfigurationError, did_you_mean

VERBS: Final = ("get", "post", "put", "patch", "delete", "head", "options", "trace")
Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


class MethodMapper(dict[str, str]):
    """Which method's name answers each verb of an action; ``@name.mapping.delete`` adds one."""

    def __init__(self, name: str, verbs: Iterable[str] = ()) -> None:
        self.name = name
        super().__init__(dict.fromkeys(verbs, name))

    @property
    def get(self) -> Callable[[F], F]:  # type: ignore[override]  # the verb, not the dictionary's method
        return self.__getattr__("get")

    def __getattr__(self, verb: str) -> Callable[[F], F]:
        if verb not in VERBS:
            raise AttributeError(f"{verb!r} is no HTTP method; {did_you_mean(verb, VERBS)}")

        def mark(function: F) -> F:
            if function.__name__ == self.name:
                raise ConfigurationError(
                    f"{self.name!r} is the action's own name: give the method for {verb.upper()} another, "
                    f"such as {verb}_{self.name}"
                )
            vars(function)["maps"] = (self.name, verb)  # ``collect`` adds it to the class that it is defined in
            return function

        return mark

    def add(self, verb: str, name: str) -> None:
        """Let a method answer a verb; ``ConfigurationError`` if another does."""
        if verb in self:
            raise ConfigurationError(
                f"{verb.upper()} of action {self.name!r} is mapped to {self[verb]!r} already, and again to {name!r}: "
                "leave one of them out"
            )
        self[verb] = name


def collect(cls: type) -> None:
    """Give the actions of a class the verbs that its own body maps; those of its parents stay as they are."""
    for name, member in list(vars(cls).items()):
        if "maps" not in getattr(member, "__dict__", {}):
            continue
        target, verb = member.maps
        function: Any = getattr(cls, target, None)
        if not is_action(function):
            raise ConfigurationError(
                f"{name!r} maps {verb.upper()} of {target!r}, which is no action of {cls.__name__}"
            )
        if target not in vars(cls):
            function = _copied(function)
            setattr(cls, target, function)
        function.mapping.add(verb, name)


def _copied(function: Any) -> Any:
    """An action function for a subclass, with a mapping of its own."""
    copied: Any = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    update_wrapper(copied, function)
    mapping = MethodMapper(function.mapping.name)
    mapping.update(function.mapping)
    vars(copied)["mapping"] = mapping
    vars(copied).pop("__wrapped__", None)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def action(
    detail: bool | None = None,
    methods: Iterable[str | HTTPMethod] | None = None,
    url_path: str | None = None,
    url_name: str | None = None,
    **kwargs: Any,
) -> Callable[[F], F]:
    """Make a method of a viewset an action with an address of its own.

    ``detail`` says whether it is about one row (``/tasks/{id}/<url_path>/``) or all (``/tasks/<url_path>/``).
    ``methods`` are the verbs it answers (GET). ``url_path`` is the method's name unless given, and may hold aiohttp's
    ``{name}`` and ``{name:regex}`` or a regular expression's ``(?P<name>…)``; ``url_name`` is the name with hyphens.
    Every other argument is an attribute of the viewset while the action runs: ``permission_classes``, ``name``, …
    (Django REST framework, "Routing extra actions".)
    """
    if callable(detail):
        raise ConfigurationError("write @action(detail=…) with parentheses, and say whether it is about one row")
    if isinstance(methods, str):
        raise ConfigurationError(f"methods must be a list: write methods=[{str(methods)!r}]")
    verbs = ["get"] if methods is None else [str(method).lower() for method in methods]
    for verb in verbs:
        if verb not in VERBS:
            raise ConfigurationError(f"{verb!r} is no HTTP method; {did_you_mean(verb, VERBS)}")
    if not verbs or len(set(verbs)) < len(verbs):
        raise ConfigurationError("methods must name at least one verb, and none of them twice")
    if detail is None:
        raise ConfigurationError("@action needs detail=True (about one row) or detail=False (about all rows)")
    if "name" in kwargs and "suffix" in kwargs:
        raise ConfigurationError("an action has a name or a suffix, not both: leave one out")

    def decorate(function: F) -> F:
        made: Any = function
        made.mapping = MethodMapper(function.__name__, verbs)
        made.detail = detail
        made.url_path = url_path or function.__name__
        made.url_name = url_name or function.__name__.replace("_", "-")
        made.kwargs = dict(kwargs)
        if "name" not in kwargs and "suffix" not in kwargs:
            made.kwargs["name"] = function.__name__.replace("_", " ").title()
        made.kwargs.setdefault("description", function.__doc__)
        return function

    return decorate


def is_action(member: object) -> bool:
    """Whether a member of a class is an extra action."""
    return isinstance(getattr(member, "mapping", None), MethodMapper)
