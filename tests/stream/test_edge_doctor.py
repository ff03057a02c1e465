"""``rowcast doctor --upstream``: what it says about an edge and its origin, and what about each fault."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest import mock

import asyncpg
import jwt
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Jwt
from rowcast.errors import ConfigurationError
from rowcast.identity.authentication import IDENTITY
from rowcast.rest.plan import SERVICE
from rowcast.server.doctor import Finding
from rowcast.server.edge_doctor import examine_edge
from rowcast.testing.client import running

from ..changes.buses import Wire
from ..conftest import configure
from ..edges import with_key
from ..waiting import until
from .test_edges import MODULE, OWNED, PYTHON, RESOURCES, SERVICE_YAML, Pair, pair

pytestmark = pytest.mark.tables(RESOURCES)
BUS = "nats://bus.example:4222"
THROTTLED = f"{SERVICE_YAML[:-1]}, throttle: {{rates: {{user: 9/s}}}}}}"


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A bus in this process, which is that of every ``stream.relay``."""
    made = Wire(5)
    with ExitStack() as stack:
        for module in ("changes.relay", "server.edge_doctor"):
            stack.enter_context(mock.patch(f"rowcast.{module}.open_bus", side_effect=lambda _: made.bus()))
        yield made


def at(both: Pair) -> str:
    """The URL of the origin."""
    return str(both.origin.make_url("/"))


def wrong(found: list[Finding]) -> dict[str, str]:
    return {each.about: each.message for each in found if each.wrong}


async def examine(both: Pair, configuration: Configuration | None = None) -> list[Finding]:
    """What the doctor finds at an edge, by default at that of the pair."""
    return await examine_edge(configuration or both.configuration, at(both))


async def test_all_is_well(wire: Wire, database_url: str, tmp_path: Path) -> None:
    """One line for each thing that was checked, and none is wrong."""
    async with pair(database_url, tmp_path, relay=BUS) as both:
        await until(lambda: both.feed.fed)
        found = await examine(both)
    assert wrong(found) == {}
    assert [each.about for each in found] == ["origin", "clock", "tokens", "feed", "relay", "streams"]
    about = {each.about: each.message for each in found}
    assert about["relay"] == "the origin's changes arrive over memory://test"
    assert about["streams"] == "this edge sends those of notes, owned, topics"


async def test_an_origin_that_cannot_be_used(database_url: str, tmp_path: Path) -> None:
    """The one line says why: no connection, another key, or no key."""
    configuration = with_key(configure(tmp_path / "config", RESOURCES, SERVICE_YAML))
    (found,) = await examine_edge(configuration, "http://127.0.0.1:1/")
    assert (found.wrong, found.message) == (
        True,
        "http://127.0.0.1:1 cannot be used: no connection can be made: Connect call failed ('127.0.0.1', 1)",
    )
    async with pair(database_url, tmp_path) as both:
        assert (
            "its stream.edge_key is another one"
            in wrong(await examine(both, with_key(configuration, "x" * 32)))["origin"]
        )
    async with running(replace(configuration, settings=with_key(configuration, None).settings), database_url) as origin:
        found_there = await examine_edge(configuration, str(origin.make_url("/")))
    assert "the origin needs stream.edge_key" in wrong(found_there)["origin"]
    with pytest.raises(ConfigurationError, match="an edge needs the key"):
        await examine_edge(with_key(configuration, None), "http://127.0.0.1:1/")


async def test_an_origin_that_takes_the_edge_for_its_only_caller(database_url: str, tmp_path: Path) -> None:
    """``server.trusted_proxies`` of the origin is named."""
    configuration = with_key(configure(tmp_path / "config", RESOURCES, SERVICE_YAML))
    async with running(configuration, database_url) as origin:
        found = wrong(await examine_edge(configuration, str(origin.make_url("/"))))
    assert found.keys() == {"origin"}
    assert "server.trusted_proxies" in found["origin"]


@pytest.mark.parametrize(
    ("ahead", "said"), [(60, "is 60 s behind the origin's"), (-60, "is 60 s ahead of the origin's"), (5, None)]
)
async def test_clocks_that_differ(database_url: str, tmp_path: Path, ahead: float, said: str | None) -> None:
    """By more than what the verification of tokens allows for."""
    async with pair(database_url, tmp_path) as both:
        clock = mock.Mock(time=lambda: time.time() + ahead)
        with mock.patch("rowcast.server.edge_answers.time", clock):
            found = wrong(await examine(both))
    assert found.keys() == ({"clock"} if said else set())
    assert (said or "") in found.get("clock", "")


async def test_an_origin_that_is_behind_or_without_its_database(database_url: str, tmp_path: Path) -> None:
    """The lines about its feed and about tokens say so."""
    async with pair(database_url, tmp_path) as both:
        service, identity = both.origin.app[SERVICE], both.origin.app[IDENTITY]
        gone = asyncpg.ConnectionDoesNotExistError("gone")
        with (
            mock.patch.object(service.feed, "_current_at", time.monotonic() - 60),
            mock.patch.object(type(service.feed), "lag", mock.PropertyMock(return_value=60.0)),
            mock.patch.object(identity.tokens, "read", side_effect=gone),
        ):
            found = wrong(await examine(both))
    assert found.keys() == {"tokens", "feed"}
    assert "cannot be looked up at the origin: its answer has the status 503" in found["tokens"]
    assert found["feed"].startswith("the origin has not seen for 60 s that it has every change")


