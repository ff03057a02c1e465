"""The parameters of operations: filters, search, ordering, paging, ``?fields=``, ``?expand=``, streams, and keys in paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rowcast.openapi.schemas import Schemas
from rowcast.openapi.values import value_schema
from rowcast.resources.actions import AGGREGATE, LIVE
from rowcast.resources.fields import Field, Kind, Schema
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.resources.lookups import PATTERN_MAX_CHARACTERS, PATTERNS, Argument, Lookup
from rowcast.resources.types.numbers import integer_schema
from rowcast.resources.types.text import NO_NUL, STRING_SCHEMA
from rowcast.rest.aggregates import CALCULATIONS_MAX, GROUPS_MAX
from rowcast.rest.filter_groups import CHOICE_LOOKUPS, GROUP_PARAMETER
from rowcast.rest.filters import (
    SEARCH_MAX_CHARACTERS,
    SEARCH_MAX_WORDS,
    FieldFilter,
    FullTextFilter,
    OrderingFilter,
    SearchFilter,
)
from rowcast.rest.highlighting import highlightable
from rowcast.rest.import_parameters import MAX_ERRORS_DEFAULT, MAX_ERRORS_LIMIT, PARAMETERS
from rowcast.rest.pagination import MAX_OFFSET
from rowcast.rest.plan import ModelPlan, ViewPlan
from rowcast.rest.row_keys import key_parameter
from rowcast.rest.soft_deletion import DELETED, HARD, SHOWN
from rowcast.rest.zones import ZONE_PARAMETER

_COMMA_SEPARATED: Final[Schema] = {"style": "form", "explode": False}
_SEARCH_PATTERN: Final = rf"^(?!\s*(?:\S+\s+){{{SEARCH_MAX_WORDS}}}\S){NO_NUL[1:]}"
_NO_COMMA_PATTERN: Final = r'^(?:[^\u0000,"][^\u0000,]*)?$'
_QUOTING: Final = "Put an item that contains a comma in double quotes."
_PREDICATES: Final[Mapping[str, str]] = {  # lookup → what it requires of a field's value
    "exact": "is equal to this value", "ne": "is not equal to this value", "gt": "is greater than this value",
    "gte": "is greater than or equal to this value", "lt": "is less than this value",
    "lte": "is less than or equal to this value", "range": "is between these two values, or equal to one of them",
    "in": "is one of these values", "not_in": "is none of these values, or is null",
    "overlap": "has one of these items, or several", "isnull": "is null (`true`) or not null (`false`)",
    "contains": "contains this value", "icontains": "contains this string, ignoring case",
    "startswith": "starts with this string", "istartswith": "starts with this string, ignoring case",
    "endswith": "ends with this string", "iendswith": "ends with this string, ignoring case",
    "iexact": "is equal to this string, ignoring case",
    "regex": "matches this regular expression of PostgreSQL",
    "iregex": "matches this regular expression of PostgreSQL, ignoring case",
    "search": "contains the words of this string (full-text search)",
}  # fmt: skip


def query_parameter(name: str, description: str, schema: Schema, **keywords: Any) -> Schema:
    """A parameter of the query string."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **keywords}


def header_parameter(name: str, description: str) -> Schema:
    """A request header."""
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"}}


def list_parameter(name: str, description: str, **schema: Any) -> Schema:
    """A parameter of several values, separated by commas. ``schema`` is that of the array."""
    return query_parameter(name, description, {"type": "array", **schema}, **_COMMA_SEPARATED)


LAST_EVENT_ID_PARAMETER: Final = query_parameter(
    "last_event_id",
    "The position to resume the stream from. The header `Last-Event-ID` takes precedence.",
    {"type": "string"},
)
SNAPSHOT_PARAMETER: Final = query_parameter(
    "snapshot", "Send all current rows first, as `snapshot` events before `ready`.", {"type": "boolean"}
)
AS_PARAMETER: Final = query_parameter(
    "as", "`me`: only what the caller may do, before it is about a row.", {"enum": ["me"]}
)
ACCESS_TOKEN_PARAMETER: Final = query_parameter(
    "access_token", "The credentials of a client that cannot send headers.", {"type": "string"}
)
TICKET_PARAMETER: Final = query_parameter(
    "ticket", "Credentials for one connection, from `POST /stream-ticket/`.", {"type": "string"}
)


