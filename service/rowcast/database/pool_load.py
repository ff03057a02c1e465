"""How much of a pool of connections is in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolLoad:
    """How many connections a pool may open, are in use and are open without use, and how many callers wait for one."""

    size: int
    in_use: int
    idle: int
    waiting: int
