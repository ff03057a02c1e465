"""Services made of a few resources and a test's own Python, as a config directory's ``viewsets.py`` has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from textwrap import dedent
from typing import Any

import asyncpg
import pytest

from rowcast.errors import ConfigurationError
from rowcast.query.store import STORE
from rowcast.rest.plan import SERVICE
from rowcast.rest.plan import Service as SharedService

from ..conftest import Client, Serve, with_tables
from ..databases import Databases

RESOURCES = {
    "tasks": """
        fields:
          id: {type: uuid, primary_key: true}
          title: {type: string, max_length: 200}
          description: {type: text, default: ""}
          completed: {type: boolean, default: false}
          completed_at: {type: datetime, null: true}
          priority: {type: string, choices: [low, normal, high], default: normal}
          view_count: {type: integer, default: 0, min: 0, read_only: true}
          category: {type: foreign_key, to: categories, null: true, on_delete: set_null, related_name: tasks}
          author: {type: foreign_key, to: users, null: true, on_delete: cascade, related_name: tasks}
          tags: {type: many_to_many, to: tags, related_name: tasks}
          user_id: {type: string, null: true}
          assigned_to_id: {type: string, null: true}
          due_date: {type: datetime, null: true}
          deleted: {type: boolean, default: false}
          deleted_at: {type: datetime, null: true}
          created_at: {type: datetime, auto_now_add: true}
        """,
    "categories": """
        model: Category
        fields:
          id: {type: integer, primary_key: true}
          name: {type: string, unique: true}
        """,
    "tags": """
        fields:
          id: {type: integer, primary_key: true}
          name: {type: slug, unique: true}
        """,
    "comments": """
        fields:
          id: {type: integer, primary_key: true}
          task: {type: foreign_key, to: tasks, on_delete: cascade, related_name: comments}
          body: {type: text}
        """,
    "users": """
        fields:
          id: {type: integer, primary_key: true}
          name: {type: string, unique: true}
          password: {type: string, write_only: true, default: ""}
          last_login: {type: datetime, null: true}
        """,
    "accounts": """
        fields:
          id: {type: integer, primary_key: true}
          user: {type: foreign_key, to: users, on_delete: cascade, related_name: accounts}
          balance: {type: decimal, max_digits: 10, decimal_places: 2, default: "0.00"}
        """,
}
CLASSES = {
    "tasks": "TaskViewSet", "categories": "CategoryViewSet", "tags": "TagViewSet", "comments": "CommentViewSet",
    "users": "UserViewSet", "accounts": "AccountViewSet",
}  # fmt: skip

PRELUDE = '''
from __future__ import annotations

import asyncio
from datetime import datetime
from http import HTTPMethod, HTTPStatus

from aiohttp import web
from marshmallow import ValidationError as Invalid, fields, post_dump, pre_load, validate, validates, validates_schema

from rowcast import api
from rowcast import *
from rowcast.identity.users import User as Caller

Task, Category, Tag, Comment = model("tasks"), model("categories"), model("tags"), model("comments")
User, Account = model("users"), model("accounts")


class ByHeader:
    """The tests' callers identify themselves: ``X-User: 1``, and ``X-User: root`` is staff."""

    async def perform_authentication(self, request):
        if name := request.headers.get("X-User"):
            request.user = Caller(name, is_staff=name == "root")


class ViewSet(ByHeader, api.ViewSet): ...
class GenericViewSet(ByHeader, api.GenericViewSet): ...
class ModelViewSet(ByHeader, api.ModelViewSet): ...
class ReadOnlyModelViewSet(ByHeader, api.ReadOnlyModelViewSet): ...
'''


@dataclass(frozen=True)
class Service:
    """A running service. The calls return the status and the body."""

    client: Client
    sql: asyncpg.Connection

    @property
    def service(self) -> SharedService:
        return self.client.app[SERVICE]

    async def ask(self, method: str, path: str, data: Any = None, user: str | None = None) -> tuple[int, Any]:
        body = {} if data is None else {"json": data}
        async with self.client.request(method, path, headers={"X-User": user} if user else {}, **body) as response:
            kind = response.content_type
            return response.status, await response.json(content_type=None) if "json" in kind else await response.text()

    async def get(self, path: str, user: str | None = None) -> Any:
        status, body = await self.ask("GET", path, user=user)
        assert status == 200, body
        return body

    async def post(self, path: str, data: Any = None, user: str | None = None) -> Any:
        status, body = await self.ask("POST", path, data, user)
        assert status in (200, 201), body
        return body

    async def titles(self, path: str = "/tasks/", user: str | None = None) -> list[str]:
        """The titles of a page of tasks."""
        return [row["title"] for row in (await self.get(path, user))["results"]]

    async def statements(self, method: str, path: str, data: Any = None, user: str | None = None) -> tuple[int, Any]:
        """How many statements a request takes, and the body of its response."""
        database = self.service.store.database
        before = database.statements
        status, body = await self.ask(method, path, data, user)
        assert status < 300, body
        return database.statements - before, body


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def template(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database that has the tables already: to make them is most of a start, and these tests start often."""
    return await with_tables(databases, RESOURCES, tmp_path_factory.mktemp("template"))


@pytest.fixture
async def start(serve: Serve, sql: asyncpg.Connection) -> Start:
    """Start the service with some Python: ``service = await start('class TaskViewSet(ModelViewSet): …')``.

    A resource has the class of its name if the text has one. ``urls`` is the text of ``urls.py``, and ``options`` are
    viewset options in YAML by resource. Everything is open unless the classes or ``service`` say otherwise.
    """

    async def start(
        viewsets: str = "",
        *,
        urls: str = "",
        options: dict[str, str] | None = None,
        service: str = "auth: {default_permission_classes: [AllowAny]}",
    ) -> Service:
        text = PRELUDE + dedent(viewsets)
        texts = {}
        for name, resource in RESOURCES.items():
            own = [f"class: viewsets:{CLASSES[name]}"] if f"class {CLASSES[name]}(" in text else []
            own += [option for option in (options or {}).get(name, "").split("; ") if option]
            texts[name] = dedent(resource) + "".join(["viewset:\n", *(f"  {line}\n" for line in own)] if own else [])
        modules = {"viewsets": text}
        if urls:
            modules["urls"] = "from rowcast import *\nfrom viewsets import *\n" + dedent(urls)
        client = await serve(texts, service, modules=modules)
        STORE.set(client.app[SERVICE].store)
        return Service(client, sql)

    return start


@pytest.fixture
def refused(start: Start) -> Callable[..., Awaitable[str]]:
    """The message with which the service refuses to start: ``await refused('class TaskViewSet(ModelViewSet): …')``."""

    async def refused(viewsets: str, **more: Any) -> str:
        with pytest.raises(ConfigurationError) as error:
            await start(viewsets, **more)
        return str(error.value)

    return refused
