"""The document as a whole: it is OpenAPI 3.1, and has every address, parameter, body and response of the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from rowcast import errors
from rowcast.openapi.document import document
from rowcast.resources.lookups import LOOKUP_NAMES
from rowcast.rest.viewsets import ReadOnlyModelViewSet

from .sample import (
    BOUND,
    DOCUMENT,
    ROUTES,
    SCHEMAS,
    SERVICE,
    operation,
    parameters,
    plans_of,
    resources_of,
    routes_of,
    service_of,
)


def references(value: Any) -> Iterator[str]:
    """Every reference in a part of the document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_document_is_openapi() -> None:
    """It is valid by the specification's own schema, and can be served as JSON."""
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(DOCUMENT)] == []
    assert orjson.loads(orjson.dumps(DOCUMENT)) == DOCUMENT
    assert (DOCUMENT["openapi"], DOCUMENT["info"]["version"]) == ("3.1.0", "1.2.3")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_json_schema(name: str) -> None:
    """Each component is a valid schema of JSON Schema 2020-12."""
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_every_reference_resolves() -> None:
    """Every reference points to a part of the document."""
    for reference in set(references(DOCUMENT)):
        part = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]


def test_every_route_is_there() -> None:
    """The paths are those of the routes, with their methods and OPTIONS, and those of the service itself."""
    expected = {f"{route.path}/": {*map(str.lower, route.actions), "options"} for route in ROUTES}
    described = ("/", "/openapi.json", "/asyncapi.json", "/docs/", "/stream/", "/health/live", "/health/ready")
    own = {path: {"get"} for path in described}
    own |= {path: {"post"} for path in ("/batch/", "/stream-ticket/")}
    own["/stream/"] |= {"x-query"}
    found = {path: set(item) - {"parameters"} for path, item in DOCUMENT["paths"].items()}
    assert found == expected | own


