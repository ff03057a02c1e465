"""The URL of ``stream.relay``: its servers, and its credentials, which ``place`` does not have."""

from __future__ import annotations

import pytest

from rowcast.configuration.relay_url import RelayUrl, parse_relay_url


@pytest.mark.parametrize(
    ("url", "parsed", "place"),
    [
        ("nats://bus", RelayUrl("nats", False, "", "", ("bus:4222",), ""), "nats://bus:4222"),
        (
            "nats://me:a%40b@one:1,two,[::1]:3,[::2]",
            RelayUrl("nats", False, "me", "a@b", ("one:1", "two:4222", "[::1]:3", "[::2]:4222"), ""),
            "nats://one:1,two:4222,[::1]:3,[::2]:4222",
        ),
        ("tls://token@bus/", RelayUrl("tls", False, "token", "", ("bus:4222",), ""), "tls://bus:4222"),
        ("rediss://:pw@bus/2", RelayUrl("rediss", False, "", "pw", ("bus:6379",), "2"), "rediss://bus:6379/2"),
        (
            "redis+sentinel://me:pw@one,two:2/my%20master",
            RelayUrl("redis", True, "me", "pw", ("one:26379", "two:2"), "my master"),
            "redis+sentinel://one:26379,two:2/my master",
        ),
        (
            "rediss+sentinel://one/main",
            RelayUrl("rediss", True, "", "", ("one:26379",), "main"),
            "rediss+sentinel://one:26379/main",
        ),
    ],
)
def test_urls(url: str, parsed: RelayUrl, place: str) -> None:
    """Hosts get the ports that are usual, and what is written with % is read as it is meant."""
    assert parse_relay_url(url) == parsed
    assert parsed.place == place


@pytest.mark.parametrize(
    "url",
    [
        "nats://",
        "nats://a,",
        "nats://:hunter2",
        "nats://a:0",
        "nats://a:70000",
        "nats://[::1",
        "nats://a:1:2",
        "redis://x@",
    ],
)
def test_hosts_that_cannot_be_ones(url: str) -> None:
    """The error does not repeat what may be a password."""
    with pytest.raises(ValueError, match=r"^$"):
        parse_relay_url(url)
