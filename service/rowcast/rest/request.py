"""The request as a viewset sees it: aiohttp's, with the caller, the query parameters and the body."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes

from aiohttp import web

from rowcast.configuration.settings import Server
from rowcast.errors import ParseError, PayloadTooLarge, RequestTimeout, TooManyBodies, UnsupportedMediaType
from rowcast.hooks import STATE
from rowcast.identity.authentication import check_size_of_query
from rowcast.identity.proxies import reported, reported_prefix
from rowcast.identity.users import ANONYMOUS, User
from rowcast.resources.lossless_json import encode, parse_body
from rowcast.rest.body_memory import BODY_MEMORY, UNCOUNTED_MAX_BYTES, parsed_size
from rowcast.rest.encodings import BODY_MISMATCH, decoder, inflater
from rowcast.rest.media_types import is_json

BODY_TIMEOUT: Final = web.AppKey("body_timeout", float)  # seconds for which a body may take to arrive
NOT_DECODED: Final = "\ufffd"  # what yarl puts in the place of bytes that are not UTF-8
FILE_IN_MEMORY_MAX_BYTES: Final = 1 << 20  # of a body that is received as a file
PARSED_AT_ONCE_MAX_BYTES: Final = 64 * 1024  # of a body: 5 ms at most


def query_parameters(http: web.Request) -> dict[str, str]:
    """Each parameter of an address with its string. ``ParseError`` if one is given twice or is not UTF-8, or if there are too many."""
    found: dict[str, str] = {}
    if http.rel_url.raw_query_string:
        check_size_of_query(http)
        for name, value in http.query.items():
            if name in found:
                raise ParseError(f"{name}: is given twice.", code="invalid_parameter")
            if NOT_DECODED in name + value and not _is_text(http.rel_url.raw_query_string):
                raise ParseError(f"{name}: is not UTF-8 in percent-encoding.", code="invalid_parameter")
            found[name] = value
    return found


def not_decoded(params: Mapping[str, str]) -> bool:
    """Whether a name or a value may be of bytes that are not UTF-8."""
    return any(NOT_DECODED in text for text in (*params, *params.values()))


def _is_text(encoded: str) -> bool:
    """Whether a query string is UTF-8 in percent-encoding."""
    try:
        unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        return False
    return True


class Request:
    """An aiohttp request with ``user``, ``auth``, ``query_params`` and ``data``; every other attribute is aiohttp's.

    ``state`` is what the functions of ``on_startup`` have made.
    ``query_params`` maps each parameter to its string; ``ParseError`` if one is given twice, or there are too many. ``data`` is the body once
    ``read_json`` has run. Attributes (``request.tenant = …``) and items can be set.
    """

    def __init__(self, http: web.Request) -> None:
        self.http = http
        self.user: User = ANONYMOUS
        self.auth: Any = None
        self.data: Any = None
        self._body: bytes | None = None
        self._file: IO[bytes] | None = None
        self._params: dict[str, str] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "state":
            return self.http.app[STATE]
        return getattr(self.http, name)

    def __getitem__(self, key: Any) -> Any:
        return self.http[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.http[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.http[key]

    def __contains__(self, key: object) -> bool:
        return key in self.http

    def __iter__(self) -> Iterator[Any]:
        return iter(self.http)

    def as_get(self) -> Request:
        """The same request as if it were a GET: for what another viewset would show its caller."""
        return self.as_method("GET")

    def as_method(self, method: str) -> Request:
        """The same request as if it had another method: for what its caller may do with that one."""
        made = type(self).__new__(type(self))
        vars(made).update(vars(self), method=method)
        return made

    @property
    def query_params(self) -> dict[str, str]:
        if self._params is None:
            self._params = query_parameters(self.http)
        return self._params

    @property
    def has_body(self) -> bool:
        """Whether there is a body, read or not."""
        return self.http.can_read_body if self._body is None else bool(self._body)

    async def receive(self) -> bytes:
        """The body, once all of it has arrived. No transaction may be open meanwhile, since the client sets the pace.

        Raises:
            RequestTimeout: it has not arrived within ``server.body_timeout``.
            PayloadTooLarge: it is longer than ``server.body_limit``, compressed or not.
            TooManyBodies: with other bodies it takes more memory than ``server.bodies_limit``.
            UnsupportedMediaType: its ``Content-Encoding`` is unknown.
            ParseError: it does not match its headers, or the client has left.
        """
        if self._body is None:
            decode = decoder(self.http)
            self._body = await self._receive()
            if decode is not None:
                self._body = decode(self._body, self.http.client_max_size)
                self.http.app[BODY_MEMORY].take(self.http, len(self._body))
                self.http._read_bytes = self._body  # noqa: SLF001  (what aiohttp's read(), text() and json() return)
        return self._body

    async def read(self) -> bytes:
        """The body, within the limits of ``receive``."""
        return await self.receive()

    async def text(self) -> str:
        """The body as a string, within the limits of ``receive``."""
        await self.receive()
        return await self.http.text()

    async def json(self, **options: Any) -> Any:
        """The body as JSON whatever its content type, as aiohttp parses it, within the limits of ``receive``."""
        await self.receive()
        return await self.http.json(**options)

    async def _receive(self) -> bytes:
        """The body as it was sent."""
        http = self.http
        if http._read_bytes is not None:  # noqa: SLF001  (by another object for this request, which has counted it)
            return http._read_bytes  # noqa: SLF001
        at_once = http.content.is_eof()  # it arrived together with the header
        try:
            if at_once:
                body = http.content.read_nowait()
                if len(body) > http.client_max_size:
                    raise PayloadTooLarge()
            else:
                async with asyncio.timeout(http.app[BODY_TIMEOUT]):
                    body = await self._arriving()
        except TimeoutError:
            raise RequestTimeout("The body did not arrive in time; send the request again.") from None
        except (web.RequestPayloadError, ConnectionResetError):  # wrong framing, or the client has left
            raise ParseError(BODY_MISMATCH) from None
        http._read_bytes = body  # noqa: SLF001  (what aiohttp's read(), text() and json() return)
        if at_once and len(body) > UNCOUNTED_MAX_BYTES:
            http.app[BODY_MEMORY].take(http, len(body))
        return body

    async def _arriving(self) -> bytes:
        """The body once all of it has arrived, counted piece by piece."""
        http, limit, body = self.http, self.http.client_max_size, bytearray()
        if (http.content_length or 0) > limit:
            raise PayloadTooLarge()
        memory = http.app[BODY_MEMORY]
        while piece := await http.content.readany():
            memory.take(http, len(piece))
            body += piece
            if len(body) > limit:
                raise PayloadTooLarge()
        return bytes(body)

    async def receive_before_transaction(self) -> bytes:
        """The body, within the limits of ``receive``, once ``read_json`` does not wait for other requests any more.

        A transaction that waits for their memory would hold a connection which they may need.
        """
        body = await self.receive()
        if is_json(self.http.content_type):
            await self._wait_for_memory(body)
        return body

    async def _wait_for_memory(self, body: bytes) -> None:
        """Wait until there is room for a body once it is parsed; ``TooManyBodies`` after ``server.body_timeout``."""
        if len(body) <= UNCOUNTED_MAX_BYTES:
            return
        try:
            async with asyncio.timeout(self.http.app[BODY_TIMEOUT]):
                await self.http.app[BODY_MEMORY].before_parsing(self.http, parsed_size(body))
        except TimeoutError:
            raise TooManyBodies() from None

    async def receive_file(self, limit: int) -> IO[bytes]:
        """The body as a file, at its beginning, once all of it has arrived; a long one is on disk. ``close_file`` closes it.

        Each ``server.body_limit`` bytes of it may take ``server.body_timeout`` to arrive, which is the pace of other bodies.

        Raises:
            PayloadTooLarge: it is longer than ``limit`` bytes, compressed or not.
            RequestTimeout, UnsupportedMediaType, ParseError: as ``receive``.
        """
        if self._file is None:
            self._file = tempfile.SpooledTemporaryFile(FILE_IN_MEMORY_MAX_BYTES)  # noqa: SIM115, close_file closes it
            if self._body is not None:  # Python of the user's has read it
                self._file.write(self._body)
            elif (self.http.content_length or 0) > limit:
                raise PayloadTooLarge()
            else:
                await self._fill(self._file, limit)
        self._file.seek(0)
        return self._file

    async def _fill(self, file: IO[bytes], limit: int) -> None:
        """Write the body to a file while it arrives."""
        content, inflating = self.http.content, inflater(self.http, limit)
        received, due = 0, self.http.client_max_size  # the bytes that must have arrived when the time is over
        try:
            while not content.at_eof():
                async with asyncio.timeout(self.http.app[BODY_TIMEOUT]):
                    while received < due and not content.at_eof():
                        data = await content.readany()
                        received += len(data)
                        if received > limit:
                            raise PayloadTooLarge()
                        for piece in [data] if inflating is None else inflating.pieces(data):
                            file.write(piece)
                            await asyncio.sleep(0)  # a short body may be inflated for long
                due = received + self.http.client_max_size
        except TimeoutError:
            raise RequestTimeout("The body did not arrive in time; send the request again.") from None
        except (web.RequestPayloadError, ConnectionResetError):
            raise ParseError(BODY_MISMATCH) from None
        if inflating is not None:
            inflating.end()

    def close_file(self) -> None:
        """Close what ``receive_file`` has returned."""
        if self._file is not None:
            self._file.close()

    async def read_json(self) -> Any:
        """The body as JSON; ``UnsupportedMediaType`` or ``ParseError`` if it is not, and what ``receive`` raises.

        A long body waits for others, whose requests are answered meanwhile.
        """
        if not is_json(self.http.content_type):
            raise UnsupportedMediaType()
        raw = await self.receive()
        if not raw:
            raise ParseError("The body is empty; send a JSON object.")
        try:
            self.has_long_body = len(raw) > PARSED_AT_ONCE_MAX_BYTES
            await self._wait_for_memory(raw)
            # A thread takes turns with the event loop, which otherwise waits for a whole megabyte of numbers.
            self.data = await asyncio.to_thread(parse_body, raw) if self.has_long_body else parse_body(raw)
        except ValueError as error:
            raise ParseError(f"The body is not valid JSON: {error}.") from None
        return self.data


def names_in(text: str) -> tuple[str, ...]:
    """The names in a parameter such as ``?fields=id,title``."""
    return tuple(name.strip() for name in text.split(","))


def base_url(settings: Server, http: web.Request) -> str:
    """Scheme, host and prefix as the client sees them; what proxies report counts where ``trusted_proxies`` allows it.

    ``server.hosts`` has checked all of them.
    """
    scheme, host = http.scheme, named_host(http)
    if settings.trusted_proxies:
        by_proxy = (reported(http, "proto", settings.trusted_proxies) or "").lower()
        scheme = by_proxy if by_proxy in ("http", "https") else scheme
        host = reported(http, "host", settings.trusted_proxies) or host
    return f"{scheme}://{host}{root_path(settings, http)}"


def url_of(settings: Server, http: web.Request) -> str:
    """The address of a request as the client sees it, without its query."""
    return base_url(settings, http) + http.rel_url.raw_path


def root_path(settings: Server, http: web.BaseRequest) -> str:
    """The path below which the client sees the service, such as ``/api``: mostly empty, and never with a slash at its end."""
    if not settings.trusted_proxies:
        return settings.root_path
    try:
        prefix = reported_prefix(http, settings.trusted_proxies)
    except ParseError:  # in the response that refuses it
        return settings.root_path
    return settings.root_path if prefix is None else prefix


def named_host(http: web.Request) -> str:
    """The host that a request names; without one the address and port at which its connection has arrived."""
    return target_host(http) or http.headers.get("Host") or _arrival(http)


def target_host(http: web.Request) -> str | None:
    """The host of an absolute request target, which replaces ``Host`` (RFC 9112, 3.2.2); ``None`` for a path."""
    if http.raw_path.startswith("/"):
        return None
    _, separator, rest = http.raw_path.partition("://")
    return re.split(r"[/?#]", rest, maxsplit=1)[0] if separator else None


def _arrival(http: web.Request) -> str:
    """The address and port at which a connection has arrived: where a client of HTTP/1.0 has sent no ``Host``."""
    local = None if http.transport is None else http.transport.get_extra_info("sockname")
    if not isinstance(local, tuple):
        return "localhost"
    return f"[{local[0]}]:{local[1]}" if ":" in local[0] else f"{local[0]}:{local[1]}"


def parameter_text(name: str, value: object) -> str:
    """A JSON value of a body as a parameter of an address; ``ParseError`` if it is nested too deeply."""
    try:
        return encode(value).decode()
    except (TypeError, RecursionError):
        raise ParseError(f"{name}: is nested too deeply.", code="invalid_parameter") from None
