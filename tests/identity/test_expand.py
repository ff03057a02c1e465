"""``?expand=`` shows no row that the target's own address would refuse."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from rowcast.identity.tokens import create_token

from ..conftest import Client, Serve
from .conftest import bearer

TARGETS = {  # resource → its viewset
    "open": "{permission_classes: [AllowAny]}",
    "members": "{permission_classes: [IsAuthenticated]}",
    "staff": "{permission_classes: ['viewsets:Staff']}",
    "owned": "{permission_classes: ['IsAuthenticatedOrReadOnly & IsOwner(\"name\")']}",
    "scoped": "{class: 'viewsets:Scoped'}",
    "filtered": "{class: 'viewsets:Filtered'}",
    "queried": "{class: 'viewsets:Queried'}",
    "everything": "{class: 'viewsets:Everything'}",
    "by_hand": "{class: 'viewsets:ByHand'}",
    "asked": "{class: 'viewsets:Asked'}",
    "masked": "{class: 'viewsets:Masked'}",
    "brief": "{class: 'viewsets:Brief'}",
    "keyed": "{authentication_classes: ['viewsets:Keys'], permission_classes: [IsAuthenticated]}",
    "gated": "{class: 'viewsets:Gated'}",
    "guarded": "{class: 'viewsets:Guarded'}",
    "unread": "{permission_classes: [AllowAny], allowed_actions: [create]}",
}
VIEWSETS = """
from marshmallow import post_dump
from rowcast import *

class Staff(BasePermission):
    message, code = "Staff only.", "not_staff"
    async def has_permission(self, request, view):
        assert view.request is request
        return view.action == "retrieve" and request.user.is_staff

class Scoped(ModelViewSet):
    def get_queryset(self):
        return super().get_queryset().filter(name=self.request.user.id)

class Mine(BaseFilterBackend):
    def filter_queryset(self, request, queryset, view):
        return queryset.filter(name=request.user.id)

class Filtered(ModelViewSet):
    filter_backends = [Mine]

class Queried(ModelViewSet):
    queryset = model("queried").objects.filter(name="x")

class Everything(ModelViewSet):
    queryset = model("everything").objects.all()

class ByHand(ModelViewSet):
    async def retrieve(self, request, id):
        raise PermissionDenied()

class Asked(ModelViewSet):
    def get_permissions(self):
        return [IsAuthenticated()] if self.action == "retrieve" else [AllowAny()]

class MaskedSerializer(Serializer):
    class Meta:
        model = model("masked")
    @post_dump
    def mask(self, data, **kwargs):
        return {**data, "name": "***"}

class Masked(ModelViewSet):
    serializer_class = MaskedSerializer

class BriefSerializer(Serializer):
    class Meta:
        model = model("brief")
        fields = ("id",)

class Brief(ModelViewSet):
    serializer_class = BriefSerializer

class Gated(ModelViewSet):
    async def initial(self, request):
        await super().initial(request)
        raise PermissionDenied()

class Guarded(ModelViewSet):
    async def dispatch(self, http):
        raise PermissionDenied()

class Keys(BaseAuthentication):
    def authenticate(self, request):
        return (User(id="key"), None) if request.headers.get("X-Key") == "k" else None
    def authenticate_header(self, request):
        return "Key"
