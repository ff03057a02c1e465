"""Every ordinary way to hide a field hides it in every response, or is refused when the class is defined."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from rowcast.errors import ConfigurationError

from ..sse import listen
from .conftest import Run
from .library import Service

SERIALIZERS = {
    "meta_load_only": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
                load_only = ("salary",)
    """,
    "meta_extra": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
                extra = {"salary": {"load_only": True}}
    """,
    "on_bind_field": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
            def on_bind_field(self, field_name, field_obj):
                if field_name == "salary":
                    field_obj.load_only = True
    """,
    "init_pop": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.fields.pop("salary")
    """,
    "init_only": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
            def __init__(self, *args, **kwargs):
                super().__init__(*args, only=("id", "name"), **kwargs)
    """,
    "init_context": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                if "X-Boss" not in self.context["request"].headers:
                    del self.fields["salary"]
    """,
    "dump": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
            def dump(self, obj, *, many=None):
                data = super().dump(obj, many=many)
                data.pop("salary")
                return data
    """,
    "post_dump": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
            @post_dump
            def hide(self, data, **kwargs):
                return {name: value for name, value in data.items() if name != "salary"}
    """,
    "get_serializer_only": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person

        class PersonView(ModelViewSet):
            serializer_class = PersonSerializer
            def get_serializer(self, *args, **kwargs):
                return super().get_serializer(*args, only=("id", "name"), **kwargs)
    """,
    "get_serializer_class": """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person
                exclude = ("salary",)

        class PersonView(ModelViewSet):
            def get_serializer_class(self):
                return PersonSerializer
    """,
}
HEAD = """
from marshmallow import fields, post_dump
from rowcast import ModelViewSet, Serializer, action, model

Person, Post = model("people"), model("posts")
"""
TAIL = """
if "PersonView" not in globals():
    class PersonView(ModelViewSet):
        serializer_class = PersonSerializer

PersonView.stream_enabled = True

class PostSerializer(Serializer):
    author = fields.Raw()
    class Meta:
        model = Post
        fields = ("id", "author")

class PostView(ModelViewSet):
    @action(detail=True)
    async def writer(self, request, id):
        post = await self.get_object(id)
        return post.author

class RawView(ModelViewSet):
    serializer_class = PostSerializer
    select_related = ["author"]
"""
ID = {"id": {"type": "integer", "primary_key": True}}
PEOPLE = {**ID, "name": {"type": "string", "max_length": 20}, "salary": {"type": "integer", "default": 1234512345}}
POSTS = {**ID, "author": {"type": "foreign_key", "to": "people", "null": True}}


async def started(run: Run, way: str, posts: dict[str, Any] | None = None, **people: Any) -> Service:
    """A service whose people have a salary of 1234512345, which a way of hiding hides."""
    resources = {
        "people": {"model": "Person", "fields": PEOPLE, "viewset": {"class": "viewsets:PersonView", **people}},
        "posts": {"fields": POSTS, "viewset": posts or {}},
    }
    modules = {"viewsets": HEAD + dedent(SERIALIZERS[way]) + TAIL}
    return await run(resources, modules=modules)


@pytest.mark.parametrize("way", SERIALIZERS)
async def test_hidden_field_is_in_no_response(run: Run, way: str) -> None:
    """Neither in create, list, retrieve, put and patch nor in a stream and its snapshot; also with a cache."""
    service = await started(run, way, cache="responses")
    async with listen(service.client, "/people/stream/?snapshot=true") as source:
        texts = []
        for method, path, body in (
            ("POST", "/people/", {"name": "ann"}),
            ("GET", "/people/", None),
            ("GET", "/people/", None),
            ("GET", "/people/1/", None),
            ("GET", "/people/1/", None),
            ("PATCH", "/people/1/", {"name": "bob"}),
            ("PUT", "/people/1/", {"name": "cy"}),
        ):
            _, answer = await service.ask(method, path, body)
            assert "cy" in str(answer) or "ann" in str(answer) or "bob" in str(answer)
            texts.append(str(answer))
        while '"cy"' not in texts[-1]:
            texts.append((await source.next()).data)
    async with listen(service.client, "/people/stream/?snapshot=true") as source:
        texts.append((await source.next()).data)
    assert '"cy"' in texts[-1]
    assert not [text for text in texts if "salary" in text or "1234512345" in text]
    if way == "init_context":
        for path in ("/people/1/", "/people/"):
            assert "1234512345" in str((await service.ask("GET", path, headers={"X-Boss": "1"}))[1])
            assert "1234512345" not in str((await service.ask("GET", path))[1])


