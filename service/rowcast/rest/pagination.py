"""Which page of a list a response has, and the envelope around it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlencode

import orjson

from rowcast.errors import NotFound, ParseError
from rowcast.query.conditions import After, Query, StoredText
from rowcast.query.pages import DEEP_OFFSET_ROWS, FetchedPage, PageShape
from rowcast.query.projection import Projection
from rowcast.resources.fields import Kind
from rowcast.resources.full_text import RANK, RANK_FIELD
from rowcast.resources.resource import Resources

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

MAX_DIGITS: Final = 1000  # of a number in the query string
MAX_OFFSET: Final = 2**63 - 1  # what PostgreSQL's OFFSET can hold
UNPAGED: Final = 100  # times max_page_size: the most rows of a list without pagination


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The page that a request asks for: its shape, the values that follow the condition's, and its place in the list."""

    shape: PageShape
    values: tuple[Any, ...]
    limit: int
    offset: int = 0
    number: int = 1
    cursor: bool = False  # whether it starts after a row

    def count(self, size: int, known: int) -> int:
        """How many rows there are, after ``size`` rows were read: the page itself shows it, or it is the ``known`` count."""
        if self.shape.keyset or (size == 0 and self.offset):
            return known
        return max(known, self.offset + size) if size > self.limit else self.offset + size


@dataclass(frozen=True, slots=True)
class ListAddress:
    """The address of a list, from which the addresses of its other pages follow."""

    url: str  # without the query
    params: Sequence[tuple[str, str]]

    def having(self, **changed: str | None) -> bytes:
        """The address with parameters set, or with ``None`` left out, as a JSON string."""
        kept = [(name, value) for name, value in self.params if name not in changed]
        kept += [(name, value) for name, value in changed.items() if value is not None]
        return orjson.dumps(f"{self.url}?{urlencode(kept)}" if kept else self.url)


class BasePagination:
    """A way to divide a list into pages.

    Args:
        page_size: Rows of a page if the client does not ask for a size.
        max_page_size: The largest size that a client may ask for; larger ones are reduced to it.
        secret: Returns the key that encrypts cursors.
    """

    parameters: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[bool] = True  # whether a page has the number of all rows
    page_size: int = 0  # in a subclass: the size for viewsets whose config sets none; 0 means the viewset's own
    max_page_size: int = 0

    def __init__(self, resources: Resources, page_size: int, max_page_size: int, secret: Callable[[], bytes]) -> None:
        self.resources = resources
        self.page_size = page_size
        self.max_page_size = max_page_size
        self._secret = secret

    def page_request(self, query: Query, projection: Projection, count: str, params: Mapping[str, str]) -> PageRequest:
        """The page that the query string asks for; ``ParseError`` names a wrong parameter."""
        raise NotImplementedError

    def body(self, page: PageRequest, query: Query, found: FetchedPage, address: ListAddress) -> bytes:
        """The response; ``NotFound`` for a page after the last."""
        raise NotImplementedError

    def _at(
        self, query: Query, projection: Projection, count: str, size: int, offset: int, number: int = 1
    ) -> PageRequest:
        """A page at an offset."""
        usual = size == self.page_size
        page = PageShape(
            projection, query.order, count, limit=size if usual else None,
            has_offset=offset > 0, keys_first=offset >= DEEP_OFFSET_ROWS,
        )  # fmt: skip
        values = (*(() if usual else (size,)), *((offset,) if offset else ()))
        return PageRequest(page, values, size, offset, number)

    def _size(self, params: Mapping[str, str], name: str) -> int:
        text = params.get(name)
        return self.page_size if text is None else min(_number(name, text, least=1), self.max_page_size)


class PageNumberPagination(BasePagination):
    """``?page=3&page_size=50``."""

    parameters = ("page", "page_size")

    def page_request(self, query: Query, projection: Projection, count: str, params: Mapping[str, str]) -> PageRequest:
        size = self._size(params, "page_size")
        text = params.get("page")
        number = 1 if text is None else _number("page", text)
        offset = (number - 1) * size
        if not 0 <= offset <= MAX_OFFSET:
            raise NotFound("There is no such page.", code="invalid_page")
        return self._at(query, projection, count, size, offset, number)

    def body(self, page: PageRequest, query: Query, found: FetchedPage, address: ListAddress) -> bytes:
        if page.number > 1 and not found.results:
            raise NotFound("There is no such page.", code="invalid_page")
        following, before = b"null", b"null"
        if found.size > page.limit:
            following = address.having(page=str(page.number + 1))
        if page.number > 1:
            before = address.having(page=str(page.number - 1) if page.number > 2 else None)
        return _envelope(found, following, before)


class LimitOffsetPagination(BasePagination):
    """``?limit=50&offset=100``."""

    parameters = ("limit", "offset")

    def page_request(self, query: Query, projection: Projection, count: str, params: Mapping[str, str]) -> PageRequest:
        offset = _number("offset", params.get("offset", "0"), least=0)
        if offset > MAX_OFFSET:
            raise ParseError("offset: too large.", code="invalid_parameter")
        return self._at(query, projection, count, self._size(params, "limit"), offset)

    def body(self, page: PageRequest, query: Query, found: FetchedPage, address: ListAddress) -> bytes:
        following, before = b"null", b"null"
        if found.size > page.limit:
            following = address.having(limit=str(page.limit), offset=str(page.offset + page.limit))
        if page.offset > 0:
            earlier = max(0, page.offset - page.limit)
            before = address.having(limit=str(page.limit), offset=str(earlier) if earlier else None)
        return _envelope(found, following, before)


