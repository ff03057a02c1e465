"""Alembic's operations, and what they are as SQL and as the Python of a revision."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal

import sqlalchemy as sa
from alembic.autogenerate import render_python_code, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.operations import Operations, ops
from alembic.runtime.migration import MigrationContext

from rowcast.resources.exchanged import Exchanged, LocalTime, Native
from rowcast.resources.sql import DIALECT

_BIND_PARAMETER: Final = re.compile(r"(?<![:\w\\]):\w|\\:")


class Implementation(PostgresqlImpl):
    """Alembic's PostgreSQL, except that ``sa.text`` never reads a colon in SQL as a parameter."""

    def render_ddl_sql_expr(self, expr: sa.ClauseElement, *arguments: Any, **options: Any) -> str:
        """SQL that ``sa.text`` can read back."""
        text = super().render_ddl_sql_expr(expr, *arguments, **options)
        return text.replace(":", r"\:") if _BIND_PARAMETER.search(text) else text

    def autogen_column_reflect(self, inspector: sa.Inspector, table: sa.Table, column_info: dict[str, Any]) -> None:
        """A column as it is in the database."""
        super().autogen_column_reflect(inspector, table, column_info)  # type: ignore[no-untyped-call]
        if default := column_info.get("default"):
            column_info["default"] = default.replace(":", r"\:")


def render(steps: Iterable[ops.MigrateOperation]) -> str:
    """The operations as the body of a function, which also runs where a sync has done some of them already."""
    context = MigrationContext.configure(dialect=DIALECT)
    context.impl = Implementation(DIALECT, None, False, True, None, {})
    return render_python_code(
        ops.UpgradeOps(list(_repeatable(steps))), render_item=_render_item, migration_context=context
    )


def _render_item(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """A type of Rowcast's own as SQLAlchemy's, which revisions need not import from Rowcast."""
    if kind != "type" or not isinstance(item, Exchanged):
        return False
    if isinstance(item, Native):
        return f"Native({item.printed!r})"
    return "postgresql.TIMESTAMP()" if isinstance(item, LocalTime) else f"postgresql.{item.printed}()"


def _repeatable(steps: Iterable[ops.MigrateOperation]) -> Iterator[ops.MigrateOperation]:
    """Add IF [NOT] EXISTS, so that an operation does nothing where it was done already."""
    dropped = set()
    for step in steps:
        match step:
            case ops.CreateTableOp() | ops.AddColumnOp() | ops.CreateIndexOp():
                step.if_not_exists = True
            case ops.DropConstraintOp():
                step.if_exists = True
                dropped.add((step.schema, step.table_name, step.constraint_name))
            case ops.DropTableOp() | ops.DropColumnOp() | ops.DropIndexOp():
                step.if_exists = True
            case ops.AddConstraintOp():
                drop = step.reverse()
                if (drop.schema, drop.table_name, drop.constraint_name) not in dropped:
                    drop.if_exists = True
                    yield drop
        yield step


class Cast(ops.AlterColumnOp):
    """A change of a column's type with an explicit cast of its values."""

    def __init__(self, table_name: str, column_name: str, **options: Any) -> None:
        super().__init__(table_name, column_name, **options)
        assert self.modify_type is not None
        type_ = self.modify_type.compile(dialect=DIALECT)
        self.kw["postgresql_using"] = f"{DIALECT.identifier_preparer.quote(column_name)}::{type_}"


@renderers.dispatch_for(Cast)
def _render_cast(context: AutogenContext, operation: Cast) -> str:
    rendered: str = renderers.dispatch(ops.AlterColumnOp(operation.table_name, operation.column_name))(
        context, operation
    )
    return f"{rendered[:-1]},\n{' ' * 11}postgresql_using={operation.kw['postgresql_using']!r})"


def ddl_of(context: MigrationContext, operation: ops.MigrateOperation) -> str:
    """The DDL of an operation as it would run."""
    buffer = io.StringIO()
    offline = MigrationContext.configure(dialect=context.dialect, opts={"as_sql": True, "output_buffer": buffer})
    Operations(offline).invoke(operation)
    return buffer.getvalue().strip()
