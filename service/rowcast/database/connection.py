"""The types of a connection to PostgreSQL and of a function that opens one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import asyncpg

Connection: TypeAlias = asyncpg.Connection
Connect: TypeAlias = Callable[[], Awaitable[Connection]]
