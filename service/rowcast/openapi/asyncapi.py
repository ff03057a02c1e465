"""The AsyncAPI 3 document of a service: the streams of its OpenAPI document as channels, with the same schemas.

Specification: https://www.asyncapi.com/docs/reference/specification/v3.0.0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from yarl import URL

from rowcast.openapi.components import QUERY_EVENTS
from rowcast.openapi.group_events import GROUP_EVENT
from rowcast.openapi.operations import EVENT_STREAM, LIFECYCLE_EVENTS
from rowcast.openapi.own_addresses import QUERY_OPERATION
from rowcast.openapi.parts import needed_components
from rowcast.openapi.values import present
from rowcast.resources.fields import Schema
from rowcast.rest.media_types import JSON

VERSION: Final = "3.0.0"
_HTTP_BINDING: Final = "0.3.0"
_SECURITY: Final[Mapping[str, Schema]] = {  # the OpenAPI document's, as AsyncAPI writes them
    "bearer": {"type": "http", "scheme": "bearer"},
    "token": {"type": "httpApiKey", "in": "header", "name": "Authorization"},
}


def asyncapi_document(openapi: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """The AsyncAPI document for an OpenAPI document. ``origin`` is the server if that names none."""
    channels: dict[str, Schema] = {}
    operations: dict[str, Schema] = {}
    messages: dict[str, Schema] = {}
    for path, item, operation, stream in _streams(openapi):
        name = operation["operationId"]
        own = dict(_messages(stream))
        request = dict(_request(operation))
        messages |= own | request
        channels[name] = {
            "address": path,
            "title": operation["summary"],
            **present(description=operation.get("description"), parameters=_parameters(item)),
            "messages": {each: {"$ref": f"#/components/messages/{each}"} for each in own | request},
        }
        channel = {"$ref": f"#/channels/{name}"}
        sent, received = ([{"$ref": f"{channel['$ref']}/messages/{each}"} for each in some] for some in (own, request))
        operations[name] = {
            "action": "receive" if request else "send",
            "channel": channel,
            "summary": operation["summary"],
            "messages": received or sent,
            **({"reply": {"channel": channel, "messages": sent}} if request else {}),
            **present(security=_security(operation)),
            "bindings": {"http": _binding(operation)},
        }
    servers = [server["url"] for server in openapi.get("servers", ()) if URL(server["url"]).absolute] or [origin]
    return {
        "asyncapi": VERSION,
        "info": openapi["info"],
        "defaultContentType": JSON,
        "servers": {f"server{number}": _server(URL(url)) for number, url in enumerate(servers, 1)},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": needed_components(openapi["components"], messages, operations)["schemas"],
            "securitySchemes": {
                name: scheme | {"description": openapi["components"]["securitySchemes"][name]["description"]}
                for name, scheme in _SECURITY.items()
            },
        },
    }


def _streams(openapi: Mapping[str, Any]) -> Iterator[tuple[str, Schema, Schema, Schema]]:
    """Every stream: its path, the item of that, the operation, and the schema of one event."""
    for path, item in openapi["paths"].items():
        for method in ("get", QUERY_OPERATION):
            operation = item.get(method, {})
            content = operation.get("responses", {}).get("200", {}).get("content", {}).get(EVENT_STREAM)
            if content is not None:
                yield path, item, operation, content["x-itemSchema"]


def _request(operation: Schema) -> Iterator[tuple[str, Schema]]:
    """The message that opens a stream by its body; none where parameters do."""
    if "requestBody" in operation:
        body = operation["requestBody"]["content"][JSON]["schema"]
        name = body["$ref"].rpartition("/")[2]
        yield name, {"name": name, "summary": operation["summary"], "contentType": JSON, "payload": body}


def _messages(event: Schema) -> Iterator[tuple[str, Schema]]:
    """The messages of a stream by name: those without an ``event`` of their own, and the lifecycle's."""
    *changes, notice = event["properties"]["data"]["contentSchema"]["anyOf"]
    names = event["properties"]["event"]["enum"]
    about_queries = changes.pop() if QUERY_EVENTS.keys() <= {*names} else notice
    for change in changes:
        name = change["$ref"].rpartition("/")[2]
        if GROUP_EVENT in names:
            yield name, _message(GROUP_EVENT, "A group whose results have changed.", change)
        else:
            yield name, _message("message", "A change. The event has no name, so browsers call it `message`.", change)
    for name in names:
        if name in LIFECYCLE_EVENTS:
            yield f"Stream{name.capitalize()}", _message(name, _LIFECYCLE[name], notice)
        elif name in QUERY_EVENTS:
            yield f"Stream{name.capitalize()}", _message(name, QUERY_EVENTS[name], about_queries)


_LIFECYCLE: Final[Mapping[str, str]] = {
    "ready": "The stream is open.",
    "reset": "The client must load its data again.",
    "snapshot": "Rows as they are now, before `ready`.",
    "stale": "Related rows have changed that the stream shows with `expand`.",
}


def _message(name: str, summary: str, payload: Schema) -> Schema:
    identifier = {
        "type": "object",
        "properties": {"id": {"type": "string", "description": "The position to resume from."}},
    }
    return {
        "name": name,
        "summary": summary,
        "contentType": JSON,
        "headers": identifier,
        "payload": payload,
    }


def _parameters(item: Schema) -> Schema | None:
    """The variable parts of the address."""
    parameters = {each["name"]: {"description": "The key of the row."} for each in item.get("parameters", ())}
    return parameters or None


def _binding(operation: Schema) -> Schema:
    """The HTTP request that opens the stream: its query parameters, and ``Last-Event-ID``."""
    query = {each["name"]: _parameter(each) for each in operation.get("parameters", ()) if each["in"] == "query"}
    required = [
        each["name"] for each in operation.get("parameters", ()) if each["in"] == "query" and each.get("required")
    ]
    if "requestBody" in operation:
        return {"x-method": "QUERY", "bindingVersion": _HTTP_BINDING}  # which is not among the binding's methods
    return {
        "method": "GET",
        "query": {"type": "object", "properties": query, **present(required=required or None)},
        "bindingVersion": _HTTP_BINDING,
    }


def _parameter(parameter: Schema) -> Schema:
    """The schema of a query parameter; one with JSON is a string."""
    described = {"description": parameter["description"]}
    if "content" in parameter:
        return {"type": "string", "contentMediaType": JSON} | described
    schema: Schema = parameter["schema"]
    return schema | described


def _security(operation: Schema) -> list[Schema] | None:
    """The credentials that a stream accepts. AsyncAPI cannot say that it also opens without any: then there are none."""
    accepted: Sequence[Mapping[str, Any]] = operation.get("security", ())
    if not accepted or {} in accepted:
        return None
    return [{"$ref": f"#/components/securitySchemes/{name}"} for each in accepted for name in each]


def _server(url: URL) -> Schema:
    return {"host": url.authority, "protocol": url.scheme, **present(pathname=url.path.rstrip("/") or None)}
