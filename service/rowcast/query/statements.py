"""The statements of a service, each compiled once per shape.

A request has a *shape* (which lookups on which fields, which order, which relations, which kind of page) and *values*.
A statement is built from the shape alone, with every value a bound parameter, and kept in a bounded cache, from which
shapes that come once evict none that are in use. After the first time a request costs one look-up by shape, and its
values are put into the statement's order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Concatenate, ParamSpec, cast

from rowcast.query import aggregation, dependencies, export, matching, select, write
from rowcast.query.compilation import Statement
from rowcast.query.shape_cache import ShapeCache
from rowcast.resources.tables import Tables

Shapes = ParamSpec("Shapes")


class Queries:
    """The statements for the tables of one configuration. ``compilations`` counts how many have been compiled.

    Each attribute is a builder of ``select`` or ``write`` with its cache; see there for its values.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.resources = tables.resources
        self.compilations = 0
        self._caches: dict[Callable[..., Statement], ShapeCache[Statement]] = {}
        self.page = self.compiled(select.page)
        self.select_row = self.compiled(select.row)
        self.select_rows = self.compiled(select.rows)
        self.related_size = self.compiled(select.related_size)
        self.related_size_of_logged = self.compiled(select.related_size_of_logged)
        self.every_row = self.compiled(select.every_row)
        self.export = self.compiled(export.rows)
        self.aggregate_page = self.compiled(aggregation.aggregate_page)
        self.groups_of_logged = self.compiled(aggregation.groups_of_logged)
        self.match_logged = self.compiled(select.match_logged)
        self.show_logged = self.compiled(select.show_logged)
        self.insert = self.compiled(write.insert)
        self.insert_many = self.compiled(write.insert_many)
        self.upsert_many = self.compiled(write.upsert_many)
        self.insert_each = self.compiled(write.insert_each)
        self.update_each = self.compiled(write.update_each)
        self.update = self.compiled(write.update)
        self.unlink = self.compiled(write.unlink)
        self.link = self.compiled(write.link)
        self.delete = self.compiled(write.delete)
        self.delete_and_compare = self.compiled(write.delete_and_compare)
        self.lock_rows = self.compiled(write.lock_rows)
        self.insert_by_rules = self.compiled(write.insert_by_rules)
        self.update_by_rules = self.compiled(write.update_by_rules)
        self.delete_by_rules = self.compiled(write.delete_by_rules)
        self.reads = ShapeCache(partial(dependencies.reads, tables.resources))
        self.unlogged = ShapeCache(partial(dependencies.unlogged, tables.resources))
        self.evaluation = ShapeCache(partial(matching.evaluation, tables.resources))

    def compiled(self, build: Callable[Concatenate[Tables, Shapes], Statement]) -> Callable[Shapes, Statement]:
        """A builder of statements with its cache: called with a shape that it has seen, it builds nothing."""
        if build not in self._caches:

            def statement(*shape: Hashable) -> Statement:
                self.compilations += 1
                return cast("Callable[..., Statement]", build)(self.tables, *shape)

            self._caches[build] = ShapeCache(statement)
        return cast("Callable[Shapes, Statement]", self._caches[build])

    def caches(self) -> Iterator[tuple[str, ShapeCache[Statement]]]:
        """The use of the cache of each builder, by the builder's name."""
        for build, cached in self._caches.items():
            yield build.__name__, cached

    def key(self, resource: str) -> str:
        """The name of a resource's key column."""
        return self.resources[resource].key.column_name
