"""Values generated from the document: the service accepts those that it allows, and refuses those that it forbids."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import parse_qsl

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.strategies import SearchStrategy
from jsonschema import Draft202012Validator, FormatChecker
from requests import Request
from schemathesis import Case, GenerationMode

from rowcast.errors import ApiError
from rowcast.query.conditions import Query
from rowcast.rest.rendering import requested_projection

from .sample import BOUND, DOCUMENT, SCHEMAS, operation, parameters

API = schemathesis.openapi.from_dict(DOCUMENT)
FREE = ("string__regex", "string__iregex", "cursor")  # a schema cannot express their rules
SINGLE_MIN = 1e-37  # a number nearer to 0 has no `real`, which a schema does not say
EXAMPLES = settings(
    max_examples=50,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
BODIES = [
    ("things", "/things/", "POST"),
    ("things", "/things/{id}/", "PUT"),
    ("things", "/things/{id}/", "PATCH"),
    ("boxes", "/boxes/", "POST"),
]


def whole(value: Any) -> Any:
    """JSON with 13 for 13.0, which are the same number."""
    match value:
        case float() if value.is_integer():
            return int(value) if abs(value) < 2**63 else value
        case list():
            return [whole(item) for item in value]
        case dict():
            return {name: whole(item) for name, item in value.items()}
    return value


def accept(resource: str, method: str, body: Any) -> None:
    """Validate a body as the service does."""
    serializer = BOUND[resource].serializer
    for each in body if isinstance(body, list) and method == "POST" else [body]:  # which takes an array as well
        serializer.validate_body(
            orjson.loads(json.dumps(whole(each))), partial=method == "PATCH", updating=method != "POST"
        )


@pytest.mark.parametrize(("resource", "path", "method"), BODIES)
def test_bodies_that_fit_their_schema_are_accepted(resource: str, path: str, method: str) -> None:
    """A body generated from its schema is valid."""

    @EXAMPLES
    @given(API[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        rows: list[Any] = case.body if isinstance(case.body, list) else [case.body]
        assume(not any(0 < abs(row.get("single") or 0) < SINGLE_MIN for row in rows))
        accept(resource, method, case.body)

    check()


@pytest.mark.parametrize(("resource", "path", "method"), BODIES)
def test_bodies_that_break_their_schema_are_refused(resource: str, path: str, method: str) -> None:
    """A body generated to break its schema is invalid."""
    described = operation(path, method.lower())
    names: dict[str, list[str]] = {"parameters": []}
    alone = {**DOCUMENT, "paths": {"/body": {method.lower(): described | names}}}

    @EXAMPLES
    @given(schemathesis.openapi.from_dict(alone)["/body"][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Case) -> None:
        if isinstance(case.body, dict | list | str | int | float) and case.body != []:
            with pytest.raises((ApiError, TypeError, orjson.JSONDecodeError)):
                accept(resource, method, case.body)

    check()


def read(query: list[tuple[str, str]]) -> None:
    """Read a query string as the list does."""
    plan = BOUND["things"]
    params = dict(query)
    plan.check_parameters("list", params)
    rows = Query("things")
    for backend in plan.filters:
        rows = backend.apply(rows, params)
    plan.paginator.page_request(rows, requested_projection(plan, plan.serializer, params), plan.count, params)


def queries(mode: GenerationMode) -> SearchStrategy[Case]:
    """Requests for a list with parameters that fit their schemas, or that do not."""
    described = operation("/things/", "get")
    kept = [parameter for parameter in described["parameters"] if parameter["name"] not in FREE]
    alone = {**DOCUMENT, "paths": {"/things/": {"get": described | {"parameters": kept}}}}
    return schemathesis.openapi.from_dict(alone)["/things/"]["GET"].as_strategy(generation_mode=mode)


def sent(case: Case) -> list[tuple[str, str]]:
    """The query parameters as the service receives them."""
    url = Request("GET", "http://localhost", params=case.as_transport_kwargs()["params"]).prepare().url
    return parse_qsl((url or "").partition("?")[2], keep_blank_values=True)


def fits(query: list[tuple[str, str]]) -> bool:
    """Whether a query as it is sent fits the document: ``[28]`` and a bare ``28`` are the same string in a URL."""
    described = parameters("/things/")
    return all(name in described and _meets(described[name].get("schema", {}), text) for name, text in query)


def _meets(schema: dict[str, Any], text: str) -> bool:
    """Whether a string fits a schema, as it is or parsed as JSON. A parameter with JSON content has no schema here."""
    if "$ref" in schema:
        schema = SCHEMAS[schema["$ref"].rpartition("/")[2]]
    listed = schema.get("type") == "array"
    readings: list[Any] = [text.split(",") if listed else text] if schema else []
    with contextlib.suppress(ValueError):
        readings.append(json.loads(f"[{text}]" if listed else text))
    whole_schema = {**schema, "components": DOCUMENT["components"]}  # to which it may refer
    validator = Draft202012Validator(whole_schema, format_checker=FormatChecker())
    return any(validator.is_valid(reading) for reading in readings)


def test_queries_that_fit_their_schemas_are_read() -> None:
    """A query generated from the parameters' schemas is not an error."""

    @EXAMPLES
    @given(queries(GenerationMode.POSITIVE))
    def check(case: Case) -> None:
        read(sent(case))

    check()


def test_queries_that_break_their_schemas_are_refused() -> None:
    """A query generated to break the parameters' schemas is a client error."""

    @EXAMPLES
    @given(queries(GenerationMode.NEGATIVE))
    def check(case: Case) -> None:
        query = sent(case)
        assume(len(query) == len(case.query) and all(text for _, text in query))  # an empty string is an empty list
        assume(not fits(query))  # a broken value may be valid again in its URL form
        with pytest.raises(ApiError):
            read(query)

    check()