def test_operation_ids_are_unique() -> None:
    """No two operations have the same operationId."""
    names = [
        operation["operationId"]
        for item in DOCUMENT["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    ]
    assert len(names) == len(set(names))
    assert {"things_list", "things_partial_update", "things_stream", "log-lines_create", "boxes_empty"} <= set(names)


def test_switched_off_actions_are_absent() -> None:
    """Excluded actions and a disabled stream are not in the document."""
    assert "/log-lines/stream/" not in DOCUMENT["paths"]
    assert set(DOCUMENT["paths"]["/log-lines/{id}/"]) == {"get", "patch", "options", "parameters"}
    assert set(DOCUMENT["paths"]["/box-parts/"]) == {"post", "options"}


@pytest.mark.parametrize("action", ["list", "retrieve", "stream"])
@pytest.mark.parametrize("name", ["things", "marks"])
def test_parameters_are_those_that_the_action_reads(name: str, action: str) -> None:
    """The document has exactly the query parameters that the action reads."""
    path = f"/{name}/" + {"list": "", "retrieve": "{id}/", "stream": "stream/"}[action]
    found = {name for name, parameter in parameters(path).items() if parameter["in"] == "query"}
    assert found == BOUND[name].allowed_parameters[action]


def test_every_lookup_is_described() -> None:
    """Every lookup has a description of its own."""
    found = parameters("/things/")
    every = ("string", "numbers__overlap")
    descriptions = {name: parameter["description"] for name, parameter in found.items() if name.startswith(every)}
    assert len(descriptions) == len(set(descriptions.values())) == len(LOOKUP_NAMES)


def test_lists_in_parameters_are_separated_by_commas() -> None:
    """A parameter of several values is an array whose items are separated by commas."""
    found = parameters("/things/")
    for name in ("chosen__in", "string__range", "numbers", "ordering", "fields", "expand"):
        assert (found[name]["schema"]["type"], found[name]["style"], found[name]["explode"]) == ("array", "form", False)
    assert found["chosen__in"]["schema"]["items"] == {"enum": ["low", "normal", "high"]}
    assert {found["string__range"]["schema"][word] for word in ("minItems", "maxItems")} == {2}
    assert found["ordering"]["schema"]["items"] == {"enum": ["string", "-string", "created", "-created"]}
    assert found["expand"]["schema"]["items"] == {"enum": ["box", "marks"]}
    assert "box" in found["fields"]["schema"]["items"]["enum"]
    assert "secret" not in found["fields"]["schema"]["items"]["enum"]


def test_filters_by_json_take_json() -> None:
    """The value of a filter by a JSON field is JSON."""
    assert list(parameters("/things/")["json__contains"]["content"]) == ["application/json"]


def test_pages_have_their_parameters() -> None:
    """Each pagination has its own parameters, with defaults and limits."""
    found = parameters("/things/")
    assert (found["page"]["schema"]["minimum"], found["page_size"]["schema"]["default"]) == (1, 10)
    assert "50" in found["page_size"]["description"]
    assert parameters("/boxes/")["offset"]["schema"]["minimum"] == 0
    assert "cursor" in parameters("/marks/")
    assert "page_size" not in parameters("/log-lines/")


def test_pages_have_their_envelopes() -> None:
    """A page has the number of rows unless counting is off; a list without pagination is an array."""
    assert SCHEMAS["ThingPage"]["required"] == ["count", "next", "previous", "results"]
    assert SCHEMAS["ThingPage"]["properties"]["count"]["type"] == ["integer", "null"]
    assert SCHEMAS["BoxPage"]["properties"]["count"]["type"] == ["integer", "null"]
    rows = operation("/log-lines/", "get")["responses"]["200"]["content"]["application/json"]["schema"]
    assert (rows["type"], rows["maxItems"]) == ("array", 10_000)


def test_keys_are_in_paths() -> None:
    """The parameter of a path has the schema of the key."""
    uuid, integer, text = (
        DOCUMENT["paths"][f"/{name}/{{id}}/"]["parameters"][0] for name in ("things", "boxes", "marks")
    )
    assert (uuid["in"], uuid["required"], uuid["schema"]["format"]) == ("path", True, "uuid")
    assert integer["schema"]["format"] == "int32"
    assert text["schema"]["minLength"] == 1


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/things/", "get", "200 304 400 401 403 404 406 412 429 503"),
        ("/boxes/", "get", "200 304 400 401 403 406 412 429 503"),
        ("/things/", "post", "201 400 401 403 406 408 409 412 413 415 422 429 503"),
        ("/things/{id}/", "get", "200 304 400 401 403 404 406 412 429 503"),
        ("/things/{id}/", "put", "200 204 400 401 403 404 406 408 409 412 413 415 422 429 503"),
        ("/things/{id}/", "patch", "200 204 400 401 403 404 406 408 409 412 413 415 422 429 503"),
        ("/things/{id}/", "delete", "204 400 401 403 404 406 409 412 422 429 503"),
        ("/things/stream/", "get", "200 400 401 403 429 503"),
        ("/health/live", "get", "200"),
        ("/health/ready", "get", "200 503"),
    ],
)
def test_responses_are_those_that_can_occur(path: str, method: str, statuses: str) -> None:
    """Each operation has the statuses that it can return."""
    assert set(operation(path, method)["responses"]) == set(statuses.split())


@pytest.mark.parametrize("name", DOCUMENT["components"]["responses"])
def test_failures_are_problem_documents(name: str) -> None:
    """Every failure is a problem document, and so is its example."""
    ((media, content),) = DOCUMENT["components"]["responses"][name]["content"].items()
    assert media == "application/problem+json"
    assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    Draft202012Validator(SCHEMAS["Problem"]).validate(content["example"])
    assert content["example"]["status"] == getattr(errors, name).status


