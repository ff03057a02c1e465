"""Schemas: the values of fields, the rows of resources, and the bodies around them, in JSON Schema.

A resource has several schemas, because a request body and a response differ:

- ``Task`` is a whole row; ``TaskPart`` is a row, or the part of it that ``?fields=`` leaves.
- ``TaskExpanded`` is a row inside another row, where the resource's own address adds fields computed in Python.
- ``TaskCreate``, ``TaskUpdate`` and ``TaskPatch`` are the request bodies.
- ``TaskPage`` is a page of a list, and ``TaskEvent`` the data of a stream's event.

A schema is exactly as strict as the service: a value that fits is accepted, and a value that does not is refused. A rule
that JSON Schema cannot express, such as the earliest date of a field, is in the description.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from rowcast.openapi.nested_bodies import children_in_body
from rowcast.openapi.returned import type_schema
from rowcast.openapi.values import (
    OBJECT,
    add_default,
    annotations_of,
    as_in_bodies,
    envelope,
    object_of,
    or_null,
    present,
    reference_to,
    ruled_schema,
    value_schema,
)
from rowcast.orm.model import Model, model
from rowcast.resources.fields import MISSING, Field, Kind, Schema
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.resources.resource import Relation, Resource
from rowcast.resources.types.text import NO_NUL, STRING_SCHEMA
from rowcast.rest.expansion import expandable_relations, visible_relations
from rowcast.rest.filter_groups import GROUP_MAX_CONDITIONS, GROUP_MAX_DEPTH
from rowcast.rest.highlighting import highlightable
from rowcast.rest.pagination import (
    UNPAGED,
    CursorPagination,
    LimitOffsetPagination,
    NoPagination,
    PageNumberPagination,
)
from rowcast.rest.plan import ModelPlan, NestedRelation, Service
from rowcast.rest.row_keys import key_names
from rowcast.rest.serializer_fields import ColumnField, RelatedKeysField
from rowcast.rest.serializers import Serializer, serializer_for
from rowcast.rest.zones import zone_names

OPENAPI_VERSION: Final = "3.1.0"


class Schemas:
    """The ``components.schemas`` of one document. A schema is made when something first refers to it.

    apispec describes the plain marshmallow fields that a user's serializer adds, and registers the schemas nested in them
    in the same ``components``.
    """

    def __init__(self, service: Service) -> None:
        plugin = MarshmallowPlugin()
        self.components: dict[str, Schema] = APISpec("", "", OPENAPI_VERSION, plugins=[plugin]).components.schemas
        assert plugin.converter is not None  # made with the APISpec
        self._describe_plain_field = plugin.converter.field2property
        self.resources = service.resources
        self._service = service
        self._pending: deque[tuple[str, Callable[[], Schema]]] = (
            deque()
        )  # schemas that are referred to, and not made yet
        self._making = False
        self._serializers = {name: plan.serializer for name, plan in service.plans.items()}
        self._model_names = {resource.model for resource in self.resources.values()}

    # --- components

    def _component(self, name: str, make: Callable[[], Schema]) -> Schema:
        """A reference to a schema, which is made unless it exists. A schema may refer to itself.

        Those to which it refers are made after it, so that a long chain of relations needs no deep recursion.
        """
        if name not in self.components:
            self.components[name] = {}
            self._pending.append((name, make))
            while self._pending and not self._making:
                self._making, (name_made, make_next) = True, self._pending.popleft()
                try:
                    self.components[name_made] = make_next()
                finally:
                    self._making = False
        return reference_to(name)

    def _name(self, stem: str, part: str = "") -> str:
        """A schema's name that is not a resource's model: ``TaskPage``, or ``Task_Page`` if that is a model."""
        name = stem + part
        return f"{stem}_{part}" if name in self._model_names else name

    def shared(self, name: str, schema: Schema) -> Schema:
        """A reference to a schema that belongs to no resource."""
        return self._component(self._name("", name), lambda: schema)

    def filter_group(self, resource: Resource, arguments: Mapping[str, Schema]) -> Schema:
        """A group of conditions of ``?filter=``; ``arguments`` has the value of each that a viewset opens."""
        name = self._name(resource.model, "Filter")
        group = reference_to(name)
        groups = {"type": "array", "items": group, "minItems": 1}
        properties = {**arguments, "and": groups, "or": groups, "not": group}
        description = f"All must hold. At most {GROUP_MAX_DEPTH} groups inside one another, and {GROUP_MAX_CONDITIONS} conditions."
        return self._component(
            name,
            lambda: {
                "type": "object",
                "description": description,
                "properties": properties,
                "additionalProperties": False,
            },
        )

    def json(self, *, null: bool = True) -> Schema:
        """Any JSON that PostgreSQL can store, or any but null.

        Generators of clients do not understand a type that refers to itself, and ignore ``then``: for them it is any JSON.
        """
        name, inner = self._name("", "Json"), self._name("", "JsonValue")
        items = {"items": {}, "if": True, "then": {"items": reference_to(name)}}
        value = {
            "description": "Any JSON but null, without the character U+0000.",
            "anyOf": [
                {"type": ["boolean", "number"]},
                STRING_SCHEMA,
                {"type": "array", **items},
                OBJECT | {"propertyNames": {"pattern": NO_NUL}, "if": True, "then": object_of(reference_to(name))},
            ],
        }
        self._component(inner, lambda: value)
        self._component(name, lambda: {"anyOf": [{"type": "null"}, reference_to(inner)]})
        return {"if": True, "then": reference_to(name if null else inner)}

    def time_zone(self) -> Schema:
        """The name of a time zone. Generators of clients ignore ``then``: as members of an enum, GMT+0 and GMT-0 are the same."""
        names = {"enum": sorted(zone_names())}
        described: Schema = {"type": "string", "description": "Such as `Europe/Berlin`.", "if": True, "then": names}
        return self._component(self._name("", "TimeZone"), lambda: described)

    # --- fields

    def _property(self, declared: Field, values: Field) -> Schema:
        """Every value of a field, null included where the field allows it."""
        if values.field_type.kind is Kind.JSON and not values.choices:
            return self.json(null=declared.null)
        schema = ruled_schema(declared, values)
        if values.of is not None and values.of.kind is Kind.JSON and not values.choices:
            schema["items"] = self._property(values.element, values.element)
        return or_null(schema) if declared.null else schema

    def _response_property(self, field: ma.fields.Field[Any]) -> Schema:
        """The value of a serializer's field in a response."""
        if not isinstance(field, ColumnField):
            return self._describe_plain_field(field)
        return self._property(field.declared, field.values) | annotations_of(field.declared)

    def _body_property(self, field: ma.fields.Field[Any]) -> Schema:
        """The value of a serializer's field in a request body."""
        match field:
            case ColumnField(declared=declared, values=values):
                schema = as_in_bodies(values, self._property(declared, values))
                if values.of is not None:
                    schema["items"] = as_in_bodies(values.element, schema["items"])
                return schema | annotations_of(declared)
            case RelatedKeysField(declared=declared, values=values):
                key, name = value_schema(values), field.key.column_name
                described: Schema = {"type": "object", "properties": {name: key}, "required": [name]}
                target = self.resources[declared.to or ""].model
                row = self._component(self._name(target, f"By{name.title().replace('_', '')}"), lambda: described)
                sentence = f"The keys of rows of {declared.to}: each is the key alone, or an object that contains it."
                return {"type": "array", "items": {"anyOf": [key, row]}} | annotations_of(declared, sentence)
        return self._response_property(field)

    # --- rows in responses

    def row(self, resource: Resource) -> Schema:
        """A whole row."""

        def make() -> Schema:
            return {
                "allOf": [self.partial_row(resource)],
                "description": f"A row of {resource.name}.",
                "required": list(self._serializer(resource).dump_fields),
            }

        return self._component(resource.model, make)

    def partial_row(self, resource: Resource) -> Schema:
        """A row with the relations that may be expanded, or the part of it that ``?fields=`` leaves."""

        def make() -> Schema:
            return {
                "type": "object",
                "description": f"A row of {resource.name}, or the part of it that `fields` selects.",
                "properties": self._columns(resource) | self._expansions(resource),
                "additionalProperties": False,
            }

        return self._component(self._name(resource.model, "Part"), make)

    def written_row(self, plan: ModelPlan) -> Schema:
        """The response to a write: a whole row, with the relations that the viewset always expands."""
        row = self.row(plan.resource)
        always = [name for name, _ in plan.default_projection(plan.serializer).related]
        return {"allOf": [row], "required": always} if always else row

    def _expanded_row(self, resource: Resource) -> Schema:
        """A row inside another row, which has the columns but no field that a serializer computes in Python."""
        serializer = self._serializer(resource)
        columns = [name for name in serializer.dump_fields if name in serializer.shown.columns]
        if len(columns) == len(serializer.dump_fields):
            return self.row(resource)

        def make() -> Schema:
            properties = self._columns(resource)
            return {
                "type": "object",
                "description": f"A row of {resource.name} where it is expanded: its columns.",
                "properties": {name: properties[name] for name in columns} | self._expansions(resource),
                "required": columns,
                "additionalProperties": False,
            }

        return self._component(self._name(resource.model, "Expanded"), make)

    def _columns(self, resource: Resource) -> dict[str, Schema]:
        """The properties of a row without expansions."""
        serializer = self._serializer(resource)
        return {
            name: self._response_property(field) | ({"readOnly": True} if name in serializer.ignored else {})
            for name, field in serializer.dump_fields.items()
        }

    def _expansions(self, resource: Resource) -> dict[str, Schema]:
        """The properties of a row that expansions add."""
        found = {name: self._expansion(relation) for name, relation in self.readable_relations(resource).items()}
        plan = self._service.plans.get(resource.name)
        return found | {each.name: self._children(each) for each in (plan.nested() if plan is not None else ())}

    def _children(self, relation: NestedRelation) -> Schema:
        """The children of a row in a response: expanded, or as the answer to a request that has written them shows them."""
        child = relation.target.resource
        expanded, whole = self._expanded_row(child), self.row(child)
        row = whole if expanded == whole else {"anyOf": [expanded, whole]}
        return {"type": "array", "items": row, "description": "Present if it is expanded, or was in the request."}

    def _expansion(self, relation: Relation) -> Schema:
        row = self._expanded_row(self.resources[relation.target])
        description = {"description": "Present if it is expanded."}
        if relation.many:
            return {"type": "array", "items": row} | description
        target = self._service.plans.get(relation.target)
        hidden = target is not None and target.declared_scope is not None  # from some callers
        return {"anyOf": [row, {"type": "null"}] if relation.field.null or hidden else [row]} | description

    def readable_relations(self, resource: Resource) -> dict[str, Relation]:
        """The relations that responses may contain, by name."""
        plan = self._service.plans.get(resource.name)
        if plan is None:
            return visible_relations(self._service, resource.name, self._serializer(resource).readable)
        named = {name.partition("__")[0] for name in plan.related_paths}
        expandable = expandable_relations(plan, plan.serializer.readable)
        relations = self.resources.relations(resource.name)
        return {name: each for name, each in relations.items() if name in named or name in expandable}

    def _serializer(self, resource: Resource) -> Serializer:
        """The serializer of a resource's viewset; the plain one for a resource without a viewset."""
        if resource.name not in self._serializers:
            self._serializers[resource.name] = serializer_for(self.resources, resource, model(resource.name))()
        return self._serializers[resource.name]

    def _listed_row(self, plan: ModelPlan) -> Schema:
        """A row of a page, which may show what a search has found in it."""
        names = highlightable(plan, plan.serializer) if plan.highlights and plan.serializer.plain else []
        if not names:
            return self.partial_row(plan.resource)
        html: Schema = {"type": ["string", "null"]}
        found: Schema = {"type": "object", "properties": dict.fromkeys(names, html), "additionalProperties": False}
        found |= {"description": "What `search` has found, as HTML; present with `highlight`."}
        properties = self._columns(plan.resource) | self._expansions(plan.resource) | {HIGHLIGHT: found}
        row: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return self._component(self._name(plan.resource.model, "Found"), lambda: row)

    def page(self, plan: ModelPlan) -> Schema:
        """The response of a list."""
        rows = {"type": "array", "items": self._listed_row(plan)}
        match plan.paginator:
            case NoPagination():
                return rows | {"maxItems": plan.paginator.max_page_size * UNPAGED}
            case PageNumberPagination() | LimitOffsetPagination() | CursorPagination():
                count = {"type": ["integer", "null"], "minimum": 0, "description": "Null if the rows are not counted."}
            case _:
                return {}
        return self._component(self._name(plan.resource.model, "Page"), lambda: envelope(count, rows))

    def groups(self, plan: ModelPlan) -> Schema:
        """The response of ``aggregate``: which results a group has is up to the request."""
        group = OBJECT | {"description": "The group, and the results that were requested, by name."}
        count = {"type": "integer", "minimum": 0, "description": "The number of groups."}
        page = envelope(count, {"type": "array", "items": group})
        return self._component(self._name(plan.resource.model, "Groups"), lambda: page)

    def event(self, plan: ModelPlan) -> Schema:
        """The data of a stream's event: the row without expansions, with many_to_many fields as lists of keys."""

        def make() -> Schema:
            resource = plan.resource
            properties = self._columns(resource)
            for name, field in plan.serializer.fields.items():
                if isinstance(field, RelatedKeysField) and not field.declared.write_only:
                    properties[name] = {"type": "array", "items": value_schema(field.values)}
            members = {
                "action": {"enum": ["INSERT", "UPDATE", "DELETE"]},
                "resource": {"const": resource.name},
                "id": value_schema(self.resources.key_of(resource.key)),
                "data": {
                    "type": ["object", "null"],
                    "properties": properties,
                    "additionalProperties": not plan.serializer.plain,
                    "description": "The row, or the part of it that `fields` selects; null for a DELETE.",
                },
                "changed": {
                    "type": "array",
                    "items": {"enum": list(properties)},
                    "description": "Of an UPDATE: the fields whose values differ from before.",
                },
                "cause": {
                    "const": "UPDATE",
                    "description": "Of an INSERT or a DELETE: an update brought the row into the stream or took it out.",
                },
                "at": {"type": "string", "format": "date-time"},
                "seq": {"type": "integer"},
                "tx": {
                    "type": "string",
                    "description": "The transaction; `X-Transaction` of the response of its request.",
                },
                "traceparent": {
                    "type": "string",
                    "description": "The trace of the request that made the change (W3C Trace Context), if it has one.",
                },
            }
            required = [name for name in members if name not in ("changed", "cause", "traceparent")]
            return {"type": "object", "properties": members, "required": required}

        return self._component(self._name(plan.resource.model, "Event"), make)

    def returned(self, kind: Any) -> Schema:
        """What an action returns: the schema of a type, where a serializer or a model stands for its rows."""
        return type_schema(kind, self._returned_row)

    def _returned_row(self, kind: Any) -> Schema | None:
        """The schema of rows, if the type is a model or a serializer."""
        if not isinstance(kind, type):
            return None
        if issubclass(kind, Model):
            return self.partial_row(kind.resource())
        if not issubclass(kind, Serializer):
            return None
        plan = next((plan for plan in self._service.plans.values() if isinstance(plan.serializer, kind)), None)
        if plan is not None:
            return self.partial_row(plan.resource)
        return self.shown_by(kind())

    def shown_by(self, serializer: Serializer) -> Schema:
        """A row as a serializer of an action shows it."""
        properties = {name: self._response_property(field) for name, field in serializer.dump_fields.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}

    # --- request bodies

    def body(self, plan: ModelPlan, action: str) -> Schema:
        """The request body of a standard action.

        The fields of a response that a body cannot set are allowed and ignored.
        """
        serializer, resource = plan.serializer, plan.resource
        creating = action == "create"
        ignored = serializer.ignored if creating else serializer.ignored.union(resource.key_columns)
        fields = {name: field for name, field in serializer.load_fields.items() if name not in ignored}
        required = present(required=[name for name, field in fields.items() if plan.requires(name, field)] or None)

        def make() -> Schema:
            properties = self._ignored_properties(serializer, ignored)
            properties |= {each.name: self._nested(plan, each) for each in plan.nested()}
            for name, field in fields.items():
                properties[name] = self._body_property(field)
                if isinstance(field, ColumnField) and field.declared.write_only:
                    properties[name]["writeOnly"] = True
                if creating and isinstance(field, ColumnField) and field.declared.default is not MISSING:
                    add_default(properties[name], field.declared.default)
            schema = {"type": "object", "properties": properties, "additionalProperties": False}
            return schema | required if creating else schema

        if creating:
            return self._component(self._name(resource.model, "Create"), make)
        patch = self._component(self._name(resource.model, "Patch"), make)
        if action == "partial_update":
            return patch
        return self._component(self._name(resource.model, "Update"), lambda: {"allOf": [patch]} | required)

    def body_of_rows(self, plan: ModelPlan, action: str) -> Schema:
        """The request body of an action at the address of a list, where it may have many rows."""
        if action in ("create", "update"):
            row = self.body(plan, "create")
            rows: Schema = {"type": "array", "items": row}
            return {"anyOf": [row, rows]}
        change = self.body(plan, "partial_update")
        keys = {name: self._key_property(plan, name) for name in key_names(plan)}
        named = {"allOf": [change, {"type": "object", "properties": keys, "required": list(keys)}]}
        rows = {"type": "array", "items": named}
        return {"anyOf": [rows, change]} if "update" in plan.bulk else rows

    def _nested(self, plan: ModelPlan, relation: NestedRelation) -> Schema:
        """The children of a relation in a body: a list, or an object with what is to be created, changed and deleted."""
        child = relation.target
        keys = {name: self._key_property(child, name) for name in key_names(child) if name != relation.column}
        new = self._component(
            self._name(plan.resource.model, f"New_{relation.name}"), lambda: self._new_child(relation)
        )

        def component(part: str, schema: Schema) -> Schema:
            return self._component(self._name(plan.resource.model, f"{part}_{relation.name}"), lambda: schema)

        return children_in_body(relation.opened, keys, new, self.body(child, "partial_update"), component)

    def _new_child(self, relation: NestedRelation) -> Schema:
        """The body of a child that is created with its parent, whose key it need not have."""
        child = relation.target
        serializer = child.serializer
        fields = {name: field for name, field in serializer.load_fields.items() if name not in serializer.ignored}
        fields.pop(relation.column, None)
        properties = self._ignored_properties(serializer, serializer.ignored)
        properties |= {each.name: self._nested(child, each) for each in child.nested()}
        properties |= {name: self._body_property(field) for name, field in fields.items()}
        parent = value_schema(relation.key)
        properties[relation.column] = or_null(parent) | {
            "description": "The key of the row that it is in; leave it out."
        }
        required = [name for name, field in fields.items() if child.requires(name, field)]
        return {
            "type": "object",
            "properties": properties,
            "additionalProperties": False,
            **present(required=required or None),
        }

    def _key_property(self, plan: ModelPlan, name: str) -> Schema:
        """A field of the key in the body of an action about many rows."""
        return value_schema(plan.service.resources.key_of(plan.resource.columns[name]))

    def _ignored_properties(self, serializer: Serializer, ignored: frozenset[str]) -> dict[str, Schema]:
        """The fields and expansions of a response, which a body may repeat."""
        description = {"description": "Ignored, so that a row can be sent back as it was read."}
        properties: dict[str, Schema] = {name: dict(description) for name in sorted(ignored)}
        for name, relation in serializer.relations.items():
            if name not in serializer.fields:
                row = self.shared("IgnoredRow", OBJECT | {"description": "A related row, as it was read."})
                ignored_row: Schema = {"anyOf": [row, {"type": "null"}]}
                properties[name] = ({"type": "array", "items": {}} if relation.many else ignored_row) | description
        return properties

    def custom_body(self, serializer: Serializer) -> Schema:
        """The request body of a custom action that has a serializer of its own."""
        fields = {name: field for name, field in serializer.load_fields.items() if name not in serializer.ignored}
        return {
            "type": "object",
            "properties": {name: self._body_property(field) for name, field in fields.items()},
            **present(required=[name for name, field in fields.items() if field.required] or None),
        }
