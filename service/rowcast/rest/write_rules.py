"""What of a viewset's writes follows from its class, options and serializer; ``binding`` asks once, at start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rowcast.errors import ConfigurationError
from rowcast.resources.fields import Kind
from rowcast.resources.resource import Resource
from rowcast.resources.rules import UniqueRule
from rowcast.rest.plan import RestrictedKey, Service
from rowcast.rest.serializers import Serializer

_SAVING_METHODS: Final = ("create", "update", "save")


def upserts(
    cls: type,
    options: Mapping[str, Any],
    resource: Resource,
    overridden: frozenset[str],
    serializer: Serializer,
) -> tuple[UniqueRule, ...]:
    """Each unique rule by which clients may insert or change rows: those over columns that a body may have."""
    if not all(hasattr(cls, name) and is_allowed(options, name) for name in ("create", "update")):
        return ()
    if not overridden.isdisjoint(("create", "update")):
        return ()
    writable = {field.attribute or name for name, field in serializer.load_fields.items()}
    return tuple(rule for rule in resource.unique_rules if writable.issuperset(rule.columns))


def may_create_by_put(cls: type, options: Mapping[str, Any], overridden: frozenset[str]) -> bool:
    """The option ``put_creates``; ``ConfigurationError`` if the class cannot do both of what it means."""
    if not options["put_creates"]:
        return False
    _require(cls, options, overridden, "put_creates", ("create", "update"))
    return True


def may_import(cls: type, options: Mapping[str, Any], overridden: frozenset[str]) -> bool:
    """The option ``import``; ``ConfigurationError`` if the class cannot do what it means."""
    if not options["import"]:
        return False
    _require(cls, options, overridden, "import", ("create",))
    return True


def _require(
    cls: type, options: Mapping[str, Any], overridden: frozenset[str], option: str, actions: Sequence[str]
) -> None:
    """``ConfigurationError`` unless a class has the actions that an option needs, and not methods of its own for them."""
    where = f"{cls.__module__}.{cls.__name__}.{option}"
    for name in actions:
        if not hasattr(cls, name) or not is_allowed(options, name):
            raise ConfigurationError(f"{where}: needs the action {name!r}, which this viewset does not have")
        if name in overridden:
            raise ConfigurationError(f"{where}: the class has a method {name!r} of its own: override perform_{name}")


def has_simple_writes(serializer: Serializer, overridden: frozenset[str], lookup_column: str | None) -> bool:
    hooks = ("perform_create", "perform_update", "get_serializer_class", "get_serializer", "get_serializer_context")
    own_saving = any(getattr(type(serializer), name) is not getattr(Serializer, name) for name in _SAVING_METHODS)
    shows_address = lookup_column is None or lookup_column in serializer.shown.columns
    settled = serializer.plain and not serializer.dynamic
    return settled and not own_saving and shows_address and overridden.isdisjoint(hooks)


def restricted_keys(service: Service, resource: Resource) -> tuple[RestrictedKey, ...]:
    """The relations whose keys are checked on write. First called after every viewset is planned."""
    found = []
    for field in resource.fields.values():
        target = service.plans.get(field.to or "")
        if target is None or field.any_key:
            continue
        secured = service.store.database.acts_as_callers and service.resources.traits_of(target.resource.name).policies
        if target.unscoped_query is not None and not target.asks_about_objects and not secured:
            continue
        values = service.resources.resolve(resource.name, field.name).values
        many = field.field_type.kind is Kind.RELATIONS
        name = field.name if many else field.column_name
        found.append(RestrictedKey(name=name, path=field.name, values=values, many=many, target=target))
    return tuple(found)


def is_allowed(options: Mapping[str, Any], action: str) -> bool:
    """Whether ``allowed_actions`` and ``excluded_actions`` leave an action."""
    allowed = options["allowed_actions"]
    return action not in options["excluded_actions"] and (allowed is None or action in allowed)
