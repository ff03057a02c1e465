"""The standard actions, as functions over a viewset's plan; ``mixins`` gives them their names.

Where Python of the user's has no say (a plain serializer, no hook overridden, no permission about single rows), an action
is one statement, and its JSON goes from PostgreSQL to the socket as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from aiohttp import web

from rowcast.errors import NotFound, ParseError
from rowcast.orm.awaiting import run_checked
from rowcast.orm.bridge import spawn
from rowcast.orm.model import Model, document, query_for
from rowcast.orm.queryset import QuerySet
from rowcast.orm.state import state_of
from rowcast.query import removal
from rowcast.query.conditions import Query, total_order, unchanged
from rowcast.query.pages import BETWEEN, PageShape
from rowcast.query.projection import Projection
from rowcast.resources.full_text import HIGHLIGHT
from rowcast.rest.conditional import check_version, etag_header, required_versions, version_of
from rowcast.rest.etags import tag_of_list, tag_of_row
from rowcast.rest.expansion import reading, row_within_scopes
from rowcast.rest.expansion_budget import check_size
from rowcast.rest.export import export_list
from rowcast.rest.highlighting import highlighted
from rowcast.rest.negotiation import export_type
from rowcast.rest.plain_writing import changed, created, location, missing_or_changed, validated
from rowcast.rest.protocols import ModelView, WritableView
from rowcast.rest.reading import AnyReader, reader_for
from rowcast.rest.rendering import (
    current_serializer,
    instance_of,
    is_plain,
    related_paths,
    render,
    render_rows,
    requested_projection,
)
from rowcast.rest.request import Request, url_of
from rowcast.rest.response import encode, json_response
from rowcast.rest.response_cache import (
    Answer,
    cache_key,
    list_address,
    list_dependencies,
    may_be_cached,
    read_page,
    respond,
    respond_from,
    row_dependencies,
)
from rowcast.rest.scope import caller_scope, list_query, object_query
from rowcast.rest.serializers import NO_VALUES, Serializer
from rowcast.rest.write_scope import check_keys, check_scope, write_in_scope


async def read_list(view: ModelView, request: Request) -> web.StreamResponse:
    """One page of the rows that match, in one statement; or all of them, if the client asks for a media type of exports."""
    plan, params = view.view_plan, request.query_params
    if plan.exports and (media_type := export_type(request.http)) is not None:
        return await export_list(view, request, media_type)
    plan.check_parameters(view.action, params)
    query = await list_query(view)
    serializer = current_serializer(view)
    shown = requested_projection(plan, serializer, params)
    plain = is_plain(plan, serializer, shown)
    query, read, grown = reading(view, serializer, query, shown, plain=plain)
    if plan.highlights and HIGHLIGHT in params:
        query, read = highlighted(plan, serializer, query, read, params, plain=plain)
    page = plan.paginator.page_request(query, read, view.count, params)
    address = list_address(url_of(plan.service.settings.server, request.http), params)
    reader = reader_for(plan, request.http, request.user)

    async def load() -> Answer:
        if grown is not None:
            already = plan.default_projection(serializer)
            await check_size(plan, reader, query, replace(page.shape, projection=grown), page.values, already)
        rows = await read_page(plan, reader, query, page, params, kept=may_be_cached(view))
        if not plain:
            rendered = await spawn(render_rows, view, serializer, rows.documents, read, shown)
            rows = replace(rows, results=BETWEEN.join(rendered))
        body = plan.paginator.body(page, query, rows, address)
        return body, tag_of_list(body), rows.snapshot

    key = cache_key(view, serializer, query) if plain else None
    if key is not None and view.count != plan.count:  # which the client prefers
        key = (key, view.count)
    return await respond_from(
        plan, request.http, key, query, lambda: list_dependencies(plan, query, read), load, reader
    )


async def read_row(view: ModelView, request: Request) -> web.Response:
    """The row that the address names."""
    plan, params = view.view_plan, request.query_params
    plan.check_parameters(view.action, params)
    serializer = current_serializer(view)
    shown = requested_projection(plan, serializer, params)
    if plan.finds_objects:
        return await _found_row(view, request, serializer)
    plain = is_plain(plan, serializer, shown) and not plan.asks_about_objects
    query = await object_query(view)
    query, read, grown = reading(view, serializer, query, shown, plain=plain)
    reader = reader_for(plan, request.http, request.user)

    async def load() -> Answer:
        if grown is not None:
            await _check_size_of_row(view, reader, query, grown, plan.default_projection(serializer))
        found = await reader.one(query, read)
        if found is None:
            raise NotFound()
        body = found.body
        if not plain:
            row = instance_of(plan, body, read)
            await run_checked(view.check_object_permissions(request, row))
            body = await spawn(render, view, serializer, row, shown, params)
        by_version = serializer.plain and not shown.related  # the version and the projection determine the body
        return body, tag_of_row(found.version, shown, None if by_version else body), found.snapshot

    key = cache_key(view, serializer, query) if plain else None
    return await respond_from(plan, request.http, key, query, lambda: row_dependencies(plan, query, read), load, reader)


async def _check_size_of_row(
    view: ModelView, reader: AnyReader, query: Query, shown: Projection, already: Projection
) -> None:
    """Refuse an ``?expand=`` that adds too much; a caller who may not see the row gets that error."""
    plan = view.view_plan
    page = PageShape(shown, total_order(plan.resource, ()), count="none", limit=1)
    try:
        await check_size(plan, reader, query, page, (), already)
    except ParseError:
        if plan.asks_about_objects:
            read = plan.python_projection(already, ())
            found = await reader.one(query, read)
            if found is None:
                raise NotFound() from None
            await run_checked(view.check_object_permissions(view.request, instance_of(plan, found.body, read)))
        raise


async def _found_row(view: ModelView, request: Request, serializer: Serializer) -> web.Response:
    """The row that the user's own ``get_object`` finds."""
    plan = view.view_plan
    snapshot = await plan.service.store.snapshot()
    row = await spawn(view.get_object)
    body = await spawn(lambda: encode(view.serialize(row), view.serialize))
    shown = requested_projection(plan, serializer, request.query_params)
    return respond(plan, request.http, body, tag_of_row(await version_of(plan, row), shown, body), snapshot)


