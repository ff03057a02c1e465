"""What describes the service beside its OpenAPI document: ``?as=me``, AsyncAPI, the catalog, links, and pages of errors."""

from __future__ import annotations

import ast
import json
import re
from textwrap import dedent
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from rowcast.error_codes import ERROR_CODES
from rowcast.identity.tokens import create_token

from ..conftest import ROOT
from .conftest import Run
from .library import RESOURCES, Service

PYTHON = dedent("""
    from __future__ import annotations

    from dataclasses import dataclass
    from typing import Any, TypedDict

    from rowcast import BasePermission, IsAdminUser, IsAuthenticated, ModelViewSet, Response, action, model

    Book = model("books")


    class Progress(TypedDict, total=False):
        done: int
        name: str | None


    @dataclass
    class Shelf:
        books: list[Progress]
        by_name: dict[str, int]


    class RowAlone(BasePermission):
        def has_permission(self, request, view):
            return bool(view.kwargs["id"])


    class Books(ModelViewSet):
        model = Book

        @action(detail=False)
        async def progress(self, request) -> Progress:
            return {"done": 1}

        @action(detail=False)
        async def shelves(self, request) -> list[Shelf]:
            return []

        @action(detail=True, methods=["post"], permission_classes=[IsAdminUser], response={201: Book, 204: None})
        async def copy(self, request, id):
            return None

        @action(detail=True, methods=["post"], permission_classes=[IsAuthenticated])
        async def close(self, request, id) -> None:
            return None

        @action(detail=True, permission_classes=[RowAlone])
        async def cover(self, request, id) -> Response:
            return Response(b"", content_type="image/png")

        @action(detail=False)
        async def anything(self, request) -> Any:
            return 1

        async def list(self, request):
            return await super().list(request)
    """)
BOOKS = {
    "books": {
        "fields": {"name": {"type": "string"}},
        "viewset": {"class": "viewsets:Books", "permission_classes": ["IsAuthenticatedOrReadOnly"]},
    },
    "secrets": {"fields": {"x": {"type": "json"}}, "viewset": {"permission_classes": ["IsAdminUser"]}},
}


def operations(document: dict[str, Any]) -> set[str]:
    """Its operations, without OPTIONS."""
    return {
        f"{method.upper()} {path}"
        for path, item in document["paths"].items()
        for method in item
        if method not in ("parameters", "options")
    }


async def test_as_me_shows_what_the_caller_may_do(run: Run) -> None:
    """Anonymous callers see what needs no credentials; staff see everything; what is not needed goes with the operations."""
    service = await run(BOOKS, modules={"viewsets": PYTHON})
    whole = await service.get("/openapi.json")
    tokens = {staff: await create_token(service.sql, f"user{staff}", staff=staff) for staff in (False, True)}
    headers = {staff: {"Authorization": f"Bearer {token}"} for staff, token in tokens.items()}
    anonymous = await service.get("/openapi.json?as=me")
    _, user = await service.ask("GET", "/openapi.json?as=me", headers=headers[False])
    _, staff = await service.ask("GET", "/openapi.json?as=me", headers=headers[True])
    assert operations(staff) == operations(whole)
    assert operations(whole) - operations(user) == {
        op for op in operations(whole) if "/secrets/" in op or op.endswith("copy/")
    }
    gone = operations(user) - operations(anonymous)
    assert gone == {op for op in operations(user) if "/books/" in op and not op.startswith("GET ")} | {
        "POST /stream-ticket/"
    }
    assert "GET /books/{id}/cover/" in operations(anonymous)  # its permission needs a row, so nothing is known
    assert "Secret" in whole["components"]["schemas"]
    assert not {name for name in user["components"]["schemas"] if name.startswith("Secret")}
    assert "secrets" not in json.dumps(user)
    for document in (anonymous, user, staff):
        assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []
    _, channels = await service.ask("GET", "/asyncapi.json?as=me", headers=headers[False])
    assert {channel["address"] for channel in channels["channels"].values()} == {
        "/stream/",
        "/books/stream/",
        "/books/{id}/stream/",
    }


