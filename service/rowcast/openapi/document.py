"""The service described in OpenAPI 3.1, from what it runs on: resources, serializers, filters, paginators and routes.

What a request may hold and what a response shows are different schemas of one resource. ``TaskPart`` is a row, or what
``?fields=`` leaves of one; ``Task`` is a whole row. ``TaskCreate``, ``TaskUpdate`` and ``TaskPatch`` are the bodies of
the writing actions, ``TaskPage`` is a page of a list and ``TaskEvent`` the data of one event of the stream. Each says
what the service does, no more and no less: a value that a schema allows is accepted, and one that it forbids is
refused. Where JSON Schema has no word for a rule (the limits of a date, say), the description tells it.

Specification: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from inspect import cleandoc, getdoc
from typing import Any, Final, TypeAlias

import marshmallow as ma
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from rowcast import errors
from rowcast.identity.authentication import JWTAuthentication, TokenAuthentication
from rowcast.identity.permissions import SAFE_METHODS, AllowAny, IsAdminUser, IsAuthenticated, IsAuthenticatedOrReadOnly
from rowcast.orm.model import model
from rowcast.resources.actions import BODY_ACTIONS
from rowcast.resources.fields import MISSING, Field, Kind
from rowcast.resources.lookups import Argument, Lookup
from rowcast.resources.resource import Relation, Resource
from rowcast.resources.types.compound import is_numeric, limit_schema
from rowcast.resources.types.numbers import integer_schema
from rowcast.resources.types.text import NO_NUL, STRING_SCHEMA
from rowcast.rest.addresses import VARIABLE_PART, variable_parts
from rowcast.rest.filters import CHOSEN, MAX_WORDS, FieldFilter, OrderingFilter, SearchFilter
from rowcast.rest.pagination import (
    MAX_OFFSET,
    UNPAGED,
    CursorPagination,
    LimitOffsetPagination,
    NoPagination,
    PageNumberPagination,
)
from rowcast.rest.plan import ModelPlan, Service, ViewPlan
from rowcast.rest.routers import Route
from rowcast.rest.serializers import RelatedKeysField, Serializer, Value, serializer_for

Schema: TypeAlias = dict[str, Any]

OPENAPI: Final = "3.1.0"
JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
EVENTS: Final = "text/event-stream"


def document(service: Service, routes: Sequence[Route], *, version: str, title: str = "Rowcast") -> dict[str, Any]:
    """The OpenAPI document of a service with these routes."""
    return _Writer(service, routes, version, title).write()


_SEARCH: Final = rf"^(?!\s*(?:\S+\s+){{{MAX_WORDS}}}\S){NO_NUL[1:]}"


def _form(field: Field) -> Schema:
    """Every value of a field's type in JSON, without the rules of the field."""
    return field.field_type.schema(field)


def _ruled(declared: Field, values: Field) -> Schema:
    """A form with every rule of a field. A foreign key's values are those of the key that it refers to."""
    kind = values.field_type.kind
    if kind is Kind.ARRAY:
        return _form(values) | _present(minItems=values.min_length, maxItems=values.max_length)
    form = limit_schema(values, _form(values))
    if kind is not Kind.TEXT or "enum" in form:
        return _unless_blank(form) if values.blank and kind is Kind.TEXT else form
    form |= _present(minLength=values.min_length, maxLength=values.longest)
    if declared.to is None:
        form |= values.field_type.rules
        if values.pattern is not None:  # with the type's own, since a schema has room for one only
            form |= {"allOf": [{"pattern": form["pattern"]}], "pattern": values.pattern}
        if not values.blank:
            form["minLength"] = max(1, values.min_length or 0)
    return _unless_blank(form) if values.blank else form


def _unless_blank(form: Schema) -> Schema:
    """A form from whose rules the empty text is free."""
    if "enum" in form:
        return {"enum": ["", *(choice for choice in form["enum"] if choice != "")]}
    strict = form.keys() & {"minLength", "format", "allOf"} or form.get("pattern", NO_NUL) != NO_NUL
    return {"anyOf": [{"const": ""}, form]} if strict else form


def _nullable(form: Schema) -> Schema:
    """A form, or null."""
    if "enum" in form:
        return form | {"enum": [*form["enum"], None]}
    if isinstance(form.get("type"), str):
        return form | {"type": [form["type"], "null"]}
    if isinstance(form.get("type"), list):
        return form | {"type": [*form["type"], "null"]}
    return {"anyOf": [*form.get("anyOf", [form]), {"type": "null"}]}


def _told(field: Field, *more: str) -> Schema:
    """Title and description of a field."""
    limited = field.element if field.field_type.kind is Kind.ARRAY else field
    limits = []
    if not is_numeric(_form(limited)):
        limits += [f"Not less than {limited.min}."] if limited.min is not None else []
        limits += [f"Not more than {limited.max}."] if limited.max is not None else []
    sentences = [field.help_text, *limits, *more]
    return _present(title=field.label, description=" ".join(filter(None, sentences)) or None)


