"""The URL of a database, as hosts hand it out."""

from __future__ import annotations

import pytest

from rowcast.configuration.database_url import check_url, driver_url

AT = "postgresql://u:p@host/db"


@pytest.mark.parametrize(
    ("url", "sent", "timeout"),
    [
        ("postgresql://", "postgresql://", None),
        ("postgres://u:p@a:5432,b:5433/db", "postgres://u:p@a:5432,b:5433/db", None),
        ("postgresql://u@[::1]:5432/db", "postgresql://u@[::1]:5432/db", None),
        (f"{AT}?sslmode=require&channel_binding=require", f"{AT}?sslmode=require", None),
        (f"{AT}?connect_timeout=5", AT, 5.0),
        (f"{AT}?connect_timeout=0", AT, None),
        (f"{AT}?keepalives=1&keepalives_idle=30&gssencmode=disable&application_name=a", f"{AT}?application_name=a", None),
        (f"{AT}?options=-c%20geqo%3Doff", f"{AT}?options=-c+geqo%3Doff", None),
        (f"{AT}?search_path=app&app.tenant=1&enable_seqscan=off", f"{AT}?search_path=app&app.tenant=1&enable_seqscan=off", None),
        ("postgresql://u:%23%2F%3F%40%5B@host/db?sslmode=disable", "postgresql://u:%23%2F%3F%40%5B@host/db?sslmode=disable", None),
        ("postgresql://me@/db?host=/var/run&port=5432", "postgresql://me@/db?host=%2Fvar%2Frun&port=5432", None),
        ("postgresql://host/db?user=me@server", "postgresql://host/db?user=me%40server", None),
    ],
)  # fmt: skip
def test_parameters_of_libpq_are_accepted(url: str, sent: str, timeout: float | None) -> None:
    """Those that the driver knows are sent, and the others are left out."""
    assert check_url(url) == url
    assert driver_url(url) == (sent, timeout)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"{AT}?pgbouncer=true", "'pgbouncer'"),
        (f"{AT}?sslmode=require&connection_limit=1", "'connection_limit'"),
        (f"{AT}?schema=public", "'schema'"),
        (f"{AT}?ssl_mode=require", "did you mean sslmode"),
        (f"{AT}?connect_timeout=5s", "connect_timeout"),
        (f"{AT}?sslmode", "name=value"),
        ("postgresql://u:pa#ss@host/db", "%23 for #"),
        ("postgresql://u:pa?ss@host/db", "%3F for ?"),
        ("postgresql://u:pa/ss@host/db", "%2F for /"),
        ("postgresql://u:pa@ss@host/db", "%40 for @"),
        ("postgresql://u:pa[ss@host/db", "%5B for ["),
        ("postgresql://u:p@host:port/db", "port"),
    ],
)
def test_mistake_is_named_without_the_password(url: str, message: str) -> None:
    """The message has the name of a parameter, or how to write the character."""
    with pytest.raises(ValueError, match=r"has |is not") as refused:
        check_url(url)
    assert message in str(refused.value)
    assert "ss@" not in str(refused.value)
