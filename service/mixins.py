"""The five actions' default implementations, one mixin each; a viewset is composed of those it wants.

Where nothing of a viewset's own has a say (a plain serializer, no hook overridden, no permission about single rows), an
action is one statement, and its JSON goes from PostgreSQL to the socket as it is.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from service.bridge import spawn
from service.errors import InvalidPattern, NotFound
from service.responses import encode, json_response
from service.serializers import Serializer, whole

if TYPE_CHECKING:
    from service.requests import Request
    from service.viewsets import GenericViewSet as _Base
else:
    _Base = object


class ListModelMixin(_Base):
    """``GET /tasks/``"""

    async def list(self, request: Request) -> web.Response:
        """One page of the rows that match, in one statement."""
        given = request.query_params
        self.check_parameters(given)
        query = await self.get_list_query()
        serializer = self.current_serializer()
        shown = self.get_projection(serializer, given)
        seen = shown if serializer.plain else whole(self.site.resources, shown)
        part = self.paginator.slice(query, seen, self.count, given)
        try:
            rows = await self.site.store.page(query, part.page, part.values)
        except InvalidPattern as error:
            raise error.naming(name for name in self.patterns if name in given) from None
        if not serializer.plain:
            made = [self._json(serializer, row, shown, given) for row in self._instances(rows.results, seen)]
            rows = replace(rows, results=b",".join(made))
        body = self.paginator.body(part, query, rows, self.get_address())
        return json_response(body, headers=self.get_position(rows.snapshot))


class CreateModelMixin(_Base):
    """``POST /tasks/``"""

    async def create(self, request: Request) -> web.Response:
        """Insert one row, with its links, in one transaction; the row as ``retrieve`` shows it."""
        body = await request.read_json()
        if not self.simple_writes:
            return await self._write(self.perform_create, self.get_serializer(data=body), HTTPStatus.CREATED)
        values = self.serializer.validate_body(body)
        row, key = await self.site.store.insert(self.shown, values)
        if self.lookup_field is not None:
            key = str(orjson.loads(row)[self.lookup_field])
        return json_response(row, HTTPStatus.CREATED, {"Location": self.get_location(key)})

    async def perform_create(self, serializer: Serializer) -> None:
        """Save a valid body as a new row; to be overridden: ``await serializer.save(user_id=…)``."""
        await serializer.save()


class RetrieveModelMixin(_Base):
    """``GET /tasks/{id}/``"""

    async def retrieve(self, request: Request, **kwargs: str) -> web.Response:
        """One row."""
        given = request.query_params
        self.check_parameters(given)
        serializer = self.current_serializer()
        shown = self.get_projection(serializer, given)
        if self.finds_objects:
            snapshot = await self.site.store.snapshot()
            body = await spawn(self._shown_row, await spawn(self.get_object))
            return json_response(body, headers=self.get_position(snapshot))
        plain = serializer.plain and not self.asks_about_objects
        seen = shown if plain else whole(self.site.resources, shown)
        found = await self.site.store.one(await self.get_object_query(), seen)
        if found is None:
            raise NotFound()
        body, snapshot = found
        if not plain:
            row = self._instance(body, seen)
            await self.check_object_permissions(request, row)
            body = self._json(serializer, row, shown, given)
        return json_response(body, headers=self.get_position(snapshot))

    def _shown_row(self, row: Any) -> bytes:
        return encode(self.serialize(row), self.serialize)


class UpdateModelMixin(_Base):
    """``PUT`` and ``PATCH /tasks/{id}/``"""

    async def update(self, request: Request, **kwargs: str) -> web.Response:
        """Change a row to a whole body: required fields must be there, optional ones left out stay as they are."""
        return await self._change(request, partial=False)

    async def partial_update(self, request: Request, **kwargs: str) -> web.Response:
        """Change what the body names, and nothing else."""
        return await self._change(request, partial=True)

    async def _change(self, request: Request, *, partial: bool) -> web.Response:
        if self.simple_writes and not self.asks_about_objects:
            query = await self.get_object_query()
            values = self.serializer.validate_body(await request.read_json(), partial=partial, updating=True)
            row = await self.site.store.update(query, self.shown, values)
            if row is None:
                raise NotFound()
            return json_response(row)
        async with self.site.store.database.transaction():
            instance = await spawn(self.get_object)
            serializer = self.get_serializer(instance, data=await request.read_json(), partial=partial)
            return await self._write(self.perform_update, serializer, HTTPStatus.OK)

    async def perform_update(self, serializer: Serializer) -> None:
        """Save a valid body to its row; to be overridden."""
        await serializer.save()


class DestroyModelMixin(_Base):
    """``DELETE /tasks/{id}/``"""

    async def destroy(self, request: Request, **kwargs: Any) -> web.Response:
        """Delete a row; ``Conflict`` while others refer to it."""
        if not self.hooked("perform_destroy") and not self.asks_about_objects:
            if not await self.site.store.delete(await self.get_object_query()):
                raise NotFound()
            return web.Response(status=HTTPStatus.NO_CONTENT)
        async with self.site.store.database.transaction():
            await spawn(self.perform_destroy, await spawn(self.get_object))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def perform_destroy(self, instance: Any) -> None:
        """Delete a row; to be overridden, for example to mark it instead."""
        await instance.delete()
