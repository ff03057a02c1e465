"""Decides whether clients, writers and rows fit together. It is a pure function of what was observed.

A trigger of the soak's own notes every change of a row in a *journal*, in the transaction of the change: it is what should have been
sent, and does not depend on the change log. From it and a client's filter follows, for each row, the list of events that the client
must have, neither fewer nor more, in this order. A client that has listed meanwhile must have the end of that list, from the
state that its list showed. A list may be newer than its position, where that is not exact: then events may come which the list has,
but never others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar

SHOWN_FAULTS = 5  # of a client
SHOWN_CHARACTERS = 40  # of a text
T = TypeVar("T")


class Row(NamedTuple):
    """A note. Its text is never written twice."""

    text: str
    done: bool
    owner_id: int | None

    def __repr__(self) -> str:
        return f"({self.text[:SHOWN_CHARACTERS]!r}, done={self.done}, owner={self.owner_id})"


class Event(NamedTuple):
    """What a stream sends of a row; a deleted one has no values."""

    action: str
    row: Row | None


Rows: TypeAlias = Mapping[int, Row]
Journal: TypeAlias = Sequence[tuple[int, Row | None]]  # key and new row, in the order of the changes of each key
Matches: TypeAlias = Callable[[Row], bool]


@dataclass
class Record:
    """What a client has seen since the last check point."""

    listed: dict[int, Row] | None = None  # its list, if it has listed meanwhile
    exact: bool = True  # whether the position of the list is
    events: list[tuple[int, Event]] = field(default_factory=list)  # after the list
    rows: dict[int, Row] = field(default_factory=dict)  # in the end


class Fate(Enum):
    """What a writer has been answered about a write."""

    MADE = "committed"
    UNDONE = "rolled back"
    UNSURE = "unanswered"  # the connection was lost while it was committed


Ledger: TypeAlias = Mapping[tuple[int, str], Fate]  # by key and text


def faults_of_writes(ledger: Ledger, journal: Journal) -> Iterator[str]:
    """Writes that were committed are in the journal once, those that were rolled back are not, and there are no others."""
    found = Counter((key, row.text) for key, row in journal if row is not None)
    for (key, text), fate in ledger.items():
        count, what = found[key, text], f"the write of row {key}, {text[:SHOWN_CHARACTERS]!r},"
        if count > 1:
            yield f"doubled: {what} was made {count} times"
        elif fate is Fate.MADE and not count:
            yield f"lost: {what} was answered and is not in the database"
        elif fate is Fate.UNDONE and count:
            yield f"{what} was rolled back and is in the database"
    for key, text in found.keys() - ledger.keys():
        yield f"nobody has made the write of row {key}, {text[:SHOWN_CHARACTERS]!r}"


def faults_of_client(before: Rows, journal: Journal, after: Rows, matches: Matches, record: Record) -> Iterator[str]:
    """The client has each change that its filter shows once and in order, and then the rows of the database."""
    changes, events = _by_key(journal), _by_key(record.events)
    faults = []
    for key in sorted(changes.keys() | events.keys()):
        shown = before.get(key)
        if shown is not None and not matches(shown):
            shown = None
        due = due_events(shown, changes[key], matches)
        got = events[key]
        if record.listed is None:
            allowed = [due]
        else:
            allowed = list(_allowed_after_list(shown, due, record.listed.get(key), record.exact))
            if not allowed:
                faults.append(f"row {key}: the list has {record.listed.get(key)}, which it never was")
                continue
        if got not in allowed:
            faults.append(f"row {key}: {_difference(due, allowed, got)}")
    rows = {key: row for key, row in after.items() if matches(row)}
    for key in sorted(rows.keys() | record.rows.keys()):
        if rows.get(key) != record.rows.get(key):
            faults.append(f"row {key}: the client has {record.rows.get(key)}, the database {rows.get(key)}")
    yield from islice(faults, SHOWN_FAULTS)
    if len(faults) > SHOWN_FAULTS:
        yield f"and {len(faults) - SHOWN_FAULTS} more"


def due_events(shown: Row | None, changes: Sequence[Row | None], matches: Matches) -> list[Event]:
    """What a stream with a filter sends of a row of which the client has ``shown``."""
    events = []
    here = shown is not None
    for row in changes:
        if row is not None and matches(row):
            events.append(Event("UPDATE" if here else "INSERT", row))
            here = True
        elif here:
            events.append(Event("DELETE", None))
            here = False
    return events


def _allowed_after_list(shown: Row | None, due: list[Event], listed: Row | None, exact: bool) -> Iterator[list[Event]]:
    """What a client may get after its list, beginning with the fewest; nothing if the row never was as the list has it."""
    states = [shown, *(event.row for event in due)]
    starts = [number for number, state in enumerate(states) if state == listed]
    if starts and not exact:
        starts = list(range(starts[-1] + 1))
    for start in reversed(starts):
        yield due[start:]


def _difference(due: list[Event], allowed: list[list[Event]], got: list[Event]) -> str:
    """What is wrong with the events of a row, compared with the nearest of those that are allowed."""
    missing, surplus = min(
        ((Counter(each) - Counter(got), Counter(got) - Counter(each)) for each in allowed),
        key=lambda difference: sum(counter.total() for counter in difference),
    )
    wrong = [f"lost {_text(event)}" for event in missing]
    wrong += [f"{'doubled' if event in due else 'wrong'} {_text(event)}" for event in surplus]
    return ", ".join(wrong) or f"out of order: {', '.join(map(_text, got))}"


def _text(event: Event) -> str:
    return f"{event.action} {event.row.text[:SHOWN_CHARACTERS]!r}" if event.row is not None else event.action


def _by_key(pairs: Sequence[tuple[int, T]]) -> Mapping[int, list[T]]:
    found: defaultdict[int, list[T]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return found