def _present(**keywords: Any) -> Schema:
    return {word: value for word, value in keywords.items() if value is not None}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_LIST: Final[Schema] = {"style": "form", "explode": False}
_PHRASES: Final[Mapping[str, str]] = {
    "exact": "is the value given", "ne": "is not the value given", "gt": "is greater than the value given",
    "gte": "is the value given or greater", "lt": "is less than the value given",
    "lte": "is the value given or less", "range": "is between the two values given, or one of them",
    "in": "is one of the values given", "isnull": "is null (`true`) or is not (`false`)",
    "contains": "contains what is given", "icontains": "contains the text, whatever the case of letters",
    "startswith": "starts with the text", "istartswith": "starts with the text, whatever the case of letters",
    "endswith": "ends with the text", "iendswith": "ends with the text, whatever the case of letters",
    "iexact": "is the text, whatever the case of letters",
    "regex": "matches the regular expression (of PostgreSQL)",
    "iregex": "matches the regular expression (of PostgreSQL), whatever the case of letters",
    "search": "has the words of the text",
}  # fmt: skip
_QUOTING: Final = "An item that holds a comma is put in double quotes."


def _query(name: str, description: str, schema: Schema, **keywords: Any) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema, **keywords}


def _filter(name: str, lookup: Lookup, values: Field, json: Callable[[], Schema]) -> Schema:
    """The parameter of a filter; ``json`` refers to the schema of JSON without U+0000."""
    path = name.removesuffix(f"__{lookup.name}")
    told = f"Only rows whose `{path}` {_PHRASES[lookup.name]}."
    chosen = values.choices and lookup.name in CHOSEN and values.field_type.kind is not Kind.ARRAY
    item: Schema = {"enum": list(values.choices)} if chosen else _form(values)
    match lookup.takes:
        case Argument.FLAG:
            return _query(name, told, {"type": "boolean"})
        case Argument.TEXT:
            pattern = {"format": "regex"} if "regex" in lookup.name else {}
            return _query(name, told, STRING_SCHEMA | pattern)
        case Argument.MANY:
            return _query(name, f"{told} {_QUOTING}", {"type": "array", "items": item}, **_LIST)
        case Argument.PAIR:
            if item == STRING_SCHEMA:  # a comma would make a third item
                item = {"type": "string", "pattern": r'^(?:[^\u0000,"][^\u0000,]*)?$'}
            return _query(name, told, {"type": "array", "items": item, "minItems": 2, "maxItems": 2}, **_LIST)
        case Argument.ONE if values.field_type.kind is Kind.ARRAY:
            return _query(
                name,
                f"{told} {_QUOTING}",
                {"type": "array", "items": _form(values.element)},
                **_LIST,
            )
        case Argument.ONE if values.field_type.kind is Kind.JSON:
            return {"name": name, "in": "query", "description": told, "content": {JSON: {"schema": json()}}}
    return _query(name, told, item)


def _size(plan: ModelPlan, name: str) -> Schema:
    most = plan.paginator.max_page_size
    told = f"How many rows a page has; more than {most} is taken as {most}."
    return _query(name, told, {"type": "integer", "minimum": 1, "default": plan.paginator.page_size})


