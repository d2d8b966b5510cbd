"""How many answers each user has begun lately: a row, changed in the transaction that begins one."""

import math

from sqlalchemy import BigInteger, Column, ColumnElement, and_, case, literal_column, true
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.upsert import insert_into
from models.worker import database_now

MINUTE = 60_000


class RunRate(SQLModel, table=True):
    """`begun`: how many in the clock's minute of `begun_at`, which is when the last one was, in milliseconds since the
    epoch by the database's clock; `before`: how many in the minute before that."""

    __tablename__ = "run_rate"

    user_id: str = Field(foreign_key="user_account.id", primary_key=True)
    begun_at: int = Field(sa_column=Column(BigInteger, nullable=False))
    begun: int = Field(sa_column=Column(BigInteger, nullable=False))
    before: int = Field(sa_column=Column(BigInteger, nullable=False))


async def count_begun(session: AsyncSession, user_id: str, most: int | None) -> int:
    """Count one more. 0: it may begin; else the whole seconds until one may, and it was not counted. `most` in any
    minute, by the sliding window of two counters; None: as many as one likes.

    The row is this transaction's until it ends: what begins for the same user meanwhile waits here, and then sees this
    one's run.
    """
    statement = insert_into(session, RunRate).values(user_id=user_id, begun_at=database_now(), begun=1, before=0)
    minute: ColumnElement[int] = literal_column(str(MINUTE), BigInteger())
    last, this = col(RunRate.begun_at), statement.excluded.begun_at
    # Who had to wait for the row comes with an earlier moment than is in it. Much earlier: the clock was set back.
    now = case((and_(last > this, last - this < minute), last), else_=this)
    passed = now // minute - last // minute
    begun = case((passed == 0, col(RunRate.begun)), else_=0)
    before = case((passed == 0, col(RunRate.before)), (passed == 1, col(RunRate.begun)), else_=0)
    fits: ColumnElement[bool] = true()
    if most is not None:
        fits = (begun + 1) * minute + before * (minute - now % minute) <= most * MINUTE
    changed = {"begun_at": now, "begun": begun + 1, "before": before}
    result = await session.exec(statement.on_conflict_do_update(index_elements=["user_id"], set_=changed, where=fits))
    return 0 if most is None or result.rowcount else await _seconds_to_wait(session, user_id, most)


async def _seconds_to_wait(session: AsyncSession, user_id: str, most: int) -> int:
    columns = RunRate.begun_at, RunRate.begun, RunRate.before, database_now()
    last, begun, before, now = (await session.exec(select(*columns).where(RunRate.user_id == user_id))).one()
    now = max(now, last)
    if now // MINUTE > last // MINUTE:
        begun, before = 0, begun
    left = MINUTE - now % MINUTE
    free = most - 1 - begun
    if free < 0:
        # Not in this minute: in the next one, what was counted now fades.
        left, free, before = left + MINUTE, most - 1, begun
    return max(1, math.ceil((left - free * MINUTE / max(before, 1)) / 1_000))
