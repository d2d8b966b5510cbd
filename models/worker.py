"""The server processes that write runs, each with a lease on the database's own clock.

A worker's id is its fencing token: whoever finds the lease passed deletes the row; from then on nothing that the old
process sends to the log is taken.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, cast, delete, func, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.run import ACTIVE, Run


class Worker(SQLModel, table=True):
    """`lease_until` is in milliseconds since the epoch, by the database's clock."""

    __tablename__ = "worker"

    id: str = Field(primary_key=True)
    lease_until: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))


def database_now() -> ColumnElement[int]:
    """Milliseconds since the epoch, as the database counts them."""
    # Not unixepoch('subsec'): SQLite knows it only from 3.42 on.
    return cast((func.julianday("now") - 2440587.5) * 86_400_000, BigInteger)


async def register_worker(session: AsyncSession, worker: str, lease: float) -> None:
    now = (await session.exec(select(database_now()))).one()
    session.add(Worker(id=worker, lease_until=now + round(lease * 1000)))


async def renew_lease(session: AsyncSession, worker: str, lease: float) -> bool:
    """False: somebody has found the lease passed, and the worker is fenced off."""
    result: Any = await session.exec(
        update(Worker).where(col(Worker.id) == worker).values(lease_until=database_now() + round(lease * 1000))
    )
    return bool(result.rowcount)


async def anyone_missing(session: AsyncSession) -> bool:
    """Whether a lease has passed, or a run has no worker: a read, so that looking costs the writers nothing."""
    expired = select(Worker.id).where(col(Worker.lease_until) < database_now()).limit(1)
    if (await session.exec(expired)).first() is not None:
        return True
    return bool(await orphaned_runs(session, 1))


async def fence_the_dead(session: AsyncSession) -> int:
    """Delete the workers whose lease has passed; how many they were."""
    result: Any = await session.exec(delete(Worker).where(col(Worker.lease_until) < database_now()))
    return int(result.rowcount)


async def retire_worker(session: AsyncSession, worker: str) -> None:
    await session.exec(delete(Worker).where(col(Worker.id) == worker))


async def live_workers(session: AsyncSession) -> list[str]:
    return list(await session.exec(select(Worker.id)))


async def orphaned_runs(session: AsyncSession, limit: int) -> list[Run]:
    """Active runs that no live worker writes."""
    query = (
        select(Run)
        .where(col(Run.status).in_(ACTIVE), col(Run.worker).is_(None) | col(Run.worker).not_in(select(Worker.id)))
        .limit(limit)
    )
    return list(await session.exec(query))
