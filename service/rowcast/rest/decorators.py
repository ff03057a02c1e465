"""``@action``: a method of a viewset as a route of its own.

An error in a definition is raised when the class is defined, and shows the correct form.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, ValuesView
from functools import update_wrapper
from http import HTTPMethod
from types import FunctionType
from typing import Any, Final, TypeVar

from rowcast.errors import ConfigurationError, did_you_mean

NOT_DECLARED: Final[Any] = object()  # instead of the type of an action's response
VERBS: Final = ("get", "post", "put", "patch", "delete", "head", "options", "trace")
Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


class MethodMapper:
    """The handler of each HTTP method of an action, by name: ``function.mapping``.

    It reads as a mapping, ``{"put": "done", "delete": "undo"}``, but is not a dictionary, because the attribute ``get`` is
    the decorator for GET: ``@done.mapping.get``, ``@done.mapping.delete`` and so on add handlers.
    """

    def __init__(self, name: str, handlers: dict[str, str]) -> None:
        self.name = name
        self._handlers = handlers

    def __getitem__(self, verb: str) -> str:
        return self._handlers[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)

    def keys(self) -> KeysView[str]:
        """The HTTP methods in lower case."""
        return self._handlers.keys()

    def values(self) -> ValuesView[str]:
        """The names of the handlers."""
        return self._handlers.values()

    def items(self) -> ItemsView[str, str]:
        """The HTTP methods in lower case, each with the name of its handler."""
        return self._handlers.items()

    def __getattr__(self, verb: str) -> Callable[[F], F]:
        if verb not in VERBS:
            raise AttributeError(f"{verb!r} is not an HTTP method; {did_you_mean(verb, VERBS)}")

        def mark(function: F) -> F:
            if function.__name__ == self.name:
                raise ConfigurationError(
                    f"{self.name!r} is the name of the action itself: give the method for {verb.upper()} another name, "
                    f"such as {verb}_{self.name}"
                )
            vars(function)["maps"] = (self.name, verb)  # ``collect`` adds it to the class that it is defined in
            return function

        return mark

    def add(self, verb: str, name: str) -> None:
        """Map an HTTP method to a handler; ``ConfigurationError`` if it has one."""
        if verb in self._handlers:
            raise ConfigurationError(
                f"{verb.upper()} of action {self.name!r} is mapped to {self[verb]!r} already, and again to {name!r}: "
                "leave one of them out"
            )
        self._handlers[verb] = name

    def copy(self) -> MethodMapper:
        """The same handlers, to which others can be added."""
        return MethodMapper(self.name, dict(self._handlers))


def collect(cls: type) -> None:
    """Add the handlers that a class maps in its own body to its actions; the actions of its parents are unchanged."""
    for name, member in list(vars(cls).items()):
        if "maps" not in getattr(member, "__dict__", {}):
            continue
        target, verb = member.maps
        function: Any = getattr(cls, target, None)
        if not is_action(function):
            raise ConfigurationError(
                f"{name!r} maps {verb.upper()} of {target!r}, which is not an action of {cls.__name__}"
            )
        if target not in vars(cls):
            function = _copy_of(function)
            setattr(cls, target, function)
        function.mapping.add(verb, name)


def _copy_of(function: Any) -> Any:
    """The function of an inherited action, for a subclass to map further methods."""
    copied: Any = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    update_wrapper(copied, function)
    vars(copied).pop("__wrapped__", None)
    copied.mapping = function.mapping.copy()
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def action(
    detail: bool | None = None,
    methods: Iterable[str | HTTPMethod] | None = None,
    url_path: str | None = None,
    url_name: str | None = None,
    response: Any = NOT_DECLARED,
    **kwargs: Any,
) -> Callable[[F], F]:
    """Make a method of a viewset an action with an address of its own (Django REST framework, "Routing extra actions").

    Args:
        detail: Whether the action is about one row (``/tasks/{id}/<url_path>/``) or about all of them
            (``/tasks/<url_path>/``). Required.
        methods: The HTTP methods of the action; GET by default.
        url_path: The last part of the address; the method's name by default. It may contain aiohttp's ``{name}`` and
            ``{name:regex}``, Django's ``<int:name>``, or a regular expression's ``(?P<name>…)``.
        url_name: The last part of the route's name; by default the method's name with hyphens.
        response: What the action returns, for the OpenAPI document: a serializer, a model, a type such as ``list[Task]``, a
            ``TypedDict`` or a dataclass; ``None`` for a 204; or a dictionary of these by status. By default the
            annotation of the function says it. What the action sends is not compared with it.
        **kwargs: Attributes of the viewset while the action runs, such as ``permission_classes`` or ``name``.
            ``request_serializer`` is the serializer of bodies (``get_serializer(data=…)``, ``validate_data``), and
            ``response_serializer`` that of the rows that the action returns; both are in the OpenAPI document.

    Raises:
        ConfigurationError: An argument is missing, or two of them contradict each other.
    """
    if callable(detail):
        raise ConfigurationError("write @action(detail=True) or @action(detail=False), with parentheses")
    if isinstance(methods, str):
        raise ConfigurationError(f"methods must be a list: write methods=[{str(methods)!r}]")
    verbs = ["get"] if methods is None else [str(method).lower() for method in methods]
    for verb in verbs:
        if verb not in VERBS:
            raise ConfigurationError(f"{verb!r} is not an HTTP method; {did_you_mean(verb, VERBS)}")
    if not verbs or len(set(verbs)) < len(verbs):
        raise ConfigurationError("methods must contain at least one HTTP method, and each only once")
    if detail is None:
        raise ConfigurationError("@action needs detail=True (about one row) or detail=False (about all rows)")
    if "name" in kwargs and "suffix" in kwargs:
        raise ConfigurationError("an action has either a name or a suffix, not both: leave one out")

    def decorate(function: F) -> F:
        made: Any = function
        made.mapping = MethodMapper(function.__name__, dict.fromkeys(verbs, function.__name__))
        made.detail = detail
        made.response = response
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