OF_EVERY_KIND = {
    "members": {
        "soft_delete": "gone",
        "fields": {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "unique": True}},
        "viewset": {
            "permission_classes": ["AllowAny"], "bulk": ["update", "destroy"], "filterset_fields": ["name"],
            "aggregates": {"group_by": ["name"]},
        },
    },
    "tags": {
        "soft_delete": {"field": "gone", "permission_classes": ["IsAuthenticated"]},
        "fields": {"name": {"type": "string", "unique": True}},
        "viewset": {"bulk": ["update", "destroy"], "filterset_fields": ["name"]},
    },
    "notes": {
        "fields": {"text": {"type": "string"}, "member": {"type": "foreign_key", "to": "members"}},
        "viewset": {"permission_classes": ["IsAuthenticated"], "aggregates": {"group_by": ["text"]}},
    },
}  # fmt: skip


async def test_as_me_is_what_is_not_refused(run: Run) -> None:
    """Each operation and each parameter for deleted rows is in the document of a caller, or refused: not both."""
    service = await run(OF_EVERY_KIND)
    await service.sql.execute("INSERT INTO members (id, name) VALUES (1, 'a')")
    tokens = {staff: await create_token(service.sql, f"user{staff}", staff=staff) for staff in (False, True)}
    callers = [{}, *({"Authorization": f"Bearer {token}"} for token in tokens.values())]
    whole = await service.get("/openapi.json")
    found: list[set[str]] = []
    for headers in callers:
        _, mine = await service.ask("GET", "/openapi.json?as=me", headers=headers)
        shown = whole_of(mine)
        for operation in sorted(whole_of(whole)):
            method, path = operation.split(" ")
            path = path.replace("{id}", "1" if "/members/" in path else "019ac000-0000-7000-8000-000000000000")
            async with service.client.request(method, path, headers=headers) as response:
                assert (response.status not in (401, 403)) == (operation in shown), (
                    operation,
                    response.status,
                    headers,
                )
        found.append(shown)
    anonymous, user, staff = found
    assert "POST /members/" in anonymous
    assert not [each for each in anonymous if "restore" in each or "deleted=" in each or "hard=" in each]
    assert "POST /tags/{id}/restore/" in user
    assert not [
        each for each in user if "/members/" in each and ("restore" in each or "deleted=" in each or "hard=" in each)
    ]
    assert "GET /members/?deleted=with" in staff


def whole_of(document: dict[str, Any]) -> set[str]:
    """Its operations, and those with a parameter about deleted rows once more with it."""
    values = {"deleted": "with", "hard": "true"}
    found = operations(document)
    for operation in sorted(found):
        method, path = operation.split(" ")
        for parameter in document["paths"][path][method.lower()].get("parameters", ()):
            if (name := parameter.get("name")) in values:
                found.add(f"{operation}?{name}={values[name]}")
    return found


async def test_as_me_refuses_what_it_does_not_know(service: Service) -> None:
    """Wrong credentials, another caller, and other parameters."""
    await service.ask("GET", "/openapi.json?as=me", headers={"Authorization": "Bearer rc_x"}, status=401)
    for path in ("/openapi.json?as=ann", "/openapi.json?me", "/asyncapi.json?as="):
        _, problem = await service.ask("GET", path, status=400)
        assert problem["code"] in ("invalid_parameter", "unknown_parameter")


@pytest.fixture
async def service(run: Run) -> Service:
    """The books."""
    return await run(BOOKS, modules={"viewsets": PYTHON})


