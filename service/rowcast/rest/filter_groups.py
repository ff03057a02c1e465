"""``?filter=``: groups of conditions as JSON, made of the lookups that ``filterset_fields`` opens.

``{"or": [{"pages__gte": 500}, {"not": {"read": true}}]}``: the keys of an object must all hold. ``and`` and ``or`` have lists
of objects, ``not`` has one. ``not`` is the complement: it holds for every row for which its object does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from rowcast.errors import ParseError, did_you_mean
from rowcast.query.conditions import Comparison, Condition, Junction, Negation, compare
from rowcast.resources.derived import UTC
from rowcast.resources.fields import Field, Kind
from rowcast.resources.lookups import PATTERNS, Argument, Lookup
from rowcast.resources.lossless_json import parse_body

GROUP_PARAMETER: Final = "filter"
GROUP_MAX_DEPTH: Final = 5  # groups inside groups
GROUP_MAX_CONDITIONS: Final = 50
CHOICE_LOOKUPS: Final = (
    "exact",
    "ne",
    "in",
    "not_in",
    "contains",
    "overlap",
)  # lookups whose argument must be one of the field's choices
_LISTS: Final = ("and", "or")


@dataclass(frozen=True, slots=True)
class NativeValues:
    """Values of a field whose type only PostgreSQL knows, and the place where a client has sent them."""

    place: str
    field: Field
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class FilterParameter:
    """A filter parameter: ``priority__in`` is the path ``priority`` and the lookup ``in``.

    ``zoned`` says that its values depend on the time zone of the request.
    """

    path: str
    lookup: Lookup
    values: Field
    zoned: bool = False

    @property
    def is_pattern(self) -> bool:
        """Whether its argument is a regular expression."""
        return self.lookup.name in PATTERNS

    @property
    def is_native(self) -> bool:
        """Whether only PostgreSQL can check its argument."""
        return bool(self.values.native_type) and self.lookup.takes in (Argument.ONE, Argument.MANY)

    def native_values(self, place: str, condition: Condition) -> Iterator[NativeValues]:
        """The values of its condition, if only PostgreSQL can check them; ``place`` names them to the client."""
        if self.is_native and isinstance(condition, Comparison) and condition.lookup == self.lookup.name:
            argument = condition.argument
            yield NativeValues(place, self.values, argument if isinstance(argument, tuple) else (argument,))

    def of_text(self, text: str, zone: str = UTC) -> Condition:
        """The condition with an argument from a query string. ``ValueError`` is a sentence for the client."""
        return self._compare(self.lookup.parse(self.values, text), zone)

    def of_json(self, value: Any, zone: str = UTC) -> Condition:
        """The condition with an argument from JSON. ``ValueError`` is a sentence for the client."""
        if value is None and self.lookup.name in ("exact", "ne"):
            return Comparison(self.path, "isnull", self.lookup.name == "exact", self.values.field_type.kind)
        return self._compare(self._argument(value), zone)

    def _argument(self, value: Any) -> Any:
        load = self.values.field_type.load
        match self.lookup.takes:
            case Argument.FLAG:
                if not isinstance(value, bool):
                    raise ValueError("must be true or false.")
                return value
            case Argument.TEXT:
                if not isinstance(value, str):
                    raise ValueError("must be a string.")
                return self.lookup.parse(self.values, value)
            case Argument.MANY | Argument.PAIR:
                if not isinstance(value, list) or None in value:
                    raise ValueError("must be a list of values.")
                if self.lookup.takes is Argument.PAIR and len(value) != 2:
                    raise ValueError("must be a list of two values.")
                return tuple([load(self.values, item) for item in value])
            case Argument.ONE:
                if value is None:
                    raise ValueError("must not be null; use isnull.")
                return load(self.values, value)

    def _compare(self, argument: Any, zone: str) -> Condition:
        """The condition; ``ValueError`` for a value that is not one of the choices: no row could match it."""
        field = self.values
        if field.choices and self.lookup.takes is not Argument.TEXT and self.lookup.name in CHOICE_LOOKUPS:
            choice = field.element if field.field_type.kind is Kind.ARRAY else field
            valid = [choice.field_type.load(choice, each) for each in choice.choices]
            for each in argument if isinstance(argument, list | tuple) else [argument]:
                if each not in valid:
                    raise ValueError(f"must be one of {', '.join(map(str, field.choices))}.")
        found = compare(self.path, self.lookup.name, argument, field.field_type.kind)
        return replace(found, zone=zone) if self.zoned and zone != UTC and isinstance(found, Comparison) else found


def read_group(text: str, parameters: Mapping[str, FilterParameter], zone: str = UTC) -> tuple[Condition, ...]:
    """The conditions of ``?filter=``, which must all hold; ``ParseError`` names the place of a mistake."""
    return _Reader(parameters, zone).read(text)


def native_values_of_group(text: str, parameters: Mapping[str, FilterParameter]) -> Sequence[NativeValues]:
    """The values of ``?filter=`` that only PostgreSQL can check."""
    reader = _Reader(parameters)
    reader.read(text)
    return reader.natives


def values_in(conditions: Sequence[Condition]) -> int:
    """The greatest number of values that one comparison in these conditions has, at any depth."""
    counts = [0]
    for condition in conditions:
        match condition:
            case Comparison(_, "in" | "not_in", argument, _):
                counts.append(len(argument))
            case Junction(_, parts):
                counts.append(values_in(parts))
            case Negation(part):
                counts.append(values_in([part]))
    return max(counts)


class _Reader:
    """Reads one group, and counts its conditions."""

    def __init__(self, parameters: Mapping[str, FilterParameter], zone: str = UTC) -> None:
        self.natives: list[NativeValues] = []
        self._parameters = parameters
        self._zone = zone
        self._count = 0

    def read(self, text: str) -> tuple[Condition, ...]:
        """The conditions of the whole group."""
        try:
            value = parse_body(text.encode())
        except ValueError as error:
            raise _mistake(GROUP_PARAMETER, f"is not valid JSON: {error}.") from None
        return tuple(self.conditions(value, GROUP_PARAMETER, 0))

    def conditions(self, value: Any, place: str, depth: int) -> Iterator[Condition]:
        """The conditions of an object, which must all hold."""
        if not isinstance(value, dict):
            raise _mistake(place, 'must be an object, such as {"or": [{…}, {…}]}.')
        if depth > GROUP_MAX_DEPTH:
            raise _mistake(place, f"at most {GROUP_MAX_DEPTH} groups inside one another.")
        for name, inner in value.items():
            inside = f"{place}.{name[:100]}"
            if name in _LISTS:
                yield self._list(name, inner, inside, depth)
            elif name == "not":
                yield Negation(_all(tuple(self.conditions(inner, inside, depth + 1))))
            else:
                yield self._comparison(name, inner, inside)

    def _list(self, operator: str, value: Any, place: str, depth: int) -> Condition:
        if not isinstance(value, list) or not value:
            raise _mistake(place, "must be a list with at least one object.")
        parts = [
            _all(tuple(self.conditions(each, f"{place}[{number}]", depth + 1))) for number, each in enumerate(value)
        ]
        return Junction(operator, tuple(parts))

    def _comparison(self, name: str, value: Any, place: str) -> Condition:
        self._count += 1
        if self._count > GROUP_MAX_CONDITIONS:
            raise _mistake(GROUP_PARAMETER, f"at most {GROUP_MAX_CONDITIONS} conditions.")
        parameter = self._parameters.get(name)
        if parameter is None:
            raise _mistake(place, f"unknown; {did_you_mean(name, [*self._parameters, *_LISTS, 'not'])}")
        try:
            condition = parameter.of_json(value, self._zone)
        except ValueError as error:
            raise _mistake(place, str(error)) from None
        self.natives += parameter.native_values(place, condition)
        return condition


def _all(conditions: tuple[Condition, ...]) -> Condition:
    """One condition that all of these must hold; that of an empty object holds for every row."""
    return conditions[0] if len(conditions) == 1 else Junction("and", conditions)


def _mistake(place: str, message: str) -> ParseError:
    return ParseError(f"{place}: {message}", code="invalid_parameter")
