"""The server processes that write runs, each with a lease on the database's own clock.

A worker's id is its fencing token: whoever finds the lease passed deletes the row; from then on nothing that the old
process sends to the log is taken.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, Integer, and_, delete, exists, func, insert, or_, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.conversation import take_conversations
from models.locks import hold, taken
from models.run import ACTIVE, Run


class Worker(SQLModel, table=True):
    """`lease_until` is in milliseconds since the epoch, by the database's clock. `sockets`: how many it had
    open when it last renewed its lease."""

    __tablename__ = "worker"

    id: str = Field(primary_key=True)
    lease_until: int = Field(sa_column=Column(BigInteger, nullable=False, index=True))
    sockets: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))


class database_now(FunctionElement[int]):  # noqa: N801
    """Milliseconds since the epoch, as the database counts them at this moment."""

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: database_now, _compiler: Any, **_options: Any) -> str:
    # Not unixepoch('subsec'): SQLite knows it only from 3.42 on.
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS BIGINT)"


@compiles(database_now, "postgresql")
def _postgres_now(_element: database_now, _compiler: Any, **_options: Any) -> str:
    # Not now(), which stands still for a whole transaction.
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


async def register_worker(session: AsyncSession, worker: str, lease: float) -> None:
    await session.exec(insert(Worker).values(id=worker, lease_until=database_now() + round(lease * 1000)))


async def renew_lease(session: AsyncSession, worker: str, lease: float, sockets: int | None = None) -> bool:
    """False: somebody has found the lease passed, and the worker is fenced off."""
    values: dict[str, Any] = {"lease_until": database_now() + round(lease * 1000)}
    if sockets is not None:
        values["sockets"] = sockets
    result = await session.exec(update(Worker).where(col(Worker.id) == worker).values(values))
    return bool(result.rowcount)


async def sockets_of_others(session: AsyncSession, worker: str) -> int:
    """Open sockets of all live workers but this one, as they were told of last."""
    others = col(Worker.id) != worker, col(Worker.lease_until) >= database_now()
    return int((await session.exec(select(func.coalesce(func.sum(Worker.sockets), 0)).where(*others))).one())


async def clock_of(session: AsyncSession) -> int:
    """The database's time, in milliseconds."""
    return int((await session.exec(select(database_now()))).one())


@dataclass(frozen=True)
class Patience:
    """With workers that are late. `there` are those whose processes live: they have `seconds` more."""

    there: Collection[str] = ()
    seconds: float = 0


def _passed(patience: Patience) -> ColumnElement[bool]:
    """That a worker's lease has passed."""
    until, now = col(Worker.lease_until), database_now()
    lost = until < now - round(patience.seconds * 1000)
    return and_(until < now, or_(col(Worker.id).not_in(patience.there), lost)) if patience.there else until < now


async def anyone_missing(session: AsyncSession, patience: Patience) -> tuple[bool, int]:
    """Whether a lease has passed, or a run has no worker, and the database's time in milliseconds: a read, so that
    looking costs the writers nothing."""
    missing, now = (await session.exec(select(exists().where(_passed(patience)), database_now()))).one()
    return bool(missing) or bool(await orphaned_runs(session, 1)), int(now)


async def fence_the_dead(session: AsyncSession, patience: Patience = Patience()) -> int:
    """Delete the workers whose lease has passed; how many they were."""
    result = await session.exec(delete(Worker).where(_passed(patience)))
    return int(result.rowcount)


async def retire_worker(session: AsyncSession, worker: str) -> None:
    await session.exec(delete(Worker).where(col(Worker.id) == worker))


async def live_workers(session: AsyncSession) -> list[str]:
    return list(await session.exec(select(Worker.id)))


ORPHANED = col(Run.status).in_(ACTIVE), col(Run.worker).is_(None) | col(Run.worker).not_in(select(Worker.id))


async def orphaned_runs(session: AsyncSession, limit: int) -> list[Run]:
    """Active runs that no live worker writes."""
    return list(await session.exec(select(Run).where(*ORPHANED).order_by(col(Run.id)).limit(limit)))


async def take_orphaned_runs(session: AsyncSession, limit: int) -> list[Run]:
    """The same, for this transaction alone, with the conversations that they write in. A process that was taken for
    dead may be ending them at this moment."""
    await hold(session, "orphaned runs")
    found = await orphaned_runs(session, limit)
    await take_conversations(session, {run.conversation_id for run in found if run.conversation_id is not None})
    still = select(Run).where(col(Run.id).in_([run.id for run in found]), *ORPHANED).order_by(col(Run.id))
    return list(await session.exec(taken(session, still))) if found else []
