"""``GenericViewSet``: a viewset over the rows of a resource, with the names that users override.

Its methods are those of Django REST framework and Aksara. What they do is in functions, by subject: ``scope``,
``rendering``, ``expansion``, ``conditional``, ``paging``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson
from aiohttp import web

from rowcast.errors import NotFound, ValidationError
from rowcast.orm.awaiting import must_be_awaited
from rowcast.orm.bridge import spawn, wait
from rowcast.orm.model import Model
from rowcast.orm.queryset import QuerySet
from rowcast.query.conditions import Condition
from rowcast.resources.actions import CHANGING_ACTIONS, METADATA, STANDARD_ACTIONS, STREAM
from rowcast.resources.lossless_json import encode
from rowcast.rest import conditional, expansion, options_method, paging, rendering, scope, soft_deletion, write_scope
from rowcast.rest.declared_scope import CallerScope
from rowcast.rest.filters import BaseFilterBackend, FieldFilter, OrderingFilter, SearchFilter
from rowcast.rest.pagination import BasePagination, PageNumberPagination
from rowcast.rest.plan import ModelPlan
from rowcast.rest.request import Request
from rowcast.rest.response import Response, json_response
from rowcast.rest.serializers import CONTEXT, Serializer
from rowcast.rest.viewset import ViewSet


class GenericViewSet(ViewSet):
    """A viewset over the rows of a resource; its options are those of the two reference pages."""

    model: type[Model] | None = None
    queryset: QuerySet[Any] | None = None
    serializer_class: type[Serializer] | None = None
    list_serializer_class: type[Serializer] | None = None
    request_serializer: type[Serializer] | None = None  # of the bodies of an action: @action(request_serializer=…)
    response_serializer: type[Serializer] | None = None  # of the rows that an action returns
    filter_backends: Sequence[type[BaseFilterBackend]] = (FieldFilter, SearchFilter, OrderingFilter)
    filterset_fields: Any = MappingProxyType({})
    search_fields: Sequence[str] = ()
    ordering_fields: Sequence[str] = ()
    ordering: Sequence[str] = ()
    page_size: int = 20
    max_page_size: int = 100
    pagination_class: type[BasePagination] | None = PageNumberPagination
    select_related: Sequence[str] = ()
    prefetch_related: Sequence[str] = ()
    expandable: Sequence[str] | None = None
    allowed_actions: Sequence[str] | None = None
    excluded_actions: Sequence[str] = ()
    scope: Any = None
    scope_unless: Any = None
    scoped: bool = False
    aggregates: Mapping[str, Sequence[str]] = MappingProxyType({})
    stream_enabled: bool = True
    stream_varies_on: Sequence[str] | None = None
    count: str = "exact"
    strict_query: bool = True
    cache: str = "counts"
    require_if_match: bool = False
    bulk: Sequence[str] = ()
    max_bulk: int = 1000
    put_creates: bool = False
    import_: bool = False
    nested: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    view_plan: ModelPlan
    _open_page: paging.OpenPage | None = None
    _context: dict[str, Any] | None = None
    caller_scope: CallerScope | None = None
    expansion_scopes: Mapping[str, tuple[Condition, ...]] = MappingProxyType({})

    async def dispatch(self, http: web.Request) -> web.StreamResponse:
        token = CONTEXT.set(self._get_context)
        try:
            return await super().dispatch(http)
        finally:
            CONTEXT.reset(token)
            if self.importing and "request" in vars(self):
                self.request.close_file()

    async def initial(self, request: Request) -> None:
        await super().initial(request)
        if self.view_plan.resource.soft_delete is not None:
            await self._admit_to_deleted(request)
        if self.view_plan.declared_scope is not None:
            await scope.caller_scope(self)
        if "expand" in self.view_plan.allowed_parameters.get(self.action, ()) and "expand" in request.query_params:
            await expansion.check_expansions(self)
        elif self.view_plan.scoped:
            self.expansion_scopes = await expansion.scopes_of_related(self)

    async def _admit_to_deleted(self, request: Request) -> None:
        """Go on with the plan for deleted rows if the request is about them; raises unless the caller may do that."""
        asked = soft_deletion.asked(self.view_plan, self.action, request.query_params)
        if asked is not None:
            await soft_deletion.admit(self, request, asked)
            await soft_deletion.check_single(self)

    # --- rows

    def get_queryset(self) -> QuerySet[Any]:
        """The rows that this viewset is about: its scope for every action and for the stream."""
        assert self.model is not None
        rows: QuerySet[Any] = self.model.objects if self.queryset is None else self.queryset.all()
        if self.view_plan.deleted:
            rows = rows.showing(self.view_plan.deleted)
        if self.view_plan.declared_scope is None:
            return rows
        return scope.within(rows, self.caller_scope or wait(scope.caller_scope(self)))

    def filter_queryset(self, rows: Any) -> Any:
        """A query set with the filters that the query string asks for."""
        return scope.apply_filters(self, rows)

    @must_be_awaited
    async def get_object(self, id: Any = None) -> Any:
        """The row that the address, or ``id``, names within the scope, with its related rows.

        Args:
            id: The key, if it is not the address's.

        Raises:
            NotFound: there is no such row in the scope.
            PermissionDenied: an object permission refuses it.
        """
        query = await scope.object_query(self, id)
        plan = self.view_plan
        read = plan.python_projection(plan.default_projection(plan.serializer), query.expand)
        found = await plan.service.store.one(query, read)
        if found is None:
            raise NotFound()
        row = rendering.instance_of(plan, found.body, read)
        await self.check_object_permissions(self.request, row)
        return row

    # --- pages

    @property
    def paginator(self) -> BasePagination:
        """The pagination of this viewset."""
        return self.view_plan.paginator

    def paginate_queryset(self, rows: Any) -> Any:
        """The rows of the page that the query string asks for, or ``None`` without pagination.

        Works with and without ``await``, inside a handler.
        """
        if self.pagination_class is None:
            return None
        page, self._open_page = wait(paging.read_instances(self, rows))
        return page

    def get_paginated_response(self, data: Sequence[Any]) -> Response:
        """The envelope of the page that ``paginate_queryset`` has read, around these data.

        Raises:
            TypeError: ``paginate_queryset`` has not been called, or returned ``None``.
        """
        if self._open_page is None:
            raise TypeError(
                "get_paginated_response() needs a page: call paginate_queryset() before it, and return the data themselves "
                "where that is None"
            )
        return paging.envelope(self, self._open_page, data)

    # --- serializers

    def get_serializer_class(self) -> type[Serializer]:
        """The serializer of this action."""
        if self.action in ("list", STREAM) and self.list_serializer_class is not None:
            return self.list_serializer_class
        return self.serializer_class or self.view_plan.generated_serializer

    def get_serializer_context(self) -> dict[str, Any]:
        """What a serializer of this viewset finds in its ``context``."""
        return {"request": self.request, "view": self}

    def get_serializer(self, *args: Any, **kwargs: Any) -> Serializer:
        """A serializer of this action: ``get_serializer(rows, many=True).data``, ``get_serializer(data=…)``."""
        kwargs.setdefault("context", self.get_serializer_context())
        of_body = self.request_serializer if "data" in kwargs or len(args) > 1 else self.response_serializer
        serializer = self.view_plan.bind_serializer(of_body or self.get_serializer_class())(*args, **kwargs)
        serializer.guard = partial(write_scope.save_in_scope, self)
        if self.caller_scope is not None:
            serializer.fixed = self.caller_scope.fixed
        return serializer

    def _get_context(self) -> dict[str, Any]:
        """The serializers' context, made once per request."""
        if self._context is None:
            self._context = self.get_serializer_context()
        return self._context

    def serialize(self, row: Any) -> Any:
        """A row as ``retrieve`` shows it, as a dictionary. Related rows that are not loaded are, inside a handler."""
        if not isinstance(row, Model):
            return super().serialize(row)
        if self.view_plan.scoped and row.resource() is self.view_plan.resource:
            return orjson.loads(wait(expansion.row_within_scopes(self, row, rendering.read_parameters(self))))
        return rendering.serialize(self, row)

    def encode_result(self, result: Any) -> bytes:
        rendering.prepare_result(self, result)
        return super().encode_result(result)

    # --- bodies

    @must_be_awaited
    async def get_request_data(self, request: Request) -> dict[str, Any]:
        """A copy of the body, which must be an object.

        Raises:
            ValidationError: the body is not a JSON object.
        """
        if not isinstance(request.data, dict):
            raise ValidationError("The body must be a JSON object.")
        return dict(request.data)

    def validate_data(self, data: Any, *, partial: bool | None = None) -> dict[str, Any]:
        """The values of a body as Python values.

        Args:
            data: The body.
            partial: Whether required fields may be absent; by default in ``partial_update`` alone.

        Raises:
            ValidationError: has the messages of every field.
        """
        if partial is None:
            partial = self.action == "partial_update"
        updating = self.action in ("update", "partial_update")
        serializer = (
            rendering.current_serializer(self) if self.request_serializer is None else self.get_serializer(data=data)
        )
        return serializer.validate_body(data, partial=partial, updating=updating)

    async def check_address(self) -> None:
        standard = STANDARD_ACTIONS.get(self.action)
        if standard is not None and standard.detail and self.view_plan.lookup_url_kwarg in self.kwargs:
            await spawn(self.get_object)

    async def check_representation(self) -> None:
        if self.view_plan.lookup_url_kwarg not in self.kwargs:  # else its row is locked and checked by check_version
            await super().check_representation()

    async def check_version(self) -> None:
        if self.action in CHANGING_ACTIONS or self.view_plan.lookup_url_kwarg in self.kwargs:
            await conditional.check_version(self)

    async def metadata(self, request: Request, **kwargs: str) -> web.Response:
        plan, actions = self.view_plan, set(self.action_map.values()) - {METADATA}
        own = plan.finds_objects or plan.overrides(*actions) or not actions <= STANDARD_ACTIONS.keys()
        if plan.lookup_url_kwarg in self.kwargs and not own:
            scope.key_value(self)  # NotFound for a malformed key; the user's own handlers may take others
        body = encode(options_method.describe(self))
        return json_response(body, headers={"Allow": ", ".join(sorted(self.action_map))})
