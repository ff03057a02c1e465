"""How rows with children are validated, written and shown: ``NestedWriting`` is one request, in a transaction.

Everything is validated before anything is written, and errors have the path of the row. Where no Python takes part, the
children of a relation are one statement, of all rows of the request together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, cast

from rowcast.errors import ApiError, NotAuthenticated, NotFound, PermissionDenied, ValidationError
from rowcast.orm.awaiting import run_checked
from rowcast.orm.bridge import spawn
from rowcast.orm.expressions import F
from rowcast.orm.model import Model, query_for
from rowcast.orm.writing import update_rows
from rowcast.query import many
from rowcast.query.conditions import Comparison, equals, total_order
from rowcast.query.many import Key
from rowcast.query.pages import PageShape
from rowcast.query.projection import Projection
from rowcast.resources.lossless_json import encode
from rowcast.rest.actions import show_row
from rowcast.rest.conditional import version_of
from rowcast.rest.expansion import scopes_of_related
from rowcast.rest.many_rows import (
    check_count,
    check_serializers,
    delete_locked,
    missing,
    naming,
    row_of,
    rows_of,
    write_in_scope,
)
from rowcast.rest.nested_bodies import Family, Refusals, Row, no_row, read_children
from rowcast.rest.plan import ModelPlan, NestedRelation, new_view
from rowcast.rest.preferences import AffectedRows
from rowcast.rest.protocols import ModelView, WritableView
from rowcast.rest.rendering import current_serializer, is_plain
from rowcast.rest.row_keys import key_fields, key_names
from rowcast.rest.scope import caller_scope, scope_of, scoped_rows
from rowcast.rest.serializers import CONTEXT, Serializer
from rowcast.rest.write_rules import NESTED_ACTIONS, is_allowed
from rowcast.rest.write_scope import check_keys_of_rows, check_scope, may_see

_METHODS: Final = {"create": "POST", "partial_update": "PATCH", "destroy": "DELETE", "retrieve": "GET", "list": "GET"}
_ALL_CHILDREN: Final = 1 << 31  # the limit of a page that has none


def instance_of_row(row: Row) -> Model:
    """The row itself, which its serializer has read or saved."""
    assert row.serializer is not None
    return cast(Model, row.serializer.instance)


class NestedWriting:
    """One request while its rows are written, in a transaction."""

    def __init__(self, view: WritableView) -> None:
        self.view = view
        self.store = view.view_plan.service.store
        self.affected = AffectedRows(view.request.http)
        self.refusals = Refusals()
        self.count = 0
        self._changed: set[Row] = set()  # the rows at the top whose children have been written
        self._views: dict[tuple[str, str], Any] = {}
        self._admitted: dict[int, bool] = {}

    # --- the rows at the top

    async def check_parents(self, rows: Sequence[Row]) -> list[Family]:
        """Validate rows and their children; nothing has been written yet. One error has what is wrong with all of them."""
        for row in rows:
            assert row.serializer is not None
            try:
                await check_serializers(self.view, [row.serializer])
            except ValidationError as error:
                one = ValidationError(error.errors["0"] if error.errors else error.detail, code=error.code)
                one.unlisted = error.unlisted
                self.refusals.add(row.path, one)
        self.count += len(rows)
        families = await self.prepare(self.view.view_plan, rows)
        self.refusals.check()
        self.affected.check(self.count)
        return families

    async def lock_parents(self, rows: Sequence[Row]) -> list[str | None]:
        """Lock existing rows, so that nobody else changes their children meanwhile; their versions."""
        versions = []
        for row in rows:
            instance = instance_of_row(row)
            row.key = instance.pk
            await self.store.lock(query_for(instance))
            versions.append(await version_of(self.view.view_plan, instance))
        return versions

    async def save_parent(self, row: Row, hook: Callable[[Serializer], Any]) -> None:
        assert row.serializer is not None
        try:
            row.key = (await self._save(self.view, hook, row.serializer)).pk
        except ApiError as error:
            self._raise_at(row, error)

    async def touch(self, rows: Sequence[Row], versions: Sequence[str | None]) -> None:
        """Give a new version to rows that only their children have changed, so that ``If-Match`` notices it."""
        plan = self.view.view_plan
        for row, before in zip(rows, versions, strict=True):
            instance = instance_of_row(row)
            if row not in self._changed or await version_of(plan, instance) != before:
                continue
            columns = plan.resource.columns
            free = [
                name
                for name, each in columns.items()
                if not (each.read_only or each.generated or each.primary_key or each.key_part)
            ]
            name = next(iter(free), plan.resource.key_columns[0])
            if not await update_rows(self.store, plan.resource.name, {name: F(name)}, *query_for(instance).where):
                raise self.store.refusal(plan.resource.name)

    async def show_parent(self, row: Row, families: Sequence[Family]) -> tuple[bytes, bytes]:
        """The JSON of a row as ``retrieve`` shows it, and the same with the children that the caller may read."""
        body = await show_row(self.view, instance_of_row(row))
        shown = dict(self.view.view_plan.default_projection(current_serializer(self.view)).related)
        added = [each for each in families if each.relation.name not in shown and each.relation.name in row.children]
        return body, await self._with_children(body, row.key, added)

    # --- permissions

    async def _view(self, plan: ModelPlan, action: str) -> Any:
        """An instance of another viewset for the same caller, made once for each action."""
        place = (plan.resource.name, action)
        if place not in self._views:
            request = self.view.request.as_method(_METHODS[action])
            made = new_view(plan, action=action, detail=action == "retrieve", request=request)
            await made.perform_authentication(request)
            if plan.scoped:
                made.expansion_scopes = await scopes_of_related(made)
            self._views[place] = made
        return self._views[place]

    async def _admitted_view(self, relation: NestedRelation, what: str) -> Any:
        """The viewset of children for an action, once its permissions and throttles have accepted the caller."""
        view = await self._view(relation.target, NESTED_ACTIONS[what])
        if id(view) not in self._admitted:
            try:
                await run_checked(view.check_permissions(view.request))
                await view.check_throttles(view.request)
            except ApiError as error:
                error.detail = f"{relation.name}: {error.detail}"
                raise
            self._admitted[id(view)] = True
        return view

    @contextmanager
    def _context_of(self, view: ModelView) -> Iterator[None]:
        """Serializers that are shared find this viewset in their context."""
        token = CONTEXT.set(view.get_serializer_context)
        try:
            yield
        finally:
            CONTEXT.reset(token)

    # --- before anything is written

    async def prepare(self, plan: ModelPlan, parents: Sequence[Row]) -> list[Family]:
        """Read, find and validate the children of rows; what is wrong is added to the refusals."""
        families = []
        for relation in plan.nested():
            having = [row for row in parents if relation.name in row.children]
            if not having:
                continue
            family = Family(relation)
            for parent in having:
                read_children(family, parent, self.refusals)
            check_count(relation.target, family.count)
            await self._find(family)
            check_count(relation.target, family.count)
            self.count += family.count
            for what, rows in (("create", family.creates), ("update", family.updates)):
                if rows and not self.refusals.full:
                    view = await self._admitted_view(relation, what)
                    with self._context_of(view):
                        await (self._check_new if what == "create" else self._check_changed)(view, relation, rows)
            if family.deletes:
                await self._admitted_view(relation, "delete")
            family.inner = await self.prepare(relation.target, [*family.creates, *family.updates])
            families.append(family)
        return families

    async def _find(self, family: Family) -> None:
        """Lock the children that are named, and those that lists leave out; a key that names none is refused."""
        relation = family.relation
        for what, rows in (("update", family.updates), ("delete", family.deletes)):
            if not rows:
                continue
            view = await self._admitted_view(relation, what)
            there = await self._children(view, relation, [row.parent for row in rows if row.parent], rows)
            for row in list(rows):
                if row.name in there:
                    row.key = there[row.name][0]
                    continue
                rows.remove(row)
                if row.may_be_new:
                    names = key_names(relation.target)
                    own = {name: each for name, each in zip(names, row.name, strict=True) if name != relation.column}
                    family.creates.append(Row(row.path, {**own, **row.body}, row.children, row.parent))
                else:
                    self.refusals.add(row.path, no_row(relation))
        if family.replaced and "delete" in relation.opened and not self.refusals:
            existing = [row for row in family.replaced if row.key is not None]
            if existing:
                view = await self._view(relation.target, NESTED_ACTIONS["delete"])
                kept = {row.name for row in family.updates}
                parents = {row.key: row for row in existing}
                for name, (_, parent_key) in (await self._children(view, relation, existing)).items():
                    if name not in kept:
                        parent = parents[parent_key]
                        path = (*parent.path, relation.name)
                        family.deletes.append(Row(path, {}, {}, parent, name=name))

    async def _children(
        self, view: ModelView, relation: NestedRelation, parents: Sequence[Row], named: Sequence[Row] | None = None
    ) -> dict[Key, tuple[Any, Any]]:
        """Lock the children of these parents in the scope of a viewset: their primary keys and their parents', by name."""
        plan = relation.target
        query = (await scope_of(view)).unsorted()
        if named is not None:
            query = rows_of(plan, query, [row.name for row in named])
        keys = tuple(dict.fromkeys(row.key for row in parents))
        query = query.restrict(Comparison(relation.path, "in", keys, relation.key.field_type.kind))
        names, resources = key_names(plan), plan.service.resources
        columns = tuple(dict.fromkeys((*names, relation.column)))
        most = len(named) if named is not None else plan.max_bulk + len(keys) * plan.max_bulk + 1
        records = await many.lock_keys(self.store, query, most, columns)
        own_key = resources.key_of(plan.resource.key)
        found = {}
        for record in records:
            name = tuple(each.field_type.parse(each, record[column]) for column, each in key_fields(plan))
            parent = relation.key.field_type.parse(relation.key, record[relation.column])
            found[name] = (own_key.field_type.parse(own_key, record["key"]), parent)
        if named is not None:
            wanted = {row.name: row.parent.key for row in named if row.parent is not None}
            return {name: each for name, each in found.items() if wanted.get(name) == each[1]}
        return found

    async def _check_new(self, view: WritableView, relation: NestedRelation, rows: Sequence[Row]) -> None:
        """Validate children that are to be created. The key of the parent is not known yet."""
        plan = relation.target
        simple = plan.simple_writes and plan.answers_plainly()
        fixed = {**(await caller_scope(view)).fixed, relation.column: None}

        def check(row: Row) -> None:
            if simple:
                row.values = plan.serializer.validate_body(row.body, fixed=fixed)
                return
            row.serializer = view.get_serializer(data=row.body)
            row.serializer.fixed = {**row.serializer.fixed, relation.column: None}
            row.serializer.guard = None  # the same is checked here, whatever the hook saves
            row.serializer.is_valid(raise_exception=True)
            row.values = row.serializer.validated_data

        await self._validate(view, relation, rows, check, None)

    async def _check_changed(self, view: WritableView, relation: NestedRelation, rows: Sequence[Row]) -> None:
        """Validate children that are to be changed."""
        plan = relation.target
        simple = plan.simple_writes and plan.answers_plainly() and not plan.asks_about_objects
        if not simple:
            for row in rows:
                try:
                    with naming(view, row.name):
                        row.serializer = view.get_serializer(await spawn(view.get_object), data=row.body, partial=True)
                        row.serializer.guard = None
                except NotFound:
                    self.refusals.add(row.path, no_row(relation))
                except ApiError as error:
                    self._raise_at(row, error)

        def check(row: Row) -> None:
            if simple:
                row.values = plan.serializer.validate_body(row.body, partial=True, updating=True)
            elif row.serializer is not None:
                row.serializer.is_valid(raise_exception=True)
                row.values = row.serializer.validated_data

        await self._validate(view, relation, rows, check, await scope_of(view))

    async def _validate(
        self,
        view: WritableView,
        relation: NestedRelation,
        rows: Sequence[Row],
        check: Callable[[Row], None],
        scope: Any,
    ) -> None:
        """Validate the values of rows, and the keys among them; ``scope`` has the rows if they are there already."""
        valid = []
        for row in rows:
            if self.refusals.full:
                return
            try:
                check(row)
                valid.append(row)
            except ValidationError as error:
                self.refusals.add(row.path, error)
        values = [{name: each for name, each in row.values.items() if name != relation.column} for row in valid]
        current = None if scope is None else [row_of(relation.target, scope, row.name) for row in valid]
        try:
            await check_keys_of_rows(view, values, current)
        except ValidationError as error:
            self.refusals.add_placed(error, valid)

    # --- writing

    async def write(self, families: Sequence[Family]) -> None:
        """Delete, change and create children, in this order, so that a unique value may move from one to another."""
        for family in families:
            relation = family.relation
            for what, rows, work in (
                ("delete", family.deletes, self._delete),
                ("update", family.updates, self._change),
                ("create", family.creates, self._create),
            ):
                if rows:
                    view = await self._admitted_view(relation, what)
                    with self._context_of(view):
                        await work(view, relation, rows)
                    self._changed.update(row.top for row in rows)
            await self.write(family.inner)

    async def _delete(self, view: WritableView, relation: NestedRelation, rows: Sequence[Row]) -> None:
        plan = relation.target
        simple = not (plan.overrides("perform_destroy") or plan.asks_about_objects)
        for some in [rows] if simple else [[row] for row in rows]:
            try:
                await delete_locked(view, [row.name for row in some], simple=simple)
            except ApiError as error:
                error.errors = None
                self._raise_at(some[0], error)

    async def _change(self, view: WritableView, relation: NestedRelation, rows: Sequence[Row]) -> None:
        plan = relation.target
        if rows[0].serializer is not None:
            for row in rows:
                assert row.serializer is not None
                with naming(view, row.name):
                    await self._saved_child(view, view.perform_update, row)
            return
        scope, shown, keys = await scope_of(view), Projection(plan.resource.name, ()), [row.name for row in rows]
        values = [row.values for row in rows]

        async def write(within: Any) -> list[many.ManyRow]:
            try:
                return await many.update_many(self.store, scope, shown, key_names(plan), keys, values, within)
            except NotFound as error:
                raise await missing(view, keys, map(int, error.errors or ())) from None

        await self._placing(rows, write_in_scope(view, write))

    async def _create(self, view: WritableView, relation: NestedRelation, rows: Sequence[Row]) -> None:
        plan = relation.target
        for row in rows:
            assert row.parent is not None
            row.values[relation.column] = row.parent.key
        if rows[0].serializer is not None:
            for row in rows:
                await self._saved_child(view, view.perform_create, row)
            return
        shown, values = Projection(plan.resource.name, ()), [row.values for row in rows]
        written = await self._placing(
            rows, write_in_scope(view, lambda within: many.insert_many(self.store, shown, values, within))
        )
        key = plan.service.resources.key_of(plan.resource.key)
        for row, made in zip(rows, written, strict=True):
            row.key = key.field_type.parse(key, made.key)

    async def _saved_child(self, view: WritableView, hook: Callable[[Serializer], Any], row: Row) -> None:
        assert row.serializer is not None
        try:
            row.key = (await self._save(view, hook, row.serializer)).pk
        except ApiError as error:
            self._raise_at(row, error)

    async def _save(self, view: ModelView, hook: Callable[[Serializer], Any], serializer: Serializer) -> Any:
        """Save a valid body through a ``perform_…`` hook; the row."""
        await spawn(hook, serializer)
        await check_scope(view, serializer.instance.pk)
        return serializer.instance

    async def _placing(self, rows: Sequence[Row], work: Awaitable[list[many.ManyRow]]) -> list[many.ManyRow]:
        """Write rows; an error that has their places gets their paths instead."""
        try:
            return await work
        except ApiError as error:
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or not many.has_place(error, len(rows)):
                raise
            refusals = Refusals()
            refusals.add_placed(error, rows)
            refusals.check()
            raise

    def _raise_at(self, row: Row, error: ApiError) -> None:
        """Raise the error of one row with its path; one of the server is about no row."""
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR or (not row.path and error.errors is None):
            raise error
        refusals = Refusals()
        refusals.add(row.path, error)
        refusals.check()

    # --- the answer

    async def _with_children(self, body: bytes, key: Any, families: Sequence[Family]) -> bytes:
        """The JSON of a row with the children that the caller may read, under the names of their relations."""
        for family in families:
            children = await self._shown(family, key)
            if children is not None:
                separator = b"" if body == b"{}" else b","
                body = body[:-1] + separator + encode(family.relation.name) + b":[" + b",".join(children) + b"]}"
        return body

    async def _shown(self, family: Family, parent: Any) -> list[bytes] | None:
        """The JSON of the children of a row in the order of their keys; ``None`` if the caller may not read them."""
        relation = family.relation
        plan = relation.target
        options = {name: plan.attribute(name) for name in ("allowed_actions", "excluded_actions")}
        action = next(
            (each for each in ("retrieve", "list") if hasattr(plan.viewset, each) and is_allowed(options, each)), None
        )
        if action is None:
            return None
        view = await self._view(plan, action)
        if id(view) not in self._admitted:
            try:
                await run_checked(view.check_permissions(view.request))
                self._admitted[id(view)] = True
            except (PermissionDenied, NotAuthenticated):
                self._admitted[id(view)] = False
        if not self._admitted[id(view)]:
            return None
        with self._context_of(view):
            serializer = current_serializer(view)
            shown = plan.default_projection(serializer)
            plain = is_plain(plan, serializer, shown) and not (plan.asks_about_objects or plan.scoped)
            if plain and not family.inner:
                query = (await scope_of(view)).unsorted().restrict(equals(relation.path, relation.key, parent))
                order = total_order(plan.resource, ())
                page = PageShape(shown, order, count="none")
                return (await self.store.page(query.sort(order), page, (_ALL_CHILDREN,))).documents
            rows = await (await scoped_rows(view)).filter(**{relation.path: parent}).order_by("pk")
            bodies = []
            for row in rows:
                if not plan.asks_about_objects or await may_see(view, row):
                    bodies.append(await self._with_children(await show_row(view, row), row.pk, family.inner))
            return bodies
