"""One order for every request and every way in: authenticate, permit, scope, object permission, precondition, action."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from .conftest import Run

MODULE = dedent("""
    from rowcast import BaseAuthentication, BasePermission, ModelViewSet, User, action, model

    Row = model("rows")
    steps = []

    def refused(request, step):
        steps.append(step)
        return request.headers.get("Refuse") == step

    class Authentication(BaseAuthentication):
        def authenticate(self, request):
            steps.append("authenticate")
            return User(id="u"), None

    class Permission(BasePermission):
        def has_permission(self, request, view):
            return not refused(request, "permit")

        def has_object_permission(self, request, view, obj):
            return not refused(request, "object")

    class Rows(ModelViewSet):
        authentication_classes = [Authentication]
        permission_classes = [Permission]

        def get_queryset(self):
            return Row.objects.filter(id=0) if refused(self.request, "scope") else Row.objects.all()

        @action(detail=True, methods=["POST"])
        async def touch(self, request, id):
            await self.get_object()
            steps.append("action")
            return {}

        @action(detail=False)
        async def sum(self, request):
            steps.append("action")
            return {}
    """)
ORDER = ("authenticate", "permit", "scope", "object", "action")
SURFACES: dict[str, tuple[str, str, Any, dict[str, int]]] = {  # method, path, body, and the status of each refusal
    "list": ("GET", "/rows/", None, {"permit": 403}),
    "retrieve": ("GET", "/rows/1/", None, {"permit": 403, "scope": 404, "object": 403}),
    "create": ("POST", "/rows/", {"name": "b"}, {"permit": 403}),
    "put": ("PUT", "/rows/1/", {"name": "b"}, {"permit": 403, "scope": 404, "object": 403}),
    "patch": ("PATCH", "/rows/1/", {"name": "b"}, {"permit": 403, "scope": 404, "object": 403}),
    "delete": ("DELETE", "/rows/1/", None, {"permit": 403, "scope": 404, "object": 403}),
    "detail action": ("POST", "/rows/1/touch/", {}, {"permit": 403, "scope": 404, "object": 403}),
    "list action": ("GET", "/rows/sum/", None, {"permit": 403}),
    "stream": ("HEAD", "/rows/stream/", None, {"permit": 403}),
    "stream of one row": ("HEAD", "/rows/1/stream/", None, {"permit": 403, "scope": 404, "object": 403}),
    "combined stream": ("HEAD", "/stream/?resources=rows", None, {"permit": 403}),
    "OPTIONS": ("OPTIONS", "/rows/1/", None, {"permit": 403}),
}


@pytest.mark.parametrize("surface", SURFACES)
async def test_every_way_in_has_the_same_order(run: Run, surface: str) -> None:
    """What an earlier step refuses never reaches a later one, also with a precondition that would fail."""
    method, path, body, refusals = SURFACES[surface]
    fields = {"id": {"type": "integer", "primary_key": True}, "name": {"type": "string", "default": ""}}
    service = await run(
        {"rows": {"fields": fields, "viewset": {"class": "order_views:Rows"}}}, modules={"order_views": MODULE}
    )
    await service.sql.execute("INSERT INTO rows (name) VALUES ('a')")
    steps: list[str] = service.service.viewsets["rows"].get_queryset.__globals__["steps"]
    stale = {"If-Match": '"0-00000000"'} if method in ("PUT", "PATCH", "DELETE") else {}
    for refused, status in refusals.items():
        steps.clear()
        response = await service.client.request(method, path, json=body, headers={"Refuse": refused, **stale})
        assert response.status == status, (refused, await response.text())
        order = [ORDER.index(step) for step in steps]
        assert max(order) == ORDER.index(refused), steps
        assert ORDER.index("authenticate") == order[0], steps
        assert list(dict.fromkeys(steps)) == sorted(set(steps), key=ORDER.index), steps
    if stale:
        response = await service.client.request(method, path, json=body, headers=stale)
        assert response.status == 412
    assert (await service.client.request(method, path, json=body)).status < 300