async def test_another_bus_than_the_origins(wire: Wire, database_url: str, tmp_path: Path) -> None:
    """An edge that hears nothing, has no connection, or has a bus alone; one that could have a bus gets a hint."""
    async with pair(database_url, tmp_path, relay=BUS) as both:
        await until(lambda: both.feed.fed)
        (hint,) = [each for each in await examine(both, with_key(both.configuration, relay=None)) if each.hint]
        assert "the origin has a stream.relay, which this edge does not use" in hint.message
        wire.mute = True
        with mock.patch("rowcast.server.edge_doctor.PROBE_TIMEOUT_SECONDS", 0.3):
            assert "nothing of the origin arrives over memory://test" in wrong(await examine(both))["relay"]
        wire.down = True
        assert wrong(await examine(both))["relay"].startswith("memory://test cannot be reached: down")
    async with pair(database_url, tmp_path / "other") as both:
        found = wrong(await examine(both, with_key(both.configuration, relay=BUS)))
        assert found["relay"].startswith("the origin has no stream.relay")


async def test_messages_of_strangers_are_not_the_origins(wire: Wire, database_url: str, tmp_path: Path) -> None:
    """Only what has the origin's key shows that its changes arrive."""
    async with pair(database_url, tmp_path, relay=BUS) as both:
        await until(lambda: both.feed.fed)
        deliver = wire.deliver
        with (
            mock.patch.object(
                wire, "deliver", lambda channel, message, sender: deliver(channel, message[::-1], sender)
            ),
            mock.patch("rowcast.server.edge_doctor.PROBE_TIMEOUT_SECONDS", 0.6),
        ):
            assert "nothing of the origin arrives" in wrong(await examine(both))["relay"]


async def test_keys_that_verify_tokens(database_url: str, tmp_path: Path) -> None:
    """Are fetched from ``auth.jwt.jwks``, or the line says why they cannot be."""
    key = orjson.loads(jwt.algorithms.OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key()))

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [key]})

    app = web.Application()
    app.router.add_get("/keys", keys)
    async with pair(database_url, tmp_path) as both, TestServer(app) as server:
        for path, said in (("/keys", "has 1 key"), ("/none", "cannot be read: the status is 404")):
            settings = both.configuration.settings
            own = Jwt(algorithms=("EdDSA",), jwks=str(server.make_url(path)))
            auth = replace(settings.auth, jwt=own)
            found = await examine(both, replace(both.configuration, settings=replace(settings, auth=auth)))
            (about,) = [each for each in found if each.about == "jwks"]
            assert (about.wrong, said in about.message) == (path == "/none", True), about


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (OWNED.replace("scope:", "throttle_classes: [UserRateThrottle]\n  scope:"), "its throttle_classes have UserRateThrottle"),
        (OWNED.replace("[IsAuthenticated]", "[IsOwner]"), "its permission_classes have IsOwner"),
        (OWNED.replace('{user_id: "$user.id"}', '{topic__name: "$user.id"}').replace("text:", "topic: {type: foreign_key, to: topics, null: true}, text:"), "its scope is about related rows"),
        (PYTHON, "its class overrides get_queryset"),
    ],
)  # fmt: skip
@pytest.mark.empty_database
async def test_why_streams_are_passed_on(database_url: str, tmp_path: Path, resource: str, reason: str) -> None:
    """Each resource whose streams the edge does not send has a line with the reason; that alone is nothing wrong."""
    resources = {**RESOURCES, "owned": resource}
    configuration = with_key(configure(tmp_path / "config", resources, THROTTLED, {"viewsets": MODULE}))
    server = replace(configuration.settings.server, trusted_proxies=1)
    behind = replace(configuration, settings=replace(configuration.settings, server=server))
    async with running(behind, database_url) as origin:
        found = await examine_edge(configuration, str(origin.make_url("/")))
    assert wrong(found) == {}
    assert f"those of owned are passed on: {reason}" in [each.message for each in found]


async def test_another_config_or_version_than_the_origins(database_url: str, tmp_path: Path) -> None:
    """Is wrong: the edge passes on what it could send."""
    async with pair(database_url, tmp_path) as both:
        other = configure(
            tmp_path / "other", {**RESOURCES, "owned": OWNED.replace("[exact]", "[exact, ne]")}, SERVICE_YAML
        )
        found = wrong(await examine(both, with_key(other)))
        assert found == {"streams": "those of owned are passed on: it is declared otherwise at the origin"}
        with mock.patch("rowcast.server.edge_answers.__version__", "0.1.9"):
            found = wrong(await examine(both))
        assert found.keys() == {"origin", "streams"}
        assert found["origin"].startswith("has Rowcast 0.1.9, and this edge ")
