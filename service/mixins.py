"""The five actions' default implementations, one mixin each; a viewset is composed of those it wants."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from service.errors import InvalidPattern, NotFound
from service.pagination import Found

if TYPE_CHECKING:
    from service.requests import Request
    from service.viewsets import GenericViewSet as _Base
else:
    _Base = object

JSON = "application/json"


class ListModelMixin(_Base):
    """``GET /tasks/``"""

    async def list(self, request: Request) -> web.Response:
        """One page of the rows that match, in one statement; PostgreSQL makes the JSON."""
        given = request.query_params
        self.check_parameters(given)
        query = self.filter_queryset(self.get_queryset())
        projection = self.get_projection(given)
        part = self.paginator.slice(query, projection, self.count, given)
        try:
            rows = await self.site.store.page(query, part.page, part.values)
        except InvalidPattern as error:
            raise error.naming(name for name in self.patterns if name in given) from None
        body = self.paginator.body(part, query, Found(rows.results, rows.count, rows.keys), self.get_address())
        return self.json_response(body, headers=self.get_position(rows.snapshot))


class CreateModelMixin(_Base):
    """``POST /tasks/``"""

    async def create(self, request: Request) -> web.Response:
        """Insert one row, with its links, in one transaction; the row as ``retrieve`` shows it."""
        values = self.serializer.validate_body(await request.read_json())
        body, key = await self.site.store.insert(self.shown, values)
        return self.json_response(body, HTTPStatus.CREATED, headers={"Location": self.get_location(body, key)})


class RetrieveModelMixin(_Base):
    """``GET /tasks/{id}/``"""

    async def retrieve(self, request: Request, **kwargs: str) -> web.Response:
        """One row."""
        given = request.query_params
        self.check_parameters(given)
        projection = self.get_projection(given)
        found = await self.site.store.one(self.get_object_query(), projection)
        if found is None:
            raise NotFound()
        body, snapshot = found
        return self.json_response(body, headers=self.get_position(snapshot))


class UpdateModelMixin(_Base):
    """``PUT`` and ``PATCH /tasks/{id}/``"""

    async def update(self, request: Request, **kwargs: str) -> web.Response:
        """Change a row to a whole body: required fields must be there, optional ones left out stay as they are."""
        return await self._change(request, partial=False)

    async def partial_update(self, request: Request, **kwargs: str) -> web.Response:
        """Change what the body names, and nothing else."""
        return await self._change(request, partial=True)

    async def _change(self, request: Request, *, partial: bool) -> web.Response:
        query = self.get_object_query()
        values = self.serializer.validate_body(await request.read_json(), partial=partial, updating=True)
        body = await self.site.store.update(query, self.shown, values)
        if body is None:
            raise NotFound()
        return self.json_response(body)


class DestroyModelMixin(_Base):
    """``DELETE /tasks/{id}/``"""

    async def destroy(self, request: Request, **kwargs: Any) -> web.Response:
        """Delete a row; ``Conflict`` while others refer to it."""
        if not await self.site.store.delete(self.get_object_query()):
            raise NotFound()
        return web.Response(status=HTTPStatus.NO_CONTENT)
