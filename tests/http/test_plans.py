"""What a viewset's plan promises: computed once, and nothing of it per request."""

from __future__ import annotations

from textwrap import dedent

import pytest

from .conftest import Run

NOTES = {"fields": {"id": {"type": "integer", "primary_key": True}, "text": {"type": "string", "max_length": 100}}}
VIEWSETS = dedent("""
    from rowcast import ModelViewSet, Response, Serializer, ViewSet, action, model

    Note = model("notes")

    class BareViewSet(ModelViewSet):
        queryset = Note.objects.all()
        cache = "responses"
        made = 0

        def get_permissions(self):
            type(self).made += 1
            return super().get_permissions()

    bare = BareViewSet.as_view({"get": "list"}, page_size=5)

    class NoteViewSet(ModelViewSet):
        model = Note

        async def perform_update(self, serializer):
            await serializer.save()

        async def perform_create(self, serializer):
            await serializer.save()

        @action(detail=False)
        async def bare(self, request):
            return await bare(request.http)

        @action(detail=False)
        async def csv(self, request):
            return Response("a,b", content_type="text/csv", headers={"X-Rows": "1"})

        @action(detail=False)
        async def raw(self, request):
            return Response(b"\\x00\\x01", content_type="application/octet-stream", status=201)

        @action(detail=False)
        async def early(self, request):
            return self.get_paginated_response([])

        @action(detail=False)
        async def mistaken(self, request):
            return Response({"a": 1}, content_type="text/csv")
    """)
RESOURCES = {"notes": {**NOTES, "viewset": {"class": "viewsets:NoteViewSet"}}}


async def test_handler_of_an_unbound_class_is_planned_once(run: Run) -> None:
    """``as_view`` of a class that no resource names binds it at the first request, and no class is made by any."""
    service = await run(RESOURCES, modules={"viewsets": VIEWSETS})
    for name in ("one", "two"):
        await service.post("/notes/", {"text": name})
    assert len(await service.rows("/notes/bare/")) == 2
    shared = service.service
    (plan,), (base,) = list(shared.handler_plans.values()), list(shared.class_plans.values())
    subclasses = plan.viewset.__subclasses__()
    for _ in range(3):
        await service.rows("/notes/bare/")
    assert list(shared.handler_plans.values()) == [plan]
    assert list(shared.class_plans.values()) == [base]
    assert plan.viewset.__subclasses__() == subclasses == []
    assert plan.attribute("page_size") == 5


@pytest.mark.parametrize(("path", "status", "media", "body"), [
    ("csv", 200, "text/csv", b"a,b"), ("raw", 201, "application/octet-stream", b"\x00\x01"),
])  # fmt: skip
async def test_content_type_of_a_response_is_honoured(
    run: Run, path: str, status: int, media: str, body: bytes
) -> None:
    """``Response(…, content_type=…)`` sends a string or bytes as they are, under that media type."""
    service = await run(RESOURCES, modules={"viewsets": VIEWSETS})
    response = await service.client.get(f"/notes/{path}/")
    assert (response.status, response.content_type, await response.read()) == (status, media, body)


@pytest.mark.parametrize(("path", "message"), [
    ("mistaken", "Response(content_type='text/csv') needs a string or bytes, not dict"),
    ("early", "get_paginated_response() needs a page: call paginate_queryset() before it"),
])  # fmt: skip
async def test_mistake_in_a_handler_is_logged_as_a_sentence(
    run: Run, capfd: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    """A mistake of the handler's author is a 500, and the log says what to write instead."""
    service = await run(RESOURCES, modules={"viewsets": VIEWSETS})
    assert (await service.client.get(f"/notes/{path}/")).status == 500
    assert message in " ".join(capfd.readouterr().out.split())


async def test_write_through_a_hook_opens_one_transaction(run: Run) -> None:
    """``perform_create`` and ``perform_update`` run in the request's transaction, without a savepoint in it."""
    service = await run(RESOURCES, modules={"viewsets": VIEWSETS})
    key = (await service.post("/notes/", {"text": "a"}))["id"]
    await service.sql.execute(
        "CREATE TABLE seen (depth text); CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO seen VALUES (pg_current_xact_id()::text || ' ' || pg_current_xact_id_if_assigned()::text); "
        "RETURN NEW; END $$; CREATE TRIGGER look BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION look()"
    )
    await service.patch(f"/notes/{key}/", {"text": "b"})
    await service.post("/notes/", {"text": "c"})
    rows = await service.sql.fetch("SELECT xmin::text AS writer, split_part(depth, ' ', 1) AS top FROM seen")
    assert [row["writer"] for row in rows] == [row["top"] for row in rows], "a savepoint gives its rows another xmin"
    assert len(rows) == 2