async def create_row(
    view: WritableView, request: Request, body: Any, addressed: Mapping[str, Any] = NO_VALUES
) -> web.Response:
    """Insert one row, with its links, in one transaction; the response is the row as ``retrieve`` shows it.

    ``addressed`` has the values of columns that the address fixes, which the body does not have.
    """
    plan = view.view_plan
    if not (plan.simple_writes and plan.answers_plainly()):
        serializer = view.get_serializer(data=body)
        serializer.fixed = {**serializer.fixed, **addressed}
        serializer.guard = None  # the same is checked here, whatever the hook saves
        serializer.is_valid(raise_exception=True)
        await check_keys(view, serializer.validated_data)
        async with plan.service.store.database.transaction():
            return await _save(view, view.perform_create, serializer, HTTPStatus.CREATED)
    fixed = {**(await caller_scope(view)).fixed, **addressed}
    values = await validated(plan, request, body, fixed)
    if plan.restricted_keys():
        await check_keys(view, values)
    store, shown = plan.service.store, plan.default_projection(plan.serializer)
    if plan.unscoped_query is not None:
        row = await store.insert(shown, values)
    else:
        row = await write_in_scope(view, lambda within: store.insert(shown, values, within))
    return created(plan, request.http, row, current_serializer(view))


async def change_row(view: WritableView, request: Request, *, partial: bool) -> web.Response:
    """Change the row that the address names; without ``partial`` the body must have every required field."""
    plan = view.view_plan
    store = plan.service.store
    simple = plan.simple_writes and not plan.asks_about_objects and plan.answers_plainly()
    if simple and "If-None-Match" not in request.http.headers:
        query = await object_query(view)
        body, fixed = await request.read_json(), (await caller_scope(view)).fixed
        values = await validated(plan, request, body, fixed, partial=partial, updating=True)
        if plan.restricted_keys():
            await check_keys(view, values, query)
        versions = required_versions(view)
        here, shown = unchanged(query, versions), plan.default_projection(plan.serializer)
        if plan.unscoped_query is not None:
            row = await store.update(here, shown, values)
        else:
            row = await write_in_scope(view, lambda within: store.update(here, shown, values, within))
        if row is None:
            raise await missing_or_changed(plan, query, versions)
        return changed(plan, row, current_serializer(view))
    await request.receive_before_transaction()  # which would hold locks until the body has arrived
    async with store.database.transaction():
        await check_version(view)
        instance = await spawn(view.get_object)
        serializer = view.get_serializer(instance, data=await request.read_json(), partial=partial)
        serializer.guard = None
        serializer.is_valid(raise_exception=True)
        await check_keys(view, serializer.validated_data, query_for(instance))
        return await _save(view, view.perform_update, serializer, HTTPStatus.OK)


