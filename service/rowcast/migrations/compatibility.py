"""Which types of an existing column serve a field, although Rowcast would create the column with another type."""

from __future__ import annotations

import re
from typing import Final

# A type as PostgreSQL prints it: "character varying(20)", "numeric(10,2)", "timestamp(3) with time zone".
_PRINTED_TYPE: Final = re.compile(r"([^(]+)(?:\((\d+)(?:,(-?\d+))?\))?(.*)")
_TEXT: Final = frozenset({"text", "character varying"})
_FOREIGN_TYPES: Final = {
    "smallint": frozenset({"integer", "bigint"}),
    "real": frozenset({"double precision"}),
    "json": frozenset({"jsonb"}),
    "timestamp without time zone": frozenset({"timestamp with time zone"}),  # in UTC
    "citext": _TEXT,
    "character": _TEXT,
    "bpchar": _TEXT,
}
"""Types that Rowcast never gives a column, with those of the fields that can hold their values."""
_ROUNDED_TYPES: Final = frozenset(
    {"timestamp with time zone", "timestamp without time zone", "time without time zone", "interval"}
)


def serves(found: str, declared: str, *, own: bool, implied: bool, enum: bool = False) -> bool:
    """Whether a column of the type ``found`` can be left as it is under a field that declares another type.

    Both are as PostgreSQL prints them. In a table of Rowcast's ``own``, a type that Rowcast could have given the column is
    as the config declared it before, so another one is a difference. ``implied`` says that the config does not name the
    declared limit, and ``enum`` that the column is an enum, or an array of enums.

    >>> serves("smallint", "integer", own=True, implied=False), serves("integer", "smallint", own=True, implied=False)
    (True, False)
    """
    if found.endswith("[]") and declared.endswith("[]") and found != "json[]":  # json has no equality
        return serves(found[:-2], declared[:-2], own=own, implied=implied, enum=enum)
    here, there = _PRINTED_TYPE.fullmatch(found), _PRINTED_TYPE.fullmatch(declared)
    if found == declared or here is None or there is None or found.endswith("[]"):
        return found == declared
    name, wanted = (match[1] + match[4] for match in (here, there))
    if enum:
        return wanted in _TEXT
    if wanted in _FOREIGN_TYPES.get(name.rpartition(".")[2], ()):
        return True
    if name == wanted and name in _ROUNDED_TYPES:
        return True
    if name == "character varying" and here[2] is None:
        return wanted in _TEXT
    if own:
        return False
    if name in _TEXT and wanted in _TEXT:
        return implied or None in (here[2], there[2]) or int(here[2]) >= int(there[2])
    if name == wanted == "numeric":
        if here[2] is None or there[2] is None:
            return True
        scale = int(here[3] or 0) - int(there[3] or 0)
        return scale >= 0 and int(here[2]) - int(there[2]) >= scale
    return (name, wanted) == ("integer", "bigint")
