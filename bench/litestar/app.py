"""Litestar with Advanced Alchemy's services, as both documentations write it."""

import os
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID, uuid4

from advanced_alchemy.extensions.litestar import (
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyPlugin,
    base,
    filters,
    providers,
    repository,
    service,
)
from advanced_alchemy.types import DateTimeUTC
from litestar import Controller, Litestar, get, patch, post
from litestar.pagination import OffsetPagination
from litestar.params import Dependency
from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import ForeignKey, func
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship

Priority = Literal["low", "normal", "high"]


class Author(base.DefaultBase):
    __tablename__ = "authors"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTimeUTC(timezone=True), server_default=func.now(), onupdate=func.now()
    )


class Task(base.DefaultBase):
    __tablename__ = "tasks"
    __mapper_args__ = {"eager_defaults": True}
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    completed: Mapped[bool] = mapped_column(default=False)
    priority: Mapped[str] = mapped_column(default="normal")
    view_count: Mapped[int] = mapped_column(default=0)
    author_id: Mapped[UUID] = mapped_column(ForeignKey("authors.id"))
    due_date: Mapped[datetime | None] = mapped_column(DateTimeUTC(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTimeUTC(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTimeUTC(timezone=True), server_default=func.now(), onupdate=func.now()
    )
    author: Mapped[Author] = relationship()


class AuthorOut(Struct):
    id: UUID
    name: str
    email: str
    created_at: datetime
    updated_at: datetime


class TaskOut(Struct):
    id: UUID
    title: str
    description: str
    completed: bool
    priority: str
    view_count: int
    author_id: UUID
    due_date: datetime | None
    created_at: datetime
    updated_at: datetime


class TaskWithAuthorOut(TaskOut):
    author: AuthorOut


class TaskIn(Struct, forbid_unknown_fields=True):
    title: str
    author_id: UUID
    description: str = ""
    completed: bool = False
    priority: Priority = "normal"
    due_date: datetime | None = None


class TaskPatch(Struct, forbid_unknown_fields=True):
    title: str | UnsetType = UNSET
    author_id: UUID | UnsetType = UNSET
    description: str | UnsetType = UNSET
    completed: bool | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    due_date: datetime | UnsetType | None = UNSET


class AuthorService(service.SQLAlchemyAsyncRepositoryService[Author]):
    class Repo(repository.SQLAlchemyAsyncRepository[Author]):
        model_type = Author

    repository_type = Repo


class TaskService(service.SQLAlchemyAsyncRepositoryService[Task]):
    class Repo(repository.SQLAlchemyAsyncRepository[Task]):
        model_type = Task

    repository_type = Repo


Filters = Annotated[list[filters.FilterTypes], Dependency(skip_validation=True)]
PAGES = {"pagination_type": "limit_offset", "pagination_size": 20}


class AuthorController(Controller):
    path = "/authors"
    dependencies = providers.create_service_dependencies(AuthorService, "authors", filters=PAGES)

    @get("/")
    async def list_authors(self, authors: AuthorService, filters: Filters) -> OffsetPagination[AuthorOut]:
        found, total = await authors.list_and_count(
            *filters, order_by=[(Author.created_at, True), (Author.id, False)], count_with_window_function=False
        )
        return authors.to_schema(found, total, filters=filters, schema_type=AuthorOut)


class TaskController(Controller):
    dependencies = providers.create_service_dependencies(TaskService, "tasks", filters=PAGES)
    newest_first = ((Task.created_at, True), (Task.id, False))

    @get("/tasks/")
    async def list_tasks(
        self,
        tasks: TaskService,
        filters: Filters,
        completed: bool | None = None,
        priority: Priority | None = None,
    ) -> OffsetPagination[TaskOut]:
        given = {"completed": completed, "priority": priority}
        found, total = await tasks.list_and_count(
            *filters,
            order_by=list(self.newest_first),
            count_with_window_function=False,
            **{name: value for name, value in given.items() if value is not None},
        )
        return tasks.to_schema(found, total, filters=filters, schema_type=TaskOut)

    @get("/tasks-with-author/")
    async def list_tasks_with_author(self, tasks: TaskService, filters: Filters) -> OffsetPagination[TaskWithAuthorOut]:
        found, total = await tasks.list_and_count(
            *filters,
            order_by=list(self.newest_first),
            count_with_window_function=False,
            load=[joinedload(Task.author, innerjoin=True)],
        )
        return tasks.to_schema(found, total, filters=filters, schema_type=TaskWithAuthorOut)

    @get("/uncounted-tasks/")
    async def list_uncounted_tasks(self, tasks: TaskService, filters: Filters) -> list[TaskOut]:
        found = await tasks.list(*filters, order_by=list(self.newest_first))
        return list(tasks.to_schema(found, schema_type=TaskOut).items)

    @get("/tasks/{task_id:uuid}/")
    async def retrieve_task(self, tasks: TaskService, task_id: UUID) -> TaskOut:
        return tasks.to_schema(await tasks.get(task_id), schema_type=TaskOut)

    @post("/tasks/")
    async def create_task(self, tasks: TaskService, data: TaskIn) -> TaskOut:
        return tasks.to_schema(await tasks.create(data), schema_type=TaskOut)

    @patch("/tasks/{task_id:uuid}/")
    async def patch_task(self, tasks: TaskService, task_id: UUID, data: TaskPatch) -> TaskOut:
        return tasks.to_schema(await tasks.update(data, item_id=task_id), schema_type=TaskOut)


alchemy = SQLAlchemyAsyncConfig(
    connection_string=os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"),
    engine_config=EngineConfig(pool_size=int(os.environ["CONNECTIONS"]), max_overflow=0),
    session_config=AsyncSessionConfig(expire_on_commit=False),
    before_send_handler="autocommit",
)
app = Litestar([AuthorController, TaskController], plugins=[SQLAlchemyPlugin(config=alchemy)])