@pytest.mark.parametrize("way", SERIALIZERS)
async def test_hidden_field_is_in_no_related_row(run: Run, way: str) -> None:
    """Neither by ``select_related``, ``prefetch_related`` and ``?expand=`` nor by ``fields.Raw`` and a row from an action."""
    raw = {"class": "viewsets:RawView"}
    for posts in ({"class": "viewsets:PostView", "select_related": ["author"]}, raw, {}):
        service = await started(run, way, posts)
        await service.ask("POST", "/people/", {"name": "ann"}, status=201)
        _, created = await service.ask("POST", "/posts/", {"author_id": 1} if posts is not raw else {}, status=201)
        await service.sql.execute("UPDATE posts SET author_id = 1")
        paths = ["/posts/", "/posts/1/", "/posts/?expand=author", "/posts/1/?expand=author"]
        answers = [created, *[(await service.ask("GET", path))[1] for path in paths]]
        if posts:
            assert "ann" in str(answers[1])
        if "select_related" in posts:
            answers.append((await service.ask("GET", "/posts/1/writer/", status=200))[1])
            assert answers[-1]["name"] == "ann"
        assert not [answer for answer in answers if "1234512345" in str(answer)]


@pytest.mark.parametrize(
    ("member", "instead"),
    [
        ("def to_representation(self, instance): return {}", "@post_dump"),
        ("def get_fields(self): return {}", "Meta.fields"),
        ("data = property(lambda self: {})", "@post_dump"),
        ("def validate(self, attrs): return attrs", "@validates_schema"),
        ("class Meta: extra_kwargs = {}", "Meta.extra"),
        ("class Meta: write_only_fields = ('x',)", "Meta.load_only"),
    ],
)
def test_ways_that_would_be_ignored_are_refused(member: str, instead: str) -> None:
    """The error says what to write instead."""
    with pytest.raises(ConfigurationError, match=instead):
        exec(f"from rowcast import Serializer\nclass S(Serializer):\n    {member}", {"__name__": "config"})


NOT_CALLED = """
        class PersonSerializer(Serializer):
            class Meta:
                model = Person

            def validate_name(self, value):
                raise ValidationError("never raised")

        class PersonView(ModelViewSet):
            serializer_class = PersonSerializer
"""


async def test_a_validating_method_that_nobody_would_call_is_refused(run: Run) -> None:
    """With the name of a field; a hook of marshmallow, and a helper with another name, may be called so."""
    resources = {"people": {"model": "Person", "fields": PEOPLE, "viewset": {"class": "viewsets:PersonView"}}}
    module = (
        "from marshmallow import ValidationError, validates\nfrom rowcast import ModelViewSet, Serializer, model\n\n"
        'Person = model("people")\n\n' + dedent(NOT_CALLED)
    )
    with pytest.raises(ConfigurationError, match=r'validate_name is not called: write @validates\("name"\)'):
        await run(resources, modules={"viewsets": module})
    hook = module.replace(
        "    def validate_name(self, value)", '    @validates("name")\n    def validate_name(self, value, **kwargs)'
    )
    service = await run(resources, modules={"viewsets": hook})
    problem = (await service.ask("POST", "/people/", {"name": "x"}, status=400))[1]
    assert problem["errors"]["name"] == ["never raised"]
    await run(resources, modules={"viewsets": module.replace("validate_name", "validate_what")})


def test_a_serializer_of_its_own_refuses_it_too() -> None:
    """One without a resource has its fields alone."""
    made: dict[str, Any] = {"__name__": "config"}
    exec(
        "from marshmallow import fields\nfrom rowcast import Serializer\n\n\nclass Own(Serializer):\n    name = fields.String()\n"
        "    def validate_name(self, value): return value\n",
        made,
    )
    with pytest.raises(ConfigurationError, match="validate_name is not called"):
        made["Own"](data={"name": "x"})


@pytest.mark.parametrize(
    "field",
    ["author = fields.String()", "writer = fields.String(attribute='author')", "author = fields.List(fields.String)"],
)
async def test_python_text_of_a_row_is_never_an_answer(run: Run, field: str) -> None:
    """A string field over a relation is a logged 500 in lists, rows, actions and writes, not ``<Person 1>``."""
    resources = {
        "people": {"model": "Person", "fields": PEOPLE},
        "posts": {"fields": POSTS, "viewset": {"class": "viewsets:PostView", "select_related": ["author"]}},
    }
    module = f"""
        class PostSerializer(Serializer):
            {field}
            class Meta:
                model = Post
                fields = ("id", "author", "writer") if {field[0] == "w"} else ("id", "author")

        class PostView(ModelViewSet):
            serializer_class = PostSerializer
            @action(detail=True)
            async def again(self, request, id):
                return self.get_serializer(await self.get_object(id)).data
            @action(detail=True)
            async def row(self, request, id):
                return await self.get_object(id)
    """
    service = await run(resources, modules={"viewsets": HEAD + dedent(module)})
    await service.sql.execute("INSERT INTO people (name) VALUES ('ann'); INSERT INTO posts (author_id) VALUES (1)")
    for path in ("/posts/", "/posts/1/", "/posts/1/again/", "/posts/1/row/"):
        answer = await service.client.get(path)
        assert (answer.status, "Person" in await answer.text()) == (500, False)
