"""What a response shows of rows: the projection of a request, and rows as its serializer shows them.

A *plain* serializer is a projection, and PostgreSQL makes the JSON. Any other serializer has Python in it: the rows are
read with all columns, made into instances, and dumped one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from rowcast.orm.model import Model, document, loaded
from rowcast.orm.queryset import load_missing
from rowcast.orm.state import state_of
from rowcast.query.conditions import Query
from rowcast.query.projection import Projection, projection_of
from rowcast.rest.plan import ModelPlan, ViewPlan, new_view
from rowcast.rest.protocols import ModelView
from rowcast.rest.request import names_in
from rowcast.rest.response import encode
from rowcast.rest.serializers import Serializer
from rowcast.traces import recorded

READ_PARAMETERS: Final = ("fields", "expand")


def current_serializer(view: ModelView) -> Serializer:
    """The serializer of the action at hand: the shared one, or a new one if the author's code makes it."""
    plan = view.view_plan
    if plan.makes_serializers:
        return view.get_serializer()
    shared = plan.shared_serializer(view.response_serializer or view.get_serializer_class())
    return view.get_serializer() if shared.dynamic else shared


def is_plain(plan: ModelPlan, serializer: Serializer, shown: Projection) -> bool:
    """Whether PostgreSQL makes the whole response: Python has no say about the rows, nor about related ones."""
    return serializer.plain and not (shown.related and plan.has_python_rows(shown))


def requested_projection(plan: ModelPlan, serializer: Serializer, params: Mapping[str, str]) -> Projection:
    """The default projection, reduced by ``?fields=`` and extended by ``?expand=``."""
    shown = plan.default_projection(serializer)
    if not params:
        return shown
    fields = params.get("fields", "")
    if fields and not serializer.plain:
        computed = {name for name, field in serializer.fields.items() if not field.load_only}
        computed -= {*shown.columns, *dict(shown.related)}
        fields = ",".join(name for name in names_in(fields) if name not in computed)
    return plan.projection(shown, fields, params.get("expand", ""))


def read_projection(plan: ModelPlan, serializer: Serializer, query: Query, params: Mapping[str, str]) -> Projection:
    """What is read of a row for Python code, whatever part of it ``?fields=`` shows."""
    shown = requested_projection(plan, serializer, {"expand": params.get("expand", "")})
    return plan.python_projection(shown, query.expand)


def read_parameters(view: ModelView) -> dict[str, str]:
    """``?fields=`` and ``?expand=``, for the actions that read them."""
    if view.action not in view.view_plan.allowed_parameters:
        return {}
    return {name: text for name, text in view.request.query_params.items() if name in READ_PARAMETERS}


def instance_of(plan: ModelPlan, document_: bytes, shown: Projection) -> Model:
    """The row of a JSON document that has all columns."""
    return plan.model.from_document(plan.service.resources, shown, document_)


# --- rows as a serializer shows them


def render_rows(
    view: ModelView, serializer: Serializer, documents: Iterable[bytes], read: Projection, shown: Projection
) -> list[bytes]:
    """The JSON of each row of a page, inside a handler."""
    plan, params = view.view_plan, view.request.query_params
    with recorded("serialize", serializer):
        return [_render(view, serializer, instance_of(plan, each, read), shown, params, {}) for each in documents]


