"""The service conforms to its OpenAPI document, for data that the document allows and for data that it forbids."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from textwrap import dedent
from traceback import format_exception_only
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from rowcast.errors import ConfigurationError
from rowcast.identity.tokens import create_token

from ..conftest import Serve
from .conftest import Run
from .library import RESOURCES

pytestmark = pytest.mark.asyncio(loop_scope="function")

PYTHON = dedent("""
    from marshmallow import fields
    from rowcast import DefaultRouter, IsAdminUser, ModelViewSet, Serializer, ViewSet, action, model

    class AuthorSerializer(Serializer):
        initial = fields.Method("get_initial")

        def get_initial(self, row):
            return row.name[0]

        class Meta:
            model = model("authors")

    class AuthorViewSet(ModelViewSet):
        model = model("authors")
        serializer_class = AuthorSerializer

    class ReportViewSet(ViewSet):
        \"\"\"What the library does.\"\"\"

        def list(self, request):
            \"\"\"All reports.\"\"\"
            return []

        def retrieve(self, request, id):
            return {"id": id}

        @action(detail=True, methods=["post"], permission_classes=[IsAdminUser])
        def send(self, request, id):
            \"\"\"Send it again.\"\"\"
            return None
    """)
URLS = dedent("""
    from rowcast import DefaultRouter
    from viewsets import ReportViewSet

    router = DefaultRouter()
    router.register("reports", ReportViewSet, basename="report")
    """)


async def test_viewsets_without_rows_are_in_the_document(run: Run) -> None:
    """A viewset without a resource is described like any other: names, parameters, bodies, responses and credentials."""
    service = await run(RESOURCES, modules={"viewsets": PYTHON, "urls": URLS})
    document = await service.get("/openapi.json")
    paths = document["paths"]
    listed, one, sent = (paths[path] for path in ("/reports/", "/reports/{id}/", "/reports/{id}/send/"))
    assert (listed["get"]["summary"], listed["get"]["description"]) == ("List", "All reports.")
    assert one["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": one["parameters"][0]["schema"]}
    ]
    assert {"default", "404"} <= one["get"]["responses"].keys()
    assert "requestBody" in sent["post"]
    assert {} not in sent["post"]["security"]
    assert {} in one["get"]["security"]
    assert {"name": "report", "description": "What the library does."} in document["tags"]
    root = paths["/"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(await service.get("/")) == set(root["required"])
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []


async def test_expanded_row_is_described_as_it_is_returned(run: Run) -> None:
    """An expanded row has its columns, without the method fields that its own address adds."""
    authors = {**RESOURCES["authors"], "viewset": {"class": "viewsets:AuthorViewSet"}}
    service = await run({**RESOURCES, "authors": authors}, modules={"viewsets": PYTHON})
    schemas = (await service.get("/openapi.json"))["components"]["schemas"]
    author = await service.post("/authors/", {"name": "Anna"})
    book = await service.post("/books/", {"title": "One", "author_id": author["id"]})
    shown = (await service.get(f"/books/{book['id']}/", expand="author"))["author"]
    described = schemas["AuthorExpanded"]
    assert set(shown) == set(described["required"]) <= set(described["properties"])
    assert set(author) - set(shown) == {"initial"} == set(schemas["Author"]["required"]) - set(described["required"])
    assert schemas["BookPart"]["properties"]["author"]["anyOf"] == [{"$ref": "#/components/schemas/AuthorExpanded"}]


EXAMPLES = {GenerationMode.POSITIVE: 6, GenerationMode.NEGATIVE: 4}  # of each operation


BEYOND_SCHEMAS = ("does_not_exist", "idempotency_key_reused")  # which rows there are, and which keys were used


async def test_service_conforms_to_its_document(serve: Serve) -> None:
    """For every operation except the endless streams: no response is a 5xx, and the document describes each."""
    client = await serve()
    url = str(client.make_url("/")).rstrip("/")
    for n in range(3):
        category = await (await client.post("/categories/", json={"name": f"c{n}"})).json()
        tag = await (await client.post("/tags/", json={"name": f"t{n}"})).json()
        body = {"title": "x", "category_id": category["id"], "tags": [tag["id"]]}
        assert (await client.post("/tasks/", json=body)).status == 201
    document: dict[str, Any] = await (await client.get("/openapi.json")).json()

    failures: list[str] = []

    def prove() -> None:
        loaded = schemathesis.openapi.from_dict(document)
        for result in loaded.get_all_operations():
            assert isinstance(result, Ok)
            operation = result.ok()
            if operation.path.endswith("/stream/"):
                continue
            for mode, examples in EXAMPLES.items():
                if mode is GenerationMode.NEGATIVE and operation.method.upper() == "OPTIONS":
                    continue  # describes an address whether or not its row exists
                strategy = operation.as_strategy(generation_mode=mode)
                proof: Callable[[], None] = settings(
                    max_examples=examples,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                    phases=[Phase.generate],
                )(given(case=strategy)(check))
                try:
                    proof()
                except Unsatisfiable:
                    pass  # no request to this operation can be invalid
                except (Exception, BaseExceptionGroup) as error:
                    failures.append(f"{operation.label}, {mode.value}: {''.join(format_exception_only(error))[:2000]}")

    def check(case: Any) -> None:
        response = case.call(base_url=url, timeout=20)
        assert response.status_code < 500, response.text
        if any(f'"code":"{code}"' in response.text for code in BEYOND_SCHEMAS):
            return
        too_many = case.path == "/batch/" and response.status_code == 413
        if '"operation":' in response.text or too_many or response.status_code == 412:
            return  # a schema cannot express the versions of rows, nor which operations of a batch succeed, or are too many
        if case.method.upper() == "PUT" and "{" not in case.path and response.status_code == 400:
            return  # nor that a body must have the fields that ?on= names
        case.validate_response(response)

    await asyncio.to_thread(prove)
    assert not failures, "\n\n".join(failures)


async def test_decimals_of_any_size_are_described(run: Run) -> None:
    """The limits of a decimal are in the document if JSON has numbers for them; the others are in its pattern alone."""
    fields = {
        "large": {"type": "decimal", "max_digits": 23, "decimal_places": 4},
        "huge": {"type": "decimal", "max_digits": 1000, "decimal_places": 0},
        "tiny": {"type": "decimal", "max_digits": 1000, "decimal_places": 1000, "max": "0.5"},
        "wide": {"type": "decimal", "min": "-1e500", "max": "1e500"},
        "usual": {"type": "decimal", "max_digits": 22, "decimal_places": 4, "min": -1},
        "several": {"type": "array", "of": "decimal", "max_digits": 60, "decimal_places": 10},
    }
    service = await run({"things": {"fields": fields}})
    document = await service.get("/openapi.json")
    bodies = document["components"]["schemas"]["ThingPatch"]["properties"]
    words = ("minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum")
    limits = {name: {word: schema[word] for word in words if word in schema} for name, schema in bodies.items()}
    assert limits == {
        "id": {},
        "large": {"multipleOf": 0.0001, "exclusiveMinimum": -1e19, "exclusiveMaximum": 1e19},
        "huge": {"multipleOf": 1},
        "tiny": {"maximum": 0.5, "exclusiveMinimum": -1, "exclusiveMaximum": 1},
        "wide": {},
        "usual": {"minimum": -1, "multipleOf": 0.0001, "exclusiveMinimum": -(10**18), "exclusiveMaximum": 10**18},
        "several": {},
    }
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []


@pytest.mark.parametrize(
    ("setting", "anonymous", "wrong", "authenticated"),
    [("public", 200, 200, 200), ("authenticated", 401, 401, 200), ("off", 404, 404, 404)],
)
async def test_descriptions_are_for_those_whom_the_setting_names(
    run: Run, setting: str, anonymous: int, wrong: int, authenticated: int
) -> None:
    """``/`` and ``/openapi.json``, with ``GET`` and ``HEAD``; the document says which credentials it needs."""
    configured = json.dumps({"server": {"openapi": setting}})
    service = await run({"secrets": {"fields": {}, "viewset": {"permission_classes": ["IsAdminUser"]}}}, configured)
    right = {"Authorization": f"Bearer {await create_token(service.sql, 'ann')}"}
    for path in ("/", "/openapi.json", "/openapi.json/"):
        for method in ("GET", "HEAD"):
            for headers, status in (
                ({}, anonymous), ({"Authorization": "Bearer rc_x"}, wrong), (right, authenticated),
            ):  # fmt: skip
                response, body = await service.ask(method, path, headers=headers, status=status)
                assert ("WWW-Authenticate" in response.headers) == (status == 401)
                assert status == 200 or "secrets" not in str(body)
    for path in ("/docs", "/docs/"):
        for headers, status in (({}, anonymous), ({"Authorization": "Bearer rc_x"}, wrong), (right, authenticated)):
            assert (await service.client.get(path, headers=headers)).status == status
    if setting == "authenticated":
        _, document = await service.ask("GET", "/openapi.json", headers=right)
        for path in ("/", "/openapi.json", "/docs/"):
            operation = document["paths"][path]["get"]
            assert ("401" in operation["responses"], {} in operation["security"]) == (True, False)


async def test_document_has_the_title_and_the_servers_of_the_service(run: Run) -> None:
    """``api`` in service.yaml; the page has the title, escaped, and may connect to the servers and nowhere else."""
    api = {
        "title": "Books & <more>",
        "version": "2.1",
        "description": "Everything that we *sell*.",
        "servers": ["https://api.example.com/v1", "/"],
    }
    service = await run({"books": {"fields": {}}}, json.dumps({"api": api}))
    document = await service.get("/openapi.json")
    assert (document["info"]["title"], document["info"]["version"]) == (api["title"], api["version"])
    assert document["info"]["description"].startswith("Everything that we *sell*.\n\n")
    assert document["servers"] == [{"url": "https://api.example.com/v1"}, {"url": "/"}]
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []
    response = await service.client.get("/docs/")
    assert "<title>Books &amp; &lt;more&gt;</title>" in await response.text()
    policy = response.headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "connect-src 'self' https://api.example.com"} <= set(policy)


async def test_page_loads_files_of_the_service_alone(run: Run) -> None:
    """Every file is there, with its type; ``off`` takes them away with the page."""
    service = await run({"books": {"fields": {}}})
    html = await (await service.client.get("/docs/")).text()
    files = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(files) == 5
    assert all(file.startswith("/") for file in files)
    types = {}
    for file in files:
        response = await service.client.get(file)
        assert response.status == 200
        types[file.rpartition(".")[2]] = response.content_type
    assert types == {"png": "image/png", "css": "text/css", "js": "text/javascript", "json": "application/json"}
    hidden = await run({"books": {"fields": {}}}, json.dumps({"server": {"openapi": "off"}}))
    assert {(await hidden.client.get(file)).status for file in files} == {404}


async def test_descriptions_need_a_way_to_authenticate(run: Run) -> None:
    """Without authentication classes nobody could read them, which ``off`` says as well."""
    wrong = {"server": {"openapi": "authenticated"}, "auth": {"default_authentication_classes": []}}
    with pytest.raises(ConfigurationError, match=r"service.yaml:1:\d+: openapi: nobody is authenticated"):
        await run({"secrets": {"fields": {}}}, json.dumps(wrong))