HARD_PARAMETER: Final = query_parameter(
    HARD, "Delete for good, deleted rows as well, rather than mark as deleted.", {"type": "boolean", "default": False}
)


def query_parameters(schemas: Schemas, plan: ModelPlan, action: str) -> list[Schema]:
    """Every query parameter that a standard action reads."""
    allowed = plan.allowed_parameters.get(action, frozenset())
    described = {parameter["name"]: parameter for parameter in _described_parameters(schemas, plan)}
    if action in (AGGREGATE, LIVE):
        described |= {parameter["name"]: parameter for parameter in _aggregates(schemas, plan)}
    custom = [name for name in plan.paginator.parameters if name not in described and action == "list"]
    return [
        *(parameter for name, parameter in described.items() if name in allowed),
        *(query_parameter(name, "A parameter of this list's pagination.", {"type": "string"}) for name in custom),
    ]


def many_rows_parameters(schemas: Schemas, plan: ModelPlan, action: str) -> list[Schema]:
    """The query parameters of an action at the address of a list: those that name rows."""
    if action == "update":
        rules = list(dict.fromkeys(",".join(rule.columns) for rule in plan.upserts))
        on = query_parameter("on", "The unique rule whose values name rows.", {"enum": rules}, required=True)
        keep = "`keep` leaves rows that are there as they are."
        return [on, query_parameter("existing", keep, {"enum": ["update", "keep"], "default": "update"})]
    by_filter = {"partial_update": "update", "destroy": "destroy"}[action] in plan.bulk
    found = {}
    if by_filter:
        described = {parameter["name"]: parameter for parameter in _described_parameters(schemas, plan)}
        found = {name: parameter for name, parameter in described.items() if name in plan.filter_parameters}
    if action == "destroy":
        name = key_parameter(plan)
        item = STRING_SCHEMA if plan.key.parts else value_schema(plan.key)
        keys = list_parameter(name, f"The keys of the rows. {_QUOTING}", items=item)
        found[name] = keys if by_filter else keys | {"required": True}
        if HARD in plan.allowed_parameters.get("destroy", ()):
            found[HARD] = HARD_PARAMETER
    return list(found.values())


def import_parameters(plan: ModelPlan) -> list[Schema]:
    """The query parameters of an import."""
    rules = list(dict.fromkeys(",".join(rule.columns) for rule in plan.upserts))
    number = {"type": "integer", "minimum": 0, "maximum": MAX_ERRORS_LIMIT, "default": MAX_ERRORS_DEFAULT}
    described = {
        "dry_run": ("Report what would be, and write nothing.", {"type": "boolean", "default": False}),
        "errors": ("`skip` writes the records that are valid, if some are not.", _choice("errors")),
        "max_errors": ("How many records may fail. With one more nothing is written.", number),
        "empty": ("What an empty cell of CSV is: no value, null, or an empty string.", _choice("empty")),
    }
    on = query_parameter("on", "The unique rule by which rows that are there are changed.", {"enum": rules})
    others = [query_parameter(name, text, schema) for name, (text, schema) in described.items()]
    return [on, *others] if rules else others


def _choice(name: str) -> Schema:
    return {"enum": list(PARAMETERS[name]), "default": PARAMETERS[name][0]}


def _described_parameters(schemas: Schemas, plan: ModelPlan) -> Iterator[Schema]:
    """Every query parameter that some action of the viewset could read."""
    for backend in plan.filters:
        match backend:
            case FieldFilter():
                for name, lookup, values in backend.describe():
                    yield _filter(schemas, name, lookup, values)
                yield _group(schemas, plan, backend)
                if backend.zoned:
                    yield query_parameter(ZONE_PARAMETER, _ZONE, schemas.time_zone())
            case FullTextFilter():
                yield from _full_text(plan, backend)
            case SearchFilter():
                yield _search(plan)
            case OrderingFilter():
                yield _ordering(plan, backend)
    yield from _paging(plan)
    yield from _projection(schemas, plan)
    if plan.resource.soft_delete is not None:
        yield query_parameter(DELETED, "Show deleted rows as well, or these alone.", {"enum": list(SHOWN)})
        yield HARD_PARAMETER
    yield LAST_EVENT_ID_PARAMETER
    yield SNAPSHOT_PARAMETER
    yield ACCESS_TOKEN_PARAMETER
    yield TICKET_PARAMETER


