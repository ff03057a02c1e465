"""The OpenAPI 3.1 document of a service: every address with its operations, in plain dictionaries.

Specification: https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from http import HTTPStatus
from inspect import cleandoc, getdoc
from typing import Any, Final

from rowcast.identity.permissions import SAFE_METHODS
from rowcast.openapi.components import (
    HEADERS,
    IMPORT_SCHEMA,
    METADATA_SCHEMA,
    SECURITY_SCHEMES,
)
from rowcast.openapi.examples import example_body, example_row
from rowcast.openapi.group_events import GROUP_EVENT, GROUP_SCHEMA
from rowcast.openapi.operations import (
    COMMON_FAILURES,
    IF_MATCH_ADDRESS,
    MANY_ROWS_HEADERS,
    PROBLEM,
    READ_AFTER_HEADER,
    READ_FAILURES,
    REPLICA_ACTIONS,
    STANDARD_OPERATIONS,
    WRITE_FAILURES,
    add_key,
    event_stream,
    exported_rows,
    failure_references,
    failure_responses,
    header_references,
    prefer,
    problem,
    response,
    security,
)
from rowcast.openapi.own_addresses import service_paths
from rowcast.openapi.parameters import (
    import_parameters,
    many_rows_parameters,
    path_parameter,
    query_parameters,
)
from rowcast.openapi.returned import declared_responses
from rowcast.openapi.schemas import OPENAPI_VERSION, Schemas
from rowcast.openapi.values import OBJECT, present
from rowcast.resources.actions import BODY_ACTIONS, CHANGING_ACTIONS, LIVE, RESTORE
from rowcast.resources.fields import Schema
from rowcast.rest.addresses import VARIABLE_PART, variable_parts
from rowcast.rest.media_types import JSON
from rowcast.rest.pagination import PageNumberPagination
from rowcast.rest.plan import ModelPlan, Service
from rowcast.rest.preferences import counts_by_preference
from rowcast.rest.routers import Route
from rowcast.rest.soft_deletion import plan_with_deleted, restore_address

CONVENTIONS: Final = "Every address works with and without the slash at its end. `HEAD` mirrors `GET`."


def document(service: Service, routes: Sequence[Route], *, version: str, tickets: bool = True) -> dict[str, Any]:
    """The OpenAPI document of a service with these routes, and with ``tickets`` for streams.

    ``version`` is Rowcast's, for services that have none.
    """
    return _Document(service, routes, version, tickets=tickets).assemble()


class _Document:
    """One document while it is made."""

    def __init__(self, service: Service, routes: Sequence[Route], version: str, *, tickets: bool) -> None:
        self.service = service
        self.routes = routes
        self.version = version
        self.tickets = tickets
        self.schemas = Schemas(service)
        self.operation_ids: set[str] = set()

    def assemble(self) -> dict[str, Any]:
        """The document. Its schemas come last, since making the paths makes them."""
        responses = failure_responses(self.schemas)
        paths = service_paths(self.service, self.routes, self.schemas, tickets=self.tickets) | {
            path_of(route): self._path_item(route) for route in self.routes
        }
        api = self.service.settings.api
        contact = api.contact and {name: value for name, value in asdict(api.contact).items() if value is not None}
        return {
            "openapi": OPENAPI_VERSION,
            "info": {
                "title": api.title,
                "version": api.version or self.version,
                "description": "\n\n".join(filter(None, (api.description, CONVENTIONS))),
                **present(contact=contact or None),
            },
            **present(servers=[{"url": url} for url in api.servers] or None),
            "tags": self._tags(),
            "paths": paths,
            "components": {
                "securitySchemes": dict(SECURITY_SCHEMES),
                "headers": dict(HEADERS),
                "responses": responses,
                "schemas": self.schemas.components,
            },
        }

    def _tags(self) -> list[Schema]:
        """The groups of operations, with what the config or the viewset's docstring says of each."""
        tags = []
        for tag, plan in {_tag(route): route.plan for route in reversed(self.routes)}.items():
            description = cleandoc(plan.viewset.__doc__ or "")
            if isinstance(plan, ModelPlan):
                label = plan.resource.label and f"{plan.resource.label}."
                description = " ".join(filter(None, (label, plan.resource.description)))
            tags.append({"name": tag, **present(description=description or None)})
        return tags

    # --- the addresses of viewsets

    def _path_item(self, route: Route) -> Schema:
        """The operations of an address, ``OPTIONS`` included."""
        parameters = [path_parameter(self.schemas, route.plan, name) for name in variable_parts(route.path)]
        operations = {method.lower(): self._operation(route, method) for method in route.actions}
        return operations | {"options": self._options(route)} | present(parameters=parameters or None)

    def _operation(self, route: Route, method: str) -> Schema:
        action, plan = route.actions[method], route.plan
        if action == "stream" and variable_parts(route.path):
            action = "stream_row"
        if action == "aggregate" and route.sends_events:
            action = LIVE
        many = action in CHANGING_ACTIONS and not variable_parts(route.path) and isinstance(plan, ModelPlan)
        importing = bool(route.initkwargs.get("importing"))
        name = "import" if importing else f"{action}_rows" if many else action
        identity = {"operationId": self._operation_id(route, method, name), "tags": [_tag(route)]}
        if (
            isinstance(plan, ModelPlan)
            and action in STANDARD_OPERATIONS
            and (action != RESTORE or restore_address(plan))
        ):
            if action == RESTORE:
                plan = plan_with_deleted(plan, "only")
            if importing:
                operation = self._import(plan)
            else:
                operation = self._many_rows(plan, action) if many else self._standard(plan, method, action)
        else:
            operation = self._custom(route, method, action)
        if method not in SAFE_METHODS:
            add_key(operation, required=plan.attribute("require_idempotency_key"))
        return identity | operation | security(plan, method)

    def _operation_id(self, route: Route, method: str, action: str) -> str:
        """A name that no other operation has."""
        tag = _tag(route)
        names = (f"{tag}_{action}", f"{tag}_{action}_{method.lower()}")
        free = (name for name in names if name not in self.operation_ids)
        name = next(free, f"{route.name}_{action}_{method.lower()}")
        self.operation_ids.add(name)
        return name

    def _standard(self, plan: ModelPlan, method: str, action: str) -> Schema:
        """A standard action of a resource."""
        standard = STANDARD_OPERATIONS[action]
        parameters = query_parameters(self.schemas, plan, "stream" if action == "stream_row" else action)
        failures = [*standard.failures]
        if action in ("list", "aggregate") and isinstance(plan.paginator, PageNumberPagination):
            failures.append(HTTPStatus.NOT_FOUND)
        if standard.header is not None:
            required = plan.require_if_match and action in CHANGING_ACTIONS
            parameters.append(standard.header | ({"required": True} if required else {}))
            failures += [HTTPStatus.PRECONDITION_REQUIRED] if required else []
        if plan.service.replicas is not None and action in REPLICA_ACTIONS and plan.resource.reads_replicas:
            parameters.append(READ_AFTER_HEADER)
        if action in ("create", RESTORE, *CHANGING_ACTIONS) or (action == "list" and counts_by_preference(plan)):
            parameters.append(prefer(plan, action))
        operation = {
            "summary": standard.summary.format(plan.resource.label or plan.resource.model),
            "description": standard.description,
            "parameters": parameters,
            "responses": self._success(plan, action) | failure_references(failures),
        }
        if action in BODY_ACTIONS.values():
            body = (self.schemas.body_of_rows if action == "create" else self.schemas.body)(plan, action)
            example = example_body(plan, action)
            content = {"schema": body, **present(example=example or None)}
            operation["requestBody"] = {"required": True, "content": {JSON: content}}
        return operation

    def _many_rows(self, plan: ModelPlan, action: str) -> Schema:
        """A changing action at the address of a list, where it is about many rows."""
        name = f"{action}_rows"
        standard, headers = STANDARD_OPERATIONS[name], MANY_ROWS_HEADERS[name]
        failures = [*standard.failures, *([HTTPStatus.PRECONDITION_REQUIRED] if plan.require_if_match else [])]
        condition = [IF_MATCH_ADDRESS | {"required": True}] if plan.require_if_match else []
        row = self.schemas.written_row(plan)
        rows: Schema = {"type": "array", "items": row}
        success: dict[str, Schema] = {
            "partial_update": {
                "200": response("The changed rows.", JSON, rows, *headers),
                "204": _without_body(*headers),
            },
            "destroy": {"204": {"description": "The rows are deleted.", "headers": header_references(*headers)}},
            "update": {
                status: response(text, JSON, {"anyOf": [row, rows]}, *headers)
                for status, text in (("200", "The rows; some of them were there."), ("201", "The new rows."))
            }
            | {"204": _without_body(*headers)},
        }[action]
        operation = {
            "summary": standard.summary.format(plan.resource.label or plan.resource.model),
            "description": standard.description,
            "parameters": [*many_rows_parameters(self.schemas, plan, action), *condition, prefer(plan, action)],
            "responses": success | failure_references(failures),
        }
        if action in BODY_ACTIONS.values():
            body = self.schemas.body_of_rows(plan, action)
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
        return operation

    def _import(self, plan: ModelPlan) -> Schema:
        """The import of a file of rows."""
        standard = STANDARD_OPERATIONS["import"]
        report = self.schemas.shared("Import", IMPORT_SCHEMA)
        table = {"type": "string", "description": "Records, and the names of their fields in the first line."}
        lines = {"type": "string", "description": "A JSON object in each line."}
        return {
            "summary": standard.summary.format(plan.resource.label or plan.resource.model),
            "description": standard.description,
            "parameters": [*import_parameters(plan), prefer(plan, "create", importing=True)],
            "requestBody": {
                "required": True,
                "content": {
                    "text/csv": {"schema": table},
                    "application/x-ndjson": {
                        "schema": lines,
                        "x-itemSchema": self.schemas.body(plan, "create"),
                    },
                },
            },
            "responses": {"200": response("The report.", JSON, report, "Preference-Applied")}
            | failure_references(
                [*standard.failures, *([HTTPStatus.PRECONDITION_REQUIRED] if plan.require_if_match else [])]
            ),
        }

    def _success(self, plan: ModelPlan, action: str) -> dict[str, Schema]:
        """The responses of a standard action that succeeds, by status."""
        schemas, example = self.schemas, example_row(plan)
        shown = present(example=example)
        match action:
            case "list":
                rows = response(
                    "The rows.", JSON, schemas.page(plan), "X-Stream-Position", "ETag", "Preference-Applied"
                )
                if plan.exports:
                    rows["content"] |= exported_rows(schemas.partial_row(plan.resource))
                return {"200": rows, "304": _not_modified()}
            case "retrieve":
                row = response(
                    "The row.", JSON, schemas.partial_row(plan.resource), "X-Stream-Position", "ETag", **shown
                )
                return {"200": row, "304": _not_modified()}
            case "aggregate":
                groups = response("The groups.", JSON, schemas.groups(plan), "X-Stream-Position", "ETag")
                return {"200": groups, "304": _not_modified()}
            case "aggregate_stream":
                group = schemas.shared("GroupEvent", GROUP_SCHEMA)
                return {"200": event_stream(schemas, [group], GROUP_EVENT, lifecycle=("ready", "reset", "snapshot"))}
            case "create":
                row = schemas.written_row(plan)
                made = {"anyOf": [row, {"type": "array", "items": row}]}
                names = ("Location", "ETag", "X-Transaction", "Preference-Applied")
                return {"201": response("The new row, or the new rows.", JSON, made, *names, **shown)}
            case "destroy":
                return {
                    "204": {
                        "description": "The row is deleted.",
                        "headers": header_references("X-Transaction", "Preference-Applied"),
                    }
                }
            case "stream" | "stream_row":
                return {"200": event_stream(schemas, [schemas.event(plan)])}
        text = "The restored row." if action == RESTORE else "The changed row."
        row = schemas.written_row(plan)
        changed = {
            "200": response(text, JSON, row, "ETag", "X-Transaction", "Preference-Applied", **shown),
            "204": _without_body("ETag", "X-Transaction"),
        }
        if action == "update" and plan.put_creates:
            changed["201"] = response(
                "The new row.", JSON, row, "Location", "ETag", "X-Transaction", "Preference-Applied"
            )
        return changed

    def _custom(self, route: Route, method: str, action: str) -> Schema:
        """An action that the user's viewset adds. Its ``request_serializer`` or ``serializer_class`` describes its body."""
        handler, initkwargs = getattr(route.plan.viewset, action), route.initkwargs
        is_main = getattr(handler, "mapping", None) is not None  # other methods are mapped to handlers of their own
        name, description = (initkwargs.get("name"), initkwargs.get("description")) if is_main else (None, None)
        failures = [*(WRITE_FAILURES if method in BODY_ACTIONS else READ_FAILURES)]
        failures += [HTTPStatus.NOT_FOUND] if variable_parts(route.path) else []
        operation: Schema = {
            "summary": name or action.replace("_", " ").capitalize(),
            "responses": {**self._responses_of(route, handler), **failure_references(failures)},
            **present(description=cleandoc(description or getdoc(handler) or "") or None),
        }
        if method in BODY_ACTIONS:
            body: Schema = dict(OBJECT)
            if isinstance(route.plan, ModelPlan):
                taken = initkwargs.get("request_serializer")
                if taken is not None:
                    body = self.schemas.custom_body(route.plan.shared_serializer(taken))
                elif initkwargs.get("serializer_class") is not None:
                    body = self.schemas.custom_body(route.plan.serializer)
            operation["requestBody"] = {"required": "required" in body, "content": {JSON: {"schema": body}}}
        return operation

    def _responses_of(self, route: Route, handler: Any) -> dict[str, Schema]:
        """What an action answers with: its ``response``, what its annotation says, or rows by ``response_serializer``."""
        declared = declared_responses(handler)
        shown = route.initkwargs.get("response_serializer")
        if not declared and shown is not None and isinstance(route.plan, ModelPlan):
            row = self.schemas.shown_by(route.plan.shared_serializer(shown))
            rows = row if handler.detail else {"anyOf": [row, {"type": "array", "items": row}]}
            failed = response("The action has failed.", PROBLEM, problem(self.schemas))
            return {"200": response("The rows of the action.", JSON, rows), "default": failed}
        default: Schema = {
            "description": "The response of the action.",
            "headers": header_references(),
            "content": {JSON: {}, PROBLEM: {"schema": problem(self.schemas)}},
        }
        if not declared:
            return {"default": default}
        found: dict[str, Schema] = {}
        for status, kind in declared.items():
            found[str(int(status))] = (
                {"description": "The action is done.", "headers": header_references()}
                if kind is None
                else response("The response of the action.", JSON, self.schemas.returned(kind))
            )
        return found | {"default": response("The action has failed.", PROBLEM, problem(self.schemas))}

    def _options(self, route: Route) -> Schema:
        metadata = self.schemas.shared("Metadata", METADATA_SCHEMA)
        return {
            "operationId": f"{route.name}_metadata",
            "tags": [_tag(route)],
            "summary": "Description of this address",
            "responses": {
                "200": response("The description.", JSON, metadata, "Allow"),
                **failure_references((*COMMON_FAILURES, HTTPStatus.NOT_ACCEPTABLE)),
            },
            **security(route.plan, "OPTIONS"),
        }


def path_of(route: Route) -> str:
    """The address of a route as OpenAPI writes it: ``/tasks/{id}/``."""
    return VARIABLE_PART.sub(r"{\1}", route.path) + "/"


def _tag(route: Route) -> str:
    """The group of a viewset's operations: its resource, or the name that its routes begin with."""
    return route.plan.resource.name if isinstance(route.plan, ModelPlan) else str(route.initkwargs["basename"])


def _not_modified() -> Schema:
    return {
        "description": "The client has the current version.",
        "headers": header_references("X-Stream-Position", "ETag"),
    }


def _without_body(*headers: str) -> Schema:
    """The response to a change for ``Prefer: return=minimal``."""
    names = dict.fromkeys([*headers, "Preference-Applied"])
    return {"description": "The change is made; the client wanted no body.", "headers": header_references(*names)}
