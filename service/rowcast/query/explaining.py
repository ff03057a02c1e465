"""What the errors of writes are about: the fields whose values do not fit, some of which only PostgreSQL can check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from rowcast.database.pool import Database
from rowcast.errors import ApiError, DoesNotFit, Unavailable, ValidationError
from rowcast.query.misfits import with_fields
from rowcast.query.statements import Queries
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource


async def explained(
    queries: Queries, database: Database, error: Exception, resource: Resource, *rows: Mapping[str, Any]
) -> Exception:
    """The error of a write with a message on each field that has caused it; as it is if that is not known.

    ``rows`` are the values that were written, by column, as Python or as JSON.
    """
    for values in rows:
        if isinstance(error, ValidationError):
            named = with_fields(error, queries.resources.traits_of(resource.name), values)
            if named is not error:
                return named
        if not _may_be_native(error):
            continue
        written = (
            (name, queries.resources.key_of(resource.columns[name])) for name in values if name in resource.columns
        )
        natives = {name: field for name, field in written if field.native_type and values[name] is not None}
        wrong = [name for name, field in natives.items() if not await is_native(database, field, values[name])]
        if wrong:
            return ValidationError({name: [f"Not a valid {natives[name].native_type}."] for name in wrong})
    return error


async def is_native(database: Database, field: Field, *texts: str) -> bool:
    """Whether strings are values of a field's own type of PostgreSQL, which alone knows it.

    Inside a transaction, which may have failed, it takes another connection.
    """
    cast = f"SELECT count(CAST(item AS {field.native_type})) FROM unnest($1::text[]) AS given (item)"
    try:
        if database.in_transaction:
            await database.fetch_outside(cast, list(texts))
        else:
            await database.fetch(cast, [list(texts)])
    except (ApiError, asyncpg.PostgresError) as error:
        if isinstance(error, Unavailable) and not _may_be_native(error):
            raise
        return False
    return True


def _may_be_native(error: Exception) -> bool:
    """Whether an error may be about a value of a type that only PostgreSQL knows, such as a regclass of no table."""
    mismatch = isinstance(error, Unavailable) and error.code == "schema_mismatch"
    return mismatch or isinstance(error, DoesNotFit | asyncpg.PostgresError)
