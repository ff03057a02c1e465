"""The options of a viewset, as a table: type, default, and the checks against the resources.

The table serves YAML, class attributes and the JSON Schema, so an option means the same and fails with the same message
wherever it is set. ``VIEWSET_SECTION`` checks types; ``check`` checks names against the resources; ``normalize``
converts options to the form that the rest of the service reads.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

from marshmallow import ValidationError, fields

from rowcast.configuration import scope, value_types
from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.actions import ALLOWABLE_ACTIONS, DELETION_ACTIONS
from rowcast.resources.aggregates import FUNCTIONS, GROUP_BY, TRUNC, buckets_of, suits
from rowcast.resources.derived import derive, derived_names
from rowcast.resources.fields import Kind
from rowcast.resources.lookups import FILTER_NAMES, lookups_of, split_part
from rowcast.resources.resource import Path, Relation, Resources

SEARCH_PREFIXES: Final = "^=$@"
RESERVED_PARAMETERS: Final = (
    "page", "page_size", "limit", "offset", "cursor", "search", "ordering", "fields", "expand",
    "filter", "last_event_id", "access_token", "snapshot", "highlight",
)  # fmt: skip

Messages: TypeAlias = Iterator[tuple[Steps, str]]


@dataclass(frozen=True, slots=True)
class Context:
    """The names that options may refer to: all resources, the viewset's own, and the actions that its class adds."""

    resources: Resources
    resource: str
    actions: Collection[str] | None

    def path(self, path: str) -> Path:
        """Resolve a path. Raises ``ValueError`` if it is unknown or exposes a ``write_only`` field."""
        found = self.resources.resolve(self.resource, path)
        for declared in (*(step.field for step in found.steps), found.field):
            if declared.write_only:
                raise ValueError(f"{declared.name!r} is write_only, so it cannot be used here")
        return found

    def relations(self, path: str) -> tuple[Relation, ...]:
        """The relations that a path follows. Raises ``ValueError`` if one is unknown or ``write_only``."""
        return self.resources.steps(self.resource, path, readable=True)


@dataclass(frozen=True, slots=True)
class Option:
    """One option. ``check`` reports the problems of a value of its type, ``normalize`` converts it to the form in use."""

    value_type: fields.Field[Any]
    default: Any = None
    check: Callable[[Context, Any], Messages] = lambda _context, _value: iter(())
    normalize: Callable[[Context, Any], Any] = lambda _context, value: value


class _Filterset(value_types.MappingOf):
    """A list of paths, or a mapping from paths to lookups."""

    def __init__(self) -> None:
        super().__init__(value_types.ListOf(value_types.one_of(FILTER_NAMES), least=1))
        self.paths = value_types.ListOf(value_types.string(least=1))

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, Mapping):
            return super()._deserialize(value, attr, data, **kwargs)
        if not isinstance(value, str | list | tuple):
            raise ValidationError("must be a list of fields, or a mapping from fields to lookups")
        return self.paths.deserialize(value)

    def json_schema(self) -> value_types.JsonSchema:
        """A list or a mapping."""
        return {"anyOf": [value_types.describe(self.paths), super().json_schema()]}


def _check_filters(context: Context, value: Any) -> Messages:
    parameters: dict[str, str] = {}
    zoned = False
    for position, path in enumerate(value):
        steps: Steps = (path,) if isinstance(value, Mapping) else (position,)
        message = AboutKey if isinstance(value, Mapping) else str
        try:
            found = context.path(path)
        except ValueError as error:
            yield steps, message(error)
            continue
        plain = lookups_of(found.values.field_type.kind)
        for index, lookup in enumerate(value[path] if isinstance(value, Mapping) else ("exact",)):
            if lookup not in plain and lookup not in (valid := filters_of(found)):
                yield (*steps, index), f"{lookup!r} does not suit {path!r}; {did_you_mean(lookup, valid)}"
                continue
            parameter = path if lookup == "exact" else f"{path}__{lookup.removesuffix('__exact')}"
            zoned |= _is_zoned(found, lookup)
            if parameter in RESERVED_PARAMETERS:
                yield steps, message(f"{path!r} cannot be filtered by: the parameter ?{parameter}= has its own meaning")
            elif parameter in parameters:
                yield steps, message(f"{path!r} defines the parameter ?{parameter}= a second time")
            parameters[parameter] = path
    if zoned and "tz" in parameters:
        path = parameters["tz"]
        yield (path,), AboutKey(f"{path!r} cannot be filtered by beside parts of moments: ?tz= is their time zone")


