"""Conversations. Every query takes the owner."""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Column, Index, UniqueConstraint, func, literal, tuple_, update
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from models.columns import Millis, utc_now
from models.ids import new_id
from models.locks import taken
from models.user import Erasure


class Conversation(SQLModel, table=True):
    """`external_id` is the id that the owner's client chose. `message_count` counts the active branch."""

    __tablename__ = "conversation"
    __table_args__ = (
        UniqueConstraint("owner_id", "external_id"),
        Index("ix_conversation_owner_updated", "owner_id", "updated_at", "id"),
    )

    id: str = Field(default_factory=lambda: new_id("conv"), primary_key=True)
    owner_id: str = Field(foreign_key="user_account.id")
    external_id: str | None = None
    title: str
    model: str
    system_prompt: str | None = None
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    updated_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    archived: bool = False
    pinned: bool = False
    version: int = 1
    message_count: int = 0
    head_id: str | None = None


Query = SelectOfScalar[Conversation]
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class ConversationFilter(NamedTuple):
    """What a list is narrowed to; None leaves that side open."""

    archived: bool | None = None
    pinned: bool | None = None
    title_contains: str | None = None
    model: str | None = None


class Position(NamedTuple):
    """A place in the list, newest first."""

    updated_at: datetime
    id: str


async def conversation_of(session: AsyncSession, owner_id: str, key: str) -> Conversation | None:
    """The owner's conversation by its own id, else by the id that the owner's client gave it. A transaction that writes
    has it to itself: what is decided by how it is, is so until the commit."""
    own = select(Conversation).where(Conversation.owner_id == owner_id)
    found = (await session.exec(taken(session, own.where(Conversation.id == key)))).first()
    if found is None:
        found = (await session.exec(taken(session, own.where(Conversation.external_id == key)))).first()
    return found


async def take_conversations(session: AsyncSession, ids: Iterable[str]) -> None:
    """Have these to oneself until the transaction ends; those that are gone are left out."""
    if wanted := list(ids):
        query = select(Conversation.id).where(col(Conversation.id).in_(wanted)).order_by(col(Conversation.id))
        await session.exec(taken(session, query))


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a list whose order is newest `updated_at` first, by keyset; read from its other end with
    `from_oldest`."""

    older_than: Position | None = None
    newer_than: Position | None = None
    from_oldest: bool = False
    limit: int | None = None

    def of(self, query: Query) -> Query:
        place = tuple_(col(Conversation.updated_at), col(Conversation.id))
        if self.older_than is not None:
            query = query.where(place < tuple_(*bound(self.older_than)))
        if self.newer_than is not None:
            query = query.where(place > tuple_(*bound(self.newer_than)))
        if self.from_oldest:
            query = query.order_by(col(Conversation.updated_at), col(Conversation.id))
        else:
            query = query.order_by(col(Conversation.updated_at).desc(), col(Conversation.id).desc())
        return query.limit(self.limit)

    def merge(self, *lists: Iterable[Conversation]) -> Sequence[Conversation]:
        """Several lists, each read by this span, as one."""
        rows = sorted(chain(*lists), key=lambda row: (row.updated_at, row.id), reverse=not self.from_oldest)
        return rows[: self.limit]


def matching(query: Query, only: ConversationFilter) -> Query:
    if only.archived is not None:
        query = query.where(Conversation.archived == only.archived)
    if only.pinned is not None:
        query = query.where(Conversation.pinned == only.pinned)
    if only.title_contains:
        # Of letters beyond ASCII SQLite knows no other case: both databases are asked for what both can do.
        wanted = only.title_contains.translate(LOWER)
        query = query.where(func.lower(col(Conversation.title)).contains(wanted, autoescape=True))
    if only.model is not None:
        query = query.where(Conversation.model == only.model)
    return query


async def list_conversations(
    session: AsyncSession, owner_id: str, *, only: ConversationFilter | None = None, span: Span | None = None
) -> Sequence[Conversation]:
    """The owner's conversations."""
    query = matching(select(Conversation).where(Conversation.owner_id == owner_id), only or ConversationFilter())
    return (await session.exec((span or Span()).of(query))).all()


def bound(position: Position) -> tuple[Any, Any]:
    """For comparisons with (updated_at, id): a bare datetime would be bound as SQLite's text, not as milliseconds."""
    return literal(position.updated_at, Millis), literal(position.id)


async def count_conversations(session: AsyncSession) -> int:
    """Of all users, for /health; without those that are being erased."""
    gone = select(func.count()).select_from(Conversation).where(erased()).scalar_subquery()
    return (await session.exec(select(func.count() - gone).select_from(Conversation))).one()


async def kept_conversation(session: AsyncSession, conversation_id: str) -> Conversation | None:
    """Not scoped to a user. None: it is gone, or what is left of it is being erased."""
    query = select(Conversation).where(Conversation.id == conversation_id, ~erased())
    return (await session.exec(query)).first()


def erased() -> ColumnElement[bool]:
    """Of conversations: nobody has a part in it, and what is left of it is being deleted."""
    return col(Conversation.owner_id).in_(select(Erasure.user_id))


async def name_conversation(
    session: AsyncSession, conversation_id: str, title: str, instead_of: Sequence[str]
) -> Conversation | None:
    """Give a conversation a title in place of one of these; None if it has another by now, or is gone. Its version
    stays: a user's change that is on its way is not in conflict with it."""
    await take_conversations(session, [conversation_id])
    untitled = col(Conversation.id) == conversation_id, col(Conversation.title).in_(instead_of)
    if not (await session.exec(update(Conversation).where(*untitled).values(title=title))).rowcount:
        return None
    return await session.get(Conversation, conversation_id, populate_existing=True)


async def touch_conversation(session: AsyncSession, conversation_id: str) -> None:
    """Something happened in it now: it moves to the front of the list."""
    await session.exec(update(Conversation).where(col(Conversation.id) == conversation_id).values(updated_at=utc_now()))
