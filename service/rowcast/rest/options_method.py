"""The response body of ``OPTIONS``: the name and methods of an address, and the body fields of its writing actions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from rowcast.resources.actions import BODY_ACTIONS, CHANGING_ACTIONS
from rowcast.resources.fields import MISSING
from rowcast.rest.filters import FieldFilter, OrderingFilter, SearchFilter
from rowcast.rest.highlighting import highlightable
from rowcast.rest.import_parameters import PARAMETERS
from rowcast.rest.introspection import is_ours
from rowcast.rest.negotiation import EVENT_STREAM, EXPORT_TYPES
from rowcast.rest.pagination import (
    CursorPagination,
    LimitOffsetPagination,
    NoPagination,
    PageNumberPagination,
)
from rowcast.rest.plan import ModelPlan
from rowcast.rest.preferences import preferences_of
from rowcast.rest.protocols import ModelView
from rowcast.rest.row_keys import key_names
from rowcast.rest.serializer_fields import ColumnField, RelatedKeysField


def describe(view: ModelView) -> dict[str, Any]:
    """The name, description, methods and media types of an address, and the body fields of its writing actions."""
    resource = view.view_plan.resource
    many = _many(view)
    return {
        "name": view.name or resource.label or resource.model,
        "description": view.description or resource.description or _docstring(type(view)),
        "methods": sorted(view.action_map),
        "renders": _media_types(view),
        "parses": [*EXPORT_TYPES] if view.importing else ["application/json"],
        **many,
        **_import(view),
        **_nested(view),
        **_deletion(view.view_plan),
        "prefer": preferences_of(view.view_plan, view.action_map.values(), importing=view.importing),
        **_list(view),
        "actions": {
            method: body_fields(view.view_plan, action)
            for method, action in BODY_ACTIONS.items()
            if view.action_map.get(method) == action and (action == "create" or not many)
        },
    }


def _many(view: ModelView) -> dict[str, Any]:
    """What the address of a list takes for many rows: how many, how they are named, and which changes take a filter."""
    plan, methods = view.view_plan, view.action_map
    if (
        view.detail is not False
        or plan.lookup_url_kwarg in view.kwargs
        or CHANGING_ACTIONS.isdisjoint(methods.values())
    ):
        return {}
    many: dict[str, Any] = {"max_bulk": plan.max_bulk}
    if {"partial_update", "destroy"} & {*methods.values()}:
        many |= {"key": list(key_names(plan)), "by_filter": list(plan.bulk)}
    if methods.get("PUT") == "update":
        many["on"] = list(dict.fromkeys(rule.columns for rule in plan.upserts))
    return {"many": many}


def _import(view: ModelView) -> dict[str, Any]:
    """The parameters of an import, with the values that each takes."""
    if not view.importing:
        return {}
    rules = list(dict.fromkeys(",".join(rule.columns) for rule in view.view_plan.upserts))
    return {"import": {name: rules if name == "on" else list(values) for name, values in PARAMETERS.items()}}


def _nested(view: ModelView) -> dict[str, Any]:
    """The relations whose rows a body may have, and what may be done with them."""
    plan = view.view_plan
    if not plan.nested_names or not {*BODY_ACTIONS.values()} & {*view.action_map.values()}:
        return {}
    nested = {}
    for relation in plan.nested():
        nested[relation.name] = {
            "create": "create" in relation.opened,
            "update": "update" in relation.opened,
            "delete": "missing" if "delete" in relation.opened else "never",
            "key": [name for name in key_names(relation.target) if name != relation.column],
            "max_bulk": relation.target.max_bulk,
        }
    return {"nested": nested}


def _deletion(plan: ModelPlan) -> dict[str, Any]:
    """How rows are deleted that stay in their table."""
    marks = plan.resource.soft_delete
    if marks is None:
        return {}
    return {"soft_delete": {"field": marks.field, "purge_after_seconds": marks.purge_after}}


def _list(view: ModelView) -> dict[str, Any]:
    """What a list shows, and how a client narrows, sorts and pages it; the filters are those of ``?filter=``, too."""
    plan = view.view_plan
    if view.action_map.get("GET") != "list" or view.detail is not False:
        return {}
    resources = plan.service.resources
    filters: dict[str, dict[str, Any]] = {}
    for backend in plan.filters:
        if isinstance(backend, FieldFilter):
            for name, lookup, values in backend.describe():
                path = name.removesuffix(f"__{lookup.name}")
                found = filters.setdefault(path, {"type": values.type, "lookups": []})
                found["lookups"].append(lookup.name)
                if values.choices:
                    found["choices"] = list(values.choices)
                if (target := resources.target_of(plan.resource.name, path)) in plan.service.plans:
                    found["to"] = target
    orders = [backend for backend in plan.filters if isinstance(backend, OrderingFilter)]
    return {
        "list": {
            "key": list(key_names(plan)),
            "primary_key": list(plan.resource.key_columns),
            "fields": {
                name: _describe_field(field, "list", required=False)
                for name, field in plan.serializer.fields.items()
                if isinstance(field, ColumnField | RelatedKeysField)
                and not (field.declared.write_only or field.load_only)
            },
            "filters": filters,
            "search": any(isinstance(each, SearchFilter) and each.parameters() for each in plan.filters),
            **_full_text(plan),
            "ordering": [name for each in orders for name in each.fields],
            "ordered_by_choices": [name for each in orders for name in each.fields if each.ranks(name)],
            "default_ordering": list(plan.attribute("ordering")),
            "pagination": _PAGINATIONS.get(type(plan.paginator), "other"),
            "max_page_size": plan.paginator.max_page_size,
        }
    }


def _full_text(plan: ModelPlan) -> dict[str, Any]:
    """How ``?search=`` reads texts, which fields it looks in, and which of them ``?highlight=`` takes."""
    search = plan.resource.search
    if search is None or not plan.highlights:
        return {}
    highlight = highlightable(plan, plan.serializer) if plan.answers_plainly() else []
    shown = {name: weight for name, weight in search.fields if name in plan.serializer.fields}
    return {"full_text": {"language": search.language, "fields": shown, "highlight": highlight}}


_PAGINATIONS: Final[Mapping[type, str]] = {
    PageNumberPagination: "page",
    LimitOffsetPagination: "offset",
    CursorPagination: "cursor",
    NoPagination: "none",
}


def _media_types(view: ModelView) -> list[str]:
    """The media types of GET."""
    if view.sends_events:
        return [EVENT_STREAM]
    exports = view.view_plan.exports and view.action_map.get("GET") == "list"
    return ["application/json", *(EXPORT_TYPES if exports else ())]


def _docstring(viewset: type) -> str:
    """The docstring of a user's class; that of a class of Rowcast's does not describe the resource."""
    return "" if is_ours(viewset) else inspect.cleandoc(viewset.__doc__ or "")


_LIMITS: Final = (
    "min",
    "max",
    "min_length",
    "max_length",
    "pattern",
    "max_digits",
    "decimal_places",
    "zone",
    "to",
    "json",
)


def body_fields(plan: ModelPlan, action: str) -> dict[str, dict[str, Any]]:
    """Each field of an action's body, by name: its type and label, its limits, and whether the action requires it."""
    return {
        name: _describe_field(field, action, required=plan.requires(name, field))
        for name, field in plan.serializer.fields.items()
        if isinstance(field, ColumnField | RelatedKeysField)
    }


def _describe_field(field: ColumnField | RelatedKeysField, action: str, *, required: bool) -> dict[str, Any]:
    declared = field.declared
    key_of_existing_row = (declared.primary_key or declared.key_part) and action != "create"
    described = {
        "type": declared.type,
        "required": required and action != "partial_update" and not key_of_existing_row,
        "read_only": field.dump_only or key_of_existing_row,
        "write_only": declared.write_only,
        "null": declared.null,
        "label": declared.label or declared.name.replace("_", " ").capitalize(),
    }
    if declared.help_text:
        described["help_text"] = declared.help_text
    if declared.choices:
        described["choices"] = list(declared.choices)
    if declared.default is not MISSING:
        described["default"] = declared.default
    if declared.of:
        described["of"] = declared.of.name
    if declared.native_type:
        described["as"] = declared.native_type
    if declared.paths:
        described["paths"] = {path: member.name for path, member in declared.paths}
    limits = {name: getattr(declared, name) for name in _LIMITS}
    return described | {name: limit for name, limit in limits.items() if limit is not None}
