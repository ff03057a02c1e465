"""``GET /tasks/aggregate/``: the option ``aggregates``, and its query parameters as the shape and the values of a statement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rowcast.errors import ParseError, did_you_mean
from rowcast.query.aggregation import AggregateShape, Calculation, Group
from rowcast.resources.aggregates import FUNCTIONS, GROUP_BY, TRUNC, buckets_of, result_field
from rowcast.resources.fields import Field
from rowcast.resources.resource import Path, Resources
from rowcast.rest.pagination import BasePagination, LimitOffsetPagination, PageNumberPagination
from rowcast.rest.request import names_in
from rowcast.rest.zones import ZONE_PARAMETER, read_zone

CONDITIONS: Final = ("gt", "gte", "lt", "lte", "ne")  # on results
PARAMETERS: Final = (GROUP_BY, *FUNCTIONS, "ordering", ZONE_PARAMETER)
LIVE_PARAMETERS: Final = (GROUP_BY, *FUNCTIONS, ZONE_PARAMETER, "snapshot", "last_event_id", "access_token", "ticket")
_PAGES: Final = (PageNumberPagination, LimitOffsetPagination)  # groups have no cursor
GROUPS_MAX: Final = 8
CALCULATIONS_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class AggregateRequest:
    """What a request asks for. ``values`` follow those of the condition in the statement, before the limit."""

    shape: AggregateShape
    values: tuple[Any, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that the statement follows besides those of the condition."""
        found = (*(each.path for each in self.shape.groups), *(each.path for each in self.shape.calculations))
        return tuple(dict.fromkeys(path for path in found if path))


