"""Rows that everybody may write, without a request of aiohttp's: from the bytes of a body to the values of a statement that several
requests share, and from its row to the parts of a response.

``direct_writing`` has the same steps for a request, and ``plain_writing`` those of its response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from rowcast.database.written import TRANSACTION_ID
from rowcast.errors import ParseError
from rowcast.query.coalescing import Coalescing, Waiting
from rowcast.query.conditions import Query, equals
from rowcast.query.store import Store, StoredRow
from rowcast.resources.fields import Kind
from rowcast.resources.lossless_json import parse_body
from rowcast.rest.etags import tag_of_row
from rowcast.rest.media_types import JSON
from rowcast.rest.plain_writing import key_of_new, location_below, missing_or_changed
from rowcast.rest.plan import ModelPlan
from rowcast.rest.response import TRANSACTION
from rowcast.rest.scope import parse_key, row_at


class Wanted(NamedTuple):
    """What a request wants to be written: the values by column or link, and the key of the row that it changes."""

    values: dict[str, Any]
    key: Any = None


@dataclass(frozen=True, slots=True)
class _Way:
    """How an action writes. ``partial`` and ``updating`` are those of ``Serializer.validate_body``."""

    event: str  # of ``TableTraits``
    status: HTTPStatus
    shared: Callable[[Store], Coalescing]
    partial: bool = False

    @property
    def updating(self) -> bool:
        return self.event == "update"


_WAYS: Final[Mapping[str, _Way]] = {
    "create": _Way("insert", HTTPStatus.CREATED, lambda store: store.inserts),
    "update": _Way("update", HTTPStatus.OK, lambda store: store.updates),
    "partial_update": _Way("update", HTTPStatus.OK, lambda store: store.updates, partial=True),
}


class PublicWrite:
    """The writes of one action of a viewset whose rows everybody may write, by bodies that data alone decide about."""

    def __init__(self, plan: ModelPlan, way: _Way, rows: Query) -> None:
        self._plan = plan
        self._way = way
        self._rows = rows
        self._shown = plan.default_projection(plan.serializer)
        by_key = equals(plan.lookup_field or plan.resource.key.name, plan.key, None)
        self._where = rows.restrict(by_key).shape
        self._prepare = by_key.lookup_spec.prepare
        self._is_its_tag = plan.serializer.plain and not self._shown.related  # the version, with the projection
        self.status = way.status

    @classmethod
    def of(cls, plan: ModelPlan, action: str) -> PublicWrite | None:
        """The writes of an action that ``direct_writer`` may do; ``None`` if their statements may not be shared."""
        way, rows, resource = _WAYS.get(action), plan.unscoped_query, plan.resource
        shares = resource.coalesce and not plan.service.store.database.acts_as_callers
        if way is None or rows is None or not shares or rows.related or plan.key.field_type.kind is Kind.KEY:
            return None
        write = cls(plan, way, rows)
        again = any(resource.name in inner.resources for _, inner in write._shown.related)
        return None if again else write  # the statement does not see what it writes

    def read(self, body: bytes, key: str) -> Wanted:
        """What a body wants, at the address of a row with this key or of a list; raises the errors of the action."""
        plan, way = self._plan, self._way
        value = parse_key(plan, key) if way.updating else None
        try:
            document = parse_body(body)
        except ValueError as error:
            raise ParseError(f"The body is not valid JSON: {error}.") from None
        values = plan.serializer.validate_body(document, partial=way.partial, updating=way.updating)
        return Wanted(values, value)

    def offer(self, wanted: Wanted, waiting: Waiting) -> bool:
        """Let ``waiting`` get the row that is written together with others; ``False`` if it is to be written alone."""
        plan, way, values = self._plan, self._way, wanted.values
        resource, store = plan.resource, plan.service.store
        traits = plan.service.resources.traits_of(resource.name)
        if traits.partitioned or way.event in traits.skipping or way.event in traits.rules:
            return False
        if resource.links and not resource.links.keys().isdisjoint(values):
            return False
        columns = tuple(name for name in resource.columns if name in values)
        if not columns:
            return False
        given = [values[name] for name in columns]
        if not way.updating:
            return way.shared(store).offer((self._shown, columns), given, waiting)
        given = [*self._rows.values, self._prepare(wanted.key), *given]
        return way.shared(store).offer((self._shown, columns, self._where), given, waiting)

    async def write(self, wanted: Wanted, *, alone: bool = False) -> tuple[StoredRow, str | None]:
        """Write the row: what it has become, and its transaction. Raises the errors of the action.

        If it is written ``alone``, its statement is not shared.
        """
        plan = self._plan
        store = plan.service.store.alone if alone else plan.service.store
        with store.database.noting() as written:
            if not self._way.updating:
                row = await store.insert(self._shown, wanted.values)
                return row, written.transaction
            query = row_at(plan, self._rows, wanted.key)
            found = await store.update(query, self._shown, wanted.values)
            if found is None:
                raise await missing_or_changed(plan, query, None)
            return found, written.transaction

    @staticmethod
    def written(record: Mapping[str, Any]) -> tuple[StoredRow, str | None]:
        """What ``write`` returns, of a record that ``waiting`` has got."""
        return StoredRow(record["result"], record["version"], record["key"]), record[TRANSACTION_ID]

    def headers(self, row: StoredRow, transaction: str | None, address: str) -> dict[str, str]:
        """The headers of the response with a row that was written in a transaction by a request for an address."""
        plan = self._plan
        made = {} if self._way.updating else location_below(plan, address, key_of_new(plan, row))
        if row.version is not None:
            made["ETag"] = tag_of_row(row.version, self._shown, None if self._is_its_tag else row.body)
        made["Content-Type"] = JSON
        if transaction is not None:
            made[TRANSACTION] = transaction
        return made
