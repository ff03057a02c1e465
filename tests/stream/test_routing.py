"""Routing: no group that a change matches is left out, and few others are tested."""

from __future__ import annotations

import datetime as dt
import os
import random
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from rowcast.changes.events import Batch, Event
from rowcast.changes.position import Snapshot
from rowcast.query.conditions import Comparison, Condition, Junction, Negation, Query
from rowcast.query.matching import matcher, routing_key
from rowcast.query.projection import projection_of
from rowcast.resources.fields import Kind
from rowcast.resources.resource import Resource, Resources
from rowcast.resources.types import make_field
from rowcast.streams.routing import SubscriptionIndex
from rowcast.streams.subscription import NeedsAwait, Subscription, Subscriptions

SEED = int(os.environ.get("ROWCAST_TEST_SEED", random.randrange(2**32)))
USERS = Resource("users", "users", "User", {"id": make_field("id", "uuid", primary_key=True)})
TASKS = Resource(
    "tasks",
    "tasks",
    "Task",
    {
        "id": make_field("id", "integer", primary_key=True),
        "title": make_field("title", "string", null=True),
        "size": make_field("size", "float", null=True),
        "done": make_field("done", "boolean"),
        "owner": make_field("owner", "foreign_key", to="users", null=True, on_delete="cascade"),
        "account": make_field("account", "big_integer"),
    },
)
RESOURCES = Resources({"users": USERS, "tasks": TASKS})
ACCOUNTS = [2**53 + 1, 2**62 + 1]  # more than a float holds
OWNERS = [uuid.UUID(int=n) for n in range(5)]


def subscriptions(*conditions: Condition) -> Subscriptions:
    query = Query("tasks", conditions)
    test, key = matcher(RESOURCES, "tasks", conditions), routing_key(RESOURCES, "tasks", conditions)
    store: Any = None  # which nothing here asks
    return Subscriptions([Subscription(query, projection_of(TASKS), ("title",), TASKS, test, key, store)])


def batch(*rows: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> Batch:
    """Events with these rows before and after; TRUNCATE where both are ``None``."""
    events = []
    for n, (before, after) in enumerate(rows, start=1):
        op = "T" if before is after is None else "U" if before and after else "D" if before else "I"
        old, new = (None if row is None else orjson.dumps(row) for row in (before, after))
        events.append(Event(n, 100, n, dt.datetime.now(dt.UTC), "tasks", op, None, old, new))
    return Batch(1, 2, Snapshot.parse("200:200:"), 1, tuple(events), last=True)


def test_no_match_is_left_out() -> None:
    """Every subscription that an event matches is a candidate, and renders the same as without its routing key."""
    print(f"ROWCAST_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    values: dict[str, list[Any]] = {
        "id": [1, 2, 3],
        "title": ["a", "b", ""],
        "size": [1.0, 2.0, 0.5],
        "done": [True, False],
        "owner_id": OWNERS,
        "account": ACCOUNTS,
    }

    def condition(depth: int) -> Condition:
        if depth and chance.random() < 0.4:
            parts = tuple(condition(depth - 1) for _ in range(chance.randint(1, 3)))
            choices: list[Condition] = [Junction("and", parts), Junction("or", parts), Negation(parts[0])]
            return chance.choice(choices)
        path = chance.choice(list(values))
        kind = RESOURCES.resolve("tasks", path).values.field_type.kind
        lookup = chance.choice(["exact", "exact", "in", "ne", "isnull"])
        given = {"in": chance.sample(values[path], k=2), "isnull": chance.random() < 0.5}.get(lookup)
        return Comparison(path, lookup, chance.choice(values[path]) if given is None else given, kind)

    def row() -> dict[str, Any]:
        return {name: chance.choice([*some, *([] if name == "id" else [None])]) for name, some in values.items()}

    index: SubscriptionIndex[Subscriptions] = SubscriptionIndex()
    everybody = [subscriptions(*(condition(2) for _ in range(chance.randint(0, 3)))) for _ in range(300)]
    for one in everybody:
        index.add(one, one)
    unrouted = [(one, Subscriptions(replace(each, routing_key=None) for each in one)) for one in everybody]
    spared = 0
    for _ in range(200):
        events = batch(
            *((chance.choice([row(), None]), chance.choice([row(), None])) for _ in range(chance.choice([1, 3])))
        )
        candidates = index.candidates(events)
        spared += len(everybody) - len(candidates)
        assert not [one.key for one in everybody if one not in candidates and one.render_now(events, None)]
        assert all(one.render_now(events, None) == other.render_now(events, None) for one, other in unrouted)
    assert spared > 200 * 10, "so many are skipped each time"
    for one in everybody:
        index.discard(one, one)
    assert index.candidates(batch((row(), row()), (None, None))) == set()


def test_a_subscription_evaluates_only_rows_with_its_values() -> None:
    """A transaction with rows of many users costs the stream of one user what that user's rows cost."""
    rows = [{"id": n, "title": "a", "size": 1, "done": n % 2 == 0, "owner_id": str(OWNERS[n % 5])} for n in range(100)]
    own = subscriptions(
        Comparison("owner", "exact", OWNERS[1], Kind.UUID), Comparison("done", "exact", True, Kind.BOOLEAN)
    )
    evaluated: list[int] = []

    def test(row: Mapping[str, Any]) -> bool:
        evaluated.append(row["id"])
        return bool(row["done"])

    counted = Subscriptions(replace(each, test=test) for each in own)
    frame = counted.render_now(batch(*((None, row) for row in rows)), None)
    assert evaluated == list(range(1, 100, 5))
    assert frame.count(b"data: ") == 10


def test_candidates_of_a_change_are_its_old_and_its_new_owner() -> None:
    """Of many owners' streams two are candidates for a transfer, with that of all rows; TRUNCATE has every stream."""
    index: SubscriptionIndex[Subscriptions] = SubscriptionIndex()
    owned = [
        subscriptions(Comparison("done", "exact", False, Kind.BOOLEAN), Comparison("owner", "exact", owner, Kind.UUID))
        for owner in OWNERS
    ]
    accounts = [subscriptions(Comparison("account", "exact", account, Kind.NUMBER)) for account in ACCOUNTS]
    every = subscriptions()
    for one in (*owned, *accounts, every):
        index.add(one, one)
    before = {"id": 1, "title": "a", "size": 1, "done": False, "owner_id": str(OWNERS[0])}
    after = {**before, "owner_id": str(OWNERS[1])}
    assert index.candidates(batch((before, after))) == {owned[0], owned[1], every}
    assert index.candidates(batch((None, {**before, "owner_id": None}))) == {every}
    assert index.candidates(batch((None, {**before, "account": ACCOUNTS[1]}))) == {owned[0], accounts[1], every}
    assert index.candidates(batch((None, None))) == {*owned, *accounts, every}


def test_a_value_that_python_cannot_represent_has_every_key_of_its_column() -> None:
    """Memory cannot compare the value, so each of them asks the database."""
    index: SubscriptionIndex[Subscriptions] = SubscriptionIndex()
    small, large = (subscriptions(Comparison("size", "exact", size, Kind.NUMBER)) for size in (1.0, 2.0))
    for one in (small, large):
        index.add(one, one)
    row = {"id": 1, "title": "a", "size": 1, "done": False, "owner_id": None}
    assert index.candidates(batch((None, row))) == {small}
    endless = batch((row, {**row, "size": "Infinity"}))
    assert index.candidates(endless) == {small, large}
    with pytest.raises(NeedsAwait):
        large.render_now(endless, None)
