"""The addresses that every service has, in the OpenAPI document: what describes it, its health, batches, and streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from rowcast.openapi.components import (
    BATCH_DESCRIPTION,
    BATCH_RESULT_SCHEMA,
    HEALTH_SCHEMA,
    QUERY_EVENTS,
    TICKET_SCHEMA,
    batch_schema,
    queries_schema,
    query_event_schema,
    query_schema,
)
from rowcast.openapi.operations import (
    BATCH_FAILURES,
    LAST_EVENT_ID_HEADER,
    PROBLEM,
    STREAM_FAILURES,
    WRITE_FAILURES,
    add_key,
    credentials_of,
    event_stream,
    failure_references,
    problem,
    response,
)
from rowcast.openapi.parameters import (
    ACCESS_TOKEN_PARAMETER,
    AS_PARAMETER,
    LAST_EVENT_ID_PARAMETER,
    SNAPSHOT_PARAMETER,
    TICKET_PARAMETER,
    list_parameter,
    query_parameters,
)
from rowcast.openapi.schemas import Schemas
from rowcast.openapi.values import OBJECT
from rowcast.resources.fields import Schema
from rowcast.rest.media_types import JSON
from rowcast.rest.plan import ModelPlan, Service
from rowcast.rest.routers import Route
from rowcast.rest.stream_tickets import PREFIX

QUERY_OPERATION: Final = "x-query"  # OpenAPI 3.1 has no place for this method; 3.2 has ``query``
# Of a stream with an address of its own.
CONNECTION_PARAMETERS: Final = ("snapshot", "last_event_id", "access_token", "ticket")
SERVICE_TAG: Final = "Rowcast"  # of the addresses that every service has


def service_paths(service: Service, routes: Sequence[Route], schemas: Schemas, *, tickets: bool) -> dict[str, Schema]:
    """The addresses of the service itself, with their operations; that of ``tickets`` for streams if it is wanted."""
    paths = _OwnAddresses(service, routes, schemas).paths()
    return paths if tickets else {path: item for path, item in paths.items() if path != f"/{PREFIX}/"}


class _OwnAddresses:
    def __init__(self, service: Service, routes: Sequence[Route], schemas: Schemas) -> None:
        self.service = service
        self.routes = routes
        self.schemas = schemas

    def paths(self) -> dict[str, Schema]:
        """Every address with its operations."""
        unavailable = failure_references([HTTPStatus.SERVICE_UNAVAILABLE])
        health = self.schemas.shared("Health", HEALTH_SCHEMA)
        resources = [route.path.strip("/") for route in self.routes if route.name.endswith("-list")]
        addresses = {
            "type": "object",
            "properties": {name: {"type": "string", "format": "uri"} for name in resources},
            "required": resources,
        }
        streams = [
            route.plan for route in self.routes if isinstance(route.plan, ModelPlan) and route.name.endswith("-stream")
        ]
        refused: dict[str, Schema] = {}
        needs: Schema = {}
        if self.service.settings.server.openapi == "authenticated":
            refused = failure_references([HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS])
            needs = credentials_of(self.service.authentication_classes)
        refused_caller = failure_references(
            (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
        )
        return {
            "/": self._get(
                "root",
                "Addresses of the resources",
                {"200": response("The addresses.", JSON, addresses), **unavailable, **refused},
                **needs,
            ),
            "/openapi.json": self._get(
                "openapi",
                "This document",
                {"200": response("The document.", JSON, OBJECT), **unavailable, **refused_caller},
                parameters=[AS_PARAMETER],
                **needs,
            ),
            "/asyncapi.json": self._get(
                "asyncapi",
                "The streams as an AsyncAPI document",
                {"200": response("The document.", JSON, OBJECT), **unavailable, **refused_caller},
                parameters=[AS_PARAMETER],
                **needs,
            ),
            "/docs/": self._get(
                "docs",
                "This document as a page",
                {"200": response("The page.", "text/html", {"type": "string"}), **unavailable, **refused},
                **needs,
            ),
            "/health/live": self._get(
                "health_live",
                "Whether the service is running",
                {"200": response("The service is running.", JSON, health)},
            ),
            "/health/ready": self._get(
                "health_ready",
                "Whether the service can process requests",
                {
                    "200": response("The service can process requests.", JSON, health),
                    "503": response("The service cannot process requests now.", JSON, health),
                },
            ),
            "/batch/": {"post": self._batch()},
            f"/{PREFIX}/": {"post": self._stream_ticket()},
            **({"/stream/": self._combined_stream({plan.resource.name: plan for plan in streams})} if streams else {}),
        }

    def _get(self, operation_id: str, summary: str, responses: Schema, **keywords: Any) -> Schema:
        """An address of the service itself, which has GET alone."""
        operation = {"operationId": operation_id, "tags": [SERVICE_TAG], "summary": summary, "responses": responses}
        return {"get": operation | keywords}

    def _batch(self) -> Schema:
        """Several changes in one transaction."""
        body = self.schemas.shared("Batch", batch_schema(self.service.settings.server.batch_limit))
        results = self.schemas.shared("BatchResults", BATCH_RESULT_SCHEMA)
        operation = {
            "operationId": "batch",
            "tags": [SERVICE_TAG],
            "summary": "Several changes in one transaction",
            "description": BATCH_DESCRIPTION,
            "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
            "responses": {
                "200": response("All changes are made.", JSON, results),
                **failure_references(BATCH_FAILURES),
                "default": response("An operation has failed.", PROBLEM, problem(self.schemas)),
            },
            **credentials_of(self.service.authentication_classes, anonymous=True),
        }
        add_key(operation, required=False)
        return operation

    def _stream_ticket(self) -> Schema:
        """A ticket for one stream."""
        return {
            "operationId": "stream_ticket",
            "tags": [SERVICE_TAG],
            "summary": "A ticket for one stream",
            "description": "It stands for the credentials of this request, once, in a stream's parameter `ticket`.",
            "responses": {"201": response("The ticket.", JSON, TICKET_SCHEMA), **failure_references(WRITE_FAILURES)},
            **credentials_of(self.service.authentication_classes, anonymous=False),
        }

    def _combined_stream(self, plans: Mapping[str, ModelPlan]) -> Schema:
        """The stream of several resources."""
        resources = list_parameter(
            "resources",
            "The resources, separated by commas. `<resource>.<parameter>` is a parameter of that resource's own stream.",
            items={"enum": list(plans)},
            minItems=1,
        )
        combined = self._get(
            "stream",
            "Stream of several resources",
            {
                "200": event_stream(self.schemas, [self.schemas.event(plan) for plan in plans.values()]),
                **failure_references(STREAM_FAILURES),
            },
            description="The events of these resources' own streams, on one connection and in one order.",
            parameters=[
                resources | {"required": True},
                SNAPSHOT_PARAMETER,
                LAST_EVENT_ID_PARAMETER,
                ACCESS_TOKEN_PARAMETER,
                TICKET_PARAMETER,
                LAST_EVENT_ID_HEADER,
            ],
        )
        return combined | {QUERY_OPERATION: self._stream_queries(plans)}

    def _stream_queries(self, plans: Mapping[str, ModelPlan]) -> Schema:
        """Many streams on one connection, by the method ``QUERY``."""
        queries = [
            self.schemas.shared(f"{plan.resource.model}StreamQuery", query_schema(name, dict(self._params(plan))))
            for name, plan in plans.items()
        ]
        body = self.schemas.shared("StreamQueries", queries_schema(queries))
        events = [self.schemas.event(plan) for plan in plans.values()]
        own = self.schemas.shared("StreamQueryEvent", query_event_schema(problem(self.schemas)))
        return {
            "operationId": "stream_queries",
            "tags": [SERVICE_TAG],
            "summary": "Many queries on one connection",
            "description": "Each query is a stream of its own, with its own parameters and its own position. An event `query` "
            "names the query of all events that follow.",
            "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
            "responses": {
                "200": event_stream(self.schemas, [*events, own], *QUERY_EVENTS, lifecycle=("ready", "reset", "stale")),
                **failure_references([*STREAM_FAILURES, HTTPStatus.UNSUPPORTED_MEDIA_TYPE]),
            },
        }

    def _params(self, plan: ModelPlan) -> Iterator[tuple[str, Schema]]:
        """The parameters of a resource's stream as members of JSON."""
        for parameter in query_parameters(self.schemas, plan, "stream"):
            if parameter["name"] not in CONNECTION_PARAMETERS:
                schema = parameter["schema"] if "schema" in parameter else parameter["content"][JSON]["schema"]
                yield parameter["name"], schema
