"""``?tz=Europe/Berlin``: the time zone of parts and buckets of time, for the whole request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final
from zoneinfo import available_timezones

from rowcast.errors import ParseError, did_you_mean
from rowcast.resources.derived import UTC

ZONE_PARAMETER: Final = "tz"
HINT_MAX_CHARACTERS: Final = 100  # beyond it is a list of all names
_OF_A_MACHINE: Final = frozenset({"localtime", "Factory", "posixrules"})  # which PostgreSQL need not have


@cache
def zone_names() -> frozenset[str]:
    """The names of all time zones."""
    return frozenset(available_timezones() - _OF_A_MACHINE)


def read_zone(params: Mapping[str, str]) -> str:
    """The time zone that a request names, or UTC; ``ParseError`` if there is none of that name."""
    zone = params.get(ZONE_PARAMETER, UTC)
    if zone not in zone_names():
        hint = did_you_mean(zone[:50], sorted(zone_names()))
        hint = hint if len(hint) < HINT_MAX_CHARACTERS else "use a name such as Europe/Berlin"
        raise ParseError(f"{ZONE_PARAMETER}: {zone[:50]!r} is not a time zone; {hint}", code="invalid_parameter")
    return zone
