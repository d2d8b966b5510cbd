"""What has happened, in order, for those who were not there: one row a change and audience, kept for a while."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Index, delete, func, insert
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, Serial, utc_now
from models.frontier import Frontier
from models.locks import hold

PENDING = "changes"
"""In the info of a session: what is stored when its transaction ends."""


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

    id: int | None = Field(default=None, sa_column=Column(Serial(), primary_key=True))
    audience: str
    kind: str
    ref: str
    at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))


def add_changes(session: AsyncSession, changes: Iterable[Change]) -> None:
    """Tell of these when the transaction is committed."""
    session.info.setdefault(PENDING, []).extend(changes)


async def store_changes(session: AsyncSession) -> frozenset[str]:
    """The last statement of a transaction; the audiences that there was something to tell.

    An audience's changes get their ids one transaction after the other: ids are given when they are asked for, rows are
    seen when they are committed, and who had read up to an id would never see a smaller one that came later. Others'
    audiences are not waited for, so that commits go side by side.
    """
    changes: list[Change] = session.info.pop(PENDING, [])
    if not changes:
        return frozenset()
    await session.flush()
    audiences = frozenset(change.audience for change in changes)
    await hold(session, *audiences)
    # By one statement: as objects that want their ids back each was one, 100 where a conversation was replaced.
    rows = [{"audience": row.audience, "kind": row.kind, "ref": row.ref, "at": row.at} for row in changes]
    await (await session.connection()).execute(insert(Change), rows)
    return audiences


async def newest_change(session: AsyncSession) -> int:
    """0 when there is none."""
    return (await session.exec(select(func.max(Change.id)))).one() or 0


async def oldest_change(session: AsyncSession) -> int:
    """0 when there is none."""
    return (await session.exec(select(func.min(Change.id)))).one() or 0


async def changes_for(session: AsyncSession, audience: str, after: int, limit: int) -> Sequence[Change]:
    query = select(Change).where(Change.audience == audience, col(Change.id) > after)
    return (await session.exec(query.order_by(col(Change.id)).limit(limit))).all()


async def audiences_since(session: AsyncSession, frontier: Frontier, limit: int) -> set[str]:
    """Whom up to `limit` unread changes concern; the frontier moves behind them."""
    query = select(Change.id, Change.audience).where(frontier.unread(col(Change.id))).order_by(col(Change.id))
    rows = (await session.exec(query.limit(limit))).all()
    frontier.passed(found or 0 for found, _ in rows)
    return {audience for _, audience in rows}


async def forget_changes(session: AsyncSession, before: datetime, limit: int) -> int:
    """Delete up to `limit` of those that are older, and say how many. The newest always stays: a cursor is judged by
    what is left. In the order of the ids, up to the first that is not old: by the clock of a machine that is fast, one
    in the middle may be younger than those behind it."""
    query = select(Change.id, Change.at).order_by(col(Change.id)).limit(limit + 1)
    old = 0
    up_to = 0
    for found, at in (await session.exec(query)).all()[:-1]:
        if at >= before:
            break
        old, up_to = old + 1, found or 0
    if old:
        await session.exec(delete(Change).where(col(Change.id) <= up_to))
    return old
