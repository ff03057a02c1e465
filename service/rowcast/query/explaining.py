"""What the errors of writes are about: the fields whose values do not fit, some of which only PostgreSQL can check."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeGuard

import asyncpg

from rowcast.database.errors import NO_ROW
from rowcast.database.pool import Database
from rowcast.errors import ApiError, DoesNotFit, Unavailable, ValidationError
from rowcast.query.misfits import with_fields
from rowcast.query.statements import Queries
from rowcast.resources.fields import Field
from rowcast.resources.resource import Resource
from rowcast.resources.sql import quote_identifier, quote_table


async def explained(
    queries: Queries, database: Database, error: Exception, resource: Resource, *rows: Mapping[str, Any]
) -> Exception:
    """The error of a write with a message on each field that has caused it; as it is if that is not known.

    ``rows`` are the values that were written, by column, as Python or as JSON. PostgreSQL names the first key of a missing row
    alone; outside a transaction, which has failed, all of them are found.
    """
    for values in rows:
        if names_missing_row(error) and not database.in_transaction:
            return await with_missing_rows(queries, database, error, resource, values)
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


def names_missing_row(error: Exception) -> TypeGuard[ValidationError]:
    """Whether an error is about a key of a row that does not exist."""
    return isinstance(error, ValidationError) and error.code == "does_not_exist"


async def with_missing_rows(
    queries: Queries, database: Database, error: ValidationError, resource: Resource, values: Mapping[str, Any]
) -> ValidationError:
    """The error with a message on each of the ``values`` that names a row which does not exist."""
    messages = dict(error.errors or {})
    relations = queries.resources.relations(resource.name)
    for name, value in values.items():
        field = resource.columns.get(name) or resource.links.get(name)
        relation = None if field is None or value is None else relations.get(field.name)
        if relation is None or name in messages:
            continue
        target = queries.resources[relation.target]
        key, keys = quote_identifier(target.key.stored_column), set(value if relation.many else [value])
        count = f"SELECT count(*) FROM {quote_table(queries.tables.of[target.name].key)} WHERE {key} = ANY($1)"
        with suppress(
            ApiError, asyncpg.PostgresError, asyncpg.InterfaceError
        ):  # the first message is true all the same
            found = await database.fetch(count, [list(keys)])
            if found is not None and found["count"] < len(keys):
                messages[name] = [NO_ROW]
    return ValidationError(messages, code=error.code)


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