"""
TEXTS = {
    name: f"model: {name.title().replace('_', '')}\n"
    "fields:\n  id: {type: integer, primary_key: true}\n  name: {type: string}\n"
    f"viewset: {view}"
    for name, view in TARGETS.items()
}
TASKS = "fields:\n  id: {type: integer, primary_key: true}\n" + "".join(
    f"  {name}: {{type: foreign_key, to: {name}, null: true, on_delete: cascade}}\n" for name in TARGETS
)
OPEN = "viewset: {permission_classes: [AllowAny]}"
KEPT = "viewset: {permission_classes: [AllowAny], cache: responses}"


pytestmark = pytest.mark.tables({**TEXTS, "tasks": TASKS + OPEN})


async def served(serve: Serve, sql: asyncpg.Connection, viewset: str = OPEN) -> Client:
    """A service whose task 1 refers to a row called ``x`` of each target."""
    client = await serve({**TEXTS, "tasks": TASKS + viewset}, modules={"viewsets": VIEWSETS})
    for name in TARGETS:
        await sql.execute(f"INSERT INTO {name} (name) VALUES ('x')")
    columns = ", ".join(f"{name}_id" for name in TARGETS)
    await sql.execute(f"INSERT INTO tasks ({columns}) VALUES ({', '.join('1' for _ in TARGETS)})")
    return client


async def get(client: Client, path: str, token: str = "", **headers: str) -> tuple[int, Any]:
    response = await client.get(path, headers={**(bearer(token) if token else {}), **headers})
    if response.status == 401:
        assert response.headers["WWW-Authenticate"]
    return response.status, await response.json()


@pytest.mark.parametrize("viewset", [OPEN, KEPT], ids=["read", "kept"])
async def test_expand_needs_the_permission_to_read_the_target(
    serve: Serve, sql: asyncpg.Connection, viewset: str
) -> None:
    """401 or 403 name the path, with the message of the target's permission; retrieve of the target includes expansion.

    A response for one caller is not cached for another."""
    client = await served(serve, sql, viewset)
    user, staff = await create_token(sql, "u"), await create_token(sql, "s", staff=True)
    for address in ("/tasks/", "/tasks/1/"):
        for name in ("open", "everything"):
            assert (await get(client, f"{address}?expand={name}"))[0] == 200
        for name in ("members", "asked", "staff"):
            status, problem = await get(client, f"{address}?expand=open,{name}")
            assert (status, problem["code"]) == (401, "not_authenticated")
            assert name in problem["detail"]
        for name in ("members", "asked"):
            for _ in range(2):
                assert (await get(client, f"{address}?expand=open,{name}", user))[0] == 200
            assert (await get(client, f"{address}?expand=open,{name}"))[0] == 401
        for _ in range(2):
            assert (await get(client, f"{address}?expand=keyed", **{"X-Key": "k"}))[0] == 200
        assert (await get(client, f"{address}?expand=keyed"))[0] == 401
        status, problem = await get(client, f"{address}?expand=staff", user)
        assert (status, problem["code"], problem["detail"]) == (403, "not_staff", "expand: staff: Staff only.")
        assert (await get(client, f"{address}?expand=staff", staff))[0] == 200
    assert (await get(client, "/tasks/1/?expand=staff", staff))[1]["staff"] == {"id": 1, "name": "x"}


@pytest.mark.parametrize(
    "name", ["owned", "scoped", "filtered", "queried", "by_hand", "masked", "gated", "guarded", "unread"]
)
async def test_rows_whose_visibility_differs_cannot_be_expanded(
    serve: Serve, sql: asyncpg.Connection, name: str
) -> None:
    """Neither staff nor the owner expand them, however deep, unless the viewset's author allows it for everybody."""
    client = await served(serve, sql)
    staff = await create_token(sql, "x", staff=True)
    for address in (f"/tasks/?expand={name}", f"/tasks/1/?expand={name}", f"/open/?expand=tasks__{name}"):
        status, problem = await get(client, address, staff)
        assert (status, problem["code"]) == (400, "invalid_parameter")
        assert f"the rows of {name} are shown at their own address only" in problem["detail"]
    document = await (await client.get("/openapi.json")).json()
    names = next(
        each["schema"]["items"]["enum"]
        for each in document["paths"]["/tasks/"]["get"]["parameters"]
        if each["name"] == "expand"
    )
    assert (name in names, "open" in names) == (False, True)
    client = await served(serve, sql, f"viewset: {{permission_classes: [AllowAny], select_related: [{name}]}}")
    for address in ("/tasks/1/", f"/tasks/1/?expand={name}"):
        assert (await get(client, address))[1][name] == {"id": 1, "name": "***" if name == "masked" else "x"}


async def test_expanded_row_has_the_fields_that_its_own_viewset_shows(serve: Serve, sql: asyncpg.Connection) -> None:
    """A field that the target's serializer leaves out is not shown through another resource."""
    client = await served(serve, sql)
    assert (await get(client, "/tasks/1/?expand=brief"))[1]["brief"] == {"id": 1}
    assert (await get(client, "/brief/1/"))[1] == {"id": 1}
    client = await served(serve, sql, "viewset: {permission_classes: [AllowAny], select_related: [brief]}")
    assert (await get(client, "/tasks/1/"))[1]["brief"] == {"id": 1}
    assert (await get(client, "/tasks/?page_size=1"))[1]["results"][0]["brief"] == {"id": 1}


async def test_expand_uses_the_authentication_of_the_target(serve: Serve, sql: asyncpg.Connection) -> None:
    """A caller that only the requested viewset recognises is anonymous for the target."""
    client = await served(serve, sql)
    user = await create_token(sql, "u")
    assert (await get(client, "/tasks/1/?expand=keyed", user))[0] == 401
    assert (await get(client, "/tasks/1/?expand=keyed", user, **{"X-Key": "k"}))[0] == 200


async def test_expand_back_and_forth_needs_the_permission_of_every_step(serve: Serve, sql: asyncpg.Connection) -> None:
    """A relation to many rows needs the permission of its target too, and so does each step on the way."""
    client = await served(serve, sql, "viewset: {permission_classes: [IsAuthenticated]}")
    user = await create_token(sql, "u")
    assert (await get(client, "/open/?expand=tasks"))[0] == 401
    assert (await get(client, "/open/?expand=tasks", user))[0] == 200
    assert (await get(client, "/open/?expand=tasks__members", user))[0] == 200
    assert (await get(client, "/open/?expand=tasks__staff", user))[0] == 403