def test_headers_are_described() -> None:
    """The headers that clients rely on are in the responses."""
    answers = {
        ("/things/", "get", "200"): "X-Stream-Position Preference-Applied",
        ("/things/{id}/", "get", "200"): "X-Stream-Position",
        ("/things/", "post", "201"): "Location Idempotency-Replayed Preference-Applied X-Transaction",
    }
    for (path, method, status), headers in answers.items():
        described = operation(path, method)["responses"][status]["headers"]
        assert set(described) == {"X-Request-ID", "ETag", *headers.split()}
    failures = DOCUMENT["components"]["responses"]
    assert "WWW-Authenticate" in failures["NotAuthenticated"]["headers"]
    assert "Retry-After" in failures["Unavailable"]["headers"]


def test_streams_describe_their_events() -> None:
    """A stream is an event stream, takes a position to resume from, and refers to the schema of its events."""
    found = parameters("/things/stream/")
    assert found["Last-Event-ID"]["in"] == "header"
    assert {"last_event_id", "access_token", "chosen__in", "search", "fields", "ticket"} <= found.keys()
    assert not {"ordering", "page"} & found.keys()
    content = operation("/things/stream/", "get")["responses"]["200"]["content"]["text/event-stream"]
    assert "ThingEvent" in content["schema"]["description"]
    data = content["x-itemSchema"]["properties"]["data"]["contentSchema"]["anyOf"]
    assert data == [{"$ref": "#/components/schemas/ThingEvent"}, {"$ref": "#/components/schemas/StreamNotice"}]


def test_credentials_are_described_where_they_follow_from_the_permissions() -> None:
    """Rowcast's own permissions imply whether a method needs credentials; with a user's own, security is left out."""
    authenticated: list[dict[str, list[str]]] = [{"bearer": []}, {"token": []}]
    everybody: list[dict[str, list[str]]] = [{}, *authenticated]
    assert operation("/things/", "post")["security"] == everybody
    assert operation("/marks/", "get")["security"] == authenticated
    assert operation("/log-lines/", "get")["security"] == everybody
    assert operation("/log-lines/", "post")["security"] == authenticated
    assert "security" not in operation("/boxes/", "get")


def test_actions_of_a_viewset_are_there() -> None:
    """An action that a viewset adds has its docstring, its key, and a body if it writes."""
    empty = operation("/boxes/{id}/empty/", "post")
    assert empty["description"] == "Take everything out."
    assert "requestBody" in empty


def test_labels_and_descriptions_are_used() -> None:
    """The label and description of a resource are in its tag and its operations."""
    assert {"name": "things", "description": "Thing. Whatever there is."} in DOCUMENT["tags"]
    assert operation("/things/", "get")["summary"] == "Thing list"


def test_names_of_schemas_do_not_collide_with_models() -> None:
    """If a model and another model's schema would have the same name, the model keeps it and the schema gets another."""
    assert "message" not in SCHEMAS["BoxPart"].get("properties", {})
    assert SCHEMAS["BoxPart"]["allOf"] == [{"$ref": "#/components/schemas/BoxPartPart"}]
    assert SCHEMAS["Box"]["allOf"] == [{"$ref": "#/components/schemas/Box_Part"}]


def test_resources_that_are_not_served_are_left_out() -> None:
    """A resource without routes is described only if rows of another resource refer to it."""
    resources = resources_of(
        {
            "a": "fields: {b: {type: foreign_key, to: b}}",
            "b": "fields: {x: {type: text}}",
            "c": "fields: {y: {type: text}}",
        }
    )
    service = service_of(resources)
    routes = routes_of(plans_of(service, {"a": (ReadOnlyModelViewSet, {})}))
    schemas = document(service, routes, version="1")["components"]["schemas"]
    assert "B" in schemas
    assert not {"C", "CPart"} & schemas.keys()


def test_document_is_the_same_every_time() -> None:
    """It depends on nothing but the configuration."""
    assert document(SERVICE, ROUTES, version="1.2.3") == DOCUMENT