async def test_responses_of_actions_are_those_of_their_annotations(service: Service) -> None:
    """A ``TypedDict``, a list of dataclasses, ``response`` by status, and None; anything else is unknown."""
    document = await service.get("/openapi.json")
    paths = document["paths"]

    def responses(name: str, method: str = "get") -> dict[str, Any]:
        found: dict[str, Any] = paths[f"/books/{name}/"][method]["responses"]
        return found

    def schema(found: dict[str, Any]) -> Any:
        return found["content"]["application/json"]["schema"]

    progress = {
        "type": "object",
        "properties": {"done": {"type": "integer"}, "name": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        "required": [],
    }
    assert schema(responses("progress")["200"]) == progress
    shelves = schema(responses("shelves")["200"])
    assert shelves["items"]["properties"]["books"] == {"type": "array", "items": progress}
    assert shelves["items"]["properties"]["by_name"]["additionalProperties"] == {"type": "integer"}
    assert shelves["items"]["required"] == ["books", "by_name"]
    copied = responses("{id}/copy", "post")
    assert schema(copied["201"]) == {"$ref": "#/components/schemas/BookPart"}
    assert "content" not in copied["204"]
    assert "content" not in responses("{id}/close", "post")["204"]
    assert "200" not in responses("{id}/cover") | responses("anything")
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []


async def test_document_names_whom_to_turn_to(run: Run) -> None:
    """``api.contact``, as far as it is set."""
    service = await run(
        {"books": {"fields": {}}}, json.dumps({"api": {"contact": {"name": "Ann", "email": "ann@example.com"}}})
    )
    expected = {"name": "Ann", "email": "ann@example.com"}
    assert (await service.get("/openapi.json"))["info"]["contact"] == expected
    assert (await service.get("/asyncapi.json"))["info"]["contact"] == expected


async def test_examples_of_bodies_are_valid(run: Run) -> None:
    """Each fits its schema, and the service accepts it."""
    service = await run(RESOURCES)
    document = await service.get("/openapi.json")
    registry = Registry().with_resource("urn:api", DRAFT202012.create_resource(document))
    tried = 0
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = {} if method == "parameters" else operation.get("requestBody", {}).get("content", {})
            for media in content.values():
                if "example" in media:
                    tried += 1
                    schema = json.loads(json.dumps(media["schema"]).replace('"#/', '"urn:api#/'))
                    Draft202012Validator(schema, registry=registry).validate(media["example"])
                    if method == "post" and not re.search(r"_id\"", json.dumps(media["example"])):
                        await service.ask("POST", path, json=media["example"], status=201)
    assert tried > 10


async def test_streams_are_channels(service: Service) -> None:
    """Each stream is a channel with its messages, its address and its parameters; every reference resolves."""
    document = await service.get("/asyncapi.json")
    assert document["asyncapi"] == "3.0.0"
    channel = document["channels"]["books_stream"]
    assert channel["address"] == "/books/stream/"
    assert list(channel["messages"]) == ["BookEvent", "StreamReady", "StreamReset", "StreamSnapshot", "StreamStale"]
    operation = document["operations"]["books_stream"]
    assert operation["action"] == "send"
    assert {"fields", "last_event_id"} <= operation["bindings"]["http"]["query"]["properties"].keys()
    assert document["operations"]["secrets_stream"]["security"]
    assert "security" not in operation  # which anonymous callers may open
    assert document["channels"]["books_stream_row"]["parameters"].keys() == {"id"}
    queries = document["operations"]["stream_queries"]
    assert (queries["action"], document["channels"]["stream_queries"]["address"]) == ("receive", "/stream/")
    assert [each["$ref"].rpartition("/")[2] for each in queries["messages"]] == ["StreamQueries"]
    replies = {each["$ref"].rpartition("/")[2] for each in queries["reply"]["messages"]}
    assert {"BookEvent", "StreamReady", "StreamStale", "StreamQuery", "StreamRefused"} <= replies
    assert document["servers"]["server1"]["host"] == f"{service.client.host}:{service.client.port}"
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        part = document
        for step in reference.split("/"):
            part = part[step]


async def test_queries_on_one_connection_are_described(service: Service) -> None:
    """The schema of the body takes what the service takes, and refuses what it refuses."""
    document = await service.get("/openapi.json")
    operation = document["paths"]["/stream/"]["x-query"]
    schema = json.loads(
        json.dumps(operation["requestBody"]["content"]["application/json"]["schema"]).replace('"#/', '"urn:api#/')
    )
    registry = Registry().with_resource("urn:api", DRAFT202012.create_resource(document))
    validator = Draft202012Validator(schema, registry=registry)
    query = {"resource": "books", "params": {"fields": ["id"]}}
    bodies: dict[int, list[dict[str, Any]]] = {
        200: [{"queries": {"a": query, "b": {"resource": "books", "last_event_id": None}}}],
        400: [
            {},
            {"queries": {}},
            {"queries": {"a": {"resource": "book"}}},
            {"queries": {"a": query | {"more": 1}}},
            {"queries": {"a": {"resource": "books", "params": {"snapshot": True}}}},
            {"queries": {"a": {"resource": "books", "params": {"page": 1}}}},
            {"queries": {"a": query | {"last_event_id": 1}}},
        ],
    }
    for status, tried in bodies.items():
        for body in tried:
            assert validator.is_valid(body) == (status == 200), body
            async with service.client.request("QUERY", "/stream/", json=body) as response:
                assert response.status == status, (body, await response.text())


async def test_catalog_names_the_documents(service: Service) -> None:
    """RFC 9727: a linkset whose addresses can be read; HEAD has the link to itself."""
    response = await service.client.get("/.well-known/api-catalog")
    assert response.content_type == "application/linkset+json"
    assert "rfc9727" in response.headers["Content-Type"]
    ((context),) = json.loads(await response.read())["linkset"]
    for relation in ("service-desc", "service-doc", "status"):
        for link in context[relation]:
            found = await service.client.get(link["href"].removeprefix(context["anchor"].rstrip("/")))
            assert (found.status, found.content_type) == (200, link["type"])
    head = await service.client.head("/.well-known/api-catalog")
    assert 'rel="api-catalog"' in head.headers["Link"]


async def test_lists_link_to_their_stream_and_description(service: Service) -> None:
    """Also a list by Python; not a row, nor a failure, nor a list without a stream."""
    described = '</openapi.json>; rel="describedby"; type="application/json"'
    for name in ("secrets", "books"):
        headers = {"Authorization": f"Bearer {await create_token(service.sql, name, staff=True)}"}
        response = await service.client.get(f"/{name}/", headers=headers)
        expected = f'</{name}/stream/>; rel="alternate"; type="text/event-stream", {described}'
        assert response.headers["Link"] == expected
        assert (await service.client.head(f"/{name}", headers=headers)).headers["Link"] == expected
    assert "Link" not in (await service.client.get("/secrets/")).headers


async def test_links_are_those_that_lead_somewhere(run: Run) -> None:
    """No stream, and no description."""
    resource = {"fields": {}, "viewset": {"stream_enabled": False}}
    service = await run({"books": resource})
    assert "alternate" not in (await service.client.get("/books/")).headers["Link"]
    settings = {"server": {"openapi": "off"}, "auth": {"default_permission_classes": ["AllowAny"]}}
    hidden = await run({"books": resource}, json.dumps(settings))
    assert "Link" not in (await hidden.client.get("/books/")).headers
    for path in ("/asyncapi.json", "/.well-known/api-catalog"):
        assert (await hidden.client.get(path)).status == 404


async def test_types_of_problems_are_addresses_of_pages(service: Service) -> None:
    """Each page has the code's status, meaning and advice; it loads nothing but its style sheet."""
    _, problem = await service.ask("GET", "/books/?colour=red", status=400)
    assert problem["type"] == "/docs/errors/unknown_parameter"
    for code, each in ERROR_CODES.items():
        response = await service.client.get(f"/docs/errors/{code}")
        text = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert f"<code>{code}</code>" in text
        assert each.status in text
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
    index = await (await service.client.get("/docs/errors/")).text()
    assert re.findall(r'href="/docs/errors/(\w+)"', index) == list(ERROR_CODES)
    style = await service.client.get("/docs/errors.css")
    assert (style.status, style.content_type) == (200, "text/css")
    _, missing = await service.ask("GET", "/docs/errors/uniqe", status=404)
    assert "did you mean unique?" in missing["detail"]


async def test_codes_of_ones_own_have_no_page(run: Run) -> None:
    """``type`` is then about:blank, as RFC 9457 has it."""
    python = dedent("""
        from rowcast import BasePermission, ModelViewSet, model

        class Never(BasePermission):
            code = "closed_on_sundays"

            def has_permission(self, request, view):
                return False

        class Books(ModelViewSet):
            model = model("books")
            permission_classes = [Never]
            authentication_classes = []
        """)
    service = await run({"books": {"fields": {}, "viewset": {"class": "viewsets:Books"}}}, modules={"viewsets": python})
    _, problem = await service.ask("GET", "/books/", status=403)
    assert (problem["type"], problem["code"]) == ("about:blank", "closed_on_sundays")


def test_every_code_of_the_service_has_a_page() -> None:
    """Each ``code`` in the source is in the table."""
    found = {
        node.value
        for path in (ROOT / "service" / "rowcast").rglob("*.py")
        for keyword in ast.walk(ast.parse(path.read_text()))
        if isinstance(keyword, ast.keyword) and keyword.arg == "code"
        for node in [keyword.value]
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert found <= set(ERROR_CODES), "add these to rowcast/error_codes.py"
