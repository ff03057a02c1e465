"""Deleted rows of a resource with ``soft_delete``: who may see them, restore them, and delete rows for good.

Such a row is outside the scope of every viewset. ``?deleted=`` of a read, ``?hard=true`` of a DELETE and ``/restore/`` are
carried out with another plan of the same viewset, whose scope has deleted rows and whose permissions are those of the option
as well. No other request does anything for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from rowcast.errors import ConfigurationError, Conflict, ParseError, did_you_mean
from rowcast.identity.permissions import allowed, checks_objects, refusing_part
from rowcast.query.conditions import Query, total_order, without_deleted
from rowcast.query.pages import PageShape
from rowcast.query.projection import Projection
from rowcast.resources.actions import LIST_DELETED, PURGE, RESTORE
from rowcast.resources.resource import Resource
from rowcast.resources.types import make_field
from rowcast.rest.introspection import is_ours, owner_of
from rowcast.rest.plan import ModelPlan, policy_instances
from rowcast.rest.protocols import ModelView
from rowcast.rest.request import Request
from rowcast.rest.scope import object_query
from rowcast.rest.write_rules import may_delete

DELETED: Final = "deleted"
HARD: Final = "hard"
SHOWN: Final = ("with", "only")  # the values of ?deleted=
_HARD: Final = make_field(HARD, "boolean")
_PARAMETERS: Final = (("list", DELETED, LIST_DELETED), ("retrieve", DELETED, LIST_DELETED), ("destroy", HARD, PURGE))


class Asked(NamedTuple):
    """What a request does with deleted rows: the action that it is, and the rows that it is about (``with``, ``only``)."""

    action: str
    shown: str


def asked(plan: ModelPlan, action: str, params: Mapping[str, str]) -> Asked | None:
    """What a request does with deleted rows; ``None`` for one that leaves them out. ``ParseError`` for another value."""
    if action == RESTORE:
        return Asked(RESTORE, "only")
    allowed = plan.allowed_parameters.get(action, ())
    if DELETED in params and DELETED in allowed:
        if params[DELETED] not in SHOWN:
            raise ParseError(f"{DELETED}: {did_you_mean(params[DELETED][:50], SHOWN)}", code="invalid_parameter")
        return Asked(LIST_DELETED, params[DELETED])
    if HARD in params and HARD in allowed:
        try:
            hard = _HARD.field_type.parse(_HARD, params[HARD])
        except ValueError as error:
            raise ParseError(f"{HARD}: {error}", code="invalid_parameter") from None
        return Asked(PURGE, "with") if hard else None
    return None


def plan_with_deleted(plan: ModelPlan, shown: str) -> ModelPlan:
    """The plan of the same viewset at the same address, for deleted rows as well or for these alone, made once.

    Answers of it are not kept in memory.
    """
    made = plan.service.deletion_plans
    if (plan, shown) not in made:
        made[plan, shown] = _made_with_deleted(plan, shown)
    return made[plan, shown]


def _made_with_deleted(plan: ModelPlan, shown: str) -> ModelPlan:
    live = without_deleted(plan.resource, shown)
    classes = plan.service.deletion_permissions[plan.resource.name]
    own = policy_instances(classes)
    return replace(
        plan,
        deleted=shown,
        live=live,
        unscoped_query=None if plan.unscoped_query is None else Query(plan.resource.name, live),
        cache="off",
        public_and_cacheable=False,
        permission_classes=(*plan.permission_classes, *classes),
        permissions=policy_instances((*plan.permissions, *own)),
        deletion_permissions=own,
        asks_about_objects=plan.asks_about_objects or any(map(checks_objects, own)),
    )


async def admit(view: Any, request: Request, about: Asked) -> None:
    """Let a viewset go on with the plan for deleted rows; raises ``PermissionDenied`` or ``NotAuthenticated`` unless its caller may."""
    plan = view.view_plan = plan_with_deleted(view.view_plan, about.shown)
    view.permission_classes = plan.permission_classes
    action, view.action = view.action, about.action
    try:
        await view.check_permissions(request)
        if plan.overrides("get_permissions", "check_permissions"):
            for permission in plan.deletion_permissions:
                if not await allowed(permission.has_permission(request, view)):
                    view.permission_denied(request, await refusing_part(permission, request, view))
    finally:
        view.action = action


def offered(plan: ModelPlan, action: str) -> Iterator[tuple[str | None, Asked]]:
    """What requests of an action may do with deleted rows, and the parameters that say so; ``None`` for the action itself."""
    if action == RESTORE:
        yield None, Asked(RESTORE, "only")
    for of, parameter, own in _PARAMETERS:
        if of == action and parameter in plan.allowed_parameters.get(action, ()):
            yield parameter, Asked(own, "with")


def plan_without(plan: ModelPlan, parameters: Iterable[str]) -> ModelPlan:
    """The same plan as a caller sees it who may not use these parameters, made once."""
    left_out = frozenset(parameters)
    made, key = plan.service.deletion_plans, (plan, f"without {' '.join(sorted(left_out))}")
    if key not in made:
        allowed_parameters = {action: names - left_out for action, names in plan.allowed_parameters.items()}
        made[key] = replace(plan, allowed_parameters=allowed_parameters)
    return made[key]


async def check_single(view: ModelView) -> None:
    """``Conflict`` if the address names several rows: a value of ``lookup_field`` is unique among rows that are not deleted."""
    plan = view.view_plan
    if plan.lookup_field is None or plan.lookup_url_kwarg not in view.kwargs:
        return
    page = PageShape(Projection(plan.resource.name, ()), total_order(plan.resource, ()), count="none", limit=1)
    if (await plan.service.store.page(await object_query(view), page, ())).size > 1:
        raise Conflict(f"Several rows have this {plan.lookup_field}, and all or all but one of them are deleted.")


def with_parameters(
    cls: type, options: Mapping[str, Any], resource: Resource, allowed: dict[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """The query parameters of each action, and those for deleted rows; ``ConfigurationError`` if a filter has their name."""
    for action, parameter, own in _PARAMETERS if resource.soft_delete is not None else ():
        if not hasattr(cls, action) or not is_ours(owner_of(cls, action)):
            continue
        allowed.setdefault(action, frozenset())
        if not may_delete(options, own, action):
            continue
        if parameter in allowed["list"] and parameter in allowed["stream"]:
            raise ConfigurationError(
                f"filterset_fields: ?{parameter}= is a parameter of resources with soft_delete; filter by another lookup "
                "than exact"
            )
        allowed[action] |= {parameter}
    return allowed


def check_permissions_of_objects(plan: ModelPlan) -> None:
    """``ConfigurationError`` if permissions of ``soft_delete`` decide about single rows, and nobody would ask them."""
    classes = plan.service.deletion_permissions.get(plan.resource.name, ())
    if plan.resource.soft_delete is not None and plan.overrides("get_permissions", "check_object_permissions"):
        for each in policy_instances(classes):
            if checks_objects(each):
                raise ConfigurationError(
                    f"soft_delete.permission_classes: {type(each).__name__} decides about single rows, and the class has "
                    "get_permissions or check_object_permissions of its own: decide there, by the actions "
                    f"{LIST_DELETED}, {RESTORE} and {PURGE}"
                )


def restore_address(plan: ModelPlan) -> bool:
    """Whether a viewset has ``/restore/``: not if it is excluded, or if the user's class has an ``@action`` of this name."""
    method = getattr(plan.viewset, RESTORE, None)
    return (
        plan.resource.soft_delete is not None
        and method is not None
        and getattr(method, "mapping", None) is None
        and may_delete(
            {name: plan.attribute(name) for name in ("allowed_actions", "excluded_actions")}, RESTORE, "destroy"
        )
    )
