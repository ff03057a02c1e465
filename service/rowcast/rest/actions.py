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

from rowcast.errors import InvalidPattern, NotFound
from rowcast.orm.bridge import spawn
from rowcast.query.conditions import unchanged
from rowcast.query.pages import BETWEEN
from rowcast.rest.etags import tag_of_list, tag_of_row
from rowcast.rest.response import encode, json_response
from rowcast.rest.serializers import Serializer

if TYPE_CHECKING:
    from rowcast.rest.request import Request
    from rowcast.rest.viewset import GenericViewSet as _Base
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
        seen = shown if serializer.plain else self.get_seen(serializer, query, given)
        part = self.paginator.slice(query, seen, self.count, given)
        address = self.get_address()
        place = self._place(serializer, query)
        if place and (answer := self.service.cache.get(place)) is not None:
            return self._answer(request.http, *answer, stands=True)
        since = self.service.cache.generation
        try:
            rows = await self.read_page(query, part)
        except InvalidPattern as error:
            raise error.naming(name for name in self._patterns if name in given) from None
        if not serializer.plain:
            made = await spawn(self._pieces, serializer, rows.documents, seen, shown, given)
            rows = replace(rows, results=BETWEEN.join(made))
        body = self.paginator.body(part, query, rows, address)
        answer = body, tag_of_list(body), rows.snapshot
        reads = self.service.store.queries.reads(query.resource, query.shape, query.order, seen) if place else None
        if reads is not None:
            self.service.cache.put(place, answer, since=since, resources=reads, size=len(body) + query.size)
        return self._answer(request.http, *answer)


class CreateModelMixin(_Base):
    """``POST /tasks/``"""

    async def create(self, request: Request) -> web.Response:
        """Insert one row, with its links, in one transaction; the row as ``retrieve`` shows it."""
        body = await request.read_json()
        if not self.simple_writes:
            return await self._write(self.perform_create, self.get_serializer(data=body), HTTPStatus.CREATED)
        values = self.serializer.validate_body(body)
        row = await self.service.store.insert(self._shown, values)
        key = row.key if self.lookup_field is None else str(orjson.loads(row.body)[self.lookup_field])
        headers = {"Location": self.get_location(key), **self.get_tag(row.version, row.body)}
        return json_response(row.body, HTTPStatus.CREATED, headers)

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
            snapshot = await self.service.store.snapshot()
            row = await spawn(self.get_object)
            body = await spawn(self._shown_row, row)
            return self._answer(request.http, body, tag_of_row(await self.get_version(row), shown, body), snapshot)
        plain = serializer.plain and not self.asks_about_objects
        query = await self.get_object_query()
        seen = shown if plain else self.get_seen(serializer, query, given)
        place = self._place(serializer, query) if plain else None
        if place and (answer := self.service.cache.get(place)) is not None:
            return self._answer(request.http, *answer, stands=True)
        since = self.service.cache.generation
        found = await self.service.store.one(query, seen)
        if found is None:
            raise NotFound()
        body = found.body
        if not plain:
            row = self._instance(body, seen)
            await self.check_object_permissions(request, row)
            body = await spawn(self._json, serializer, row, shown, given)
        follows = serializer.plain and not shown.related
        answer = body, tag_of_row(found.version, shown, None if follows else body), found.snapshot
        reads = self.service.store.queries.reads(query.resource, query.shape, (), seen) if place else None
        if reads is not None:
            depends = self.get_dependencies(query, seen, reads)
            self.service.cache.put(place, answer, since=since, size=len(body) + query.size, **depends)
        return self._answer(request.http, *answer)

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
            versions = self.expected_versions()
            row = await self.service.store.update(unchanged(query, versions), self._shown, values)
            if row is None:
                raise await self._refused(query, versions)
            return json_response(row.body, headers=self.get_tag(row.version, row.body))
        async with self.service.store.database.transaction():
            await self.check_version()
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
            query, versions = await self.get_object_query(), self.expected_versions()
            if not await self.service.store.delete(unchanged(query, versions)):
                raise await self._refused(query, versions)
            return web.Response(status=HTTPStatus.NO_CONTENT)
        async with self.service.store.database.transaction():
            await self.check_version()
            await spawn(self.perform_destroy, await spawn(self.get_object))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def perform_destroy(self, instance: Any) -> None:
        """Delete a row; to be overridden, for example to mark it instead."""
        await instance.delete()
