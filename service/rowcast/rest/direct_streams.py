"""Streams by the shortest way: from the parameters of a request to its subscriptions, without an instance of the viewset.

It is open where data decide alone, as for lists and rows (``direct_reading``). A stream with the parameters of one that is open gets
its subscriptions; whatever has to be refused, or needs more than the log, goes through ``ViewSet.dispatch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from rowcast.errors import ApiError, ParseError
from rowcast.identity.tickets import TICKET_PARAMETER, TICKET_PATTERN
from rowcast.query.conditions import Comparison, Condition, Query
from rowcast.query.matching import inexact_columns, patterns, routing_key
from rowcast.resources.actions import STREAM
from rowcast.resources.types import make_field
from rowcast.rest.declared_scope import EVERYTHING, CallerScope
from rowcast.rest.filter_groups import GROUP_PARAMETER, values_in
from rowcast.rest.filters import FieldFilter
from rowcast.rest.plan import ModelPlan
from rowcast.rest.rendering import requested_projection
from rowcast.rest.scope import rows_of_caller
from rowcast.rest.serializers import Serializer
from rowcast.streams.subscription import Subscription, Subscriptions

CREDENTIALS: Final = frozenset({"access_token", TICKET_PARAMETER})  # in the parameters of a stream
SNAPSHOT: Final = make_field("snapshot", "boolean")
SNAPSHOT_MAX_PAGES: Final = 100  # times max_page_size: the most rows of a snapshot

PRIVATE_PARAMETERS: Final = ("access_token", "ticket", "last_event_id")  # which differ by connection
STREAM_VALUES_MAX: Final = 1000  # of a filter by __in
STREAM_PATTERNS_MAX: Final = 8

_Key: TypeAlias = tuple[tuple[Condition, ...], tuple[str, ...]]


class DirectStreams:
    """The streams of an address about which data alone decide."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self._watched: tuple[str, ...] | None = (
            None  # until the first stream: projections need the plans of all viewsets
        )
        self._open: WeakValueDictionary[_Key, Subscriptions] = WeakValueDictionary()

    @classmethod
    def of(cls, plan: ModelPlan, action: str) -> DirectStreams | None:
        """The streams of an action; ``None`` if Python of the user's has a say about them, or it is another action."""
        return cls(plan) if action == STREAM and plan.shows_data else None

    def find(self, params: Mapping[str, str], scope: CallerScope = EVERYTHING) -> Subscriptions | None:
        """What a stream with these parameters shows a caller; ``None`` if more than data decide, or it has to be refused."""
        if not self.may_take(params):
            return None
        public = [name for name in params if name not in PRIVATE_PARAMETERS]
        key = scope.conditions, tuple([text for name in sorted(public) for text in (name, params[name])])
        found = self._open.get(key)
        if found is None:
            try:
                found = self._make(params, scope)
            except ApiError:  # which is raised where errors are answered
                return None
            if found is not None:
                self._open[key] = found
        return found

    def may_take(self, params: Mapping[str, str]) -> bool:
        """Whether data alone may decide about a stream with these parameters. A filter may have the name of the ticket's."""
        ticket = params.get(TICKET_PARAMETER)
        return "expand" not in params and (
            ticket is None
            or (
                TICKET_PATTERN.fullmatch(ticket) is not None
                and TICKET_PARAMETER not in self.plan.allowed_parameters.get("list", ())
            )
        )

    def limit(self, params: Mapping[str, str]) -> int | None:
        """The most rows that the stream may begin with; ``None`` if it begins with none. ``ParseError`` for a wrong value."""
        return self.plan.max_page_size * SNAPSHOT_MAX_PAGES if wants_snapshot(params) else None

    def _make(self, params: Mapping[str, str], scope: CallerScope) -> Subscriptions | None:
        plan = self.plan
        plan.check_parameters(STREAM, params)
        query = rows_of_caller(plan, scope)
        for backend in plan.filters:
            query = backend.apply(query, params)
        query = query.unsorted()
        if bounded_patterns(plan, query, params):  # which PostgreSQL has to check
            return None
        if plan.service.store.queries.unlogged(query.resource, query.shape) is not None:
            return None
        if self._watched is None:
            self._watched = watched_names(plan, plan.serializer)
        return Subscriptions([plain_subscription(plan, plan.serializer, query, params, self._watched)])


def wants_snapshot(params: Mapping[str, str]) -> bool:
    """Whether the stream is to begin with all rows (``?snapshot=true``)."""
    try:
        return bool(SNAPSHOT.field_type.parse(SNAPSHOT, params.get("snapshot", "false")))
    except ValueError as error:
        raise ParseError(f"snapshot: {error}", code="invalid_parameter") from None


def plain_subscription(
    plan: ModelPlan,
    serializer: Serializer,
    query: Query,
    params: Mapping[str, str],
    watched: tuple[str, ...],
    owned: Sequence[Comparison] = (),
) -> Subscription:
    """What a query shows without Python and related rows. All of its rows meet the conditions ``owned`` as well."""
    resources, store = plan.service.resources, plan.service.store
    fields = {"fields": params["fields"]} if "fields" in params and "expand" not in params else {}
    evaluation = store.queries.evaluation(query.resource, query.shape, inexact_columns(resources, query.resource))
    key = (
        routing_key(resources, query.resource, (*query.where, *owned)) if owned else evaluation.routing_key(query.where)
    )
    return Subscription(
        query=query,
        projection=requested_projection(plan, serializer, fields),
        watched=watched,
        resource=plan.resource,
        test=evaluation.test(query.where),
        routing_key=key,
        store=store,
        caller=store.database.caller(),
    )


def bounded_patterns(plan: ModelPlan, query: Query, params: Mapping[str, str]) -> list[str]:
    """The regular expressions of a stream; ``ParseError`` if the client sends too many, or too many values.

    Unlike a list's, they are kept and evaluated as long as the stream is open.
    """
    for condition in query.where:
        if isinstance(condition, Comparison) and condition.lookup == "in":
            name = f"{condition.path}__in"
            if name in params and len(condition.argument) > STREAM_VALUES_MAX:
                raise ParseError(f"{name}: at most {STREAM_VALUES_MAX} values on a stream.", code="invalid_parameter")
    for backend in plan.filters:
        if isinstance(backend, FieldFilter) and values_in(backend.group(params)) > STREAM_VALUES_MAX:
            message = f"{GROUP_PARAMETER}: at most {STREAM_VALUES_MAX} values in a list on a stream."
            raise ParseError(message, code="invalid_parameter")
    expressions = list(dict.fromkeys(patterns(query.where)))
    if len(expressions) > STREAM_PATTERNS_MAX:
        raise ParseError(f"At most {STREAM_PATTERNS_MAX} regular expressions on a stream.", code="invalid_parameter")
    return expressions


def watched_names(plan: ModelPlan, serializer: Serializer) -> tuple[str, ...]:
    """The names that ``changed`` may have: the columns that the serializer may show, and the links."""
    projection = plan.default_projection(serializer)
    shown = {*projection.columns, *dict(projection.related)}
    fields, links = serializer.fields, plan.resource.links
    return tuple(
        name
        for name, field in {**plan.resource.columns, **links}.items()
        if not field.write_only
        and (name in shown or (name in fields and (name in links or not fields[name].load_only)))
    )
