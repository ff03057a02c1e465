"""Filter backends: field filters, search and ordering, from the query string to conditions and an order.

Each backend reads its own parameters. ``ViewPlan.check_parameters`` refuses a parameter that no backend reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

from rowcast.errors import ParseError, did_you_mean
from rowcast.query.conditions import Comparison, Condition, Found, Junction, Query, total_order
from rowcast.resources.derived import UTC
from rowcast.resources.fields import Field
from rowcast.resources.full_text import RANK, RANK_PARAMETER, FullText
from rowcast.resources.lookups import LOOKUPS, PATTERNS, Lookup, check_pattern
from rowcast.resources.resource import Resource, Resources
from rowcast.rest.filter_groups import (
    GROUP_PARAMETER,
    FilterParameter,
    NativeValues,
    native_values_of_group,
    read_group,
)
from rowcast.rest.zones import ZONE_PARAMETER, read_zone

SEARCH_MAX_WORDS: Final = 16  # words and quoted phrases together
SEARCH_MAX_CHARACTERS: Final = 1000  # of a full text search
_SEARCH_PREFIXES: Final[Mapping[str, str]] = {"^": "istartswith", "=": "iexact", "$": "iregex", "@": "search"}
_WORD: Final = re.compile(r'"([^"]*)"|(\S+)')


class BaseFilterBackend:
    """Filters or sorts a list by its query string.

    Your own backend overrides ``filter_queryset`` and lists the parameters that it reads in ``query_parameters``. The
    built-in backends make conditions, which streams evaluate as well.
    """

    query_parameters: ClassVar[tuple[str, ...]] = ()
    native: ClassVar[bool] = False  # whether ``apply`` does the work, without a query set
    sorts: ClassVar[bool] = False  # whether it sorts; it filters otherwise

    @classmethod
    def for_view(cls, resources: Resources, resource: Resource, options: Mapping[str, Any]) -> BaseFilterBackend:
        """The backend of a viewset. ``options`` are the viewset's, checked."""
        return cls()

    def filter_queryset(self, request: Any, queryset: Any, view: Any) -> Any:
        """Filter or sort a query set as the request asks; override it in your own backend.

        Args:
            request: The request; ``request.query_params`` has the parameters.
            queryset: The query set so far.
            view: The viewset's instance for this request.

        Returns:
            The query set for the next backend.
        """
        raise NotImplementedError(f"{type(self).__name__} must have filter_queryset(self, request, queryset, view)")

    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that it reads."""
        return self.query_parameters

    def patterns(self) -> tuple[str, ...]:
        """The parameters that are regular expressions, which only PostgreSQL can check."""
        return ()

    takes_natives: bool = False  # whether there may be values that only PostgreSQL can check

    def native_values(self, params: Mapping[str, str]) -> Iterator[NativeValues]:
        """The values of ``params`` that only PostgreSQL can check."""
        return iter(())

    def apply(self, query: Query, params: Mapping[str, str]) -> Query:
        """The query with the conditions or the order of ``params``. ``ParseError`` names the parameter and valid values."""
        raise NotImplementedError


class FieldFilter(BaseFilterBackend):
    """Filters by field: ``?completed=true&priority__in=high,low``, and groups of the same conditions: ``?filter={…}``."""

    native = True

    @classmethod
    def for_view(cls, resources: Resources, resource: Resource, options: Mapping[str, Any]) -> FieldFilter:
        return cls(resources, resource.name, options["filterset_fields"])

    def __init__(self, resources: Resources, resource: str, filterset: Mapping[str, tuple[str, ...]]) -> None:
        self._parameters: dict[str, FilterParameter] = {}
        for path, lookups in filterset.items():
            found = resources.resolve(resource, path)
            zoned = found.derived is not None and found.derived.zoned
            for name in lookups:
                lookup = LOOKUPS[found.values.field_type.kind, name]
                parameter = FilterParameter(path, lookup, found.values, zoned)
                self._parameters[path if name == "exact" else f"{path}__{name}"] = parameter
        self.zoned = any(parameter.zoned for parameter in self._parameters.values())
        self.takes_natives = any(parameter.is_native for parameter in self._parameters.values())

    def parameters(self) -> tuple[str, ...]:
        if not self._parameters:
            return ()
        return (*self._parameters, GROUP_PARAMETER, *((ZONE_PARAMETER,) if self.zoned else ()))

    def describe(self) -> Iterator[tuple[str, Lookup, Field]]:
        """Each parameter with its lookup and the field that it compares."""
        for name, parameter in self._parameters.items():
            yield name, parameter.lookup, parameter.values

    def patterns(self) -> tuple[str, ...]:
        """The parameters that are regular expressions, or may have some."""
        found = [name for name, parameter in self._parameters.items() if parameter.is_pattern]
        return (*found, GROUP_PARAMETER) if found else ()

    def group(self, params: Mapping[str, str]) -> tuple[Condition, ...]:
        """The conditions of ``?filter=``, which a viewset without filters does not have."""
        if GROUP_PARAMETER not in params or not self._parameters:
            return ()
        return read_group(params[GROUP_PARAMETER], self._parameters, read_zone(params) if self.zoned else UTC)

    def native_values(self, params: Mapping[str, str]) -> Iterator[NativeValues]:
        for name, text in params.items():
            if name in self._parameters:
                yield from self._parameters[name].native_values(name, self._parameters[name].of_text(text))
        if GROUP_PARAMETER in params:
            yield from native_values_of_group(params[GROUP_PARAMETER], self._parameters)

    def apply(self, query: Query, params: Mapping[str, str]) -> Query:
        conditions: list[Condition] = []
        zone = read_zone(params) if self.zoned else UTC
        for name, text in params.items():
            parameter = self._parameters.get(name)
            if parameter is None:
                continue
            try:
                conditions.append(parameter.of_text(text, zone))
            except ValueError as error:
                raise ParseError(f"{name}: {error}", code="invalid_parameter") from None
        conditions += self.group(params)
        return query.restrict(*conditions) if conditions else query


class SearchFilter(BaseFilterBackend):
    """``?search=two words "a phrase"``: each word must occur in one of the fields, in any case."""

    native = True

    parameter: Final = "search"

    @classmethod
    def for_view(cls, resources: Resources, resource: Resource, options: Mapping[str, Any]) -> SearchFilter:
        if resource.search is not None:
            return FullTextFilter(resource.search)
        return cls(resources, resource.name, tuple(options["search_fields"]))

    def __init__(self, resources: Resources, resource: str, fields: tuple[str, ...]) -> None:
        self._fields = [
            (path := field.lstrip("^=$@"), _SEARCH_PREFIXES.get(field[0], "icontains"),
             resources.resolve(resource, path).values.field_type.kind)
            for field in fields
        ]  # fmt: skip

    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,) if self._fields else ()

    def patterns(self) -> tuple[str, ...]:
        """The parameter, if one of the fields is searched by regular expression."""
        return (self.parameter,) if any(lookup in PATTERNS for _, lookup, _ in self._fields) else ()

    def apply(self, query: Query, params: Mapping[str, str]) -> Query:
        text = params.get(self.parameter)
        if text is None or not self._fields:
            return query
        if "\x00" in text:
            raise ParseError("search: the character U+0000 is not allowed.", code="invalid_parameter")
        words = [phrase or word for phrase, word in _WORD.findall(text) if phrase or word]
        if len(words) > SEARCH_MAX_WORDS:
            raise ParseError(f"search: at most {SEARCH_MAX_WORDS} words.", code="invalid_parameter")
        if self.patterns():
            try:
                for word in words:
                    check_pattern(word)
            except ValueError as error:
                raise ParseError(f"search: {error}", code="invalid_parameter") from None
        return query.restrict(
            *(
                Junction("or", tuple(Comparison(path, lookup, word, kind) for path, lookup, kind in self._fields))
                for word in words
            )
        )


class FullTextFilter(SearchFilter):
    """``?search=`` of a resource with the option ``search``: web search syntax, by PostgreSQL's full text search."""

    def __init__(self, search: FullText) -> None:
        self.search = search

    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,)

    def patterns(self) -> tuple[str, ...]:
        return ()

    def apply(self, query: Query, params: Mapping[str, str]) -> Query:
        text = searched_text(params)
        return query.restrict(Found(text)) if text else query


