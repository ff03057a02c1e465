"""FastAPI over SQLAlchemy's asyncio, as both documentations write it."""

import os
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship
from sqlalchemy.types import DateTime

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"),
    pool_size=int(os.environ["CONNECTIONS"]),
    max_overflow=0,
)
make_session = async_sessionmaker(engine, expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
Page = Annotated[int, Query(ge=1)]
PageSize = Annotated[int, Query(ge=1, le=100)]
Priority = Literal["low", "normal", "high"]
Row = TypeVar("Row", bound=BaseModel)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True)}


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]
    email: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())


class Task(Base):
    __tablename__ = "tasks"
    __mapper_args__ = {"eager_defaults": True}
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str]
    description: Mapped[str] = mapped_column(default="")
    completed: Mapped[bool] = mapped_column(default=False)
    priority: Mapped[str] = mapped_column(default="normal")
    view_count: Mapped[int] = mapped_column(default=0)
    author_id: Mapped[UUID] = mapped_column(ForeignKey("authors.id"))
    due_date: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    author: Mapped[Author] = relationship()


class AuthorOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: UUID
    name: str
    email: str
    created_at: datetime
    updated_at: datetime


class TaskOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: UUID
    title: str
    description: str
    completed: bool
    priority: Priority
    view_count: int
    author_id: UUID
    due_date: datetime | None
    created_at: datetime
    updated_at: datetime


class TaskWithAuthorOut(TaskOut):
    author: AuthorOut


class PageOut(BaseModel, Generic[Row]):
    count: int
    results: list[Row]


class TaskIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str = Field(max_length=200)
    description: str = ""
    completed: bool = False
    priority: Priority = "normal"
    author_id: UUID
    due_date: datetime | None = None


class TaskPatch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: str = Field(default="", max_length=200)
    description: str = ""
    completed: bool = False
    priority: Priority = "normal"
    author_id: UUID | None = None
    due_date: datetime | None = None


router = APIRouter()
NEWEST_FIRST = (Task.created_at.desc(), Task.id)


async def page_of(session: AsyncSession, statement: Select, page: int, page_size: int) -> dict[str, object]:
    count = await session.scalar(select(func.count()).select_from(statement.order_by(None).subquery()))
    rows = await session.scalars(statement.limit(page_size).offset((page - 1) * page_size))
    return {"count": count, "results": rows.all()}


@router.get("/authors/", response_model=PageOut[AuthorOut])
async def list_authors(session: Session, page: Page = 1, page_size: PageSize = 20):
    return await page_of(session, select(Author).order_by(Author.created_at.desc(), Author.id), page, page_size)


@router.get("/tasks/", response_model=PageOut[TaskOut])
async def list_tasks(
    session: Session,
    page: Page = 1,
    page_size: PageSize = 20,
    completed: bool | None = None,
    priority: Priority | None = None,
):
    statement = select(Task).order_by(*NEWEST_FIRST)
    if completed is not None:
        statement = statement.where(Task.completed == completed)
    if priority is not None:
        statement = statement.where(Task.priority == priority)
    return await page_of(session, statement, page, page_size)


@router.get("/tasks-with-author/", response_model=PageOut[TaskWithAuthorOut])
async def list_tasks_with_author(session: Session, page: Page = 1, page_size: PageSize = 20):
    statement = select(Task).order_by(*NEWEST_FIRST)
    count = await session.scalar(select(func.count()).select_from(Task))
    rows = await session.scalars(
        statement.options(joinedload(Task.author, innerjoin=True)).limit(page_size).offset((page - 1) * page_size)
    )
    return {"count": count, "results": rows.all()}


@router.get("/uncounted-tasks/", response_model=list[TaskOut])
async def list_uncounted_tasks(session: Session, page: Page = 1, page_size: PageSize = 20):
    statement = select(Task).order_by(*NEWEST_FIRST)
    return (await session.scalars(statement.limit(page_size).offset((page - 1) * page_size))).all()


@router.get("/tasks/{task_id}/", response_model=TaskOut)
async def retrieve_task(session: Session, task_id: UUID):
    if (task := await session.get(Task, task_id)) is None:
        raise HTTPException(404)
    return task


@router.post("/tasks/", response_model=TaskOut, status_code=201)
async def create_task(session: Session, body: TaskIn):
    task = Task(**body.model_dump())
    session.add(task)
    await session.commit()
    return task


@router.patch("/tasks/{task_id}/", response_model=TaskOut)
async def patch_task(session: Session, task_id: UUID, body: TaskPatch):
    if (task := await session.get(Task, task_id)) is None:
        raise HTTPException(404)
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(task, name, value)
    await session.commit()
    return task


app = FastAPI()
app.include_router(router)
