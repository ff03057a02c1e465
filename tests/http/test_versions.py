"""Entity tags: a representation that the client has is not sent again, and no update is lost (RFC 9110, 13.1)."""

from __future__ import annotations

import asyncio

import pytest
from multidict import CIMultiDict

from ..conftest import Serve

TAGS = (
    "fields: {id: {type: integer, primary_key: true}, name: {type: string}}\nviewset: {permission_classes: [AllowAny]}"
)
NOTES = """
fields:
  id: {type: integer, primary_key: true}
  text: {type: string, max_length: 200}
  stars: {type: integer, default: 0}
  tags: {type: many_to_many, to: tags}
viewset:
  permission_classes: [AllowAny]
"""
RESOURCES = {"tags": TAGS, "notes": NOTES}
HOOKED = """
from rowcast import ModelViewSet

class Notes(ModelViewSet):
    async def perform_update(self, serializer):
        await serializer.save(stars=7)

class Own(ModelViewSet):
    async def update(self, request, id):
        note = await self.get_object(id)
        note.text = request.data["text"]
        await note.save()
        return {"text": note.text}
"""


pytestmark = pytest.mark.tables(RESOURCES)


async def test_a_row_that_the_client_has_is_not_sent_again(serve: Serve) -> None:
    """``If-None-Match`` with the row's tag is a 304 without a body, until the row changes."""
    client = await serve(RESOURCES)
    created = await client.post("/notes/", json={"text": "one"})
    assert created.status == 201
    tag = created.headers["ETag"]
    read = await client.get("/notes/1/")
    assert read.headers["ETag"] == tag
    for given in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        same = await client.get("/notes/1/", headers={"If-None-Match": given})
        assert (same.status, await same.read(), same.headers["ETag"]) == (304, b"", tag)
        assert "X-Stream-Position" in same.headers
    assert (await client.get("/notes/1/", headers={"If-None-Match": '"other"'})).status == 200
    await client.patch("/notes/1/", json={"stars": 1})
    changed = await client.get("/notes/1/", headers={"If-None-Match": tag})
    assert changed.status == 200
    assert changed.headers["ETag"] != tag


async def test_the_lines_of_a_condition_are_one_list(serve: Serve) -> None:
    """A proxy may split a header into lines, and leave elements empty (RFC 9110, 5.3 and 5.6.1). In quotes ``*`` is a tag."""
    client = await serve(RESOURCES)
    tag = (await client.post("/notes/", json={"text": "one"})).headers["ETag"]

    async def status(method: str, header: str, *lines: str, path: str = "/notes/1/") -> int:
        headers = CIMultiDict([(header, line) for line in lines])
        body = None if method == "GET" else {"text": "one"}
        return (await client.request(method, path, json=body, headers=headers)).status

    assert await status("GET", "If-None-Match", '"other"', tag) == 304
    assert await status("GET", "If-None-Match", f'"other",, , {tag} ,') == 304
    assert await status("GET", "If-None-Match", '"other"', '"more"') == 200
    assert await status("GET", "If-None-Match", '"*"') == 200
    assert await status("GET", "If-Match", '"other"', tag) == 200
    assert await status("GET", "If-Match", '"*"') == 412
    assert await status("PATCH", "If-Match", '"*"') == 412
    assert await status("PATCH", "If-None-Match", '"*"') == 200
    assert await status("PATCH", "If-None-Match", '"other"', "*") == 200  # which is malformed
    tag = (await client.get("/notes/1/")).headers["ETag"]
    assert await status("PATCH", "If-None-Match", '"other"', tag) == 412
    assert await status("PATCH", "If-Match", '"other"', tag) == 200
    page = (await client.get("/notes/")).headers["ETag"]
    assert await status("GET", "If-None-Match", '"other"', page, path="/notes/") == 304


async def test_a_representation_has_a_tag_of_its_own(serve: Serve) -> None:
    """Another selection of fields, and related rows that have changed, are another representation."""
    client = await serve(RESOURCES)
    await client.post("/tags/", json={"name": "red"})
    await client.post("/notes/", json={"text": "one", "tags": [1]})
    whole = (await client.get("/notes/1/")).headers["ETag"]
    part = (await client.get("/notes/1/?fields=text")).headers["ETag"]
    wide = (await client.get("/notes/1/?expand=tags")).headers["ETag"]
    assert len({whole, part, wide}) == 3
    await client.patch("/tags/1/", json={"name": "blue"})
    assert (await client.get("/notes/1/")).headers["ETag"] == whole
    assert (await client.get("/notes/1/?expand=tags")).headers["ETag"] != wide