def can_highlight(filters: Iterable[Any]) -> bool:
    """Whether one of the backends is a full text search."""
    return any(isinstance(backend, FullTextFilter) for backend in filters)


def searched_text(params: Mapping[str, str]) -> str:
    """What a full text search is for; empty if there is none."""
    text = params.get(SearchFilter.parameter, "").strip()
    if "\x00" in text:
        raise ParseError("search: the character U+0000 is not allowed.", code="invalid_parameter")
    if len(text) > SEARCH_MAX_CHARACTERS:
        raise ParseError(f"search: at most {SEARCH_MAX_CHARACTERS} characters.", code="invalid_parameter")
    return text


class OrderingFilter(BaseFilterBackend):
    """``?ordering=priority,-created_at``; the viewset's own order by default. The key is always the last step."""

    native = True
    sorts = True

    parameter: Final = "ordering"

    @classmethod
    def for_view(cls, resources: Resources, resource: Resource, options: Mapping[str, Any]) -> OrderingFilter:
        fields = tuple(options["ordering_fields"])
        ranked = frozenset(name for name in fields if resources.resolve(resource.name, name).field.order == "choices")
        if resource.search is not None:
            fields = (*fields, RANK_PARAMETER)
        return cls(resource, fields, tuple(options["ordering"]), ranked)

    def __init__(
        self,
        resource: Resource,
        fields: tuple[str, ...],
        default: tuple[str, ...],
        ranked: frozenset[str] = frozenset(),
    ) -> None:
        self.fields = fields
        self._ranked = ranked
        self._resource = resource
        self._default = total_order(resource, default) if default else ()

    def parameters(self) -> tuple[str, ...]:
        return (self.parameter,) if self.fields else ()

    def ranks(self, name: str) -> bool:
        """Whether rows are ordered by the place of this field's value among its choices."""
        return name in self._ranked

    def apply(self, query: Query, params: Mapping[str, str]) -> Query:
        text = params.get(self.parameter)
        if not text or not self.fields:
            return query if query.order else query.sort(self._default)
        steps = tuple(step.strip() for step in text.split(","))
        for step in steps:
            name = step.removeprefix("-")
            if name not in self.fields:
                hint = did_you_mean(name, self.fields)
                raise ParseError(f"ordering: {name!r} is not allowed; {hint}", code="invalid_parameter")
        if self._resource.search is not None:
            steps = tuple(self._ranked_step(step, query) for step in steps)
        return query.sort(total_order(self._resource, steps))

    def _ranked_step(self, step: str, query: Query) -> str:
        """A step of the order; ``rank`` as the one that needs a search."""
        if step.removeprefix("-") != RANK_PARAMETER:
            return step
        if not any(isinstance(condition, Found) for condition in query.where):
            raise ParseError("ordering: rank is for ?search= only.", code="invalid_parameter")
        return step.replace(RANK_PARAMETER, RANK)
