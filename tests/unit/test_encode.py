"""Values that an action returns, as JSON."""

from __future__ import annotations

import uuid

from asyncpg.pgproto.pgproto import UUID

from rowcast.rest.response import encode


def test_keys_as_the_database_returns_them_have_a_json_form() -> None:
    """``return {"id": row.id}`` was a 500: the driver's class of UUIDs is not Python's own."""
    key = uuid.uuid4()
    assert encode({"id": UUID(str(key)), "same": key}, repr) == f'{{"id":"{key}","same":"{key}"}}'.encode()
