"""What has happened, in order, for those who were not there: one row a change and audience, kept for a while."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Index, delete, func
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now


class ChangeKind(StrEnum):
    """In a conversation's audience, then in a user's."""

    MESSAGE_ADDED = "message_added"
    MESSAGE_REMOVED = "message_removed"
    CHANGED = "changed"
    DELETED = "deleted"
    RUN = "run"
    RESYNC = "resync"


class Change(SQLModel, table=True):
    """`audience` is the id of a conversation or of a user; `ref` that of the message, run or conversation concerned."""

    __tablename__ = "change"
    __table_args__ = (
        Index("ix_change_audience", "audience", "id"),
        Index("ix_change_at", "at"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    audience: str
    kind: str
    ref: str
    at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))


async def newest_change(session: AsyncSession) -> int:
    """0 when there is none."""
    return (await session.exec(select(func.max(Change.id)))).one() or 0


async def oldest_change(session: AsyncSession) -> int:
    """0 when there is none."""
    return (await session.exec(select(func.min(Change.id)))).one() or 0


async def changes_for(session: AsyncSession, audience: str, after: int, limit: int) -> Sequence[Change]:
    query = select(Change).where(Change.audience == audience, col(Change.id) > after)
    return (await session.exec(query.order_by(col(Change.id)).limit(limit))).all()


async def audiences_since(session: AsyncSession, after: int, limit: int) -> tuple[int, set[str]]:
    """The newest id of up to `limit` changes behind `after`, and whom they concern."""
    query = select(Change.id, Change.audience).where(col(Change.id) > after).order_by(col(Change.id)).limit(limit)
    audiences: set[str] = set()
    for found, audience in await session.exec(query):
        after = found or after
        audiences.add(audience)
    return after, audiences


async def forget_changes(session: AsyncSession, before: datetime, limit: int) -> int:
    """Delete up to `limit` of those that are older, and say how many. The newest always stays: a cursor is judged by
    what is left."""
    newest = select(func.max(Change.id)).scalar_subquery()
    old = select(Change.id).where(col(Change.at) < before, col(Change.id) < newest)
    result = await session.exec(delete(Change).where(col(Change.id).in_(old.order_by(col(Change.id)).limit(limit))))
    return result.rowcount
