"""``unique``, ``check`` and ``search`` of a resource file: what the database does with the values of fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from rowcast.configuration import value_types
from rowcast.configuration.yaml import AboutKey, Steps
from rowcast.errors import did_you_mean
from rowcast.resources.fields import Field, Kind
from rowcast.resources.full_text import HIGHLIGHT, RANK_PARAMETER, VECTOR_COLUMN, WEIGHTS, FullText
from rowcast.resources.resource import Resource
from rowcast.resources.rules import CheckRule, UniqueRule

_LANGUAGE: Final = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?"
_NAMES: Final = value_types.ListOf(value_types.string(), least=1, required=True)

UNIQUE_SECTION: Final = value_types.section(
    "Unique",
    {
        "fields": _NAMES,
        "lower": value_types.TrueOrList(value_types.string()),
        "where": value_types.string(least=1),
        "nulls": value_types.one_of(("distinct", "equal")),
        "message": value_types.string(least=1),
    },
)
CHECK_SECTION: Final = value_types.section(
    "Check",
    {
        "expr": value_types.string(least=1, required=True),
        "message": value_types.string(least=1),
        "field": value_types.string(),
    },
)

SEARCH_SECTION: Final = value_types.section(
    "Search",
    {
        "language": value_types.string(_LANGUAGE, "the name of a text search configuration such as english"),
        "fields": value_types.MappingOf(value_types.one_of(WEIGHTS), required=True),
    },
)

RULE_KEYS: Final[Mapping[str, Any]] = {
    "unique": value_types.ListOf(
        value_types.ListOrSection(value_types.ListOf(value_types.string(), least=1), UNIQUE_SECTION), null=True
    ),
    "check": value_types.ListOf(value_types.Nested(CHECK_SECTION), null=True),
    "search": value_types.Nested(SEARCH_SECTION, null=True),
}
"""The keys of a resource file that are read here."""


def read_rules(
    resource: Resource, loaded: Mapping[str, Any], lost: set[str], report: Callable[[Steps, str], None]
) -> Mapping[str, Any]:
    """The values of ``Resource`` for ``unique``, ``check`` and ``search``, without the wrong ones, which are reported."""
    unique: Sequence[Any] = loaded.get("unique") or ()
    checks: Sequence[Any] = loaded.get("check") or ()
    columns = {name: field for name, field in resource.fields.items() if field.field_type.kind is not Kind.RELATIONS}
    plain: list[tuple[str, ...]] = []
    messages: dict[tuple[str, ...], str] = {}
    rules: list[UniqueRule] = []
    for position, given in enumerate(unique):
        if not isinstance(given, Mapping):
            plain.append(given)
            continue
        found = list(_problems(given, resource, columns, lost))
        for path, message in found:
            report(("unique", position, *path), message)
        names = tuple(given.get("fields") or ())
        if found or not names or lost.intersection(names):
            continue
        lower = _lowered(given, columns)
        rule = UniqueRule(
            columns=tuple(columns[name].column_name for name in names),
            lower=tuple(columns[name].column_name for name in names if name in lower),
            where=given.get("where"),
            nulls_equal=given.get("nulls") == "equal",
            message=given.get("message"),
        )
        if rule.plain and (names in plain or (len(names) == 1 and columns[names[0]].unique)):
            report(("unique", position), f"[{', '.join(names)}] is declared already")
        elif rule.plain:
            plain.append(names)
            if rule.message:
                messages[names] = rule.message
        elif _same(rule) in map(_same, rules):
            report(("unique", position), "is declared already")
        else:
            rules.append(rule)
    made = [check for position, given in enumerate(checks) if (check := _check(given, position, columns, lost, report))]
    return {
        "unique": tuple(plain),
        "messages": messages,
        "rules": tuple(rules),
        "checks": tuple(made),
        "search": _search(resource, loaded.get("search"), lost, report),
    }


def _search(resource: Resource, given: Any, lost: set[str], report: Callable[[Steps, str], None]) -> FullText | None:
    """The option ``search``, without wrong fields, which are reported."""
    if not isinstance(given, Mapping) or not isinstance(given.get("fields"), Mapping):
        return None
    columns = {name: field for name, field in resource.fields.items() if field.field_type.kind is Kind.TEXT}
    for name in given["fields"]:
        if name not in columns and name not in lost:
            there = name in resource.fields
            message = f"{name!r} is not a string" if there else f"there is no field {name!r}"
            report(("search", "fields", name), AboutKey(f"{message}; {did_you_mean(name, columns)}"))
        elif name in columns and columns[name].write_only:
            report(("search", "fields", name), AboutKey(f"{name!r} is write_only, so it cannot be used here"))
        elif name in columns and columns[name].generated:
            report(
                ("search", "fields", name), AboutKey(f"{name!r} is generated, and so is the column that is searched")
            )
    if not given["fields"]:
        report(("search", "fields"), "may not be empty")
    if not resource.managed:
        report(("search",), AboutKey("'search' contradicts 'managed: false': it needs a column of the table"))
    for name, field in resource.fields.items():
        if name in (RANK_PARAMETER, HIGHLIGHT):
            message = f"'search' does not go with a field {name!r}: that is the name of its own {_MEANINGS[name]}"
            report(("search",), AboutKey(message))
        elif field.stored_column == VECTOR_COLUMN:
            report(
                ("search",), AboutKey(f"'search' has the column {VECTOR_COLUMN!r}, which is that of the field {name!r}")
            )
    fields = tuple((name, weight) for name, weight in given["fields"].items() if name in columns)
    return FullText(given.get("language") or "simple", fields) if fields else None


_MEANINGS: Final = {RANK_PARAMETER: "order", HIGHLIGHT: "part of each row"}


def _same(rule: UniqueRule) -> tuple[Any, ...]:
    return rule.columns, rule.lower, rule.where, rule.nulls_equal


def _lowered(given: Mapping[str, Any], columns: Mapping[str, Field]) -> tuple[str, ...]:
    """The fields that a rule compares without case: those it names, or all that are strings."""
    lower = given.get("lower") or ()
    if lower is True:
        return tuple(name for name in given["fields"] if columns[name].field_type.kind is Kind.TEXT)
    return tuple(lower)


def _problems(
    given: Mapping[str, Any], resource: Resource, columns: Mapping[str, Field], lost: set[str]
) -> Iterator[tuple[Steps, str]]:
    names = list(given.get("fields") or ())
    for index, message in _column_set_problems(names, resource, columns, lost):
        yield ("fields", index), message
    lower = given.get("lower") or ()
    if lower is True:
        if not any(name in columns and columns[name].field_type.kind is Kind.TEXT for name in names):
            yield ("lower",), "none of the fields is a string"
        return
    for index, name in enumerate(lower):
        if name not in names:
            yield ("lower", index), f"{name!r} is not one of the fields of this rule; {did_you_mean(name, names)}"
        elif name in columns and columns[name].field_type.kind is not Kind.TEXT:
            yield ("lower", index), f"{name!r} is not a string, so it has no case"


def _check(
    given: Any, position: int, columns: Mapping[str, Field], lost: set[str], report: Callable[[Steps, str], None]
) -> CheckRule | None:
    if not isinstance(given, Mapping) or "expr" not in given:
        return None
    name = given.get("field")
    if name is not None and name not in columns:
        if name not in lost:
            report(("check", position, "field"), f"there is no field {name!r}; {did_you_mean(name, columns)}")
        return None
    return CheckRule(given["expr"], given.get("message"), name)


def check_column_sets(
    resource: Resource, unique_sets: Sequence[Any], lost: set[str], report: Callable[[Steps, str], None]
) -> None:
    """Check the lists of ``unique`` and ``indexes``: they are of fields that have columns, without repetition."""
    columns = {name: field for name, field in resource.fields.items() if field.field_type.kind is not Kind.RELATIONS}
    unique: set[tuple[str, ...]] = {(name,) for name, field in columns.items() if field.unique or field.primary_key}
    unique |= {resource.primary_key}
    indexed: set[tuple[str, ...]] = {(name,) for name, field in columns.items() if field.index or field.to}
    for key, sets, declared in (("unique", unique_sets, unique), ("indexes", resource.indexes, indexed)):
        for position, names in enumerate(sets):
            if isinstance(names, Mapping):
                continue
            plain = [name.removeprefix("-") if key == "indexes" else name for name in names]
            for index, message in _column_set_problems(plain, resource, columns, lost):
                report((key, position, index), message)
            if names in declared:
                report((key, position), f"[{', '.join(names)}] is declared already")
            declared.add(names)


def _column_set_problems(
    names: list[str], resource: Resource, columns: Mapping[str, Field], lost: set[str]
) -> Iterator[tuple[int, str]]:
    """The position and the message of each wrong name in a list of fields with columns."""
    for index, name in enumerate(names):
        if name in names[:index]:
            yield index, f"{name!r} is listed twice"
        elif name in resource.links:
            yield index, f"{name!r} has no column: it is a many_to_many"
        elif name not in columns and name not in lost:
            yield index, f"there is no field {name!r}; {did_you_mean(name, columns)}"
