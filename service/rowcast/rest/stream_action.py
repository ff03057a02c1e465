"""TODO."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import web

from rowcast.errors import (
    InvalidPattern,
    NotAuthenticated,
    NotFound,
    ParseError,
    PermissionDenied,
)
from rowcast.identity.permissions import IsOwner
from rowcast.identity.users import User
from rowcast.orm.bridge import spawn
from rowcast.orm.model import Model
from rowcast.orm.queryset import QuerySet
from rowcast.query.conditions import Comparison, Query, equals
from rowcast.query.matching import matcher, patterns, routing_key
from rowcast.query.projection import Projection
from rowcast.query.store import STORE
from rowcast.resources.types import make_field
from rowcast.rest.request import Request
from rowcast.rest.serializers import Serializer
from rowcast.streams.subscription import Subscription, Subscriptions

if TYPE_CHECKING:
    from rowcast.rest.viewset import GenericViewSet as _Base
else:
    _Base = object
OF_TOKENS: Final = frozenset({"exp", "iat", "nbf", "jti"})  # claims that say nothing of the user
PAGES: Final = 100  # of the largest size, that a snapshot may have rows for
SNAPSHOT: Final = make_field("snapshot", "boolean")


class ViewsetRowAccess:
    """What the Python of a viewset says about rows to one caller, who has opened a stream with ``view``.

    Callers are shown the same if they are the same user, and have asked for the same.
    """

    def __init__(self, view: _Base) -> None:
        serializer = view._own(view.get_serializer_class())(context=view.get_serializer_context())
        request = view.request
        asked = [
            (name, text) for name, text in request.query_params.items() if name not in ("access_token", "last_event_id")
        ]
        self.key = (type(view), *_who(request.user), request.http.host, request.http.path, tuple(sorted(asked)))
        self.plain = serializer.plain
        self._view = view
        self._serializer = serializer
        self._related = view._paths_of(view.shown_by(serializer))
        self._seen = Projection(view.resource.name, tuple(view.resource.columns))

    async def may_see(self, rows: Sequence[bytes]) -> list[bool]:
        """For each row whether the object permissions let the caller see it."""
        if not self._view.asks_about_objects:
            return [True] * len(rows)
        return [await self._may(row) for row in await self._instances(rows)]

    async def render_rows(self, rows: Sequence[bytes]) -> list[bytes]:
        """Each row as the serializer shows it, as JSON."""
        shown = Projection(self._seen.resource, ())  # and no related rows besides
        given = self._view.request.query_params
        return [
            await spawn(self._view._json, self._serializer, row, shown, given) for row in await self._instances(rows)
        ]

    async def _may(self, row: Model) -> bool:
        try:
            await self._view.check_object_permissions(self._view.request, row)
        except (PermissionDenied, NotAuthenticated, NotFound):
            return False
        return True

    async def _instances(self, rows: Sequence[bytes]) -> list[Model]:
        """Logged rows as a viewset's Python has them, with their related rows as they are now."""
        STORE.set(self._view.service.store)
        made = [self._view._instance(row, self._seen) for row in rows]
        if made and self._related:
            await QuerySet(type(made[0])).prefetch_related(*self._related).attach(made)
        return made


def _who(user: object) -> tuple[object, ...]:
    """What makes a user the same in another request: of ours what is said of him, of other classes the very object."""
    if type(user) is not User:
        return type(user).__qualname__, id(user)
    claims = sorted((name, claim) for name, claim in user.claims.items() if name not in OF_TOKENS)
    return user.id, user.is_staff, repr(claims)  # which may be lists, and 1 is not True


def wants_snapshot(given: Mapping[str, str]) -> bool:
    """Whether ``?snapshot=`` asks for all rows to begin with."""
    try:
        return bool(SNAPSHOT.field_type.parse(SNAPSHOT, given.get("snapshot", "false")))
    except ValueError as error:
        raise ParseError(f"snapshot: {error}", code="invalid_parameter") from None


def last_position(http: web.Request, given: Mapping[str, str]) -> str | None:
    """Where a client wants to go on from: what browsers send beats what the address says."""
    return http.headers.get("Last-Event-ID") or given.get("last_event_id")


class StreamMixin(_Base):
    """``GET /tasks/stream/`` and ``GET /tasks/{id}/stream/``"""

    async def stream(self, request: Request, **kwargs: str) -> web.StreamResponse:
        """Every committed change of the rows that ``list`` shows with the same filters, or of one of them."""
        given = request.query_params
        subscription = await self.get_subscription()
        return await self.service.hub.stream(
            request.http,
            Subscriptions([subscription]),
            last_position(request.http, given),
            auths=[request.auth],
            limit=self.max_page_size * PAGES if wants_snapshot(given) else None,
        )

    async def get_subscription(self) -> Subscription:
        """What the caller sees with the parameters of the request; what is wrong with it is raised."""
        given = self.request.query_params
        self.check_parameters(given)
        query = await self.get_list_query()
        serializer = self.current_serializer()
        shown = self.get_projection(serializer, {"fields": given["fields"]} if "fields" in given else {})
        query = query.unsorted()
        try:
            await self.service.store.check_patterns(patterns(query.where))
        except InvalidPattern as error:
            raise error.naming(name for name in self._patterns if name in given) from None
        if self.kwargs:
            query = await self._one_row(query)
        python = not serializer.plain or self.asks_about_objects
        return Subscription(
            query=query,
            projection=shown,
            watched=self._watched(serializer),
            resource=self.resource,
            test=matcher(self.service.resources, query.resource, query.where),
            routing_key=routing_key(self.service.resources, query.resource, (*query.where, *self._owned())),
            store=self.service.store,
            access=ViewsetRowAccess(self) if python else None,
        )

    def _owned(self) -> Iterator[Comparison]:
        """What is known of every row that the object permissions let the caller see."""
        if any(map(self.hooked, ("get_permissions", "check_object_permissions", "permission_denied"))):
            return
        for permission in self.get_permissions():
            own_rule = type(permission).has_object_permission is not IsOwner.has_object_permission
            if isinstance(permission, IsOwner) and not own_rule:
                values = self.service.resources.resolve(self.resource.name, permission.owner_field).values
                with contextlib.suppress(ValueError):
                    owner = values.field_type.parse(values, str(self.request.user.id))
                    yield equals(permission.owner_field, values, owner)

    async def _one_row(self, query: Query) -> Query:
        """The query for the row that the address names; ``NotFound`` or a refusal if the caller may not see it."""
        if self.hooked("get_object"):
            await spawn(self.get_object)
        query = self.get_row_query(query)
        seen = self._seeing(self.shown_by(self.current_serializer()), ())
        found = await self.service.store.one(query, seen)
        if found is None:
            raise NotFound()
        if self.asks_about_objects:
            await self.check_object_permissions(self.request, self._instance(found.body, seen))
        return query

    def _watched(self, serializer: Serializer) -> tuple[str, ...]:
        """The names that a change is told of: of columns that the serializer may show, and of links."""
        projection = self.shown_by(serializer)
        shown = {*projection.columns, *dict(projection.related)}
        fields = serializer.fields
        declared = {**self.resource.columns, **self.resource.links}
        return tuple(
            name
            for name, field in declared.items()
            if not field.write_only
            and (name in shown or (name in fields and (name in self.resource.links or not fields[name].load_only)))
        )
