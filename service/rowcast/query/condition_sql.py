"""The SQL of conditions: a FROM clause with the joins that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rowcast.query.compilation import Binds, bound_type, sql
from rowcast.query.conditions import Shape
from rowcast.query.versions import stamp, version
from rowcast.resources.derived import Derived
from rowcast.resources.exchanged import EnumType, Exchanged, Single, comparable, readable
from rowcast.resources.fields import Field
from rowcast.resources.full_text import RANK, VECTOR_COLUMN
from rowcast.resources.lookups import LOOKUPS, Argument, Lookup
from rowcast.resources.resource import Path, Relation
from rowcast.resources.sql import quote_identifier, quote_literal, quote_table
from rowcast.resources.tables import Tables, rank
from rowcast.resources.traits import TableTraits

AGGREGATES: Final[Mapping[str, Callable[[Any], sa.ColumnElement[Any]]]] = {
    "count": sa.func.count,
    "sum": sa.func.sum,
    "avg": sa.func.avg,
    "min": sa.func.min,
    "max": sa.func.max,
}
_ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
}


def sort_key(field: Field, value: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """What rows are sorted by: the value of a field, or its rank."""
    return rank(field, value) if field.order == "choices" else value


def _as_string(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """A column of an enum as a string, any other as it is."""
    return readable(column) if isinstance(column.type, EnumType) else column


class Source:
    """The rows of a resource as a FROM clause, and conditions on them.

    A path over relations to one row is an outer join, made once; the clause grows by it. A path over a relation to many
    rows is an EXISTS. Each condition binds its values in the order of its shape. ``logged`` is the JSON of ``base`` if
    that is a row of the change log; its links are those that it had then.
    """

    def __init__(
        self,
        tables: Tables,
        resource: str,
        binds: Binds,
        base: sa.FromClause | None = None,
        *,
        logged: str | None = None,
    ) -> None:
        base = tables.of[resource] if base is None else base
        self.tables = tables
        self.resource = resource
        self.binds = binds
        self.clause: sa.FromClause = base
        self._logged = logged
        self._search: tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]] | None = None
        self._joined: dict[tuple[str, ...], sa.FromClause] = {(): base}

    def path(self, text: str) -> Path:
        """The path of a text such as ``category__name``."""
        return self.tables.resources.resolve(self.resource, text)

    def column(self, path: Path) -> sa.ColumnElement[Any]:
        """The column at the end of a path over relations to one row."""
        if path.argument is not None:
            return self.function_of(path.function, path.argument)
        if path.steps and path.field.primary_key:
            return self.at(path.steps[:-1]).c[path.steps[-1].column]  # this side has the key, too
        column = comparable(self.at(path.steps).c[path.column])
        return column if path.derived is None else path.derived.sql(column, sql("'UTC'"))

    def columns(self, path: Path) -> Any:
        """As ``column``; for a key of several fields all of its columns."""
        if path.field.parts:
            return [comparable(self.at(path.steps).c[name]) for name in path.columns]
        return self.column(path)

    def at(self, steps: tuple[Relation, ...]) -> sa.FromClause:
        """The table at the end of some relations, joined once; the base for none."""
        names = tuple(step.name for step in steps)
        if names not in self._joined:
            source, step = self.at(steps[:-1]), steps[-1]
            target = self.tables.of[step.target].alias("_" + "__".join(names))
            target_key = target.c[self._key(step.target)]
            same = sa.and_(source.c[step.column] == target_key, *self.tables.live(step.target, target))
            self.clause = self.clause.outerjoin(target, same)
            self._joined[names] = target
        return self._joined[names]

    def conditions(self, *shapes: Shape) -> list[sa.ColumnElement[bool]]:
        """The SQL of the shapes that are not empty."""
        return [self.condition(shape) for shape in shapes if shape]

    def condition(self, shape: Shape) -> sa.ColumnElement[bool]:
        """The SQL of a condition's shape."""
        match shape:
            case ():
                return sa.true()
            case ("and", *parts):
                return sa.and_(sa.true(), *map(self.condition, parts))
            case ("or", *parts):
                return sa.or_(sa.false(), *map(self.condition, parts))
            case ("not", part):
                return sa.func.coalesce(self.condition(part), sa.false()).is_(sa.false())
            case ("is" | "is in zone" as form, path, lookup, flag):
                found = self.path(path)
                if found.derived is not None:
                    zone = self.binds(sa.Text()) if form == "is in zone" else None
                    return self._derived_comparison(found, found.derived, lookup, flag, zone)
                return self._comparison(found, lookup, flag)
            case ("after" | "from" as kind, *steps):
                return self._after(steps, included=kind == "from")
            case ("among", path, (resource, column, where)):
                return self._among(self.path(path), resource, column, where)
            case ("search",):
                return self._found()
            case ("unchanged",):
                base = self.at(())
                name = quote_table(base.key) if isinstance(base, sa.Table) else str(base.name)  # type: ignore[attr-defined]
                current = version(self.tables, self.resource, stamp(self.tables, self.resource, name), base)
                return current == sa.any_(self.binds(postgresql.ARRAY(sa.Text)))
        raise AssertionError(f"no condition has the shape {shape!r}")

    def rank(self) -> sa.ColumnElement[Any]:
        """How well a row suits the search that is among the conditions, exactly as a double precision."""
        assert self._search is not None
        vector, query = self._search
        return sa.cast(sa.func.ts_rank(vector, query), postgresql.DOUBLE_PRECISION)

    def _found(self) -> sa.ColumnElement[bool]:
        """Whether the search finds a row; what is searched for joins the clause, so that the rank can use it as well.

        A logged row has no column that is searched, so that is computed.
        """
        declared, base = self.tables.resources[self.resource].search, self.at(())
        assert declared is not None
        query = declared.query(self.binds(sa.Text())).table_valued(sa.column("query", postgresql.TSQUERY))
        query = query.render_derived(name="_search")
        self.clause = self.clause.join(query, sa.true())
        if self._logged:
            vector = declared.vector(base)
        else:
            name = quote_table(base.key) if isinstance(base, sa.Table) else quote_identifier(str(base.name))  # type: ignore[attr-defined]
            vector = sa.literal_column(f"{name}.{quote_identifier(VECTOR_COLUMN)}")
        self._search = vector, query.c.query
        return vector.bool_op("@@")(query.c.query)

    def expression(self, shape: Shape, field: Field) -> Any:
        """The SQL of arithmetic whose constants are values of a field."""
        match shape:
            case ("column", path):
                return self.column(self.path(path))
            case ("value",):
                return self.binds(bound_type(field))
            case (sign, left, right):
                return _ARITHMETIC[sign](self.expression(left, field), self.expression(right, field))
        raise AssertionError(f"no expression has the shape {shape!r}")

    def _key(self, resource: str) -> str:
        return self.tables.resources[resource].key.column_name

    def _comparison(self, path: Path, lookup: str, flag: Any) -> sa.ColumnElement[bool]:
        spec = LOOKUPS[path.values.field_type.kind, lookup]
        types = self._types(path)
        type_ = types[0]
        compare = spec.compare
        if path.values.parts:
            if spec.takes is Argument.MANY:  # the places in the arrays of the parts belong together
                types = [sa.Text() if isinstance(each, EnumType) else each for each in types]
                compare = lambda columns, argument: spec.compare([*map(_as_string, columns)], argument)  # noqa: E731
        elif isinstance(type_, EnumType) and (spec.takes is Argument.TEXT or lookup == "ne"):
            types = [sa.Text()]
            compare = lambda column, argument: spec.compare(readable(column), argument)  # noqa: E731
        elif spec.takes is Argument.TEXT and self._is_patternless(path):
            compare = lambda column, argument: spec.compare(column.collate("default"), argument)  # noqa: E731
        if isinstance(flag, tuple):
            argument = self.expression(flag, path.values)
            if isinstance(type_, Single):
                argument = type_.stored(argument)
        else:
            arguments = [self._argument(spec, flag, type_) for type_ in types]
            argument = arguments if path.values.parts and spec.takes is not Argument.FLAG else arguments[0]
        if not path.many:
            return compare(self.columns(path), argument)
        if lookup == "isnull" and flag and path.field.primary_key:
            return ~self._exists(path, lambda columns: compare(columns, False))
        if lookup == "not_in":  # the complement of ``in``: no related row has one of the values
            return ~self._exists(path, lambda columns: sa.not_(compare(columns, argument)))
        return self._exists(path, lambda columns: compare(columns, argument))

    def _derived_comparison(
        self, path: Path, derived: Derived, lookup: str, flag: Any, zone: sa.ColumnElement[Any] | None
    ) -> sa.ColumnElement[bool]:
        """The SQL of a lookup on a value that follows from a column."""
        spec = LOOKUPS[path.values.field_type.kind, lookup]
        computed = isinstance(flag, tuple)
        argument = (
            self.expression(flag, path.values) if computed else self._argument(spec, flag, bound_type(path.values))
        )

        def test(column: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
            return derived.condition(column, zone, "" if computed else lookup, argument, spec.compare)

        if not path.many:
            return test(comparable(self.at(path.steps).c[path.column]))
        if lookup == "not_in":
            return ~self._exists(path, lambda column: sa.not_(test(column)))
        return self._exists(path, test)

    def _is_patternless(self, path: Path) -> bool:
        """Whether the column of a path has a collation that does not work with patterns."""
        return path.column in self._traits(path).patternless

    def _types(self, path: Path) -> list[Any]:
        """The type of what the column of a path is compared with, or those of the columns of a key of several fields."""
        if path.computed:
            return [bound_type(path.values)]
        table = self.tables.of[path.steps[-1].target if path.steps else self.resource]
        columns = zip(path.columns, path.values.parts or (path.values,), strict=True)
        return [
            table.c[name].type if isinstance(table.c[name].type, Exchanged) else bound_type(values)
            for name, values in columns
        ]

    def _traits(self, path: Path) -> TableTraits:
        """The traits of the table at the end of a path."""
        return self.tables.resources.traits_of(path.steps[-1].target if path.steps else self.resource)

    def _argument(self, spec: Lookup, flag: Any, type_: Any) -> Any:
        """The argument of a lookup: bound parameters, or the flag itself."""
        match spec.takes:
            case Argument.FLAG:
                return flag
            case Argument.TEXT:
                return self.binds(sa.Text())
            case Argument.MANY:
                if isinstance(type_, Exchanged):
                    return type_.arguments(self.binds(postgresql.ARRAY(type_.driver)))
                return self.binds(postgresql.ARRAY(type_))
            case Argument.PAIR:
                return self._value(type_), self._value(type_)
            case Argument.ONE:
                return self._value(type_)

    def _value(self, type_: Any) -> sa.ColumnElement[Any]:
        """A bound value to compare a column of a type with."""
        return type_.argument(self.binds(type_.driver)) if isinstance(type_, Exchanged) else self.binds(type_)

    def _cast_text(self, type_: Any) -> sa.ColumnElement[Any]:
        """A bound string as a value of a type."""
        text = self.binds(sa.Text())
        return type_.stored(sa.cast(text, type_.driver)) if isinstance(type_, Exchanged) else sa.cast(text, type_)

    def _exists(self, path: Path, test: Callable[[Any], sa.ColumnElement[bool]]) -> sa.ColumnElement[bool]:
        """Whether some row at the end of a path over relations to many rows passes the test of its column or columns."""
        tables, joins, column = self._over(path)
        return sa.select(sa.literal_column("1")).select_from(*tables).where(*joins, test(column)).exists()

    def _over(self, path: Path) -> tuple[list[sa.FromClause], list[sa.ColumnElement[bool]], Any]:
        """The tables that a path over relations to many rows adds, how they are joined, and its column or columns."""
        first = next(n for n, step in enumerate(path.steps) if step.many)
        source = self.at(path.steps[:first])
        here = path.steps[first - 1].target if first else self.resource
        tables: list[sa.FromClause] = []
        joins: list[sa.ColumnElement[bool]] = []
        column: Any
        for step in path.steps[first:]:
            target = self.tables.of[step.target].alias()
            if step.link is not None:
                link = self.tables.links[step.link.table].alias()
                if self._logged and step is path.steps[0] and self._has_logged_links(step):
                    listed = sql(f"{self._logged} -> {quote_literal(step.name)}")
                    keys = sa.func.jsonb_array_elements_text(listed).table_valued("_key").render_derived(name="_keys")
                    tables.append(keys)
                    column = sa.cast(keys.c._key, link.c[step.link.target_column].type)
                else:
                    tables.append(link)
                    joins.append(link.c[step.link.source_column] == source.c[self._key(here)])
                    column = link.c[step.link.target_column]
                marks = self.tables.resources[step.target].soft_delete
                if step is path.steps[-1] and path.field.primary_key and marks is None:
                    break  # the link has the key; its row is not needed
                joins.append(target.c[self._key(step.target)] == column)
            elif step.many:
                joins.append(target.c[step.column] == source.c[self._key(here)])
            else:
                joins.append(source.c[step.column] == target.c[self._key(step.target)])
            joins += self.tables.live(step.target, target)
            tables.append(target)
            source, here = target, step.target
        else:
            columns = [comparable(source.c[name]) for name in path.columns]
            column = columns if path.field.parts else columns[0]
        return tables, joins, column

    def _among(self, path: Path, resource: str, column: str, where: Shape) -> sa.ColumnElement[bool]:
        """Whether the value of a path is one that some row of another query has."""
        inner = Source(self.tables, resource, self.binds, self.tables.of[resource].alias())
        found = inner.column(inner.path(column))
        condition = inner.condition(where)
        rows = sa.select(found).select_from(inner.clause).where(condition).correlate(None)
        if path.many:
            return self._exists(path, lambda value: value.in_(rows))
        return self.column(path).in_(rows)

    def function_of(self, function: str, path: Path) -> sa.ColumnElement[Any]:
        """A function of the values at the end of a path over relations to many rows, as the driver decodes it."""
        tables, joins, column = self._over(path)
        value = column[0] if isinstance(column, list) else column
        found = readable(AGGREGATES[function](readable(value) if function in ("sum", "avg") else value))
        return sa.select(found).select_from(*tables).where(*joins).scalar_subquery()

    def _has_logged_links(self, step: Relation) -> bool:
        """Whether the change log has the keys that a relation links the resource's rows to."""
        field = self.tables.resources[self.resource].links.get(step.name)
        return field is not None and not field.write_only

    def _after(self, steps: Sequence[tuple[str, bool, bool, bool]], *, included: bool) -> sa.ColumnElement[bool]:
        """The rows after a row in an order; a step is (path, descending, whether that row has null there, or text).

        Those are the rows whose first different column sorts later, and the row itself if it is ``included``. Null is the largest.
        """
        later: list[sa.ColumnElement[bool]] = []
        same: list[sa.ColumnElement[bool]] = []
        start: list[sa.ColumnElement[bool]] = []
        for position, (name, descending, null, text) in enumerate(steps):
            if name == RANK:
                rank, limit = self.rank(), self.binds(postgresql.DOUBLE_PRECISION)
                later.append(sa.and_(*same, rank < limit if descending else rank > limit))
                same.append(rank == limit)
                continue
            path = self.path(name)
            column = sort_key(path.field, self.column(path))
            ranked = path.field.order == "choices"  # then null has a rank as well
            may_be_null = not ranked and (path.field.null or bool(path.steps))
            if null and not ranked:
                if descending:
                    later.append(sa.and_(*same, column.is_not(None)))
                same.append(column.is_(None))
                continue
            (type_,) = self._types(path)
            value: Any = sa.null() if null else self._cast_text(type_) if text else self._value(type_)
            value = sort_key(path.field, value)
            differs = column < value if descending else column > value
            with_null = sa.or_(differs, column.is_(None)) if may_be_null and not descending else differs
            later.append(sa.and_(*same, with_null))
            same.append(column == value)
            if position == 0 and not may_be_null:  # implied by the rest; an index scan can start there
                start.append(column <= value if descending else column >= value)
        if included:
            later.append(sa.and_(*same))
        return sa.and_(*start, sa.or_(sa.false(), *later))
