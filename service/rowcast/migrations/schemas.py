"""Schemas of PostgreSQL that the config names and the database does not have."""

from __future__ import annotations

from alembic.operations import ops

from rowcast.migrations.values import Connection, DdlStep
from rowcast.resources.sql import quote_identifier
from rowcast.resources.tables import Tables, is_managed

_MISSING_SQL = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regnamespace(quote_ident(name)) IS NULL"


class CreateSchema(ops.ExecuteSQLOp):
    """The creation of a schema. ``step`` is what it runs. Its reverse keeps a schema that others have tables in."""

    def __init__(self, name: str, *, drop: bool = False) -> None:
        self.name, self.drop = name, drop
        create = f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(name)}"
        self.step = DdlStep(f"{create};", additive=True, needed=True)
        super().__init__(
            f"DO $$ BEGIN DROP SCHEMA IF EXISTS {quote_identifier(name)}; "
            "EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$"
            if drop
            else create
        )

    def reverse(self) -> CreateSchema:
        """The opposite."""
        return CreateSchema(self.name, drop=not self.drop)


async def find_missing_schemas(connection: Connection, tables: Tables) -> list[CreateSchema]:
    """The schemas to create for the declared tables."""
    schemas = sorted({table.schema for table in tables.metadata.tables.values() if table.schema and is_managed(table)})
    missing = await connection.fetch(_MISSING_SQL, schemas) if schemas else []
    return [CreateSchema(name) for (name,) in missing]
