"""The spans of a request: what they are called, what they have, and whose children they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from rowcast.server.log_entries import name_trace
from rowcast.server.plain_responses import send_plain
from tests.spans import Spans

from ..conftest import Serve
from ..sse import listen
from ..stream.test_events import next_change, ready

BOOKS = """
fields:
  id: {type: integer, primary_key: true}
  title: {type: string, max_length: 200, unique: true}
  author: {type: foreign_key, to: authors, null: true}
viewset: {permission_classes: [AllowAny], filterset_fields: {title: [exact, icontains]}}
"""
AUTHORS = """
fields: {id: {type: integer, primary_key: true}, name: {type: string}}
viewset: {class: viewsets:Authors}
"""
PYTHON = """
from marshmallow import fields
from opentelemetry import trace
from rowcast import BasePermission, ModelViewSet, Serializer, action, model, raw, wait

Book = model("books")

class KnowsBooks(BasePermission):
    async def has_permission(self, request, view):
        return await Book.objects.count() < 1000

class AuthorSerializer(Serializer):
    books = fields.Method("count_books")
    class Meta:
        fields = ("id", "name", "books")
    def count_books(self, author):
        return wait(Book.objects.filter(author=author.pk).count())

class Authors(ModelViewSet):
    serializer_class = AuthorSerializer
    permission_classes = [KnowsBooks]

    @action(detail=False)
    async def nap(self, request):
        await raw("SELECT count(*) FROM pg_sleep(0.2)")

    @action(detail=False)
    async def trace(self, request):
        return f"{trace.get_current_span().get_span_context().trace_id:032x}"

    @action(detail=False)
    def fail(self, request):
        raise RuntimeError("a secret of the failure")
"""
RESOURCES = {"books": BOOKS, "authors": AUTHORS}
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
pytestmark = pytest.mark.tables({"books": BOOKS, "authors": AUTHORS.replace("viewset: {class: viewsets:Authors}", "")})


def of(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of a span."""
    return dict(span.attributes or {})


async def test_a_request_is_a_span_with_its_route(serve: Serve, spans: Spans) -> None:
    """It is called by its method and route, and has what the conventions for HTTP servers name, without its query."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.post("/books/", json={"title": "Emma"})
    spans.clear()
    await client.get("/books/1?fields=title")
    (request,) = spans.requests
    assert request.name == "GET /books/{id}/"
    assert request.parent is None
    assert request.status.status_code is StatusCode.UNSET
    assert of(request) == {
        "http.request.method": "GET",
        "http.route": "/books/{id}/",
        "http.response.status_code": 200,
        "url.path": "/books/1",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
    }


async def test_the_parent_is_that_of_the_caller(serve: Serve, spans: Spans) -> None:
    """``traceparent`` of the request; one that is malformed begins a trace of its own."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.get("/books/", headers={"traceparent": PARENT})
    await client.get("/books/", headers={"traceparent": "00-nonsense"})
    first, second = spans.requests
    assert first.parent is not None
    assert f"{first.parent.trace_id:032x}-{first.parent.span_id:016x}" == PARENT[3:52]
    assert second.parent is None


async def test_statuses_and_addresses_without_a_route(serve: Serve, spans: Spans) -> None:
    """Only an error of the service is one of the span. What has no route is called by its method, if it has one."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.get("/books/7/")
    await client.get("/nowhere/")
    await client.session.request("PROPFIND", client.make_url("/books/"))
    await client.get("/authors/fail/")
    await client.get("/health/live")
    await client.get("/health/ready/")
    found = [(each.name, of(each)["http.response.status_code"], of(each).get("error.type")) for each in spans.requests]
    assert found == [
        ("GET /books/{id}/", 404, None),
        ("GET", 404, None),
        ("HTTP /books/", 405, None),
        ("GET /authors/fail/", 500, "500"),
    ]
    assert [each.status.status_code for each in spans.requests][-1] is StatusCode.ERROR
    assert "secret" not in "".join(each.to_json() for each in spans.all)


async def test_statements_are_children_of_their_request(serve: Serve, spans: Spans) -> None:
    """Each has its summary and, if PostgreSQL refuses it, the SQLSTATE; it lies within the request."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.post("/books/", json={"title": "Emma"})
    await client.post("/books/", json={"title": "Emma"})
    made, refused = spans.requests
    (statement,) = [each for each in spans.below(made) if each.kind is SpanKind.CLIENT]
    assert statement.name == "INSERT books"
    assert of(statement) == {
        "db.system.name": "postgresql",
        "db.query.summary": "INSERT books",
        "rowcast.pool": "requests",
    }
    times = [made.start_time or 0, statement.start_time or 0, statement.end_time or 0, made.end_time or 0]
    assert times == sorted(times)
    (failed, *_) = [each for each in spans.below(refused) if each.kind is SpanKind.CLIENT]
    assert (of(failed)["db.response.status_code"], of(failed)["error.type"]) == ("23505", "23505")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description is None
    assert refused.status.status_code is StatusCode.UNSET