async def delete_row(view: WritableView) -> web.Response:
    """Delete the row that the address names; ``Conflict`` while others refer to it."""
    plan = view.view_plan
    store = plan.service.store
    if plan.resource.soft_delete is not None:
        plan.check_parameters("destroy", view.request.query_params)
    simple = not plan.overrides("perform_destroy") and not plan.asks_about_objects
    if simple and "If-None-Match" not in view.request.http.headers:
        query, versions = await object_query(view), required_versions(view)
        if not await removal.remove(store, unchanged(query, versions), hard=plan.purges):
            raise await missing_or_changed(plan, query, versions)
        return web.Response(status=HTTPStatus.NO_CONTENT)
    async with store.database.transaction():
        await check_version(view)
        await destroy_instance(view, await spawn(view.get_object))
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def destroy_instance(view: WritableView, instance: Any) -> None:
    """Delete a row through the hook of the viewset, where ``instance.delete()`` does what the request is about."""
    if view.view_plan.purges and isinstance(instance, Model):
        state_of(instance).purging = True
    await spawn(view.perform_destroy, instance)


async def restore_row(view: WritableView, request: Request) -> web.Response:
    """Take back the deletion of the row that the address names; the response is the row as ``retrieve`` shows it."""
    plan = view.view_plan
    plan.check_parameters(view.action, request.query_params)
    async with plan.service.store.database.transaction():
        await check_version(view)
        instance = await spawn(view.get_object)
        await spawn(view.perform_restore, instance)
        if isinstance(instance, Model):
            await instance.refresh()
        body = await show_row(view, instance)
        return json_response(body, headers=etag_header(view, await version_of(plan, instance), body))


async def _save(
    view: ModelView, hook: Callable[[Serializer], Any], serializer: Serializer, status: HTTPStatus
) -> web.Response:
    """Save a valid body through a ``perform_…`` hook, inside the caller's transaction."""
    row, body = await save_row(view, hook, serializer)
    return json_response(body, status, await headers_of_row(view, row, body, created=status == HTTPStatus.CREATED))


async def headers_of_row(view: ModelView, row: Any, body: bytes, *, created: bool) -> dict[str, str]:
    """The ``ETag`` of a row that was written, whose JSON by default is ``body``; if it is new, its ``Location``, too."""
    plan = view.view_plan
    headers = etag_header(view, await version_of(plan, row), body)
    if created:
        if plan.key.parts:
            key = plan.key.field_type.dump(plan.key, row.pk)
        else:
            shown_key = Projection(plan.resource.name, (plan.key_column,))
            key = document(plan.service.resources, row, shown_key)[plan.key_column]
        headers = {**location(plan, view.request.http, key), **headers}
    return headers


async def save_row(view: ModelView, hook: Callable[[Serializer], Any], serializer: Serializer) -> tuple[Any, bytes]:
    """Save a valid body through a ``perform_…`` hook, inside the caller's transaction: the row, and its JSON."""
    await spawn(hook, serializer)
    row = serializer.instance
    await check_scope(view, row.pk)
    return row, await show_row(view, row)


async def show_row(view: ModelView, row: Any) -> bytes:
    """The JSON of a row as ``retrieve`` shows it by default."""
    plan = view.view_plan
    response_serializer = current_serializer(view)
    shown = plan.default_projection(response_serializer)
    if plan.scoped:
        return await row_within_scopes(view, row, {})
    await QuerySet(type(row)).prefetch_related(*related_paths(plan, shown)).attach([row])
    body: bytes = await spawn(render, view, response_serializer, row, shown, {})
    return body
