"""A configuration that uses every field type, option, lookup and pagination, bound as the service binds it."""

from __future__ import annotations

from typing import Any, cast

from rowcast.configuration import declarations, yaml
from rowcast.configuration.settings import Settings
from rowcast.database.pool import Database
from rowcast.identity.authentication import JWTAuthentication, TokenAuthentication
from rowcast.identity.permissions import AllowAny, BasePermission, IsAuthenticated, IsAuthenticatedOrReadOnly
from rowcast.openapi.document import document
from rowcast.query.statements import Queries
from rowcast.query.store import Store
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.tables import Tables
from rowcast.rest import routers
from rowcast.rest.binding import plan_resource
from rowcast.rest.generic import GenericViewSet
from rowcast.rest.pagination import CursorPagination, LimitOffsetPagination, NoPagination
from rowcast.rest.plan import ModelPlan, Service
from rowcast.rest.viewset import action_map_of
from rowcast.rest.viewsets import ModelViewSet, ReadOnlyModelViewSet

FILES = {
    "things": """
        label: Thing
        description: Whatever there is.
        fields:
          id:       {type: uuid, primary_key: true}
          string:   {type: string, min_length: 2, max_length: 40, label: A string, help_text: Short.}
          coded:    {type: string, pattern: "^[A-Z]{2}[0-9]+$", null: true}
          text:     {type: text, default: ""}
          initials: {type: string, blank: true, min_length: 2, null: true}
          chosen:   {type: string, choices: [low, normal, high], default: normal}
          rated:    {type: integer, choices: [1, 2, 3], null: true}
          email:    {type: email}
          url:      {type: url, null: true}
          slug:     {type: slug}
          uuid:     {type: uuid, null: true}
          integer:  {type: integer, min: 0, max: 100}
          big:      {type: big_integer, default: 0}
          float:    {type: float, null: true}
          bounded:  {type: float, min: -1.5, max: 1.5, default: 0}
          decimal:  {type: decimal, max_digits: 8, decimal_places: 2}
          price:    {type: decimal, max_digits: 6, decimal_places: 2, min: 0, default: 0}
          exact:    {type: decimal, null: true}
          whole:    {type: decimal, max_digits: 4, decimal_places: 0, default: 0}
          part:     {type: decimal, max_digits: 3, decimal_places: 3, default: 0}
          boolean:  {type: boolean, default: false}
          date:     {type: date, null: true}
          time:     {type: time, null: true}
          datetime: {type: datetime, null: true}
          duration: {type: duration, null: true}
          json:     {type: json, null: true}
          document: {type: json}
          numbers:  {type: array, of: integer, min: 0, max: 9, max_length: 5, default: []}
          words:    {type: array, of: string, min_length: 1}
          colours:  {type: array, of: string, choices: [red, green], default: []}
          prices:   {type: array, of: decimal, max_digits: 4, decimal_places: 1, default: []}
          bags:     {type: array, of: json, default: []}
          box:      {type: foreign_key, to: boxes, null: true, on_delete: set_null, related_name: things}
          marks:    {type: many_to_many, to: marks, related_name: things}
          secret:   {type: string, write_only: true, null: true}
          views:    {type: integer, read_only: true, default: 0}
          small:    {type: smallint, null: true}
          single:   {type: real, null: true}
          mail:     {type: citext, null: true}
          data:     {type: bytea, null: true}
          ip:       {type: native, as: inet, null: true}
          created:  {type: datetime, auto_now_add: true}
          updated:  {type: datetime, auto_now: true}
    """,
    "boxes": """
        fields:
          id:    {type: integer, primary_key: true}
          name:  {type: string}
          owner: {type: foreign_key, to: marks, write_only: true, null: true}
    """,
    "marks": """
        fields:
          code: {type: string, primary_key: true, max_length: 12}
    """,
    "log-lines": """
        fields:
          message: {type: text}
          since:   {type: date, min: "2020-01-01", null: true}
    """,
    "box-parts": "fields: {name: {type: string}}",  # its model has the name of a schema of boxes
}
LOOKUPS: dict[str, tuple[str, ...]] = {
    "string": (
        "exact", "ne", "gt", "gte", "lt", "lte", "range", "in", "not_in", "isnull", "contains", "icontains", "startswith",
        "istartswith", "endswith", "iendswith", "iexact", "regex", "iregex", "search",
    ),
    "chosen": ("exact", "in", "ne"),
    "rated": ("exact", "in"),
    "integer": ("exact", "in", "range", "gte"),
    "float": ("gte",),
    "decimal": ("exact", "range", "in"),
    "boolean": ("exact", "isnull"),
    "date": ("exact", "range"),
    "time": ("exact",),
    "datetime": ("exact", "gte", "in"),
    "duration": ("exact", "lt"),
    "uuid": ("exact", "in"),
    "json": ("exact", "contains"),
    "numbers": ("exact", "contains", "overlap"),
    "numbers__len": ("exact", "gte"),
    "datetime__year": ("exact", "gte", "range"),
    "datetime__date": ("exact", "in"),
    "time__hour": ("exact",),
    "data": ("exact", "in"),
    "ip": ("exact", "ne", "in", "isnull"),
    "box": ("exact", "in", "isnull"),
    "box__name": ("exact", "icontains"),
    "marks": ("exact",),
}  # fmt: skip


