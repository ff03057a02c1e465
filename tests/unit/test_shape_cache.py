"""What is made of shapes is kept while it is in use, whatever other shapes come."""

from __future__ import annotations

import random

from rowcast.query.shape_cache import KEPT, ON_TRIAL, ShapeCache


def test_shapes_that_come_once_evict_none_that_are_in_use() -> None:
    """10,000 of them, with those in use between them, and many at once."""
    cache = ShapeCache(lambda *shape: shape)
    used = [("books", n) for n in range(500)]
    for shape in used * 2:
        cache(*shape)
    made = cache.misses
    for number in range(10_000):
        cache("invented", number)
        if number % 100 == 0:
            cache(*used[number // 100])
    assert cache.misses == made + 10_000
    for shape in used:
        assert cache(*shape) == shape
    assert cache.misses == made + 10_000
    assert cache.currsize <= KEPT + ON_TRIAL


def test_it_has_a_bound_and_keeps_what_is_used_most() -> None:
    """Of more shapes than it can have, all of which come again and again, it has those that are used meanwhile."""
    cache = ShapeCache(lambda shape: shape)
    hot = list(range(100))
    for number in range(1000, 1000 + 3 * KEPT):
        cache(number)
        cache(number)
        for shape in random.Random(number).sample(hot, 5):
            cache(shape)
    assert cache.currsize <= KEPT + ON_TRIAL
    misses = cache.misses
    for shape in hot:
        cache(shape)
    assert cache.misses == misses


def test_hits_and_misses_are_counted() -> None:
    cache = ShapeCache(lambda shape: -shape)
    assert [cache(shape) for shape in (1, 1, 1, 2, 1, 2)] == [-1, -1, -1, -2, -1, -2]
    assert (cache.hits, cache.misses, cache.currsize) == (4, 2, 2)
