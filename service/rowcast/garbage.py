"""When Python's garbage collector looks through objects. Most of what a service makes at start stays as long as the process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

MIDDLE_COLLECTIONS_PER_FULL: Final = 100


@contextmanager
def no_collection() -> Iterator[None]:
    """Make what stays: looking through it again and again, while more comes, would take a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def kept() -> Iterator[None]:
    """Make what stays as long as the process, and is never looked through; for the owner of the process.

    The little garbage among it stays, too, until ``keep_pauses_short`` is called for an application that was replaced.
    """
    with no_collection():
        yield
        gc.freeze()


def keep_pauses_short(*, replaced: bool = False) -> None:
    """Keep the collector's pauses short; for the owner of the process, once the service is ready.

    Objects that exist now are never examined again, since they live as long as the process. Full collections become rare:
    with 10,000 open streams each takes half a second. ``replaced`` is for an application that has taken the place of
    another one, whose objects are garbage now.
    """
    if replaced:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, MIDDLE_COLLECTIONS_PER_FULL)
