"""The options of a viewset, as a table of facts: form, default, and what the value must refer to.

The same table serves YAML, class attributes and the JSON Schema, so an option means the same and fails with the same
words wherever it is set. ``STRUCTURE`` checks forms; ``check`` checks meaning against the resources; ``normal`` gives
the form that the rest of the service reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from marshmallow import ValidationError, fields

from rowcast.configuration import value_types
from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.fields import Kind
from rowcast.resources.lookups import LOOKUP_NAMES, lookups_of
from rowcast.resources.resource import Path, Relation, Resources

ACTIONS: Final = ("list", "create", "retrieve", "update", "partial_update", "destroy", "stream")
SEARCH_PREFIXES: Final = "^=$@"
RESERVED_PARAMETERS: Final = (
    "page", "page_size", "limit", "offset", "cursor", "search", "ordering", "fields", "expand",
    "last_event_id", "access_token", "snapshot",
)  # fmt: skip

Messages: TypeAlias = Iterator[tuple[Steps, str]]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an option's value may refer to: the resources, the viewset's own, and the actions that its class adds."""

    resources: Resources
    resource: str
    actions: Collection[str] | None

    def path(self, path: str) -> Path:
        """Where a path leads; ``ValueError`` also for one that would tell a ``write_only`` field."""
        found = self.resources.resolve(self.resource, path)
        for declared in (*(step.field for step in found.steps), found.field):
            if declared.write_only:
                raise ValueError(f"{declared.name!r} is write_only, so it cannot be asked for")
        return found

    def relations(self, path: str) -> list[Relation]:
        """The relations that a path names; ``ValueError`` where a part is none."""
        here, steps = self.resource, []
        for part in path.split("__"):
            known = self.resources.relations(here)
            if part not in known:
                shown = [name for name, relation in known.items() if not relation.field.write_only]
                raise ValueError(f"{here} has no relation {part!r}; {did_you_mean(part, shown)}")
            if known[part].field.write_only:
                raise ValueError(f"{part!r} is write_only, so it cannot be shown")
            steps.append(known[part])
            here = known[part].target
        return steps


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``check`` tells what is wrong with a value of its form, ``normal`` gives the form that is used."""

    form: fields.Field[Any]
    default: Any = None
    check: Callable[[Scope, Any], Messages] = lambda _scope, _value: iter(())
    normal: Callable[[Scope, Any], Any] = lambda _scope, value: value


class _Filterset(value_types.Table):
    """A list of paths, or a mapping from paths to lookups."""

    def __init__(self) -> None:
        super().__init__(value_types.Many(value_types.one_of(LOOKUP_NAMES), least=1))
        self.paths = value_types.Many(value_types.text(least=1))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, Mapping):
            return super()._deserialize(value, attr, data, **kwargs)
        if not isinstance(value, str | list | tuple):
            raise ValidationError("must be a list of fields, or a mapping from fields to lookups")
        return self.paths.deserialize(value)

    def json_schema(self) -> value_types.JsonSchema:
        """Either form."""
        return {"anyOf": [value_types.describe(self.paths), super().json_schema()]}


def _filters(scope: Scope, value: Any) -> Messages:
    parameters: dict[str, str] = {}
    for position, path in enumerate(value):
        steps: Steps = (path,) if isinstance(value, Mapping) else (position,)
        told = AboutKey if isinstance(value, Mapping) else str
        try:
            valid = lookups_of(scope.path(path).values.field_type.kind)
        except ValueError as error:
            yield steps, told(error)
            continue
        for index, lookup in enumerate(value[path] if isinstance(value, Mapping) else ("exact",)):
            if lookup not in valid:
                yield (*steps, index), f"{lookup!r} does not suit {path!r}; {did_you_mean(lookup, valid)}"
            parameter = path if lookup == "exact" else f"{path}__{lookup}"
            if parameter in RESERVED_PARAMETERS:
                yield steps, told(f"{path!r} cannot be filtered by: the parameter ?{parameter}= has its own meaning")
            elif parameter in parameters:
                yield steps, told(f"{path!r} gives the parameter ?{parameter}= a second time")
            parameters[parameter] = path


def _lookups(scope: Scope, value: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(value, Mapping):
        return dict(value)
    valid = {path: lookups_of(scope.path(path).values.field_type.kind) for path in value}
    return {path: tuple(name for name in ("exact", "in") if name in valid[path]) for path in value}


def _searches(scope: Scope, value: tuple[str, ...]) -> Messages:
    seen: set[str] = set()
    for position, written in enumerate(value):
        path = written[1:] if written[:1] in SEARCH_PREFIXES else written
        try:
            if scope.path(path).values.field_type.kind is not Kind.TEXT:
                yield (position,), f"{path!r} cannot be searched: only text can"
        except ValueError as error:
            yield (position,), str(error)
        if path in seen:
            yield (position,), f"{path!r} is listed twice"
        seen.add(path)


def _orders(scope: Scope, value: tuple[str, ...]) -> Messages:
    seen: set[str] = set()
    for position, written in enumerate(value):
        path = written.removeprefix("-")
        try:
            if scope.path(path).many:
                yield (position,), f"{path!r} leads to many values, so rows cannot be ordered by it"
        except ValueError as error:
            yield (position,), str(error)
        if path in seen:
            yield (position,), f"{path!r} is listed twice"
        seen.add(path)


def _order_fields(scope: Scope, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        if path.startswith("-"):
            yield (position,), f"{path!r} stands without the hyphen here: clients choose the direction"
    yield from _orders(scope, value)


def _to_one(scope: Scope, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        try:
            if many := [step.name for step in scope.relations(path) if step.many]:
                yield (position,), f"{many[0]!r} leads to many rows; use prefetch_related for {path!r}"
        except ValueError as error:
            yield (position,), str(error)


def _to_many(scope: Scope, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        try:
            if not any(step.many for step in scope.relations(path)):
                yield (position,), f"{path!r} leads to one row; use select_related for it"
        except ValueError as error:
            yield (position,), str(error)


def _action_names(scope: Scope, value: tuple[str, ...]) -> Messages:
    if scope.actions is None:
        return
    valid = [*ACTIONS, *scope.actions]
    for position, name in enumerate(value):
        if name not in valid:
            yield (position,), f"unknown action {name!r}; {did_you_mean(name, valid)}"


def _unique_column(scope: Scope, value: str) -> Messages:
    resource = scope.resources[scope.resource]
    unique = {name for name, each in resource.fields.items() if each.unique or each.primary_key}
    unique |= {names[0] for names in resource.unique if len(names) == 1}
    try:
        found = scope.path(value)
    except ValueError as error:
        yield (), str(error)
        return
    if found.steps or found.field.name not in unique:
        yield (), f"{value!r} does not tell rows apart; {did_you_mean(value, sorted(unique))}"


def _names() -> value_types.Many:
    return value_types.Many(value_types.text(least=1))


def _classes() -> value_types.Many:
    return value_types.Many(value_types.class_name())


OPTIONS: Final[Mapping[str, Option]] = {
    "serializer_class": Option(value_types.class_name(null=True)),
    "list_serializer_class": Option(value_types.class_name(null=True)),
    "permission_classes": Option(value_types.Many(value_types.permission())),
    "authentication_classes": Option(_classes()),
    "throttle_classes": Option(_classes()),
    "throttle_scope": Option(value_types.text(least=1, null=True)),
    "filter_backends": Option(_classes()),
    "filterset_fields": Option(_Filterset(), {}, _filters, _lookups),
    "search_fields": Option(_names(), (), _searches),
    "ordering_fields": Option(_names(), (), _order_fields),
    "ordering": Option(_names(), (), _orders),
    "pagination_class": Option(value_types.class_name(null=True), "PageNumberPagination"),
    "page_size": Option(value_types.integer(1, 1_000_000), 20),
    "max_page_size": Option(value_types.integer(1, 1_000_000), 100),
    "cache": Option(value_types.one_of(("off", "counts", "responses")), "counts"),
    "count": Option(value_types.one_of(("exact", "estimated", "none")), "exact"),
    "select_related": Option(_names(), (), _to_one),
    "prefetch_related": Option(_names(), (), _to_many),
    "allowed_actions": Option(_names(), None, _action_names),
    "excluded_actions": Option(_names(), (), _action_names),
    "lookup_field": Option(value_types.text(least=1, null=True), None, _unique_column),
    "stream_enabled": Option(value_types.flag(), True),
    "strict_query": Option(value_types.flag(), True),
    "require_if_match": Option(value_types.flag(), False),
}
"""Option → facts. A default of ``None`` is the service's own: all actions, the key, the settings' classes."""

CLASS: Final = "class"  # in YAML, besides the options: the viewset class that they configure

STRUCTURE: Final = value_types.structure(
    "Viewset", {CLASS: value_types.class_name(), **{name: option.form for name, option in OPTIONS.items()}}
)


def read(name: str, value: Any) -> Any:
    """The value of an option that a class sets, in the form that ``check`` takes; ``ValueError`` says what is wrong."""
    if value is None:
        return None
    try:
        return OPTIONS[name].form.deserialize(list(value) if isinstance(value, tuple | set) else value)
    except ValidationError as error:
        raise ValueError("; ".join(_sentences(error.messages))) from None


def _sentences(messages: Any) -> Iterator[str]:
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from (f"{key}: {sentence}" for sentence in _sentences(inner))
    elif isinstance(messages, list):
        for inner in messages:
            yield from _sentences(inner)
    else:
        yield str(messages)


def check(
    resources: Resources, resource: str, options: Mapping[str, Any], actions: Collection[str] | None = ()
) -> Messages:
    """What is wrong with options that have their forms: the path to each wrong value, and a sentence about it.

    ``actions`` are those that the viewset's class adds to the standard ones; ``None`` means that the class, and so
    what it sets beside these options, is not known yet.
    """
    scope = Scope(resources, resource, actions)
    for name, value in options.items():
        if name in OPTIONS and value is not None:
            for path, message in OPTIONS[name].check(scope, value):
                yield (name, *path), message
    if options.get("allowed_actions") is not None and options.get("excluded_actions"):
        yield ("excluded_actions",), AboutKey("excluded_actions cannot be set beside allowed_actions; use one of them")
    sizes = [options.get(name, None if actions is None else OPTIONS[name].default) for name in _SIZES]
    if None not in sizes and sizes[0] > sizes[1]:
        wrong = next(name for name in _SIZES if name in options)
        yield (wrong,), f"page_size ({sizes[0]}) is larger than max_page_size ({sizes[1]})"


_SIZES: Final = ("page_size", "max_page_size")


def normal(resources: Resources, resource: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options in the form that the service reads: ``filterset_fields`` maps each path to its lookups."""
    scope = Scope(resources, resource, None)
    return {name: OPTIONS[name].normal(scope, value) if name in OPTIONS else value for name, value in options.items()}