def _paging(plan: ModelPlan) -> Iterator[Schema]:
    yield _query("page", "Which page, from 1.", integer_schema(64) | {"minimum": 1, "default": 1})
    yield _size(plan, "page_size")
    yield _size(plan, "limit")
    yield _query(
        "offset", "How many rows come before the page.", integer_schema(64) | {"minimum": 0, "maximum": MAX_OFFSET}
    )
    told = "Where the page starts: as in `next` and `previous` of another page of this list in this order."
    yield _query("cursor", told, {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"})


@dataclass(frozen=True, slots=True)
class _Action:
    """What is the same for every resource in a standard action; ``{}`` stands for the resource."""

    summary: str
    description: str
    failures: tuple[HTTPStatus, ...]


_COMMON: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)
_READING: Final = (*_COMMON, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE)
_BODY: Final = (
    *_READING, HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)  # fmt: skip
_ACTIONS: Final[Mapping[str, _Action]] = {
    "list": _Action(
        "{} list",
        "The rows that match. A stream opened with the `X-Stream-Position` of this response as `last_event_id` goes on "
        "exactly from it.",
        _READING,
    ),
    "create": _Action("Create {}", "Insert a row.", _BODY),
    "retrieve": _Action("Retrieve {}", "One row.", (*_READING, HTTPStatus.NOT_FOUND)),
    "update": _Action(
        "Update {}",
        "Change a row. Every required field must be there; optional ones that are left out stay as they are.",
        (*_BODY, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED),
    ),
    "partial_update": _Action(
        "Change parts of {}",
        "Change what the body names, and nothing else.",
        (*_BODY, HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED),
    ),
    "destroy": _Action(
        "Delete {}",
        "Delete a row. One that others refer to stays.",
        (
            *_COMMON,
            HTTPStatus.NOT_ACCEPTABLE,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.CONFLICT,
            HTTPStatus.PRECONDITION_FAILED,
        ),
    ),
    "stream": _Action(
        "{} stream",
        "Every committed change of the rows that the list shows with the same filters, as server-sent events. "
        "An unnamed event is a change. `ready` says that the stream is open; after `reset` a client has to load anew "
        "what it shows. Every event's id is a position to resume from.",
        (*_COMMON, HTTPStatus.BAD_REQUEST),
    ),
    "stream_row": _Action(
        "Stream of one {}",
        "Every committed change of one row, as server-sent events. It goes on when the row is deleted, and tells when it "
        "is there again.",
        (*_COMMON, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND),
    ),
}
_HAS: Final = ("If-None-Match", "The tags of what the client has: 304 if one of them is the newest.")
_KNOWS: Final = ("If-Match", "The tags of the row as the client knows it: 412 if it has changed since.")
_BEHIND: Final = ("Last-Event-ID", "The position to go on from, as browsers send it.")
_CONDITIONS: Final[Mapping[str, tuple[str, str]]] = {  # action → header, and what it says
    "list": _HAS,
    "retrieve": _HAS,
    "update": _KNOWS,
    "partial_update": _KNOWS,
    "destroy": _KNOWS,
    "stream": _BEHIND,
    "stream_row": _BEHIND,
}
_FAILURES: Final[Mapping[HTTPStatus, errors.ApiError]] = {
    failure.status: failure
    for failure in (
        errors.ValidationError({"title": ["This field is required."]}),
        errors.NotAuthenticated(),
        errors.PermissionDenied(),
        errors.NotFound(),
        errors.NotAcceptable(),
        errors.Conflict(),
        errors.PreconditionFailed(),
        errors.PreconditionRequired(),
        errors.PayloadTooLarge(),
        errors.UnsupportedMediaType(),
        errors.Unavailable(),
    )
}
_HEADERS: Final[Mapping[str, tuple[str, Schema]]] = {
    "X-Request-ID": (
        "The request in the service's log: the client's own id if it sent a plain one.",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{8,64}$"},
    ),
    "X-Stream-Position": ("Where a stream goes on exactly from this response.", {"type": "string"}),
    "ETag": ("The version of what is shown, for `If-None-Match` and, of a row, `If-Match`.", {"type": "string"}),
    "Location": ("The address of the new row.", {"type": "string", "format": "uri"}),
    "Allow": ("The methods of this address.", {"type": "string"}),
    "WWW-Authenticate": ("How to authenticate.", {"type": "string"}),
    "Retry-After": ("After how many seconds it is worth trying again.", {"type": "integer", "minimum": 0}),
}
_FAILURE_HEADERS: Final[Mapping[HTTPStatus, str]] = {
    HTTPStatus.UNAUTHORIZED: "WWW-Authenticate",
    HTTPStatus.SERVICE_UNAVAILABLE: "Retry-After",
}
_PROBLEM: Final[Schema] = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "A sentence for people."},
        "code": {"type": "string", "description": "A stable word for programs."},
        "request_id": {"type": "string"},
        "errors": {"type": "object", "description": "The messages of each field that is wrong."},
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}
_METADATA: Final[Schema] = {
    "type": "object",
    "description": "What an address is and takes.",
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "methods": {"type": "array", "items": {"type": "string"}},
        "renders": {"type": "array", "items": {"type": "string"}},
        "parses": {"type": "array", "items": {"type": "string"}},
        "actions": {
            "type": "object",
            "description": "For each method that writes, the fields of its body.",
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "object"}},
        },
    },
    "required": ["name", "description", "methods", "renders", "parses", "actions"],
}
_SNAPSHOT: Final = "Begin with all rows there are, as events `snapshot` before `ready`."
_NOTICE: Final[Schema] = {
    "type": "object",
    "description": "The data of the events `ready`, `reset` and `snapshot`; `reason` is why everything has to be loaded "
    "anew, `rows` are rows there are, and `resources` are those of a stream of several.",
    "properties": {
        "resource": {"type": "string"},
        "resources": {"type": "array", "items": {"type": "string"}},
        "reason": {"type": "string"},
        "rows": {"type": "array", "items": {"type": "object"}},
    },
}
_HEALTH: Final[Schema] = {
    "type": "object",
    "description": "How the service is, and why it is not ready.",
    "properties": {"status": {"enum": ["ok", "unavailable"]}, "reason": {"type": "string"}},
    "required": ["status"],
}
_SECURITY: Final[Mapping[str, Schema]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "`Authorization: Bearer …` with an access token or a JSON Web Token.",
    },
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Authorization: Token …` with an access token.",
    },
}
_ANONYMOUS: Final[Mapping[type, frozenset[str] | None]] = {  # methods for callers without credentials; None is any
    AllowAny: None,
    IsAuthenticated: frozenset(),
    IsAdminUser: frozenset(),
    IsAuthenticatedOrReadOnly: SAFE_METHODS,
}
_PLUGIN: Final = MarshmallowPlugin()


def _security(route: Route, method: str) -> Schema:
    """Which credentials a method takes, and whether it needs any; empty where the user's Python decides."""
    plan = route.plan
    by_hand = ("get_permissions", "check_permissions", "get_authenticators", "perform_authentication")
    if not all(permission in _ANONYMOUS for permission in plan.permission_classes) or plan.overrides(*by_hand):
        return {}
    if not all(each in (TokenAuthentication, JWTAuthentication) for each in plan.authentication_classes):
        return {}
    if not plan.authentication_classes:
        return {"security": []}
    methods_allowed = [_ANONYMOUS[permission] for permission in plan.permission_classes]
    anonymous = all(methods is None or method in methods for methods in methods_allowed)
    return {"security": [*([{}] if anonymous else []), *({name: []} for name in _SECURITY)]}


class _Writer:
    """Writes one document. The schema of a row is made when something first refers to it."""

    def __init__(self, service: Service, routes: Sequence[Route], version: str, title: str) -> None:
        self.resources = service.resources
        self.routes = routes
        self.title = title
        self.serializers = {name: plan.serializer for name, plan in service.plans.items()}
        self.ids: set[str] = set()
        self.models = {resource.model for resource in self.resources.values()}
        description = "Every address works with and without the slash at its end. `HEAD` mirrors `GET`."
        self.spec = APISpec(title, version, OPENAPI, plugins=[_PLUGIN], info={"description": description})

    def write(self) -> dict[str, Any]:
        """The document."""
        for name, scheme in _SECURITY.items():
            self.spec.components.security_scheme(name, scheme)
        for name, (description, schema) in _HEADERS.items():
            self.spec.components.header(name, {"description": description, "schema": schema})
        for failure in _FAILURES.values():
            self.spec.components.response(type(failure).__name__, self._problem(failure))
        self._own()
        for tag, plan in {_tag(route): route.plan for route in reversed(self.routes)}.items():
            description = cleandoc(plan.viewset.__doc__ or "")
            if isinstance(plan, ModelPlan):
                label = plan.resource.label and f"{plan.resource.label}."
                description = " ".join(filter(None, (label, plan.resource.description)))
            self.spec.tag({"name": tag} | _present(description=description or None))
        for route in self.routes:
            self._route(route)
        return self.spec.to_dict()

    # --- components

    def _component(self, name: str, make: Callable[[], Schema]) -> Schema:
        """A reference to a schema, which is made if it is not there yet; a schema may refer to itself."""
        schemas = self.spec.components.schemas
        if name not in schemas:
            schemas[name] = {}
            schemas[name] = make()
        return _ref(name)

    def _name(self, stem: str, part: str = "") -> str:
        """The name of a schema that no resource's model has: ``TaskPage``, or ``Task_Page`` if that is a model."""
        name = stem + part
        return f"{stem}_{part}" if name in self.models else name

    def _shared(self, name: str, schema: Schema) -> Schema:
        return self._component(self._name("", name), lambda: schema)

    def _json(self) -> Schema:
        """Any JSON that PostgreSQL can store."""
        name = self._name("", "Json")
        inner = _ref(name)
        return self._component(
            name,
            lambda: {
                "description": "Any JSON without the character U+0000.",
                "anyOf": [
                    {"type": ["null", "boolean", "number"]},
                    STRING_SCHEMA,
                    {"type": "array", "items": inner},
                    {"type": "object", "propertyNames": {"pattern": NO_NUL}, "additionalProperties": inner},
                ],
            },
        )

    def _row(self, resource: Resource) -> Schema:
        """A whole row."""

        def make() -> Schema:
            part = self._part(resource)
            return {
                "allOf": [part],
                "description": f"A row of {resource.name}.",
                "required": list(self._serializer(resource).dump_fields),
            }

        return self._component(resource.model, make)

    def _part(self, resource: Resource) -> Schema:
        """A row, or what ``?fields=`` leaves of it, with the relations that may be shown."""

        def make() -> Schema:
            related = {name: self._related(relation) for name, relation in self._relations(resource).items()}
            return {
                "type": "object",
                "description": f"A row of {resource.name}, or the part of it that `fields` names.",
                "properties": self._columns(resource) | related,
                "additionalProperties": False,
            }

        return self._component(self._name(resource.model, "Part"), make)

    def _columns(self, resource: Resource) -> dict[str, Schema]:
        """What of a row is shown without expansions."""
        serializer = self._serializer(resource)
        return {
            name: self._shown(field) | ({"readOnly": True} if name in serializer.ignored else {})
            for name, field in serializer.dump_fields.items()
        }

    def _shown(self, field: ma.fields.Field[Any]) -> Schema:
        if not isinstance(field, Value):
            assert _PLUGIN.converter is not None
            return _PLUGIN.converter.field2property(field)
        return self._value(field.declared, field.values) | _told(field.declared)

    def _given(self, field: ma.fields.Field[Any]) -> Schema:
        """What a body may hold for a field."""
        match field:
            case Value(declared=declared, values=values):
                form = self._value(declared, values)
                if values.field_type.body_schema is not None and "enum" not in form:
                    other = values.field_type.body_schema(values)
                    form |= other | {"type": [other["type"], *_types(form)]}
                return form | _told(declared)
            case RelatedKeysField(declared=declared, values=values):
                key, name = _form(values), field.key.column_name
                row = {"type": "object", "properties": {name: key}, "required": [name]}
                told = f"The keys of {declared.to}, each alone or in its row."
                return {"type": "array", "items": {"anyOf": [key, row]}} | _told(declared, told)
        return self._shown(field)

    def _value(self, declared: Field, values: Field) -> Schema:
        if values.field_type.kind is Kind.JSON and not values.choices:
            some = ["boolean", "number", "string", "array", "object"]
            return self._json() if declared.null else {"allOf": [self._json()], "type": some}
        form = _ruled(declared, values)
        if values.of is not None and values.of.kind is Kind.JSON and not values.choices:
            form["items"] = self._value(values.element, values.element)
        return _nullable(form) if declared.null else form

    def _related(self, relation: Relation) -> Schema:
        row = self._expanded(self.resources[relation.target])
        told = {"description": "Where it is expanded."}
        if relation.many:
            return {"type": "array", "items": row} | told
        return {"anyOf": [row, {"type": "null"}] if relation.field.null else [row]} | told

    def _expanded(self, resource: Resource) -> Schema:
        """A row beside another: its columns alone, without what Python of its serializer adds."""
        serializer = self._serializer(resource)
        columns = [name for name in serializer.dump_fields if name in serializer.shown.columns]
        if len(columns) == len(serializer.dump_fields):
            return self._row(resource)

        def make() -> Schema:
            shown = self._columns(resource)
            related = {name: self._related(relation) for name, relation in self._relations(resource).items()}
            return {
                "type": "object",
                "description": f"A row of {resource.name} where it is expanded: its columns.",
                "properties": {name: shown[name] for name in columns} | related,
                "required": columns,
                "additionalProperties": False,
            }

        return self._component(self._name(resource.model, "Expanded"), make)

    def _relations(self, resource: Resource) -> dict[str, Relation]:
        """The relations that may be shown."""
        relations = self.resources.relations(resource.name)
        return {name: relation for name, relation in relations.items() if not relation.field.write_only}

    def _serializer(self, resource: Resource) -> Serializer:
        if resource.name not in self.serializers:
            self.serializers[resource.name] = serializer_for(self.resources, resource, model(resource.name))()
        return self.serializers[resource.name]

    def _body(self, plan: ModelPlan, action: str) -> Schema:
        """The body of a writing action. What responses show and bodies cannot set may be there, and is ignored."""
        serializer, resource = plan.serializer, plan.resource
        key = resource.key.column_name
        ignored = serializer.ignored if action == "create" else serializer.ignored | {key}
        fields = {name: field for name, field in serializer.load_fields.items() if name not in ignored}

        def make() -> Schema:
            told = {"description": "Ignored: a row that was read can be sent back as it is."}
            properties: dict[str, Schema] = {name: dict(told) for name in sorted(ignored)}
            for name, relation in serializer.relations.items():
                if name not in serializer.fields:
                    properties[name] = {"type": "array" if relation.many else ["object", "null"]} | told
            for name, field in fields.items():
                properties[name] = self._given(field)
                if isinstance(field, Value) and field.declared.write_only:
                    properties[name]["writeOnly"] = True
                if action == "create" and isinstance(field, Value) and field.declared.default is not MISSING:
                    properties[name]["default"] = field.declared.default
            return {"type": "object", "properties": properties, "additionalProperties": False} | whole

        required = [name for name, field in fields.items() if field.required]
        whole: Schema = {"required": required} if required and action == "create" else {}
        if action == "create":
            return self._component(self._name(resource.model, "Create"), make)
        patch = self._component(self._name(resource.model, "Patch"), make)
        if action == "partial_update":
            return patch
        update = {"allOf": [patch]} | ({"required": required} if required else {})
        return self._component(self._name(resource.model, "Update"), lambda: update)

    def _page(self, plan: ModelPlan) -> Schema:
        """The envelope of a list."""
        rows = {"type": "array", "items": self._part(plan.resource)}
        match plan.paginator:
            case NoPagination():
                return rows | {"maxItems": plan.paginator.max_page_size * UNPAGED}
            case PageNumberPagination() | LimitOffsetPagination() | CursorPagination():
                counted = {"type": "null"} if plan.count == "none" else {"type": "integer", "minimum": 0}
            case _:
                return {}
        address = {"type": ["string", "null"], "format": "uri"}
        properties = {"count": counted, "next": address, "previous": address, "results": rows}
        page = {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
        return self._component(self._name(plan.resource.model, "Page"), lambda: page)

    def _event(self, plan: ModelPlan) -> Schema:
        """The data of an event: the row as retrieve shows it, with relations as keys."""

        def make() -> Schema:
            resource = plan.resource
            shown = self._columns(resource)
            for name, field in plan.serializer.fields.items():
                if isinstance(field, RelatedKeysField) and not field.declared.write_only:
                    shown[name] = {"type": "array", "items": _form(field.values)}
            changed = {"type": "array", "items": {"enum": list(shown)}}
            row = {"type": ["object", "null"], "properties": shown, "additionalProperties": not plan.serializer.plain}
            properties = {
                "action": {"enum": ["INSERT", "UPDATE", "DELETE"]},
                "resource": {"const": resource.name},
                "id": _form(self.resources.key_of(resource.key)),
                "data": row | {"description": "The row, or the part that `fields` names; null once it is gone."},
                "changed": changed | {"description": "Of an UPDATE: the fields with another value than before."},
                "cause": {"const": "UPDATE", "description": "The row changed, and so came into view or left it."},
                "at": {"type": "string", "format": "date-time"},
                "seq": {"type": "integer"},
            }
            required = [name for name in properties if name not in ("changed", "cause")]
            return {"type": "object", "properties": properties, "required": required}

        return self._component(self._name(plan.resource.model, "Event"), make)

    # --- parameters

    def _parameters(self, plan: ModelPlan, action: str) -> list[Schema]:
        """Every query parameter that an action knows."""
        known = plan.allowed_parameters.get("stream" if action == "stream_row" else action, frozenset())
        described = {parameter["name"]: parameter for parameter in self._described(plan)}
        own = [name for name in plan.paginator.parameters if name not in described and action == "list"]
        return [
            *(parameter for name, parameter in described.items() if name in known),
            *(_query(name, "A parameter of this list's way to page.", {"type": "string"}) for name in own),
        ]

    def _described(self, plan: ModelPlan) -> Iterator[Schema]:
        for backend in plan.filters:
            match backend:
                case FieldFilter():
                    for name, lookup, values in backend.describe():
                        yield _filter(name, lookup, values, self._json)
                case SearchFilter():
                    told = (
                        'Only rows in which every word, or "phrase in quotes", is in one of '
                        f"{', '.join(f'`{name}`' for name in plan.attribute('search_fields'))}; at most {MAX_WORDS} of them."
                    )
                    yield _query("search", told, {"type": "string", "pattern": _SEARCH})
                case OrderingFilter():
                    steps = [sign + name for name in backend.fields for sign in ("", "-")]
                    ordering = plan.attribute("ordering")
                    default = f" Otherwise by {', '.join(ordering)}." if ordering else ""
                    told = f"The order of the rows; a minus turns it round.{default}"
                    yield _query("ordering", told, {"type": "array", "items": {"enum": steps}}, **_LIST)
        yield from _paging(plan)
        projection = plan.default_projection(plan.serializer)
        shown = [*projection.columns, *(name for name, _ in projection.related)]
        told = "Only these of what is shown, which what is expanded belongs to."
        yield _query("fields", told, {"type": "array", "items": {"enum": shown}}, **_LIST)
        always = dict(projection.related)
        if relations := [
            name
            for name, relation in self._relations(plan.resource).items()
            if name in always or plan.service.may_expand(relation.target)
        ]:
            told = "Show the rows that these lead to; `__` leads on, as in `category__parent`."
            yield _query("expand", told, {"type": "array", "items": {"enum": relations}}, **_LIST)
        yield _query(
            "last_event_id", "The position to go on from; the header `Last-Event-ID` beats it.", {"type": "string"}
        )
        yield _query("snapshot", _SNAPSHOT, {"type": "boolean"})
        yield _query("access_token", "The credentials of a client that cannot send headers.", {"type": "string"})

    def _key(self, plan: ViewPlan, name: str) -> Schema:
        """A parameter of the path: the key of a row, or whatever an action of its own calls by another name."""
        schema = dict(STRING_SCHEMA)
        if isinstance(plan, ModelPlan) and name in ("id", "pk"):
            path = plan.lookup_field or plan.resource.key.name
            schema = _form(self.resources.resolve(plan.resource.name, path).values)
        if schema == STRING_SCHEMA:
            schema["minLength"] = 1
        return {"name": name, "in": "path", "required": True, "schema": schema}

    # --- responses

    def _response(self, description: str, media: str, schema: Schema, *headers: str, **keywords: Any) -> Schema:
        return {
            "description": description,
            "headers": {name: name for name in ("X-Request-ID", *headers)},
            "content": {media: {"schema": schema, **keywords}},
        }

    def _problem(self, failure: errors.ApiError) -> Schema:
        """The response of a failure."""
        headers = [_FAILURE_HEADERS[failure.status]] if failure.status in _FAILURE_HEADERS else []
        schema = self._shared("Problem", _PROBLEM)
        return self._response(failure.detail, PROBLEM, schema, *headers, example=failure.problem("0f6c1e2ab34d5978"))

    def _success(self, plan: ModelPlan, action: str) -> tuple[HTTPStatus, Schema]:
        """The status and the response of a standard action that goes well."""
        match action:
            case "list":
                return HTTPStatus.OK, self._response("The rows.", JSON, self._page(plan), "X-Stream-Position", "ETag")
            case "retrieve":
                part = self._part(plan.resource)
                return HTTPStatus.OK, self._response("The row.", JSON, part, "X-Stream-Position", "ETag")
            case "create":
                return HTTPStatus.CREATED, self._response("The new row.", JSON, self._whole(plan), "Location", "ETag")
            case "destroy":
                return HTTPStatus.NO_CONTENT, {
                    "description": "The row is gone.",
                    "headers": {"X-Request-ID": "X-Request-ID"},
                }
            case "stream" | "stream_row":
                return HTTPStatus.OK, self._events([self._event(plan)])
        return HTTPStatus.OK, self._response("The row as it is now.", JSON, self._whole(plan), "ETag")

    def _whole(self, plan: ModelPlan) -> Schema:
        """A row with the relations that this viewset always shows."""
        row = self._row(plan.resource)
        always = [name for name, _ in plan.default_projection(plan.serializer).related]
        return {"allOf": [row], "required": always} if always else row

    def _events(self, changes: Sequence[Schema]) -> Schema:
        """A stream; ``x-itemSchema`` is what OpenAPI 3.2 has for it, since 3.1 has no word for events."""
        notice = self._shared("StreamNotice", _NOTICE)
        names = " or a ".join(change["$ref"].rpartition("/")[2] for change in changes)
        schema = {
            "type": "string",
            "description": f"Server-sent events. The `data` of each is JSON: a {names}, or for the events `ready`, "
            f"`reset` and `snapshot` a {notice['$ref'].rpartition('/')[2]}.",
        }
        data = {"type": "string", "contentMediaType": JSON, "contentSchema": {"anyOf": [*changes, notice]}}
        item = {
            "type": "object",
            "properties": {"event": {"enum": ["ready", "reset", "snapshot"]}, "id": {"type": "string"}, "data": data},
        }
        return {
            "description": "The changes, as they are committed.",
            "headers": {"X-Request-ID": "X-Request-ID"},
            "content": {EVENTS: {"schema": schema, "x-itemSchema": item}},
        }

    # --- paths

    def _route(self, route: Route) -> None:
        """The operations of an address, ``OPTIONS`` included."""
        keys = [self._key(route.plan, name) for name in variable_parts(route.path)]
        of_row = {"stream": "stream_row"} if keys else {}
        actions = {method: of_row.get(action, action) for method, action in route.actions.items()}
        operations = {
            method.lower(): self._operation(route, method, action) | {"operationId": self._id(route, method, action)}
            for method, action in actions.items()
        }
        operations["options"] = {
            "operationId": f"{route.name}_metadata",
            "tags": [_tag(route)],
            "summary": "What this address is and takes",
            "responses": {
                "200": self._response("The description.", JSON, self._shared("Metadata", _METADATA), "Allow"),
                **_failures((*_COMMON, HTTPStatus.NOT_ACCEPTABLE)),
            },
            **_security(route, "OPTIONS"),
        }
        path = VARIABLE_PART.sub(r"{\1}", route.path) + "/"
        self.spec.path(path, operations=operations, parameters=keys)

    def _id(self, route: Route, method: str, action: str) -> str:
        """A name of an operation that no other has."""
        tag = _tag(route)
        names = (f"{tag}_{action}", f"{tag}_{action}_{method.lower()}")
        name = next((name for name in names if name not in self.ids), f"{route.name}_{action}_{method.lower()}")
        self.ids.add(name)
        return name

    def _operation(self, route: Route, method: str, action: str) -> Schema:
        standard, plan = _ACTIONS.get(action), route.plan
        common = {"tags": [_tag(route)]}
        if standard is None or not isinstance(plan, ModelPlan):
            return common | self._custom(route, method, action)
        status, response = self._success(plan, action)
        failures = standard.failures
        if action == "list" and isinstance(plan.paginator, PageNumberPagination):
            failures = (*failures, HTTPStatus.NOT_FOUND)
        parameters = self._parameters(plan, action)
        if (header := _CONDITIONS.get(action)) is not None:
            required = {"required": True} if header[0] == "If-Match" and plan.require_if_match else {}
            schema = {"type": "string"}
            parameters.append(
                {"name": header[0], "in": "header", "description": header[1], "schema": schema, **required}
            )
            if required:
                failures = (*failures, HTTPStatus.PRECONDITION_REQUIRED)
        responses: Schema = {str(int(status)): response, **_failures(failures)}
        if action in ("list", "retrieve"):
            headers = {name: name for name in ("X-Request-ID", "X-Stream-Position", "ETag")}
            responses["304"] = {"description": "What the client has is the newest.", "headers": headers}
        operation = common | {
            "summary": standard.summary.format(plan.resource.label or plan.resource.model),
            "description": standard.description,
            "parameters": parameters,
            "responses": responses,
            **_security(route, method),
        }
        if action in BODY_ACTIONS.values():
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": self._body(plan, action)}}}
        return operation

    def _custom(self, route: Route, method: str, action: str) -> Schema:
        """An action of the viewset's own, which answers what it likes; its ``serializer_class`` says what it takes."""
        plan, initkwargs = route.plan, route.initkwargs
        main = getattr(getattr(plan.viewset, action), "mapping", None) is not None
        failures = _BODY if method in BODY_ACTIONS else _READING
        if variable_parts(route.path):
            failures = (*failures, HTTPStatus.NOT_FOUND)
        described: Schema = {
            "summary": (main and initkwargs.get("name")) or action.replace("_", " ").capitalize(),
            "responses": {
                "default": {
                    "description": "What the action answers.",
                    "headers": {"X-Request-ID": "X-Request-ID"},
                    "content": {JSON: {}, PROBLEM: {"schema": self._shared("Problem", _PROBLEM)}},
                },
                **_failures(failures),
            },
            **_present(
                description=cleandoc(
                    (main and initkwargs.get("description")) or getdoc(getattr(plan.viewset, action)) or ""
                )
                or None
            ),
            **_security(route, method),
        }
        if method in BODY_ACTIONS:
            own = initkwargs.get("serializer_class")
            schema = {"type": "object"}
            if own is not None and isinstance(plan, ModelPlan):
                schema = self._taken(plan.serializer)
            described["requestBody"] = {"content": {JSON: {"schema": schema}}, "required": "required" in schema}
        return described

    def _taken(self, serializer: Serializer) -> Schema:
        """What a serializer that an action names for itself takes."""
        fields = {name: field for name, field in serializer.load_fields.items() if name not in serializer.ignored}
        required = [name for name, field in fields.items() if field.required]
        return {
            "type": "object",
            "properties": {name: self._given(field) for name, field in fields.items()},
        } | ({"required": required} if required else {})

    def _own(self) -> None:
        """The addresses that every service has."""
        unavailable = _failures((HTTPStatus.SERVICE_UNAVAILABLE,))
        health = self._shared("Health", _HEALTH)
        resources = [route.path.strip("/") for route in self.routes if route.name.endswith("-list")]
        root = {
            "type": "object",
            "properties": {name: {"type": "string", "format": "uri"} for name in resources},
            "required": resources,
        }
        not_ready = self._response("It cannot answer requests now.", JSON, health)
        for path, name, summary, responses in (
            ("/", "root", "The resources and their addresses",
             {"200": self._response("The addresses.", JSON, root), **unavailable}),
            ("/openapi.json", "openapi", "This document",
             {"200": self._response("The document.", JSON, {"type": "object"}), **unavailable}),
            ("/health/live", "health_live", "Whether the service runs",
             {"200": self._response("It runs.", JSON, health)}),
            ("/health/ready", "health_ready", "Whether the service can answer requests",
             {"200": self._response("It can.", JSON, health), "503": not_ready}),
        ):  # fmt: skip
            operation = {"operationId": name, "tags": [self.title], "summary": summary, "responses": responses}
            self.spec.path(path, operations={"get": operation})
        if streamed := {
            route.plan.resource.name: route.plan
            for route in self.routes
            if isinstance(route.plan, ModelPlan) and route.name.endswith("-stream")
        }:
            self._combined(streamed)

    def _combined(self, plans: Mapping[str, ModelPlan]) -> None:
        """The stream of several resources."""
        named = {"type": "array", "items": {"enum": list(plans)}, "minItems": 1}
        text, flag = {"type": "string"}, {"type": "boolean"}
        told = "Which to watch, with commas between them. `<resource>.<parameter>` is a parameter of its own stream."
        header = "The position to go on from, as browsers send it."
        parameters = [
            {**_query("resources", told, named, **_LIST), "required": True},
            _query("snapshot", _SNAPSHOT, flag),
            _query("last_event_id", "The position to go on from; the header `Last-Event-ID` beats it.", text),
            _query("access_token", "The credentials of a client that cannot send headers.", text),
            {"name": "Last-Event-ID", "in": "header", "description": header, "schema": text},
        ]
        operation = {
            "operationId": "stream",
            "tags": [self.title],
            "summary": "Stream of several resources",
            "description": "What the streams of these resources tell, on one connection and in one order.",
            "parameters": parameters,
            "responses": {
                "200": self._events([self._event(plan) for plan in plans.values()]),
                **_failures((*_COMMON, HTTPStatus.BAD_REQUEST)),
            },
        }
        self.spec.path("/stream/", operations={"get": operation})


def _tag(route: Route) -> str:
    """What the operations of a viewset are grouped by: its resource, or the name that its routes begin with."""
    return route.plan.resource.name if isinstance(route.plan, ModelPlan) else str(route.initkwargs["basename"])


def _failures(statuses: Iterable[HTTPStatus]) -> dict[str, str]:
    """References to the responses of failures, by status."""
    return {str(int(status)): type(_FAILURES[status]).__name__ for status in sorted(statuses)}


def _types(form: Schema) -> list[str]:
    types = form["type"]
    return types if isinstance(types, list) else [types]