async def test_a_page_that_the_client_has_is_not_sent_again(serve: Serve) -> None:
    """A list has a tag, too."""
    client = await serve(RESOURCES)
    await client.post("/notes/", json={"text": "one"})
    tag = (await client.get("/notes/")).headers["ETag"]
    assert (await client.get("/notes/", headers={"If-None-Match": tag})).status == 304
    await client.post("/notes/", json={"text": "two"})
    assert (await client.get("/notes/", headers={"If-None-Match": tag})).status == 200


async def test_a_change_to_a_row_that_others_have_changed_is_refused(serve: Serve) -> None:
    """``If-Match`` with an old tag is a 412 and changes nothing; with the current one, of any representation, it succeeds."""
    client = await serve(RESOURCES)
    old = (await client.post("/notes/", json={"text": "one"})).headers["ETag"]
    assert (await client.patch("/notes/1/", json={"stars": 1}, headers={"If-Match": old})).status == 200
    body = {"text": "lost"}
    for refused in (
        await client.patch("/notes/1/", json=body, headers={"If-Match": old}),
        await client.put("/notes/1/", json=body, headers={"If-Match": old}),
        await client.patch("/notes/1/", json=body, headers={"If-Match": f"W/{old}"}),
        await client.patch("/notes/1/", json=body, headers={"If-Match": '"nonsense"'}),
        await client.patch("/notes/1/", json=body, headers={"If-Match": "nonsense"}),
        await client.delete("/notes/1/", headers={"If-Match": old}),
    ):
        problem = await refused.json()
        assert (refused.status, problem["code"]) == (412, "precondition_failed")
    assert (await (await client.get("/notes/1/")).json())["text"] == "one"
    part = (await client.get("/notes/1/?fields=id")).headers["ETag"]
    assert (await client.patch("/notes/1/", json={"stars": 2}, headers={"If-Match": f'"x", {part}'})).status == 200
    assert (await client.patch("/notes/1/", json={"stars": 3}, headers={"If-Match": "*"})).status == 200
    newest = (await client.get("/notes/1/")).headers["ETag"]  # a proxy that compresses responses makes it weak
    assert (await client.patch("/notes/1/", json={"stars": 4}, headers={"If-Match": f"W/{newest}"})).status == 200
    assert (await client.patch("/notes/9/", json={"stars": 3}, headers={"If-Match": old})).status == 404
    assert (await client.delete("/notes/9/", headers={"If-Match": old})).status == 404
    newest = (await client.get("/notes/1/")).headers["ETag"]
    assert (await client.delete("/notes/1/", headers={"If-Match": newest})).status == 204


async def test_of_racing_changes_to_one_version_one_wins(serve: Serve) -> None:
    """Twelve clients with the same version: one changes the row, and the others get a 412."""
    client = await serve(RESOURCES)
    tag = (await client.post("/notes/", json={"text": "one"})).headers["ETag"]
    answers = await asyncio.gather(
        *(client.patch("/notes/1/", json={"stars": n}, headers={"If-Match": tag}) for n in range(12))
    )
    assert sorted(answer.status for answer in answers) == [200, *[412] * 11]


async def test_links_are_part_of_a_version(serve: Serve) -> None:
    """A client that has not read a new or removed link cannot overwrite it."""
    client = await serve(RESOURCES)
    for name in ("red", "blue"):
        await client.post("/tags/", json={"name": name})
    await client.post("/notes/", json={"text": "one", "tags": [1]})
    tags = [(await client.get("/notes/1/")).headers["ETag"]]
    for keys in ([1, 2], [2], [1], []):
        changed = await client.patch("/notes/1/", json={"tags": keys}, headers={"If-Match": tags[-1]})
        assert changed.status == 200
        tags.append((await client.get("/notes/1/")).headers["ETag"])
    assert len(set(tags)) == len(tags)
    await client.patch("/notes/1/", json={"tags": [1]})
    tag = (await client.get("/notes/1/")).headers["ETag"]
    await client.delete("/tags/1/")
    assert (await client.patch("/notes/1/", json={"stars": 1}, headers={"If-Match": tag})).status == 412


async def test_a_resource_may_ask_for_if_match(serve: Serve) -> None:
    """With ``require_if_match`` a change without the header is a 428 that names it."""
    client = await serve({"tags": TAGS, "notes": NOTES + "  require_if_match: true\n"})
    tag = (await client.post("/notes/", json={"text": "one"})).headers["ETag"]
    for answer in (await client.patch("/notes/1/", json={"stars": 1}), await client.delete("/notes/1/")):
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (428, "precondition_required")
        assert "If-Match" in problem["detail"]
    assert (await client.patch("/notes/1/", json={"stars": 1}, headers={"If-Match": tag})).status == 200