class Aggregates:
    """The groups and functions that a viewset opens."""

    def __init__(
        self, resources: Resources, resource: str, opened: Mapping[str, Sequence[str]], paginator: BasePagination
    ) -> None:
        self.paginator = paginator
        self._resource = resource
        self.groups: dict[str, tuple[Group, Path]] = {}
        for name in opened.get("group_by", ()):
            path, _, bucket = name.partition(TRUNC)
            found = resources.resolve(resource, path)
            buckets = [bucket] if bucket else buckets_of(found.values)
            if not bucket:
                self.groups[name] = Group(path), found
            self.groups |= {f"{path}{TRUNC}{each}": (Group(path, each), found) for each in buckets}
        self.arguments = {
            function: {path: resources.resolve(resource, path) for path in opened.get(function, ())}
            for function in FUNCTIONS
        }

    def paths(self) -> Iterator[str]:
        """Every path that the option opens."""
        yield from dict.fromkeys(group.path for group, _ in self.groups.values())
        for paths in self.arguments.values():
            yield from paths

    def conditions(self, params: Mapping[str, str], others: Collection[str]) -> list[str]:
        """The parameters that are conditions on results, such as ``count__gte``; ``others`` have their own meaning."""
        beginnings = tuple(f"{each}_" for each in FUNCTIONS)
        return [
            name
            for name in params
            if name not in others and name.rpartition("__")[2] in CONDITIONS and name.startswith(beginnings)
        ]

    def read(self, params: Mapping[str, str], conditions: Sequence[str]) -> AggregateRequest:
        """What the query string asks for; ``ParseError`` names a wrong parameter and what is valid."""
        groups = [self._group(name) for name in _names("group_by", params, GROUPS_MAX)]
        calculations = list(self._calculations(params))
        if not groups and not calculations:
            calculations = [(Calculation("count"), None)]
        if len(calculations) > CALCULATIONS_MAX:
            raise ParseError(f"At most {CALCULATIONS_MAX} results.", code="invalid_parameter")
        names = [
            *(_shown(path, group.bucket) for group, path in groups),
            *(_name(each, path) for each, path in calculations),
        ]
        fields = {
            _name(each, path): (position, result_field(each.function, None if path is None else path.values))
            for position, (each, path) in enumerate(calculations)
        }
        having, values = [], []
        for name in conditions:
            result, _, lookup = name.rpartition("__")
            if result not in fields:
                hint = did_you_mean(result, fields)
                raise ParseError(f"{name[:50]}: there is no result {result[:50]!r}; {hint}", code="unknown_parameter")
            position, field = fields[result]
            having.append((position, lookup))
            values.append(_parsed(name, field, params[name]))
        zone = read_zone(params)
        zones = [zone for group, path in groups if group.bucket and path.values.field_type.name != "date"]
        shape = AggregateShape(
            self._resource,
            tuple(group for group, _ in groups),
            tuple(each for each, _ in calculations),
            tuple(names),
            tuple(having),
            self._order(params, names, len(groups)),
        )
        return AggregateRequest(shape, (*zones, *values))

    def _group(self, name: str) -> tuple[Group, Path]:
        if name not in self.groups:
            hint = did_you_mean(name, self.groups) if self.groups else "this list has no groups"
            raise ParseError(f"group_by: cannot group by {name[:50]!r}; {hint}", code="invalid_parameter")
        return self.groups[name]

    def _calculations(self, params: Mapping[str, str]) -> Iterator[tuple[Calculation, Path | None]]:
        for function in FUNCTIONS:
            for name in _names(function, params, CALCULATIONS_MAX):
                if function == "count" and name == "*":
                    yield Calculation("count"), None
                    continue
                paths = self.arguments[function]
                if name not in paths:
                    valid = [*(["*"] if function == "count" else []), *paths]
                    hint = did_you_mean(name, valid) if valid else f"no field is opened for {function}"
                    raise ParseError(f"{function}: {name[:50]!r} is not allowed; {hint}", code="invalid_parameter")
                yield Calculation(function, name), paths[name]

    def _order(self, params: Mapping[str, str], names: list[str], groups: int) -> tuple[tuple[int, bool], ...]:
        """The order by results; then the groups, so that it is total."""
        steps: dict[int, bool] = {}
        for step in _names("ordering", params, GROUPS_MAX + CALCULATIONS_MAX):
            name = step.removeprefix("-")
            if name not in names:
                raise ParseError(
                    f"ordering: {name[:50]!r} is not a result; {did_you_mean(name, names)}", code="invalid_parameter"
                )
            steps.setdefault(names.index(name), step.startswith("-"))
        return (*steps.items(), *((position, False) for position in range(groups) if position not in steps))


def opened_aggregates(
    resources: Resources,
    resource: str,
    opened: Mapping[str, Sequence[str]],
    paginator: BasePagination,
    numbered: Callable[[], BasePagination],
) -> Aggregates | None:
    """What the option ``aggregates`` opens. Groups have numbered pages where rows have a cursor, or no pages."""
    if not opened:
        return None
    usual = isinstance(paginator, _PAGES)
    return Aggregates(resources, resource, opened, paginator if usual else numbered())


def pages_of_groups(paginator: BasePagination) -> tuple[str, ...]:
    """The parameters of pages of groups, where the list has this paginator."""
    return paginator.parameters if isinstance(paginator, _PAGES) else PageNumberPagination.parameters


def _names(parameter: str, params: Mapping[str, str], most: int) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(names_in(params[parameter]))) if params.get(parameter) else ()
    if len(names) > most:
        raise ParseError(f"{parameter}: at most {most} names.", code="invalid_parameter")
    return names


def _shown(path: Path, bucket: str) -> str:
    """The name of a path as rows show it: the column's for a foreign key."""
    name = "__".join([*(step.name for step in path.steps), path.field.column_name])
    return f"{name}{TRUNC}{bucket}" if bucket else name


def _name(calculation: Calculation, path: Path | None) -> str:
    return calculation.function if path is None else f"{calculation.function}_{calculation.path}"


def _parsed(name: str, field: Field, text: str) -> Any:
    try:
        return field.field_type.parse(field, text)
    except ValueError as error:
        raise ParseError(f"{name}: {error}", code="invalid_parameter") from None
