"""Who may ``?expand=`` what: a visible relation is shown to callers who may read the rows of its target.

Where the scope of the target's viewset is data, the rows are those of the scope: the statement has its conditions. Where
Python has a say about them, only their own address shows them. The relations that a viewset's own options name are its
author's decision: they are not checked, or with the option ``scoped`` they are within the scopes of their rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from rowcast.errors import (
    AuthenticationFailed,
    ConfigurationError,
    NotAuthenticated,
    NotFound,
    ParseError,
    PermissionDenied,
    did_you_mean,
)
from rowcast.identity.permissions import checks_objects
from rowcast.orm.model import Model, query_for
from rowcast.query.conditions import Condition, Query
from rowcast.query.projection import Projection
from rowcast.resources.resource import Relation
from rowcast.rest.expansion_budget import adds_lists
from rowcast.rest.plan import ModelPlan, Service, new_view, policy_instances
from rowcast.rest.protocols import ModelView
from rowcast.rest.rendering import current_serializer, read_projection, requested_projection
from rowcast.rest.request import Request, names_in
from rowcast.rest.scope import caller_scope
from rowcast.rest.serializers import Serializer

EXPAND_MAX_PATHS: Final = 32
EXPAND_MAX_DEPTH: Final = 8  # relations in one path


def expand_paths(text: str) -> tuple[str, ...]:
    """The relations that ``?expand=`` names; ``ParseError`` for too many."""
    paths = tuple(dict.fromkeys(names_in(text)))
    if len(paths) > EXPAND_MAX_PATHS or any(path.count("__") >= EXPAND_MAX_DEPTH for path in paths):
        raise ParseError(
            f"expand: at most {EXPAND_MAX_PATHS} paths of {EXPAND_MAX_DEPTH} relations.", code="invalid_parameter"
        )
    return paths


def visible_relations(service: Service, resource: str, readable: Collection[str]) -> dict[str, Relation]:
    """The relations of a resource that clients may know of, by name, where a row is shown with the ``readable`` fields.

    A relation is visible where its column is shown: at the row with the foreign key or links, or at the target, for the
    relation back.
    """
    own = service.resources[resource].fields
    return {
        name: relation
        for name, relation in service.resources.relations(resource).items()
        if not relation.field.write_only
        and (
            _field_name(relation) in readable
            if own.get(name) is relation.field
            else relation.target in service.plans
            and _field_name(relation) in service.plans[relation.target].serializer.readable
        )
    }


def expandable_relations(plan: ModelPlan, readable: Collection[str]) -> dict[str, Relation]:
    """The relations of a viewset's rows with which a path in ``?expand=`` may begin, whoever may read their targets."""
    listed = plan.attribute("expandable")
    if listed is None:
        return visible_relations(plan.service, plan.resource.name, readable)
    names = {path.partition("__")[0] for path in listed}
    return {name: each for name, each in plan.service.resources.relations(plan.resource.name).items() if name in names}


def _field_name(relation: Relation) -> str:
    """The name under which rows show the keys of a relation: the column, or the many_to_many field."""
    return relation.field.name if relation.link is not None else relation.column


def targets(plan: ModelPlan, shown: Projection, readable: frozenset[str], text: str) -> Sequence[tuple[ModelPlan, str]]:
    """The viewsets whose rows ``?expand=`` adds to what is shown anyway, each with a path that leads to it.

    ``ParseError`` for a relation that does not exist or is not visible, for a way back, and for a path to rows whose
    visibility differs by caller or row: only their own address shows those.
    """
    found: dict[ModelPlan, str] = {}
    for path in expand_paths(text):
        for relation in _added_relations(plan, shown, readable, path):
            if relation.target not in plan.service.plans:
                raise _forbidden(relation.target, path)
            found.setdefault(plan.service.plans[relation.target], path)
    for target, path in found.items():
        if target.expandable_via is None:
            raise _forbidden(target.resource.name, path)
    return tuple(found.items())


