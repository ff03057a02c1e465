"""Custom actions of a viewset in the OpenAPI document, which stays valid."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from rowcast.errors import ConfigurationError

from ..conftest import Serve

NOTES = """
fields: {id: {type: integer, primary_key: true}, text: {type: string}}
viewset: {class: 'viewsets:Notes', permission_classes: [IsAuthenticated]}
"""
HELPERS = """
from rowcast import *

class Notes(ModelViewSet):
    def project(self, note): return note.text
    def known(self): return 1
    def answer(self): return 2
    def filters(self): return 3
    def see(self): return 4

    @action(detail=True)
    async def open(self, request, id):
        note = await self.get_object(id)
        return [self.project(note), self.known(), self.answer(), self.filters(), self.see()]
"""
VIEWSETS = '''
from marshmallow import fields, validate
from rowcast import *

class Shared(Serializer):
    people = fields.List(fields.Integer(), required=True)
    note = fields.String(validate=validate.Length(max=20))
    shown = fields.String(dump_only=True)

class Notes(ModelViewSet):
    @action(detail=True, methods=["post", "delete"], serializer_class=Shared, permission_classes=[AllowAny])
    async def share(self, request, id):
        """Show it to others.

        All of them.
        """

    @action(detail=True, methods=["put"], url_path="in/{code:[a-z]{2}}", name="Set the text", authentication_classes=[])
    async def text(self, request, id, code): ...

    @text.mapping.get
    async def read_text(self, request, id, code):
        """The text in one language."""

    @action(detail=False)
    async def plain(self, request): ...

class Others(Notes):
    model = model("notes")
    def get_permissions(self):
        return [IsAdminUser()]
'''
URLS = """
from rowcast import DefaultRouter
from viewsets import Others
router = DefaultRouter()
router.register("others", Others, basename="other")
"""


pytestmark = pytest.mark.tables({"notes": NOTES})


async def test_actions_of_a_viewset_s_own_are_described(serve: Serve) -> None:
    """Each has its body, parameters, failures, descriptions and credentials, and no name occurs twice."""
    client = await serve({"notes": NOTES}, modules={"viewsets": VIEWSETS, "urls": URLS})
    document = await (await client.get("/openapi.json")).json()
    paths = document["paths"]
    share = paths["/notes/{id}/share/"]
    assert [each["name"] for each in share["parameters"]] == ["id"]
    post = share["post"]
    assert (post["summary"], post["description"]) == ("Share", "Show it to others.\n\nAll of them.")
    assert post["security"][0] == {}
    assert {"400", "401", "403", "404", "409", "413", "415", "default"} <= post["responses"].keys()
    body = post["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert (body["required"], schema["required"], list(schema["properties"])) == (True, ["people"], ["people", "note"])
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"people": [1], "note": "x" * 20})
    assert not validator.is_valid({"people": ["x"]})
    assert not validator.is_valid({"people": [], "note": "x" * 21})
    assert "requestBody" not in share["delete"]

    text = paths["/notes/{id}/in/{code}/"]
    assert [each["name"] for each in text["parameters"]] == ["id", "code"]
    assert (text["put"]["summary"], text["put"]["security"]) == ("Set the text", [])
    assert text["put"]["requestBody"]["content"]["application/json"]["schema"] == {
        "type": "object",
        "additionalProperties": True,
    }
    assert (text["get"]["summary"], text["get"]["description"]) == ("Read text", "The text in one language.")

    described = await (await client.options("/notes/1/share/", headers={"Accept": "*/*"})).json()
    assert (described["methods"], described["actions"]) == (["DELETE", "OPTIONS", "POST"], {})

    assert {} not in paths["/notes/plain/"]["get"]["security"]
    assert {} not in paths["/notes/stream/"]["get"]["security"]
    assert "security" not in paths["/others/plain/"]["get"]
    names = [each["operationId"] for path in paths.values() for key, each in path.items() if key != "parameters"]
    assert len(names) == len(set(names))
    assert {"notes_list", "notes_share", "notes_share_delete", "notes_plain"} <= set(names)


async def test_helpers_are_called_as_their_author_likes(serve: Serve) -> None:
    """A helper method may have any name that the viewset does not use itself; one that it uses is an error at start-up."""
    client = await serve({"notes": NOTES.replace("IsAuthenticated", "AllowAny")}, modules={"viewsets": HELPERS})
    await client.post("/notes/", json={"text": "x"})
    assert await (await client.get("/notes/1/open/")).json() == ["x", 1, 2, 3, 4]
    assert (await (await client.get("/notes/?fields=text")).json())["results"] == [{"text": "x"}]
    taken = HELPERS.replace("def see", "def view_plan").replace("self.see()", "4")
    with pytest.raises(
        ConfigurationError, match=r"viewsets\.Notes\.view_plan: viewsets have an attribute of this name"
    ):
        await serve({"notes": NOTES}, modules={"viewsets": taken})
