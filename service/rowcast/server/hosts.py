"""Which hosts and prefixes a request may name: what ``Location`` and the links of responses begin with.

RFC 9110, 7.2; RFC 9112, 3.2; RFC 7239.

A client writes ``Host``, and the target may be absolute, so both are checked before anything is answered. Otherwise a page
could make a browser send requests to the service under a name of its own (DNS rebinding), and a cache could store links to
a host of somebody's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final

from aiohttp import HttpVersion11, web

from rowcast.configuration.load import Configuration
from rowcast.configuration.settings import Server
from rowcast.errors import ParseError
from rowcast.identity.proxies import header_of, reported, reported_prefix
from rowcast.rest.request import target_host

ACCEPTED_MAX: Final = 1024  # hosts with their ports that are remembered, and not parsed again
EXEMPT_PATHS: Final = "/health/"  # probes name a host as they like
_HOST: Final = re.compile(
    r"([A-Za-z0-9_](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9_])?\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
)


def _address(name: str) -> str | None:
    """The canonical form of an IP address, with or without brackets; ``None`` for a name."""
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        return None


def host_name(host: str) -> str | None:
    """The name of a host in lower case, or its IP address, without the port; ``None`` if the host is malformed."""
    match = _HOST.fullmatch(host)
    if match is None or int(match[2] or 0) > 65535:
        return None
    name = match[1].lower().removesuffix(".")
    address = _address(name)
    return None if name.startswith("[") and address is None else address or name


def missing_names(configuration: Configuration) -> Iterator[str]:
    """A line if the service is behind a proxy, whose clients use a name, and has no name."""
    server = configuration.settings.server
    if server.trusted_proxies and not server.allowed_hosts:
        location = configuration.files[""].location(("server", "trusted_proxies"), key=True)
        yield (
            f"{location}: behind a proxy, server.allowed_hosts has to list the names that clients use, such as"
            " api.example.com: requests with another Host, X-Forwarded-Host or Forwarded are a 400"
        )


class Hosts:
    """The hosts that ``server.allowed_hosts`` allows.

    Without that setting they are loopback, ``server.host``, and the address at which a connection has arrived.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._default = not server.allowed_hosts
        names = server.allowed_hosts or ("localhost", "*.localhost", server.host)
        self._any = "*" in names
        self._names = frozenset(_address(name) or name.lower() for name in names)
        self._suffixes = tuple(name[1:].lower() for name in names if name.startswith("*."))
        self._accepted: set[str] = set()

    def check(self, http: web.Request) -> None:
        """Raise ``ParseError`` if a request names a host that is malformed or not allowed, or a malformed prefix."""
        host, proxies = http.headers.get("Host"), self._server.trusted_proxies
        if host in self._accepted and not proxies and http.raw_path.startswith("/"):
            return  # as nearly all are
        if host is None and http.version >= HttpVersion11:
            raise ParseError("Host: HTTP/1.1 requires this header.", code="invalid_host")
        shown = (reported(http, "host", proxies) or None) if proxies else None
        if host is not None and host not in self._accepted:  # behind a proxy that reports its own, it is not shown
            self._check_one("Host", host, http, needs_leave=shown is None)
        if shown is not None and shown not in self._accepted:
            self._check_one(header_of(http, "host"), shown, http)
        if proxies:
            reported_prefix(http, proxies)
        if (target := target_host(http)) is not None:
            self._check_one("The target's host", target, http)

    def is_known(self, host: str) -> bool:
        """Whether a value of ``Host`` has been found to be allowed on every connection."""
        return host in self._accepted

    def _check_one(self, where: str, host: str, http: web.Request, *, needs_leave: bool = True) -> None:
        name = host_name(host)
        if name is None:
            raise ParseError(
                f"{where} is malformed: send a name or an address, and a port if needed.", code="invalid_host"
            )
        if not needs_leave or http.path.startswith(EXEMPT_PATHS):
            return
        if self._allows(name):
            if len(self._accepted) < ACCEPTED_MAX:
                self._accepted.add(host)
        elif not (self._default and name == self._arrival(http)):
            raise ParseError(
                f"{where}: the service is not called {name[:100]}; server.allowed_hosts lists its names.",
                code="invalid_host",
            )

    def _allows(self, name: str) -> bool:
        if self._any or name in self._names or name.endswith(self._suffixes):
            return True
        address = _address(name)
        return self._default and address is not None and ip_address(address).is_loopback

    def _arrival(self, http: web.Request) -> str | None:
        """The address of the service at which the request's connection has arrived."""
        local = None if http.transport is None else http.transport.get_extra_info("sockname")
        return _address(local[0]) if isinstance(local, tuple) else None