async def test_changes_by_python_are_guarded_as_well(serve: Serve) -> None:
    """A viewset with hooks or with its own handler checks the version as the default one does."""
    for name in ("Notes", "Own"):
        resources = {"tags": TAGS, "notes": NOTES + f"  class: views:{name}\n"}
        client = await serve(resources, modules={"views": HOOKED})
        created = await client.post("/notes/", json={"text": "one"})
        path = f"/notes/{(await created.json())['id']}/"
        old = (await client.get(path)).headers["ETag"]
        assert created.headers["ETag"] == old
        assert (await client.put(path, json={"text": "two"}, headers={"If-Match": old})).status == 200
        assert (await client.put(path, json={"text": "lost"}, headers={"If-Match": old})).status == 412
        read = await client.get(path)
        assert (await read.json())["text"] == "two"
        assert (await client.delete(path, headers={"If-Match": old})).status == 412
        assert (await client.delete(path, headers={"If-Match": read.headers["ETag"]})).status == 204


async def test_reads_are_conditional_on_what_they_show(serve: Serve) -> None:
    """``If-Match`` on GET and HEAD of a row and of a list: a 412 unless the tag is that of this very representation."""
    client = await serve(RESOURCES)
    await client.post("/notes/", json={"text": "one"})
    part = (await client.get("/notes/1/?fields=text")).headers["ETag"]
    for path in ("/notes/", "/notes/1/"):
        tag = (await client.get(path)).headers["ETag"]
        for method in ("GET", "HEAD"):
            for sent, status in (
                (tag, 200), (f"W/{tag}", 200), (f'"x", {tag}', 200), ("*", 200), ('"x"', 412), (part, 412), ("x", 412), ("", 412),
            ):  # fmt: skip
                answer = await client.request(method, path, headers={"If-Match": sent})
                assert (answer.status, sent) == (status, sent)
            both = {"If-Match": '"x"', "If-None-Match": tag}
            assert (await client.request(method, path, headers=both)).status == 412
            assert (await client.request(method, path, headers=both | {"If-Match": tag})).status == 304
    assert (await client.get("/notes/9/", headers={"If-Match": '"x"'})).status == 404
    problem = await (await client.get("/notes/1/", headers={"If-Match": '"x"'})).json()
    assert problem["code"] == "precondition_failed"


@pytest.mark.parametrize("views", [None, "Notes", "Own"])
async def test_writes_may_exclude_versions(serve: Serve, views: str | None) -> None:
    """``If-None-Match`` on PUT, PATCH and DELETE: a 412 if the row exists (``*``), or has this version."""
    notes = NOTES + (f"  class: views:{views}\n" if views else "")
    client = await serve({"tags": TAGS, "notes": notes}, modules={"views": HOOKED})
    old = (await client.post("/notes/", json={"text": "one"})).headers["ETag"]
    body = {"text": "two"}
    for sent in ("*", old, f"W/{old}", f'"x", {old}'):
        headers = {"If-None-Match": sent}
        for answer in (
            await client.put("/notes/1/", json=body, headers=headers),
            await client.patch("/notes/1/", json=body, headers=headers),
            await client.delete("/notes/1/", headers=headers),
        ):
            assert (answer.status, (await answer.json())["code"]) == (412, "precondition_failed")
    assert (await (await client.get("/notes/1/")).json())["text"] == "one"
    for sent in ("*", old):
        assert (await client.patch("/notes/9/", json=body, headers={"If-None-Match": sent})).status == 404
        assert (await client.delete("/notes/9/", headers={"If-None-Match": sent})).status == 404
    assert (await client.put("/notes/1/", json=body, headers={"If-None-Match": '"x"'})).status == 200
    assert (await client.patch("/notes/1/", json=body, headers={"If-None-Match": old})).status == 200
    both = {"If-Match": (await client.get("/notes/1/")).headers["ETag"], "If-None-Match": "*"}
    assert (await client.patch("/notes/1/", json=body, headers=both)).status == 412
    assert (await client.delete("/notes/1/", headers={"If-None-Match": old})).status == 204


