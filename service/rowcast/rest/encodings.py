"""``Content-Encoding`` of request bodies: gzip and deflate (RFC 9110, 8.4).

aiohttp would inflate a body while it arrives, even if the request is refused and nobody reads it. Here a body is inflated
when it is read, and not beyond the limit, so a small body cannot take much memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias

from aiohttp import web

from rowcast.errors import ParseError, PayloadTooLarge, UnsupportedMediaType

BODY_MISMATCH: Final = "The body does not match its headers, or it is incomplete."
ACCEPT_ENCODING: Final = "gzip, deflate"
INFLATED_MAX_BYTES: Final = 1 << 18  # at a time
_ZLIB: Final = zlib.MAX_WBITS
_GZIP: Final = zlib.MAX_WBITS | 16

Decoder: TypeAlias = Callable[[bytes, int], bytes]  # (body, limit in bytes) → the body without its encoding


def decoder(http: web.Request) -> Decoder | None:
    """What decodes a request's body; ``None`` if it has no encoding. ``UnsupportedMediaType`` if that is unknown."""
    encoding = _encoding(http)
    return None if encoding is None else _DECODERS[encoding]


def inflater(http: web.Request, limit: int) -> Inflater | None:
    """What decodes a request's body piece by piece; ``None`` and ``UnsupportedMediaType`` as ``decoder``."""
    encoding = _encoding(http)
    return None if encoding is None else Inflater(limit, gzip=encoding != "deflate")


def _encoding(http: web.Request) -> str | None:
    """The name of the encoding of a request's body; ``None`` if it has none."""
    if "Content-Encoding" not in http.headers:
        return None
    if getattr(http.content, "total_compressed_bytes", None) is not None:
        return None  # a server with aiohttp's own settings has inflated it
    encoding = ",".join(http.headers.getall("Content-Encoding")).strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in _DECODERS:
        raise UnsupportedMediaType(
            f"Content-Encoding: {encoding[:50]!r} is not supported; send {ACCEPT_ENCODING}, or none.",
            headers={"Accept-Encoding": ACCEPT_ENCODING},
        )
    return encoding


class Inflater:
    """Inflates a body piece by piece, as ``decoder`` does, to at most ``limit`` bytes."""

    def __init__(self, limit: int, *, gzip: bool) -> None:
        self._left = limit
        self._inflating = zlib.decompressobj(_GZIP) if gzip else None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of a body are; they are never much longer than those. Raises as ``end`` does."""
        if self._inflating is None and data:
            self._inflating = zlib.decompressobj(_window_of_deflate(data))
        while data and self._inflating is not None and not self._inflating.eof:
            try:
                piece = self._inflating.decompress(data, INFLATED_MAX_BYTES)
            except zlib.error:
                raise ParseError(BODY_MISMATCH) from None
            self._left -= len(piece)
            if self._left < 0:
                raise PayloadTooLarge()
            yield piece
            data = self._inflating.unconsumed_tail
        if data:
            raise ParseError(BODY_MISMATCH)

    def end(self) -> None:
        """The body has ended.

        Raises:
            ParseError: it is not in this format, incomplete, or followed by something else.
            PayloadTooLarge: it has become longer than the limit.
        """
        if self._inflating is None or not self._inflating.eof or self._inflating.unused_data:
            raise ParseError(BODY_MISMATCH)


def _gunzip(body: bytes, limit: int) -> bytes:
    return _inflate(body, limit, _GZIP)


def _undeflate(body: bytes, limit: int) -> bytes:
    """The zlib format, or deflate without its header, which some clients send under the same name."""
    return _inflate(body, limit, _window_of_deflate(body))


def _window_of_deflate(body: bytes) -> int:
    return _ZLIB if body[:1] and body[0] & 0x0F == 8 else -_ZLIB


_DECODERS: Final[Mapping[str, Decoder]] = {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _undeflate}


def _inflate(body: bytes, limit: int, window: int) -> bytes:
    """Inflate a whole body.

    Raises:
        ParseError: it is not in this format, incomplete, or followed by something else.
        PayloadTooLarge: it becomes longer than the limit.
    """
    inflating = zlib.decompressobj(window)
    try:
        plain = inflating.decompress(body, limit + 1)
    except zlib.error:
        raise ParseError(BODY_MISMATCH) from None
    if len(plain) > limit:
        raise PayloadTooLarge()
    if not inflating.eof or inflating.unused_data:
        raise ParseError(BODY_MISMATCH)
    return plain