def _filter(schemas: Schemas, name: str, lookup: Lookup, values: Field) -> Schema:
    """The parameter of a filter."""
    path = name.removesuffix(f"__{lookup.name}")
    description = f"Only rows whose `{path}` {_PREDICATES[lookup.name]}."
    kind = values.field_type.kind
    of_choices = values.choices and lookup.name in CHOICE_LOOKUPS and kind is not Kind.ARRAY
    item: Schema = {"enum": list(values.choices)} if of_choices else value_schema(values)
    match lookup.takes:
        case Argument.FLAG:
            return query_parameter(name, description, {"type": "boolean"})
        case Argument.TEXT:
            pattern = {"format": "regex", "maxLength": PATTERN_MAX_CHARACTERS} if lookup.name in PATTERNS else {}
            return query_parameter(name, description, STRING_SCHEMA | pattern)
        case Argument.MANY:
            return list_parameter(name, f"{description} {_QUOTING}", items=item)
        case Argument.PAIR:
            if item == STRING_SCHEMA:  # a comma would make a third item
                item = {"type": "string", "pattern": _NO_COMMA_PATTERN}
            return list_parameter(name, description, items=item, minItems=2, maxItems=2)
        case Argument.ONE if kind is Kind.ARRAY:
            return list_parameter(name, f"{description} {_QUOTING}", items=value_schema(values.element))
        case Argument.ONE if kind is Kind.JSON:
            content = {"application/json": {"schema": schemas.json()}}
            return {"name": name, "in": "query", "description": description, "content": content}
    return query_parameter(name, description, item)


def _group(schemas: Schemas, plan: ModelPlan, backend: FieldFilter) -> Schema:
    """The parameter for groups of conditions."""
    arguments = {name: _argument(lookup, values) for name, lookup, values in backend.describe()}
    schema = schemas.filter_group(plan.resource, arguments)
    description = "Only rows that meet these conditions: `and`, `or` and `not` of the other filters, as JSON."
    content = {"application/json": {"schema": schema, "example": {}}}  # a page would make one up, with unknown values
    return {"name": GROUP_PARAMETER, "in": "query", "description": description, "content": content}


def _argument(lookup: Lookup, values: Field) -> Schema:
    """The argument of a filter in a group of conditions, as JSON."""
    of_choices = values.choices and lookup.name in CHOICE_LOOKUPS and values.field_type.kind is not Kind.ARRAY
    item: Schema = {"enum": list(values.choices)} if of_choices else value_schema(values)
    match lookup.takes:
        case Argument.FLAG:
            return {"type": "boolean"}
        case Argument.TEXT:
            pattern = {"format": "regex", "maxLength": PATTERN_MAX_CHARACTERS} if lookup.name in PATTERNS else {}
            return STRING_SCHEMA | pattern
        case Argument.MANY:
            return {"type": "array", "items": item}
        case Argument.PAIR:
            return {"type": "array", "items": item, "minItems": 2, "maxItems": 2}
    return {"anyOf": [item, {"type": "null"}]} if lookup.name in ("exact", "ne") else item


def _aggregates(schemas: Schemas, plan: ModelPlan) -> Iterator[Schema]:
    """The parameters of ``aggregate`` that the list does not have."""
    opened = plan.aggregates
    if opened is None:
        return
    if opened.groups:
        items = {"enum": list(opened.groups)}
        yield list_parameter("group_by", "What the rows are grouped by.", items=items, maxItems=GROUPS_MAX)
    for function, paths in opened.arguments.items():
        if names := [*(["*"] if function == "count" else []), *paths]:
            described = _FUNCTIONS[function]
            yield list_parameter(function, described, items={"enum": names}, maxItems=CALCULATIONS_MAX)
    yield query_parameter(
        "ordering", "Names of results, separated by commas; a minus sign reverses an order.", {"type": "string"}
    )
    yield query_parameter(ZONE_PARAMETER, _ZONE, schemas.time_zone())


_ZONE: Final = "The time zone of the days, hours and other parts of time in this request; UTC without it."
_FUNCTIONS: Final[Mapping[str, str]] = {
    "count": "Count the rows (`*`), or those in which a field is not null.",
    "sum": "The sum of these fields.",
    "avg": "The average of these fields.",
    "min": "The smallest value of these fields.",
    "max": "The greatest value of these fields.",
    "count_distinct": "The number of different values of these fields.",
}


