"""What one process tells the others by the database alone: gone within seconds, and nobody's data."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, LargeBinary, delete, func, insert
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Serial
from models.frontier import Frontier
from models.worker import database_now


class Notice(SQLModel, table=True):
    """`origin`: who told it. `until`: milliseconds since the epoch, by the database's clock."""

    __tablename__ = "notice"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, sa_column=Column(Serial(), primary_key=True))
    origin: str
    channel: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    until: int = Field(sa_column=Column(BigInteger, nullable=False))


class Told(NamedTuple):
    channel: str
    body: bytes


async def add_notices(session: AsyncSession, origin: str, notices: Sequence[Told], seconds: float) -> None:
    """Keep them for so long. What is older goes at the same time: nobody else comes to clean up."""
    await session.exec(delete(Notice).where(col(Notice.until) < database_now()))
    until = database_now() + round(seconds * 1000)
    for notice in notices:
        await session.exec(insert(Notice).values(origin=origin, until=until, **notice._asdict()))


async def newest_notice(session: AsyncSession) -> int:
    """0 when there is none."""
    return (await session.exec(select(func.max(Notice.id)))).one() or 0


async def unread_notices(session: AsyncSession, frontier: Frontier, origin: str) -> list[Told]:
    """What the others told; the frontier moves behind it."""
    query = select(Notice).where(frontier.unread(col(Notice.id))).order_by(col(Notice.id))
    rows = (await session.exec(query)).all()
    frontier.passed(row.id or 0 for row in rows)
    return [Told(row.channel, row.body) for row in rows if row.origin != origin]
