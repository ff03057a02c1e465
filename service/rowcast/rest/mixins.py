"""The five mixins of a viewset, under Django REST framework's names; ``actions`` has what they do."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from rowcast.orm.awaiting import must_be_awaited
from rowcast.rest import actions, importing, many_rows, nested, upserts
from rowcast.rest.protocols import ModelView, WritableView
from rowcast.rest.request import Request
from rowcast.rest.serializers import Serializer


class ListModelMixin:
    """``GET /tasks/``"""

    @must_be_awaited
    async def list(self: ModelView, request: Request) -> web.StreamResponse:
        """One page of the rows that match; all of them as CSV or NDJSON."""
        return await actions.read_list(self, request)


class CreateModelMixin:
    """``POST /tasks/``"""

    @must_be_awaited
    async def create(self: WritableView, request: Request) -> web.Response:
        """Insert one row, or the rows of an array, which the response shows as ``retrieve`` does; or those of a file."""
        if self.importing:
            return await importing.import_rows(self, request)
        if self.view_plan.nested_names and (written := await nested.with_children(self, request)) is not None:
            return written
        body = await request.read_json()
        if isinstance(body, list):
            return await many_rows.create_rows(self, request, body)
        return await actions.create_row(self, request, body)

    @must_be_awaited
    async def perform_create(self, serializer: Serializer) -> None:
        """Save a valid body as a new row. Override it to add values: ``await serializer.save(user_id=…)``."""
        await serializer.save()


class RetrieveModelMixin:
    """``GET /tasks/{id}/``"""

    @must_be_awaited
    async def retrieve(self: ModelView, request: Request, **kwargs: str) -> web.Response:
        """One row."""
        return await actions.read_row(self, request)


class UpdateModelMixin:
    """``PUT`` and ``PATCH /tasks/{id}/``"""

    @must_be_awaited
    async def update(self: WritableView, request: Request, **kwargs: str) -> web.Response:
        """Change a row to a whole body: required fields must be there, optional ones left out stay as they are."""
        if self.view_plan.put_creates and not many_rows.at_list(self):
            return await upserts.put_row(self, request)
        if self.view_plan.nested_names and (written := await nested.with_children(self, request)) is not None:
            return written
        if many_rows.at_list(self):
            return await upserts.upsert_rows(self, request)
        return await actions.change_row(self, request, partial=False)

    @must_be_awaited
    async def partial_update(self: WritableView, request: Request, **kwargs: str) -> web.Response:
        """Change the fields that the body names, and no others."""
        if self.view_plan.nested_names and (written := await nested.with_children(self, request)) is not None:
            return written
        if many_rows.at_list(self):
            return await many_rows.change_rows(self, request)
        return await actions.change_row(self, request, partial=True)

    @must_be_awaited
    async def perform_update(self, serializer: Serializer) -> None:
        """Save a valid body to its row. Override it to add values."""
        await serializer.save()


class DestroyModelMixin:
    """``DELETE /tasks/{id}/``, and ``POST /tasks/{id}/restore/`` where the resource has ``soft_delete``"""

    @must_be_awaited
    async def destroy(self: WritableView, request: Request, **kwargs: str) -> web.Response:
        """Delete a row; ``Conflict`` while others refer to it."""
        if many_rows.at_list(self):
            return await many_rows.delete_rows(self, request)
        return await actions.delete_row(self)

    @must_be_awaited
    async def perform_destroy(self, instance: Any) -> None:
        """Delete a row, for good if the request has ``?hard=true``. Override it to do something with it, for example."""
        await instance.delete()

    @must_be_awaited
    async def restore(self: WritableView, request: Request, **kwargs: str) -> web.Response:
        """Take back the deletion of a row of a resource with ``soft_delete``."""
        return await actions.restore_row(self, request)

    @must_be_awaited
    async def perform_restore(self, instance: Any) -> None:
        """Restore a row that is marked as deleted. Override it to do something with it."""
        await instance.restore()