def _added_relations(plan: ModelPlan, shown: Projection, readable: frozenset[str], path: str) -> Iterator[Relation]:
    """The relations that a path follows and that are not shown anyway. ``ParseError`` for one that may not be followed.

    What the viewset's ``expandable`` lists is its author's decision, like ``select_related``.
    """
    service, listed = plan.service, plan.attribute("expandable")
    if listed is not None and not any(each == path or each.startswith(f"{path}__") for each in listed):
        hint = did_you_mean(path, listed) if listed else "nothing can be expanded here"
        raise ParseError(f"expand: {path[:100]!r} cannot be expanded; {hint}", code="invalid_parameter")
    resource, already = plan.resource.name, dict(shown.related)
    taken: set[tuple[int, bool]] = set()
    for name in path.split("__"):
        relations = service.resources.relations(resource)
        if name in already or listed is not None:
            valid: Mapping[str, Relation] = relations
        elif not taken:
            valid = visible_relations(service, resource, readable)
        else:
            valid = expandable_relations(service.plans[resource], service.plans[resource].serializer.readable)
        if name not in valid:
            hint = did_you_mean(name, sorted(valid))
            raise ParseError(f"expand: {resource} has no relation {name[:50]!r}; {hint}", code="invalid_parameter")
        relation = valid[name]
        forwards = service.resources[resource].fields.get(name) is relation.field
        if listed is None and (id(relation.field), not forwards) in taken:
            message = f"{name!r} leads back over the relation that the path came by."
            raise ParseError(f"expand: {path}: {message}", code="invalid_parameter")
        taken.add((id(relation.field), forwards))
        if name not in already:
            yield relation
        already = dict(already[name].related) if name in already else {}
        resource = relation.target


async def check_expansions(view: ModelView) -> None:
    """Refuse an ``?expand=`` to rows that their own viewset would not show this caller."""
    plan, request = view.view_plan, view.request
    if text := request.query_params.get("expand"):
        serializer = current_serializer(view)
        shown = plan.default_projection(serializer)
        scopes = await scopes_of_related(view) if plan.scoped else {}
        for target, path in plan.expansion_targets(plan, shown, serializer.readable, text):
            conditions = await _check_may_read(target, plan, request, path)
            if target.declared_scope is not None:
                if plan.finds_objects or plan.overrides(view.action):
                    raise _forbidden(target.resource.name, path)  # the rows would be read by Python
                scopes[target.resource.name] = conditions
        view.expansion_scopes = scopes


async def scopes_of_related(view: ModelView) -> dict[str, tuple[Condition, ...]]:
    """The conditions of the caller's scopes on the rows that a viewset with the option ``scoped`` always shows."""
    scopes = {}
    for target in _shown_plans(view.view_plan):
        if target.declared_scope is not None:
            other = new_view(target, action="retrieve", detail=True, request=view.request)
            scopes[target.resource.name] = (await caller_scope(other)).conditions
    return scopes


def check_scoped(plan: ModelPlan) -> None:
    """``ConfigurationError`` if a viewset has the option ``scoped`` and its statements cannot have the scopes."""
    if not plan.scoped:
        return
    by_python = plan.shows_by_python or plan.finds_objects or not plan.serializer.plain or not plan.answers_plainly()
    if by_python or not plan.shared_serializer(plan.attribute("list_serializer_class") or type(plan.serializer)).plain:
        raise ConfigurationError(
            f"scoped: Python makes the rows of {plan.resource.name} (by a serializer, get_object() or get_serializer()), "
            "and shows what it reads. Leave scoped out, and choose the related rows there"
        )
    for target in _shown_plans(plan):
        if target.asks_about_objects or (target.unscoped_query is None and not target.scope_is_data):
            raise ConfigurationError(
                f"scoped: Python decides who may see which rows of {target.resource.name} (by get_queryset(), a queryset or "
                "object permissions), which no statement can. Give its viewset a scope instead"
            )
    links = [name for name, _ in plan.default_projection(plan.serializer).related if name in plan.resource.links]
    if links and plan.attribute("stream_enabled"):
        raise ConfigurationError(
            f"scoped: the stream would send the keys of all rows in {links[0]}. Set stream_enabled: false, or leave "
            f"{links[0]} out of prefetch_related"
        )


def _shown_plans(plan: ModelPlan) -> list[ModelPlan]:
    """The plans of the related rows that a viewset always shows."""
    related = plan.default_projection(plan.serializer).related
    names = frozenset().union(*(inner.resources for _, inner in related))
    return [each for name, each in plan.service.plans.items() if name in names]


