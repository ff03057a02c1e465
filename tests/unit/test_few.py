"""A set of a few things is a set, however little memory it takes."""

from __future__ import annotations

import random

import pytest

from rowcast.streams.few import Few, few, many, with_one, without


@pytest.mark.parametrize("seed", range(10))
def test_it_has_what_a_set_has(seed: int) -> None:
    """Whatever is added and removed, once or again; no more than one thing is a tuple, until there have been several."""
    chance, expected = random.Random(seed), set[int]()
    found: Few[int] = ()
    for _ in range(200):
        item = chance.randrange(3)
        if chance.random() < 0.5:
            found = with_one(found, item)
            expected.add(item)
        else:
            found = without(found, item)
            expected.discard(item)
        assert (set(found), len(found), bool(found)) == (expected, len(expected), bool(expected))
        if chance.random() < 0.2:
            found = few(many(found))
            assert isinstance(found, set) == (len(expected) > 1)