def filters_of(path: Path) -> tuple[str, ...]:
    """What ``filterset_fields`` may open for a path: lookups, and parts of its values with lookups of these."""
    lookups = lookups_of(path.values.field_type.kind)
    parts = () if path.computed else derived_names(path.values)
    of_parts = {
        part: lookups_of(derived.field.field_type.kind) for part in parts if (derived := derive(path.values, part))
    }
    if not of_parts:
        return lookups
    return (*lookups, *(name for name in FILTER_NAMES if name not in lookups and _suits_part(of_parts, name)))


def _suits_part(of_parts: Mapping[str, Sequence[str]], name: str) -> bool:
    """Whether a part of a field's values has the lookup after it. ``of_parts`` are the lookups of each part."""
    part, _, lookup = name.partition("__")
    return (lookup or "exact") in of_parts.get(part, ())


def _is_zoned(path: Path, lookup: str) -> bool:
    """Whether a lookup is about values that depend on the time zone of a request."""
    derived = path.derived or derive(path.values, lookup.partition("__")[0])
    return derived is not None and derived.zoned


def _default_lookups(context: Context, value: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(value, Mapping):
        found: dict[str, tuple[str, ...]] = {}
        for path, lookups in value.items():
            valid_here = lookups_of(context.path(path).values.field_type.kind)
            for written in lookups:
                whole, lookup = (path, written) if written in valid_here else split_part(path, written)
                found[whole] = (*found.get(whole, ()), lookup)
        return found
    valid = {path: lookups_of(context.path(path).values.field_type.kind) for path in value}
    return {path: tuple(name for name in ("exact", "in") if name in valid[path]) for path in value}


def _check_search(context: Context, value: tuple[str, ...]) -> Messages:
    if value and context.resources[context.resource].search is not None:
        yield (), "contradicts 'search' of the resource, by which ?search= goes; leave one of them out"
    seen: set[str] = set()
    for position, written in enumerate(value):
        path = written[1:] if written[:1] in SEARCH_PREFIXES else written
        try:
            if context.path(path).values.field_type.kind is not Kind.TEXT:
                yield (position,), f"{path!r} cannot be searched: only string fields can"
        except ValueError as error:
            yield (position,), str(error)
        if path in seen:
            yield (position,), f"{path!r} is listed twice"
        seen.add(path)


def _check_ordering(context: Context, value: tuple[str, ...]) -> Messages:
    seen: set[str] = set()
    for position, written in enumerate(value):
        path = written.removeprefix("-")
        try:
            found = context.path(path)
            if found.many:
                yield (position,), f"{path!r} leads to many values, so rows cannot be ordered by it"
            elif not found.sorts:
                yield (position,), f"rows cannot be ordered by {path!r}, a part of a time; order by the time itself"
        except ValueError as error:
            yield (position,), str(error)
        if path in seen:
            yield (position,), f"{path!r} is listed twice"
        seen.add(path)


def _check_ordering_fields(context: Context, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        if path.startswith("-"):
            yield (position,), f"{path!r} must be without the hyphen: clients choose the direction"
    yield from _check_ordering(context, value)


def _check_select_related(context: Context, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        try:
            if many := [step.name for step in context.relations(path) if step.many]:
                yield (position,), f"{many[0]!r} leads to many rows; use prefetch_related for {path!r}"
        except ValueError as error:
            yield (position,), str(error)


def _check_prefetch_related(context: Context, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        try:
            if not any(step.many for step in context.relations(path)):
                yield (position,), f"{path!r} leads to one row; use select_related for it"
        except ValueError as error:
            yield (position,), str(error)


def _check_aggregates(context: Context, value: Mapping[str, tuple[str, ...]]) -> Messages:
    for function, paths in value.items():
        if function not in (GROUP_BY, *FUNCTIONS):
            yield (
                (function,),
                AboutKey(f"unknown function {function!r}; {did_you_mean(function, (GROUP_BY, *FUNCTIONS))}"),
            )
            continue
        for position, written in enumerate(paths):
            path, _, bucket = written.partition(TRUNC) if function == GROUP_BY else (written, "", "")
            try:
                found = context.path(path)
            except ValueError as error:
                yield (function, position), str(error)
                continue
            if found.many or found.values.parts:
                yield (function, position), f"{path!r} leads to many values, or to a key of several fields"
            elif found.computed:
                yield (function, position), f"{path!r} is computed from a field, and only fields can be aggregated"
            elif not suits(function, found.values):
                yield (function, position), f"{function} does not suit {path!r}, a {found.values.type} field"
            elif bucket and bucket not in buckets_of(found.values):
                hint = (
                    did_you_mean(bucket, buckets_of(found.values))
                    if buckets_of(found.values)
                    else "it has no buckets of time"
                )
                yield (function, position), f"{path!r} cannot be truncated to {bucket!r}; {hint}"


def _check_nested(context: Context, value: Mapping[str, Mapping[str, Any]]) -> Messages:
    relations = context.resources.relations(context.resource)
    valid = [name for name, each in relations.items() if each.many and each.link is None]
    for name, opened in value.items():
        if name not in relations:
            yield (
                (name,),
                AboutKey(f"{context.resource} has no relation back {name!r}; {did_you_mean(name, valid)}"),
            )
        elif name not in valid:
            yield (name,), AboutKey(f"{name!r} is not a relation back; {did_you_mean(name, valid)}")
        elif relations[name].field.write_only:
            yield (name,), AboutKey(f"{name!r} is write_only, so it cannot be used here")
        elif not (opened.get("create") or opened.get("update") or opened.get("delete") == "missing"):
            yield (name,), AboutKey(f"{name!r} opens nothing: set create, update, or delete: missing")


def _check_expandable(context: Context, value: tuple[str, ...]) -> Messages:
    for position, path in enumerate(value):
        try:
            context.relations(path)
        except ValueError as error:
            yield (position,), str(error)


def _check_actions(context: Context, value: tuple[str, ...]) -> Messages:
    if context.actions is None:
        return
    marks = context.resources[context.resource].soft_delete
    valid = [*ALLOWABLE_ACTIONS, *(DELETION_ACTIONS if marks is not None else ()), *context.actions]
    for position, name in enumerate(value):
        if name not in valid:
            yield (position,), f"unknown action {name!r}; {did_you_mean(name, valid)}"


def _check_lookup_field(context: Context, value: str) -> Messages:
    resource = context.resources[context.resource]
    unique = {name for name, each in resource.fields.items() if each.unique or each.primary_key}
    unique |= {names[0] for names in resource.unique if len(names) == 1}
    try:
        found = context.path(value)
    except ValueError as error:
        yield (), str(error)
        return
    if found.steps or found.field.name not in unique:
        yield (), f"{value!r} is not unique; {did_you_mean(value, sorted(unique))}"


def _names() -> value_types.ListOf:
    return value_types.ListOf(value_types.string(least=1))


def _classes() -> value_types.ListOf:
    return value_types.ListOf(value_types.class_name())


_VARIES_ON: Final = (
    r"user\.(?:id|is_staff|is_authenticated)|claims\.[^.\s]+(?:\.[^.\s]+)*|header:[A-Za-z0-9!#$%&'*+.^_`|~-]+"
)
_VARIES_ON_EXPECTED: Final = "user.id, user.is_staff, user.is_authenticated, claims.<name> or header:<name>"

_NESTED: Final = value_types.section(
    "NestedRelation",
    {
        "create": value_types.boolean(),
        "update": value_types.boolean(),
        "delete": value_types.one_of(("never", "missing")),
    },
)

_FUNCTION_NAMES: Final = "|".join((GROUP_BY, *FUNCTIONS))

VIEWSET_OPTIONS: Final[Mapping[str, Option]] = {
    "serializer_class": Option(value_types.class_name(null=True)),
    "list_serializer_class": Option(value_types.class_name(null=True)),
    "permission_classes": Option(value_types.ListOf(value_types.permission())),
    "authentication_classes": Option(_classes()),
    "throttle_classes": Option(_classes()),
    "throttle_scope": Option(value_types.string(least=1, null=True)),
    "filter_backends": Option(_classes()),
    "filterset_fields": Option(_Filterset(), {}, _check_filters, _default_lookups),
    "search_fields": Option(_names(), (), _check_search),
    "ordering_fields": Option(_names(), (), _check_ordering_fields),
    "ordering": Option(_names(), (), _check_ordering),
    "pagination_class": Option(value_types.class_name(null=True), "PageNumberPagination"),
    "page_size": Option(value_types.integer(1, 1_000_000), 20),
    "max_page_size": Option(value_types.integer(1, 1_000_000), 100),
    "cache": Option(value_types.one_of(("off", "counts", "responses")), "counts"),
    "count": Option(value_types.one_of(("exact", "estimated", "none")), "exact"),
    "select_related": Option(_names(), (), _check_select_related),
    "prefetch_related": Option(_names(), (), _check_prefetch_related),
    "aggregates": Option(value_types.MappingOf(_names(), names=_FUNCTION_NAMES), {}, _check_aggregates),
    "expandable": Option(_names(), None, _check_expandable),
    "allowed_actions": Option(_names(), None, _check_actions),
    "excluded_actions": Option(_names(), (), _check_actions),
    "lookup_field": Option(value_types.string(least=1, null=True), None, _check_lookup_field),
    "scope": Option(
        scope.Scope(), None, lambda context, value: scope.check_scope(context.resources, context.resource, value)
    ),
    "scope_unless": Option(value_types.permission(null=True), None),
    "scoped": Option(value_types.boolean(), False),
    "stream_enabled": Option(value_types.boolean(), True),
    "stream_varies_on": Option(value_types.ListOf(value_types.string(_VARIES_ON, _VARIES_ON_EXPECTED)), None),
    "strict_query": Option(value_types.boolean(), True),
    "require_if_match": Option(value_types.boolean(), False),
    "bulk": Option(value_types.ListOf(value_types.one_of(("update", "destroy"))), ()),
    "put_creates": Option(value_types.boolean(), False),
    "import": Option(value_types.boolean(), False),
    "nested": Option(value_types.MappingOf(value_types.Nested(_NESTED)), {}, _check_nested),
    "max_bulk": Option(value_types.integer(1, 100_000), 1000),
    "require_idempotency_key": Option(value_types.boolean(), False),
}
"""By name. A default of ``None`` stands for the service's own: all actions, the key, the classes of the settings."""

PLAIN_OPTIONS: Final = (
    "permission_classes", "authentication_classes", "throttle_classes", "throttle_scope", "require_idempotency_key",
)  # fmt: skip
"""Those of a ``ViewSet`` without rows."""

CLASS: Final = "class"  # a key in YAML that is not an option: the viewset class that the options configure


def is_checked_when_read(options: Mapping[str, Any]) -> bool:
    """Whether nothing is left to check once the viewset's class is imported: it is Rowcast's own."""
    return ":" not in options.get(CLASS, "")


@cache
def attribute_of(option: str) -> str:
    """The attribute of classes that sets an option: its name, after which words of Python have an underscore."""
    return f"{option}_" if keyword.iskeyword(option) else option


VIEWSET_SECTION: Final = value_types.section(
    "Viewset",
    {CLASS: value_types.class_name(), **{name: option.value_type for name, option in VIEWSET_OPTIONS.items()}},
)


def read(name: str, value: Any) -> Any:
    """The value of an option that a class sets, converted by its type. ``ValueError`` says what is wrong."""
    if value is None:
        return None
    try:
        return VIEWSET_OPTIONS[name].value_type.deserialize(list(value) if isinstance(value, tuple | set) else value)
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
    """The problems of options that were read: the path to each wrong value, and a message.

    ``actions`` are those that the viewset's class adds to the standard ones. ``None`` means that the class is not
    loaded yet, so that it may add actions and set other options.
    """
    context = Context(resources, resource, actions)
    for name, value in options.items():
        if name in VIEWSET_OPTIONS and value is not None:
            for path, message in VIEWSET_OPTIONS[name].check(context, value):
                yield (name, *path), message
    if options.get("allowed_actions") is not None and options.get("excluded_actions"):
        yield (
            ("excluded_actions",),
            AboutKey("excluded_actions and allowed_actions cannot both be set; use one of them"),
        )
    if actions is not None and options.get("bulk") and not any(map(options.get, _FILTERS)):
        yield ("bulk",), "opens changes by filter, and there is no filter: set filterset_fields"
    sizes = [options.get(name, None if actions is None else VIEWSET_OPTIONS[name].default) for name in _SIZES]
    if None not in sizes and sizes[0] > sizes[1]:
        wrong = next(name for name in _SIZES if name in options)
        yield (wrong,), f"page_size ({sizes[0]}) is larger than max_page_size ({sizes[1]})"


_FILTERS: Final = ("filterset_fields", "search_fields", "filter_backends")
_SIZES: Final = ("page_size", "max_page_size")


def normalize(resources: Resources, resource: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options in the form that the service reads. ``filterset_fields`` then maps each path to its lookups."""
    context = Context(resources, resource, None)
    return {
        name: VIEWSET_OPTIONS[name].normalize(context, value) if name in VIEWSET_OPTIONS else value
        for name, value in options.items()
    }
