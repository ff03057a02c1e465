"""Who may ``?expand=`` what: a relation is shown to callers who may read every row of its target.

The relations that a viewset's own options name are its author's decision, and are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rowcast.errors import AuthenticationFailed, NotAuthenticated, ParseError, PermissionDenied
from rowcast.identity.permissions import checks_objects
from rowcast.query.projection import Projection
from rowcast.rest.plan import ModelPlan, Service, new_view, policy_instances
from rowcast.rest.protocols import ModelView
from rowcast.rest.rendering import current_serializer
from rowcast.rest.request import Request, names_in

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


def targets(service: Service, shown: Projection, text: str) -> Sequence[tuple[ModelPlan, str]]:
    """The viewsets whose rows ``?expand=`` adds to what is shown anyway, each with a path that leads to it.

    ``ParseError`` for a path to rows whose visibility differs by caller or row: only their own address shows those.
    """
    found: dict[ModelPlan, str] = {}
    for path in expand_paths(text):
        resource, already = shown.resource, dict(shown.related)
        for step in path.split("__"):
            relation = service.resources.relations(resource).get(step)
            if relation is None:
                break  # the projection raises the error, with the nearest name
            resource = relation.target
            if step not in already:
                if resource not in service.plans:
                    raise _forbidden(resource, path)
                found.setdefault(service.plans[resource], path)
            already = dict(already[step].related) if step in already else {}
    for plan, path in found.items():
        if plan.expandable_via is None:
            raise _forbidden(plan.resource.name, path)
    return tuple(found.items())


async def check_expansions(view: ModelView) -> None:
    """Refuse an ``?expand=`` to rows that their own viewset would not show this caller."""
    plan, request = view.view_plan, view.request
    if "expand" not in plan.allowed_parameters.get(view.action, ()):
        return
    if text := request.query_params.get("expand"):
        shown = plan.default_projection(current_serializer(view))
        for target, path in plan.expansion_targets(shown, text):
            await _check_may_read(target, plan, request, path)


async def _check_may_read(target: ModelPlan, asking: ModelPlan, request: Request, path: str) -> None:
    """Refuse the request unless its caller may read every row of the target's viewset."""
    view = new_view(target, action=target.expandable_via, detail=target.expandable_via == "retrieve", request=request)
    try:
        if not _same_authentication(target, asking):
            view.request = request = Request(request.http)
            await view.perform_authentication(request)
        if any(map(checks_objects, policy_instances(view.get_permissions()))):
            raise _forbidden(target.resource.name, path)
        await view.check_permissions(request)
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