def render(
    view: ModelView,
    serializer: Serializer,
    row: Model,
    shown: Projection,
    params: Mapping[str, str],
    links: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """The JSON of a row, reduced by ``?fields=``; ``links`` are shown unless the serializer has fields of their names."""
    with recorded("serialize", serializer):
        return _render(view, serializer, row, shown, params, links)


def _render(
    view: ModelView,
    serializer: Serializer,
    row: Model,
    shown: Projection,
    params: Mapping[str, str],
    links: Mapping[str, Any],
) -> bytes:
    data = _shown_by(view, serializer, row, shown)
    if links:
        data = {**data, **{name: keys for name, keys in links.items() if name not in data}}
    return encode(_only(data, params), view.serialize)


def serialize(view: ModelView, row: Model) -> dict[str, Any]:
    """A row as ``retrieve`` shows it. Related rows that are not loaded are read, inside a handler."""
    plan = view.view_plan
    if row.resource().name != plan.resource.name:
        return show_related(view, row, default_projection_of(plan, row))
    serializer, params = current_serializer(view), read_parameters(view)
    shown = requested_projection(plan, serializer, params)
    load_missing_relations(plan, [row], shown)
    return _only(_shown_by(view, serializer, row, shown), params)


def prepare_result(view: ModelView, result: Any) -> None:
    """Read the related rows that the rows in a handler's list are shown with, all at once, inside a handler."""
    plan = view.view_plan
    if isinstance(result, list | tuple) and not plan.scoped:  # whose rows are read again, with those of the scopes
        rows = [row for row in result if isinstance(row, Model) and row.resource().name == plan.resource.name]
        if rows:
            load_missing_relations(
                plan, rows, requested_projection(plan, current_serializer(view), read_parameters(view))
            )


def load_missing_relations(plan: ModelPlan, rows: Sequence[Model], shown: Projection) -> None:
    """Read the related rows that are shown and not loaded yet, for all rows at once, inside a handler."""
    load_missing(rows, related_paths(plan, shown))


def related_paths(plan: ModelPlan, shown: Projection) -> tuple[str, ...]:
    """The relations that are shown, at any depth, and those of the options, which Python code may read."""
    return (*_paths_of(shown), *plan.python_paths())


def _paths_of(shown: Projection) -> Iterator[str]:
    for name, inner in shown.related:
        yield name
        yield from (f"{name}__{path}" for path in _paths_of(inner))


def default_projection_of(plan: ViewPlan, row: Model) -> Projection:
    """What the viewset of a row of any resource shows of it, without related rows."""
    own = plan.service.plans.get(row.resource().name)
    return projection_of(row.resource()) if own is None else own.serializer.shown


def show_related(view: Any, row: Model, shown: Projection) -> dict[str, Any]:
    """A row of any resource inside a response, as its own viewset shows it, with the related rows of a projection."""
    plan = view.view_plan
    target = plan.service.plans.get(shown.resource)
    if target is None or not target.shows_by_python:
        data = document(plan.service.resources, row, Projection(shown.resource, shown.columns))
    else:
        data = new_view(target, action="retrieve", detail=True, request=view.request).get_serializer().dump(row)
    return _with_related(view, data, row, shown.related)


def _shown_by(view: ModelView, serializer: Serializer, row: Model, shown: Projection) -> dict[str, Any]:
    """A row as its serializer shows it, with related rows."""
    plan = view.view_plan
    if is_plain(plan, serializer, shown):
        return document(plan.service.resources, row, shown)
    if serializer.plain:
        data = document(plan.service.resources, row, Projection(shown.resource, shown.columns))
    else:
        data = serializer.dump(row)
    related = shown.related
    if serializer.hooked and related and plan.attribute("expandable") is None:
        named = dict(plan.default_projection(serializer).related)
        related = tuple((name, inner) for name, inner in related if name in named or _shows_key(plan, data, row, name))
    return _with_related(view, data, row, related)


def _with_related(
    view: Any, data: dict[str, Any], row: Model, related: Sequence[tuple[str, Projection]]
) -> dict[str, Any]:
    """The JSON of a row with those of its related rows that are loaded and that it does not show itself."""
    for name, inner in related:
        if name not in data and loaded(row, name):
            found = state_of(row).related.get(name)
            rows = found if isinstance(found, list) else [] if found is None else [found]
            shown = [show_related(view, each, inner) for each in rows]
            data = {**data, name: shown if isinstance(found, list) else next(iter(shown), None)}
    return data


def _shows_key(plan: ModelPlan, data: Mapping[str, Any], row: Model, name: str) -> bool:
    """Whether code that changes a response has left the foreign key of a relation in it."""
    relation = plan.service.resources.relations(plan.resource.name)[name]
    if relation.many or relation.column not in plan.resource.columns:
        return True
    key = document(plan.service.resources, row, Projection(plan.resource.name, (relation.column,)))
    return relation.column in data and bool(data[relation.column] == key[relation.column])


def _only(data: dict[str, Any], params: Mapping[str, str]) -> dict[str, Any]:
    """The part of a row that ``?fields=`` names."""
    if not params.get("fields"):
        return data
    names = names_in(params["fields"])
    return {name: value for name, value in data.items() if name in names}