class CursorPagination(BasePagination):
    """``?cursor=…``: pages that start after a row, stable while rows come and go, and equally fast at any depth.

    A cursor holds the values by which that row is sorted, encrypted, since responses may not show them. It is bound to the
    resource and the order, and one that was not issued here is refused.
    """

    parameters = ("cursor", "page_size")

    def page_request(self, query: Query, projection: Projection, count: str, params: Mapping[str, str]) -> PageRequest:
        size = self._size(params, "page_size")
        text = params.get("cursor")
        if text is None:
            return PageRequest(PageShape(projection, query.order, count, keyset=True), (size,), size)
        backward, row = self._read(text, query)
        after = After(sort_steps(query, backward=backward), row)
        page = PageShape(projection, query.order, count, keyset=True, after=after.shape, backward=backward)
        return PageRequest(page, (*after.values, size), size, cursor=True)

    def body(self, page: PageRequest, query: Query, found: FetchedPage, address: ListAddress) -> bytes:
        backward, keys, more = page.shape.backward, found.keys, found.size > page.limit
        following, before = b"null", b"null"
        if keys and (more or backward):
            following = address.having(cursor=self._write(keys[-1], query, backward=False))
        if keys and (more if backward else page.cursor):
            before = address.having(cursor=self._write(keys[0], query, backward=True))
        return _envelope(found, following, before)

    def _write(self, row: bytes, query: Query, *, backward: bool) -> str:
        content = b"[%d,%b]" % (backward, row)
        return base64.urlsafe_b64encode(self._cipher.encrypt(content, _bound_to(query))).rstrip(b"=").decode()

    def _read(self, text: str, query: Query) -> tuple[bool, tuple[Any, ...]]:
        from cryptography.exceptions import InvalidTag

        refused = ParseError(
            "cursor: was not issued here for this list and order; start without one.", code="invalid_cursor"
        )
        try:
            raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise refused from None
        try:
            backward, row = orjson.loads(self._cipher.decrypt(raw, _bound_to(query)))
        except InvalidTag:
            raise refused from None
        try:
            return bool(backward), sort_values(self.resources, query, row)
        except (ValueError, ArithmeticError):  # the field's type has changed since
            raise refused from None

    @property
    def _cipher(self) -> AESSIV:
        return _cipher(self._secret())


@lru_cache(maxsize=8)
def _cipher(secret: bytes) -> AESSIV:
    """Encrypts equal contents equally (RFC 5297), so that equal pages have equal tags."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(hashlib.blake2b(b"cursors", key=secret, digest_size=64).digest())


def _bound_to(query: Query) -> list[bytes]:
    return [",".join((query.resource, *query.order)).encode()]


class NoPagination(BasePagination):
    """The rows alone, as an array of at most a hundred times ``max_page_size``."""

    counts = False

    def page_request(self, query: Query, projection: Projection, count: str, params: Mapping[str, str]) -> PageRequest:
        size = self.max_page_size * UNPAGED
        return PageRequest(PageShape(projection, query.order, "none", limit=size), (), size)

    def body(self, page: PageRequest, query: Query, found: FetchedPage, address: ListAddress) -> bytes:
        return b"[%b]" % found.results


def sort_steps(query: Query, *, backward: bool = False) -> tuple[tuple[str, bool], ...]:
    """The steps of a query's order, or of the opposite one: (path, descending)."""
    return tuple((step.removeprefix("-"), step.startswith("-") != backward) for step in query.order)


def sort_values(resources: Resources, query: Query, row: Sequence[Any]) -> tuple[Any, ...]:
    """The values by which a row is sorted, from their JSON. A ``ValueError`` or ``ArithmeticError`` if they are of another type."""
    return tuple(
        None if value is None else _sort_value(resources, query.resource, step.removeprefix("-"), value)
        for step, value in zip(query.order, row, strict=True)
    )


def _sort_value(resources: Resources, resource: str, path: str, value: Any) -> Any:
    """A value from its JSON; one that Python does not have is PostgreSQL's own string."""
    field = RANK_FIELD if path == RANK else resources.resolve(resource, path).values
    try:
        return field.field_type.load(field, value)
    except ValueError:
        if field.field_type.kind in _BEYOND_PYTHON and isinstance(value, str) and _STORED.fullmatch(value):
            field.field_type.nearest(field, value)  # a ValueError if it is not a value of the type
            return StoredText(value)
        raise


_BEYOND_PYTHON: Final = (Kind.NUMBER, Kind.MOMENT)  # whose columns can hold values that Python does not have
_STORED: Final = re.compile(r"-?[Ii]nfinity|NaN|-?P[-+0-9.YMDTHS]+|[-+0-9][-+0-9.:T]*(?: BC)?")


def _number(name: str, text: str, *, least: int | None = None) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS):
        raise ParseError(f"{name}: {text[:50]!r} is not a whole number.", code="invalid_parameter")
    number = int(text)
    if least is not None and number < least:
        raise ParseError(f"{name}: must be {least} or more.", code="invalid_parameter")
    return number


def _envelope(found: FetchedPage, following: bytes, before: bytes) -> bytes:
    total = b"null" if found.count is None else b"%d" % found.count
    return b'{"count":%b,"next":%b,"previous":%b,"results":[%b]}' % (total, following, before, found.results)
