"""What authentication, permissions and throttles use of a request and of a viewset.

``rest.request.Request`` and every viewset match these protocols. They are for the built-in classes. The methods that
users override take ``Any``, so that a subclass may annotate the concrete classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web


class Request(Protocol):
    """A request, whose ``user`` and ``auth`` authentication sets."""

    http: web.Request
    user: Any
    auth: Any

    @property
    def app(self) -> web.Application: ...

    @property
    def method(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def query_params(self) -> Mapping[str, str]: ...


class View(Protocol):
    """A viewset that handles one request."""

    @property
    def kwargs(self) -> Mapping[str, str]: ...

    @property
    def action(self) -> str | None: ...

    @property
    def request(self) -> Request: ...
