"""HTTP messages byte by byte: requests that no library would send, and the responses to them."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

Header = tuple[str | bytes, str | bytes]


def encoded(value: str | bytes) -> bytes:
    """Bytes as they are, and a string as UTF-8, lone surrogates included."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def request(
    method: str | bytes, target: str | bytes, body: bytes | None = None, *headers: Header, close: bool = True
) -> bytes:
    """A request with the headers that it needs, and more; the server closes the connection unless ``close`` is false."""
    lines = [encoded(method) + b" " + encoded(target) + b" HTTP/1.1"]
    names = {encoded(name).lower() for name, _ in headers}
    if b"host" not in names:
        lines.append(b"Host: 127.0.0.1")
    if close and b"connection" not in names:
        lines.append(b"Connection: close")
    if body is not None:
        if b"content-type" not in names:
            lines.append(b"Content-Type: application/json")
        if not names & {b"content-length", b"transfer-encoding"}:
            lines.append(b"Content-Length: %d" % len(body))
    lines += [encoded(name) + b": " + encoded(value) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def quoted(value: str | bytes) -> str:
    """A value for a query string or a path, with every byte that needs it encoded."""
    return re.sub(rb"[^A-Za-z0-9_.,-]", lambda match: b"%%%02X" % match[0][0], encoded(value)).decode()


@dataclass
class Response:
    """One response. The body is as the client reads it, without chunks; ``whole`` if its end has arrived."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = True

    def header(self, name: str) -> str:
        """The value of a header, or an empty string."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), "")

    def json(self) -> Any:
        """The body as JSON; ``None`` if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except ValueError:
            return None


class Malformed(Exception):
    """The server's bytes are not HTTP."""


def responses(data: bytes, methods: Sequence[bytes] = ()) -> list[Response]:
    """The responses in what a server sent, interim ones left out. ``methods``: of the requests, since HEAD has no body."""
    found: list[Response] = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/\d\.\d (\d{3}) [^\r\n]*", first)
        if match is None or not separator:
            raise Malformed(head[:200])
        pairs = [line.partition(b":") for line in lines]
        if any(not re.fullmatch(rb"[!-9;-~]+", name) or not colon for name, colon, _ in pairs):
            raise Malformed(head[:500])
        headers = [(name.decode(), value.strip().decode("utf-8", "replace")) for name, _, value in pairs]
        response = Response(int(match[1]), headers)
        if response.status == 100:
            continue
        is_head = tuple(methods[len(found) : len(found) + 1]) == (b"HEAD",)
        if (
            is_head and response.status == 400
        ):  # a request that cannot be read has no method that the service could know
            is_head = data[:5] in (b"", b"HTTP/")
        if response.status not in (204, 304) and not is_head:
            data = _read_body(response, data)
        found.append(response)
    return found


def _read_body(response: Response, data: bytes) -> bytes:
    """Set the body of a response, and return what follows it."""
    if response.header("Transfer-Encoding") == "chunked":
        while True:
            size, separator, data = data.partition(b"\r\n")
            if not separator:
                response.whole = False
                return b""
            length = int(size, 16)
            response.body += data[:length]
            response.whole = len(data) >= length + 2
            data = data[length + 2 :]
            if length == 0:
                return data
    length = int(response.header("Content-Length") or len(data))
    response.body, response.whole = data[:length], len(data) >= length
    return data[length:]


async def exchange(
    host: str, port: int, pieces: Sequence[bytes], *, seconds: float, pause: float = 0.0, enough: bytes = b""
) -> tuple[bytes, bool]:
    """Send pieces on a new connection; return what came back, and whether the server closed it in time.

    It is read until then, or until ``enough`` has arrived.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    received = bytearray()
    closed = False
    try:
        async with asyncio.timeout(seconds):

            async def read() -> None:
                while chunk := await reader.read(1 << 16):
                    received.extend(chunk)
                    if enough and enough in received:
                        break

            reading = asyncio.create_task(read())
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    if pause:
                        await asyncio.sleep(pause)
            except (ConnectionError, TimeoutError):
                pass  # an early response may end the connection
            try:
                await reading
            finally:
                reading.cancel()
            closed = True
    except TimeoutError:
        pass
    except ConnectionError:
        closed = True
    finally:
        writer.transport.abort()
    return bytes(received), closed


def gzipped(data: bytes, times: int = 1) -> bytes:
    """Compressed, and compressed again."""
    for _ in range(times):
        data = gzip.compress(data, 9, mtime=0)
    return data


def deflated(data: bytes, *, raw: bool = False) -> bytes:
    """Compressed for ``Content-Encoding: deflate``; without the zlib header as some clients send it."""
    packer = zlib.compressobj(9, wbits=-15 if raw else 15)
    return packer.compress(data) + packer.flush()