def _search(plan: ModelPlan) -> Schema:
    fields = ", ".join(f"`{name}`" for name in plan.attribute("search_fields"))
    description = (
        f'Only rows in which every word, or "phrase in quotes", occurs in one of {fields}; '
        f"at most {SEARCH_MAX_WORDS} words and phrases."
    )
    return query_parameter("search", description, {"type": "string", "pattern": _SEARCH_PATTERN})


def _full_text(plan: ModelPlan, backend: FullTextFilter) -> Iterator[Schema]:
    """The parameters of a full text search."""
    fields = ", ".join(f"`{name}`" for name, _ in backend.search.fields)
    description = (
        f"Only rows in which {fields} have these words in some form. Syntax of web search engines: "
        '`"a phrase"`, `or`, and `-` before what a row must not have.'
    )
    yield query_parameter("search", description, STRING_SCHEMA | {"maxLength": SEARCH_MAX_CHARACTERS})
    if names := highlightable(plan, plan.serializer):
        marked = "Fields that each row also shows with what `search` has found in `<mark>`, escaped for HTML."
        yield list_parameter(HIGHLIGHT, marked, items={"enum": names})


def _ordering(plan: ModelPlan, backend: OrderingFilter) -> Schema:
    steps = [sign + name for name in backend.fields for sign in ("", "-")]
    default_order = plan.attribute("ordering")
    default = f" Without it: {', '.join(default_order)}." if default_order else ""
    ranked = [name for name in backend.fields if backend.ranks(name)]
    by_rank = " `rank` is how well a row suits `search`, which it needs." if plan.highlights else ""
    by_choices = f" The order of {', '.join(ranked)} is that of the choices." if ranked else ""
    description = f"The order of the rows; a minus sign reverses a field's order.{by_choices}{by_rank}{default}"
    return list_parameter("ordering", description, items={"enum": steps})


def _paging(plan: ModelPlan) -> Iterator[Schema]:
    """The parameters of Rowcast's own paginations."""
    size = {"type": "integer", "minimum": 1, "default": plan.paginator.page_size}
    most = plan.paginator.max_page_size
    size_description = f"The number of rows in a page. A number above {most} is read as {most}."
    offset = integer_schema(64) | {"minimum": 0, "maximum": MAX_OFFSET}
    yield query_parameter("page", "The number of the page, from 1.", integer_schema(64) | {"minimum": 1, "default": 1})
    yield query_parameter("page_size", size_description, size)
    yield query_parameter("limit", size_description, size)
    yield query_parameter("offset", "The number of rows before the page.", offset)
    yield query_parameter(
        "cursor",
        "The start of the page. Take it from `next` or `previous` of a page of the same list in the same order.",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    )


def _projection(schemas: Schemas, plan: ModelPlan) -> Iterator[Schema]:
    """``fields``, and ``expand`` where clients may read the rows of some relation."""
    projection = plan.default_projection(plan.serializer)
    always_expanded = [name for name, _ in projection.related]
    fields = [*projection.columns, *always_expanded]
    description = "Only these fields of each row. An expanded relation is included only if it is named here too."
    yield list_parameter("fields", description, items={"enum": fields})
    relations = [
        name
        for name, relation in schemas.readable_relations(plan.resource).items()
        if name in always_expanded or plan.service.may_expand(relation.target)
    ]
    if relations:
        description = "Include the rows that these relations lead to; `__` joins steps, as in `category__parent`."
        yield list_parameter("expand", description, items={"enum": relations})


def path_parameter(schemas: Schemas, plan: ViewPlan, name: str) -> Schema:
    """A variable part of an address: the key of a row, or a part that only a custom action names."""
    schema = dict(STRING_SCHEMA)
    if isinstance(plan, ModelPlan) and name in ("id", "pk"):
        path = plan.lookup_field or plan.resource.key.name
        values = schemas.resources.resolve(plan.resource.name, path).values
        if values.parts:
            return _composite_key(name, values)
        schema = value_schema(values)
    if schema == STRING_SCHEMA:
        schema["minLength"] = 1
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _composite_key(name: str, key: Field) -> Schema:
    """The key of a row that has several fields: an array, whose items are percent-encoded with commas between them."""
    size = len(key.parts)
    schema = {
        "type": "array",
        "prefixItems": [value_schema(part) for part in key.parts],
        "minItems": size,
        "maxItems": size,
    }
    return {"name": name, "in": "path", "required": True, "style": "simple", "explode": False, "schema": schema}
