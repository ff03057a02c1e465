"""The tables of routes find what aiohttp's own router finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from rowcast.server.router import Router

PATHS = (
    "/", "/tasks/", "/tasks", "/tasks/{id:[^/]+}/", "/tasks/{id:[^/]+}", "/tasks/stream/", "/tasks/stream",
    "/tasks/{id:[^/]+}/notes/", "/tasks/{id:[^/]+}/notes/{note:[^/]+}/", "/lists/{pk:[^/]+}/", "/lists/{id:[^/]+}/",
    "/numbers/{id:[0-9]+}/", "/numbers/{id:[^/]+}/", "/files/{rest:.*}", "/files/{id:[^/]+}/", "/x-{id}/", "/ä/{id:[^/]+}/",
)  # fmt: skip
ONLY_POST = ("/batch/", "/tasks/export/", "/lists/{id:[^/]+}/")
PARTS = st.sampled_from(
    [
        "tasks",
        "lists",
        "stream",
        "notes",
        "5",
        "a-b",
        "%35",
        "numbers",
        "files",
        "x-1",
        "batch",
        "export",
        "ä",
        "{id}",
        "",
    ]
)
ADDRESSES = st.builds(
    lambda parts, end: "/" + "/".join(parts) + end, st.lists(PARTS, max_size=4), st.sampled_from(["", "/"])
)


async def nothing(request: web.Request) -> web.Response:
    return web.Response()


def routed(router: web.UrlDispatcher, add: Callable[[web.UrlDispatcher], Any]) -> web.UrlDispatcher:
    add(router)
    for path in PATHS:
        router.add_route("*", path, nothing)
    for path in ONLY_POST:
        router.add_post(path, nothing)
    router.freeze()
    return router


def nothing_more(router: web.UrlDispatcher) -> None: ...


def a_method_first(router: web.UrlDispatcher) -> None:
    router.add_post("/tasks/", nothing)
    router.add_post("/tasks/{key}/", nothing)


def a_prefix(router: web.UrlDispatcher) -> None:
    router.add_static("/tasks", "/")


@pytest.mark.parametrize("add", [nothing_more, a_method_first, a_prefix])
@given(address=ADDRESSES, method=st.sampled_from(["GET", "POST"]))
async def test_the_router_finds_what_that_of_aiohttp_finds(
    add: Callable[[web.UrlDispatcher], None], address: str, method: str
) -> None:
    expected, found = [
        await router.resolve(make_mocked_request(method, address))
        for router in (routed(web.UrlDispatcher(), add), routed(Router(), add))
    ]
    assert dict(found) == dict(expected)
    assert type(found.http_exception) is type(expected.http_exception)
    if expected.http_exception is None:
        assert found.route.resource is not None
        assert expected.route.resource is not None
        assert found.route.method == expected.route.method
        assert repr(found.route.resource) == repr(expected.route.resource)


def test_a_path_that_has_a_variable_twice_is_refused_at_once() -> None:
    """Although the patterns of most paths are compiled when they are needed."""
    with pytest.raises(ValueError, match="redefinition"):
        Router().add_route("*", "/tasks/{id:[^/]+}/notes/{id:[^/]+}", nothing)


async def test_an_application_for_a_domain_comes_first() -> None:
    app = web.Application()
    app._router = Router()
    app.router.add_route("*", "/tasks/", nothing)
    other = web.Application()
    other.router.add_get("/tasks/", nothing)
    app.add_domain("other.example", other)
    app.freeze()
    request = make_mocked_request("GET", "/tasks/", headers={"Host": "other.example"})
    assert (await app.router.resolve(request)).route.method == "GET"
