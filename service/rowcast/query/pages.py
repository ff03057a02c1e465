"""Pages: the shape in which one is requested, and the rows as they come from PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rowcast.errors import ListTooLarge
from rowcast.query.conditions import Shape
from rowcast.query.projection import Projection

BETWEEN: Final = b",\n"  # separates the documents of a page; no document contains a line break
DEEP_OFFSET_ROWS: Final = 1000  # from this offset on a page finds its keys first and joins the rows afterwards


@dataclass(frozen=True, slots=True)
class PageShape:
    """The shape of a page without its condition: everything that its SQL depends on.

    ``count`` is ``exact``, ``estimated`` or ``none``. ``limit`` is the number of rows if it is always the same, so that
    PostgreSQL knows it when it plans; ``None`` makes it a parameter, and ``has_offset`` adds one for the offset.
    ``keyset`` returns the sort values of each row, from which cursors are made; ``after`` is the shape of the cursor's
    condition, for a page that starts after a row, and ``backward`` reads such a page from its end. ``keys_first`` finds
    the keys of the page before it joins the rows.
    """

    projection: Projection
    order: tuple[str, ...]
    count: str = "exact"
    limit: int | None = None
    has_offset: bool = False
    keyset: bool = False
    after: Shape = ()
    backward: bool = False
    keys_first: bool = False


@dataclass(frozen=True, slots=True)
class FetchedPage:
    """The rows of a page.

    ``results`` is their JSON with ``BETWEEN`` between the documents. ``size`` is the number of rows that were read: one
    more than the page has if others follow. ``keys`` are the sort values of each row as JSON, for a keyset.
    ``snapshot`` is the statement's ``pg_current_snapshot``.
    """

    results: bytes
    size: int
    count: int | None
    keys: list[bytes]
    snapshot: str

    @classmethod
    def of(cls, row: Mapping[str, Any], keys: list[bytes]) -> FetchedPage:
        """The page that a statement has returned; ``ListTooLarge`` if it has returned none, since there are too many bytes."""
        if row["results"] is None:
            raise ListTooLarge()
        return cls(row["results"], row["size"], row["count"], keys, row["snapshot"])

    @property
    def documents(self) -> list[bytes]:
        """The JSON of each row."""
        return self.results.split(BETWEEN) if self.results else []