ACTIONS = """
from rowcast import ModelViewSet, ViewSet, action

class Notes(ModelViewSet):
    @action(detail=True, methods=["POST"])
    async def star(self, request, id):
        note = await self.get_object(id)
        note.stars += 1
        await note.save()
        return {"stars": note.stars}

    @action(detail=False, methods=["POST"])
    async def clear(self, request):
        return {"deleted": await self.get_queryset().delete()}

    @action(detail=False, methods=["GET", "POST"])
    async def mood(self, request):
        return {"mood": "good"}
"""


async def test_actions_of_ones_own_are_conditional(serve: Serve) -> None:
    """Those about one row on its version, as PATCH is; others on what a GET of their address shows, which may be nothing."""
    client = await serve({"tags": TAGS, "notes": NOTES + "  class: views:Notes\n"}, modules={"views": ACTIONS})
    old = (await client.post("/notes/", json={"text": "one"})).headers["ETag"]

    async def post(path: str, **headers: str) -> int:
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        return (await client.post(path, json={}, headers=sent)).status

    assert await post("/notes/1/star/", If_Match=old) == 200
    assert await post("/notes/1/star/", If_Match=old) == 412
    assert await post("/notes/1/star/", If_Match="*") == 200
    assert await post("/notes/1/star/", If_None_Match="*") == 412
    assert await post("/notes/1/star/", If_None_Match=old) == 200
    assert await post("/notes/9/star/", If_Match=old) == 404
    assert (await (await client.get("/notes/1/")).json())["stars"] == 3
    assert await post("/notes/mood/", If_Match=old) == 412
    assert await post("/notes/mood/", If_None_Match="*") == 412
    assert await post("/notes/mood/", If_Match="*") == await post("/notes/mood/", If_None_Match=old) == 200
    assert await post("/notes/clear/", If_Match="*") == 412
    assert await post("/notes/clear/", If_None_Match="*") == 200


async def test_creating_is_conditional_on_the_list(serve: Serve) -> None:
    """``If-Match`` with the tag of the list creates a row only if the list is as it was read; a list exists always."""
    client = await serve(RESOURCES)

    async def create(path: str = "/notes/", **headers: str) -> int:
        sent = {name.replace("_", "-"): text for name, text in headers.items()}
        return (await client.post(path, json={"text": "x"}, headers=sent)).status

    tag = (await client.get("/notes/")).headers["ETag"]
    assert await create(If_None_Match=tag) == await create(If_None_Match="*") == 412
    assert await create(If_Match=tag) == 201
    assert await create(If_Match=tag) == 412
    assert await create(If_Match="*") == await create(If_None_Match=tag) == 201
    assert (await (await client.get("/notes/")).json())["count"] == 3
    client = await serve({"tags": TAGS, "notes": NOTES + "  allowed_actions: [create]\n"})
    assert await create(If_Match="*") == 412
    assert await create(If_None_Match="*") == 201


GUARDED = """
from rowcast import BasePermission, ModelViewSet

class Mine(BasePermission):
    def has_object_permission(self, request, view, obj):
        return obj.text != "secret"

class Notes(ModelViewSet):
    permission_classes = [Mine]
"""


async def test_object_permissions_come_before_preconditions(serve: Serve) -> None:
    """A caller who may not touch a row gets the same 401 or 403 for every ``If-Match``."""
    notes = NOTES.partition("viewset:")[0] + "viewset: {class: views:Notes}\n"
    client = await serve({"tags": TAGS, "notes": notes}, modules={"views": GUARDED})
    for text in ("secret", "open"):
        await client.post("/notes/", json={"text": text})
    old = {"If-Match": '"1-x"'}
    for key, status in ((1, 401), (2, 412), (9, 404)):
        assert (await client.patch(f"/notes/{key}/", json={"stars": 1}, headers=old)).status == status
        assert (await client.delete(f"/notes/{key}/", headers=old)).status == status
    assert (await client.get("/notes/1/", headers={"Accept": "text/event-stream"})).status == 401


async def test_a_precondition_beside_a_header_that_is_not_text(serve: Serve) -> None:
    """A header with other bytes than UTF-8 has no say in what a conditional write is compared with."""
    client = await serve(RESOURCES)
    tag = (await client.get("/notes/")).headers["ETag"]
    url, body = client.make_url("/"), b'{"text": "new"}'
    for expected, precondition in ((b"412", b'"other"'), (b"201", tag.encode())):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /notes/ HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(
            head.encode() + b"If-Match: " + precondition + b"\r\nX-Other: \xff\xfe\r\nConnection: close\r\n\r\n" + body
        )
        assert (await reader.readline()).split()[1] == expected
        writer.close()
