"""The URL of a message bus, as ``stream.relay`` has it: one server, several servers of a cluster, or Redis' sentinels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

SENTINEL: Final = "+sentinel"
DEFAULT_PORTS: Final = {"nats": 4222, "tls": 4222, "redis": 6379, "rediss": 6379}
SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, slots=True)
class RelayUrl:
    """``scheme`` is one of ``nats``, ``tls``, ``redis`` and ``rediss``; ``path`` comes after the hosts, without its slash.

    With ``sentinel`` the hosts are those of sentinels, and ``path`` is the name by which they know the server.
    """

    scheme: str
    sentinel: bool
    user: str
    password: str
    hosts: tuple[str, ...]  # with their ports, as in nats1:4222 or [::1]:4222
    path: str

    @property
    def place(self) -> str:
        """The URL without its credentials."""
        path = f"/{self.path}" if self.path else ""
        return f"{self.scheme}{SENTINEL if self.sentinel else ''}://{','.join(self.hosts)}{path}"


def parse_relay_url(url: str) -> RelayUrl:
    """The parts of a URL. ``ValueError`` if it is wrong, with a message if that can say how; it never has the URL."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket is not part of an address
        raise ValueError from None
    scheme, sentinel = parts.scheme.removesuffix(SENTINEL), parts.scheme.endswith(SENTINEL)
    credentials, _, addresses = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    port = SENTINEL_PORT if sentinel else DEFAULT_PORTS[scheme]
    hosts = tuple(_host(each, port) for each in addresses.split(","))
    path = unquote(parts.path.strip("/"))
    if sentinel and not path:
        raise ValueError("needs the name of the server after the sentinels, as in redis+sentinel://host:26379/mymaster")
    if scheme.startswith("redis") and not sentinel:
        if len(hosts) > 1:
            raise ValueError("may have several hosts only as nats://, tls:// or redis+sentinel://")
        if path and not path.isdigit():
            raise ValueError("may have nothing but the number of a database after its host")
    return RelayUrl(scheme, sentinel, unquote(user), unquote(password), hosts, path)


def host_with_port(host: str, port: int) -> str:
    """A host with its port, as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host(address: str, port: int) -> str:
    """An address such as ``host:4222`` or ``[::1]``, which gets the port if it has none."""
    try:
        parts = urlsplit(f"//{address}")
        found = parts.hostname, port if parts.port is None else parts.port
    except ValueError:  # its message may have a password
        raise ValueError from None
    if not found[0] or not found[1]:
        raise ValueError
    return host_with_port(found[0], found[1])