class Mine(BasePermission):
    """A permission of the user's, which the document cannot describe."""


class Boxes(ModelViewSet):
    """Boxes, which can be emptied."""

    async def empty(self, request: Any, id: str) -> None:
        """Take everything out."""


VIEWS: dict[str, tuple[type[GenericViewSet], dict[str, Any]]] = {
    "things": (
        ModelViewSet,
        {
            "permission_classes": (AllowAny,),
            "filterset_fields": LOOKUPS,
            "search_fields": ("string", "^text"),
            "ordering_fields": ("string", "created"),
            "ordering": ("-created",),
            "page_size": 10,
            "max_page_size": 50,
            "select_related": ("box",),
        },
    ),
    "boxes": (Boxes, {"pagination_class": LimitOffsetPagination, "count": "none", "permission_classes": (Mine,)}),
    "marks": (ReadOnlyModelViewSet, {"pagination_class": CursorPagination, "permission_classes": (IsAuthenticated,)}),
    "log-lines": (
        ModelViewSet,
        {"pagination_class": NoPagination, "excluded_actions": ("destroy", "update"), "stream_enabled": False},
    ),
    "box-parts": (ModelViewSet, {"allowed_actions": ("create",)}),
}


def resources_of(files: dict[str, str]) -> Resources:
    """The resources that these YAML files declare."""
    problems = yaml.Problems()
    found: dict[str, Resource] = {}
    for name, text in files.items():
        file = yaml.parse(text, f"{name}.yaml", {}, problems)
        assert file is not None
        declaration = declarations.read(file, name, problems)
        assert declaration is not None
        found[name] = declaration.resource
    problems.check()
    return Resources(found)


def service_of(resources: Resources) -> Service:
    """A service with resources and nothing else."""
    nothing = cast(Any, None)
    tables = Tables(resources)
    return Service(
        settings=Settings(),
        resources=resources,
        store=Store(Queries(tables), Database("postgresql://", tables.guards)),  # connects when a statement runs
        exports=nothing,
        feed=nothing,
        cache=nothing,
        hub=nothing,
        permission_classes=(IsAuthenticatedOrReadOnly,),
        authentication_classes=(TokenAuthentication, JWTAuthentication),
    )


def plans_of(service: Service, views: dict[str, tuple[type[GenericViewSet], dict[str, Any]]]) -> dict[str, ModelPlan]:
    """The viewsets' plans."""
    return {
        name: plan_resource(service, view, service.resources[name], options) for name, (view, options) in views.items()
    }


def routes_of(plans: dict[str, ModelPlan]) -> list[routers.Route]:
    """Their routes, with that of an action that a viewset adds."""
    routes = [route for name, plan in plans.items() for route in routers.routes(name, plan, name)]
    if "boxes" in plans:
        actions, plan = {"POST": "empty"}, plans["boxes"]
        action_map = action_map_of(plan.viewset, actions, {})
        routes.append(routers.Route("/boxes/{id}/empty", "boxes-empty", actions, action_map, plan, {}))
    return routes


RESOURCES = resources_of(FILES)
SERVICE = service_of(RESOURCES)
BOUND = plans_of(SERVICE, VIEWS)
ROUTES = routes_of(BOUND)
DOCUMENT = document(SERVICE, ROUTES, version="1.2.3")
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]


def operation(path: str, method: str) -> dict[str, Any]:
    """An operation of the document."""
    return cast(dict[str, Any], DOCUMENT["paths"][path][method])


def parameters(path: str, method: str = "get") -> dict[str, dict[str, Any]]:
    """Its query and header parameters by name."""
    return {parameter["name"]: parameter for parameter in operation(path, method)["parameters"]}


def properties(schema: str) -> dict[str, dict[str, Any]]:
    """The properties of a schema."""
    return cast(dict[str, dict[str, Any]], SCHEMAS[schema]["properties"])