def within_scopes(
    view: ModelView, query: Query, read: Projection, shown: Projection, default: Projection
) -> tuple[Query, Projection]:
    """A query and what is read of its rows, with the scopes of the rows that ``?expand=`` adds to the default.

    The relations of the viewset's options are bounded if it is ``scoped``. If not, ``read`` may have more of them than
    are ``shown``; a client who expands one of these gets a ``ParseError``, because Python would find no row where there
    is one.
    """
    if not view.expansion_scopes:
        return query, read
    plan, python = view.view_plan, None
    if plan.scoped:
        default = Projection(default.resource, default.columns)
    elif read is not shown:
        python = plan.python_projection(default, query.expand)
    bounds: list[Condition] = []
    read = _bounded(view.expansion_scopes, read, (shown, default, python), bounds)
    return replace(query, related=tuple(bounds)), read


def _bounded(
    scopes: Mapping[str, tuple[Condition, ...]],
    read: Projection,
    others: tuple[Projection | None, Projection | None, Projection | None],
    bounds: list[Condition],
) -> Projection:
    """The projection with a condition at each relation that is shown beyond the default; ``bounds`` gets these, in order.

    ``others`` are what is shown, the default, and what Python reads anyway, which is not to be bounded.
    """
    expanded, usual, python = (dict(each.related) if each is not None else {} for each in others)
    related = []
    for name, inner in read.related:
        bounded = _bounded(scopes, inner, (expanded.get(name), usual.get(name), python.get(name)), bounds)
        if name in expanded and name not in usual and (conditions := scopes.get(inner.resource)):
            if name in python:
                raise _forbidden(inner.resource, name)
            bounded = replace(bounded, where=("and", *(each.shape for each in conditions)))
            bounds += conditions
        related.append((name, bounded))
    return replace(read, related=tuple(related))


async def row_within_scopes(view: ModelView, row: Model, params: Mapping[str, str]) -> bytes:
    """The JSON of a stored row, with those related rows that are within the caller's scopes."""
    plan, serializer = view.view_plan, current_serializer(view)
    shown = requested_projection(plan, serializer, params)
    query, read = within_scopes(view, query_for(row), shown, shown, plan.default_projection(serializer))
    found = await plan.service.store.one(query, read)
    if found is None:
        raise NotFound()
    return found.body


async def _check_may_read(target: ModelPlan, asking: ModelPlan, request: Request, path: str) -> tuple[Condition, ...]:
    """The conditions of the caller's scope in the target's viewset; refuses a caller who may not read its rows."""
    view = new_view(target, action=target.expandable_via, detail=target.expandable_via == "retrieve", request=request)
    try:
        if not _same_authentication(target, asking):
            view.request = request = Request(request.http)
            await view.perform_authentication(request)
        if any(map(checks_objects, policy_instances(view.get_permissions()))):
            raise _forbidden(target.resource.name, path)
        await view.check_permissions(request)
        return (await caller_scope(view)).conditions
    except (NotAuthenticated, AuthenticationFailed, PermissionDenied) as error:
        error.detail = f"expand: {path}: {error.detail}"
        raise


def _same_authentication(one: ModelPlan, other: ModelPlan) -> bool:
    """Whether both viewsets recognise callers in the same way."""
    return one.authentication_classes == other.authentication_classes and all(
        getattr(one.viewset, name) == getattr(other.viewset, name)
        for name in ("get_authenticators", "perform_authentication")
    )


def _forbidden(resource: str, path: str) -> ParseError:
    return ParseError(
        f"expand: {path}: the rows of {resource} are shown at their own address only.",
        code="invalid_parameter",
    )


def reading(
    view: ModelView, serializer: Serializer, query: Query, shown: Projection, *, plain: bool
) -> tuple[Query, Projection, Projection | None]:
    """What is read of the rows of a query, and the query with the values of that; all within the scopes of related rows.

    The third is what is shown if ``?expand=`` adds lists to it, whose size has to be checked, and ``None`` otherwise.
    """
    plan, params = view.view_plan, view.request.query_params
    read = shown if plain else read_projection(plan, serializer, query, params)
    if "expand" not in params and not plan.scoped:
        return query, read, None
    default = plan.default_projection(serializer)
    bounded = within_scopes(view, query, shown, shown, default)[1]
    return *within_scopes(view, query, read, shown, default), bounded if adds_lists(plan, default, shown) else None
