"""What of a viewset's writes follows from its class, options and serializer; ``binding`` asks once, at start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rowcast.errors import ConfigurationError
from rowcast.resources.fields import Kind
from rowcast.resources.resource import Resource
from rowcast.resources.rules import UniqueRule
from rowcast.rest.plan import ModelPlan, NestedRelation, RestrictedKey, Service
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
        marks = target.resource.soft_delete
        if target.unscoped_query is not None and not target.asks_about_objects and not secured and marks is None:
            continue
        values = service.resources.resolve(resource.name, field.name).values
        many = field.field_type.kind is Kind.RELATIONS
        name = field.name if many else field.column_name
        found.append(RestrictedKey(name=name, path=field.name, values=values, many=many, target=target))
    return tuple(found)


def nested_relations(
    service: Service, resource: Resource, options: Mapping[str, Mapping[str, Any]]
) -> tuple[NestedRelation, ...]:
    """The relations of the option ``nested``. First called after every viewset is planned."""
    found = []
    for name, chosen in options.items():
        relation = service.resources.relations(resource.name)[name]
        opened = {each for each in ("create", "update") if chosen.get(each)}
        opened |= {"delete"} if chosen.get("delete") == "missing" else set()
        key = service.resources.key_of(relation.field)
        found.append(
            NestedRelation(
                name=name,
                path=relation.field.name,
                column=relation.column,
                key=key,
                target=service.plans[relation.target],
                opened=frozenset(opened),
            )
        )
    return tuple(found)


NESTED_ACTIONS: Final = {"create": "create", "update": "partial_update", "delete": "destroy"}
_AROUND_ACTIONS: Final = ("initial", "dispatch", "initialize_request", "finalize_response")


def check_nested(plan: ModelPlan) -> None:
    """``ConfigurationError`` if the rows of the option ``nested`` could not go through all that their viewset requires."""
    if not plan.nested_names:
        return
    where = f"{plan.viewset.__module__}.{plan.viewset.__name__}.nested"
    writing = [name for name in ("create", "update", "partial_update") if _has_action(plan, name)]
    if not writing:
        raise ConfigurationError(f"{where}: this viewset has no action that takes a body")
    if own := next((name for name in writing if name in plan.overridden), None):
        raise ConfigurationError(f"{where}: the class has a method {own!r} of its own: override perform_{_hook(own)}")
    for name in sorted(plan.nested_names & plan.serializer.fields.keys()):
        raise ConfigurationError(f"{where}.{name}: the serializer has a field of this name, which bodies would mean")
    for name in sorted(plan.nested_names):
        target = plan.service.resources.relations(plan.resource.name)[name].target
        if target not in plan.service.plans:
            raise ConfigurationError(f"{where}.{name}: {target} has no viewset that could write its rows")
    for relation in plan.nested():
        _check_children(plan, relation, f"{where}.{relation.name}")


def _check_children(plan: ModelPlan, relation: NestedRelation, where: str) -> None:
    target = relation.target
    of = f"the viewset of {target.resource.name}"
    for opened in sorted(relation.opened):
        action = NESTED_ACTIONS[opened]
        if not _has_action(target, action):
            raise ConfigurationError(f"{where}.{opened}: needs the action {action!r}, which {of} does not have")
        if action in target.overridden:
            hook = f"perform_{_hook(action)}"
            raise ConfigurationError(f"{where}.{opened}: {of} has a method {action!r} of its own: override {hook}")
    if own := next((name for name in _AROUND_ACTIONS if name in target.overridden), None):
        raise ConfigurationError(
            f"{where}: {of} has a method {own!r} of its own, which rows inside a body do not reach"
        )
    if target.require_if_match and relation.opened & {"update", "delete"}:
        raise ConfigurationError(f"{where}: {of} has require_if_match, and rows inside a body have no If-Match")
    if target.attribute("require_idempotency_key") and not plan.attribute("require_idempotency_key"):
        raise ConfigurationError(f"{where}: {of} has require_idempotency_key: set it in this viewset, too")


def _has_action(plan: ModelPlan, name: str) -> bool:
    allowed = {each: plan.attribute(each) for each in ("allowed_actions", "excluded_actions")}
    return hasattr(plan.viewset, name) and is_allowed(allowed, name)


def _hook(action: str) -> str:
    return "update" if action == "partial_update" else action


def is_allowed(options: Mapping[str, Any], action: str) -> bool:
    """Whether ``allowed_actions`` and ``excluded_actions`` leave an action."""
    allowed = options["allowed_actions"]
    return action not in options["excluded_actions"] and (allowed is None or action in allowed)


def may_delete(options: Mapping[str, Any], action: str, base: str) -> bool:
    """The same for an action with deleted rows, which comes with the standard action ``base``."""
    allowed = options["allowed_actions"]
    return action not in options["excluded_actions"] and (allowed is None or action in allowed or base in allowed)