async def test_permissions_and_serializers_are_spans_around_their_statements(serve: Serve, spans: Spans) -> None:
    """A page is serialized in one span, with what Python reads for each row below it."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    for name in ("Jane", "Mary"):
        assert (await client.post("/authors/", json={"name": name})).status == 201
    assert (await client.post("/authors/", json={"nome": ""})).status == 400
    *_, created, refused = spans.requests
    assert [each.name for each in spans.below(created) if each.kind is SpanKind.INTERNAL] == [
        "permissions Authors", "validate AuthorSerializer", "serialize AuthorSerializer"
    ]  # fmt: skip
    assert {each.status.status_code for each in spans.below(refused)} == {StatusCode.UNSET}
    spans.clear()
    await client.get("/authors/")
    (request,) = spans.requests
    permissions, page, serializer = spans.below(request)
    assert [permissions.name, page.name, serializer.name] == [
        "permissions Authors", "SELECT authors", "serialize AuthorSerializer"
    ]  # fmt: skip
    assert [each.name for each in spans.below(permissions)] == ["SELECT books"]
    assert [each.name for each in spans.below(serializer)] == ["SELECT books", "SELECT books"]


async def test_what_is_not_sampled_is_not_recorded(serve: Serve, spans: Spans) -> None:
    """The caller has decided so; the change has no trace either."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    async with listen(client, "/books/stream/") as source:
        await ready(source)
        spans.clear()
        await client.post("/books/", json={"title": "Emma"}, headers={"traceparent": f"{PARENT[:-1]}0"})
        assert "traceparent" not in await next_change(source)
    assert spans.all == []


async def test_spans_of_python_are_in_the_trace_of_a_request_that_is_not_sampled(serve: Serve, spans: Spans) -> None:
    """Otherwise a span of the user's would begin a trace of its own, and be recorded without its request."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    response = await client.get("/authors/trace/", headers={"traceparent": f"{PARENT[:-1]}0"})
    assert await response.json() == TRACE_ID
    assert spans.all == []


async def test_traced_responses_are_sent_in_one_write(
    serve: Serve, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces add nothing to a response, so its bytes are those of ``server/plain_responses.py``."""
    found: list[bool] = []

    def noted(*arguments: Any) -> bool:
        found.append(send_plain(*arguments))
        return found[-1]

    monkeypatch.setattr("rowcast.server.connections.send_plain", noted)
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.get("/books/")
    await client.get("/books/", headers={"traceparent": f"{PARENT[:-1]}0"})
    assert found == [True, True]


async def test_requests_that_share_a_statement_each_have_its_span(serve: Serve, spans: Spans) -> None:
    """Each trace is complete by itself: as many statements as requests, some of them shared, none twice."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    await client.post("/books/", json={"title": "Emma"})
    spans.clear()
    await asyncio.gather(*(client.get("/books/1/") for _ in range(40)))
    statements = [spans.below(request) for request in spans.requests]
    assert [[each.name for each in below] for below in statements] == [["SELECT books"]] * 40
    assert any(of(below[0]).get("rowcast.statement.shared") for below in statements)


async def test_a_full_pool_is_in_the_trace(serve: Serve, spans: Spans) -> None:
    """The wait for a connection is a span of the request that waits."""
    client = await serve(RESOURCES, "database: {pool_size: 1}", modules={"viewsets": PYTHON})
    spans.clear()
    await asyncio.gather(*(client.get("/authors/nap/") for _ in range(2)))
    waits = [[each.name for each in spans.below(request)].count("wait for a connection") for request in spans.requests]
    assert sum(waits) > 0


async def test_a_stream_is_a_span_until_it_begins(serve: Serve, spans: Spans) -> None:
    """What the stream sends, and reads for that, has no span, however long the stream is open."""
    client = await serve(RESOURCES, modules={"viewsets": PYTHON})
    for path in ("/books/stream/", "/books/stream/?title__icontains=é", "/authors/stream/", "/stream/?resources=books"):
        spans.clear()
        async with listen(client, path) as source:
            await ready(source)
            (request,) = spans.requests
            assert request.name == f"GET {path.partition('?')[0]}"
            assert of(request)["http.response.status_code"] == 200
            spans.clear()
            table = "authors" if "authors" in path else "books"
            await client.post(f"/{table}/", json={"name": "Jane"} if table == "authors" else {"title": f"é {path}"})
            await next_change(source)
            assert [each.name for each in spans.requests] == [f"POST /{table}/"]
            trace_ids = {each.context.trace_id for each in spans.all if each.context}
            assert len(trace_ids) == 1


async def test_log_entries_name_the_trace(serve: Serve, spans: Spans) -> None:
    """Those of requests and of failures, so that one leads to the other."""
    client = await serve(RESOURCES, "log: {access: all}", modules={"viewsets": PYTHON})
    with capture_logs(processors=[name_trace]) as logs:
        await client.get("/authors/fail/", headers={"traceparent": PARENT})
    entries = [entry for entry in logs if entry["event"] in ("request", "request_failed")]
    assert [entry["event"] for entry in entries] == ["request_failed", "request"]
    assert {entry["trace_id"] for entry in entries} == {TRACE_ID}
    assert {entry["span_id"] for entry in entries} == {each[36:52] for each in spans.traceparents()}
