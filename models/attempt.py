"""Attempts that are counted, however many processes serve them: one row a key, with the moments that still count."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import JSON, Column, delete, insert, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, to_millis

TRIES = 5
"""Where transactions run side by side, somebody else may count between our look and our write."""


class Attempt(SQLModel, table=True):
    """`moments`: milliseconds since the epoch, oldest first. After `until` none of them counts."""

    __tablename__ = "attempt"

    key: str = Field(primary_key=True)
    moments: list[int] = Field(sa_column=Column(JSON, nullable=False))
    version: int = 0
    until: datetime = Field(sa_column=Column(Millis, nullable=False, index=True))


async def count_attempt(session: AsyncSession, key: str, most: int, window: timedelta, now: datetime) -> float:
    """Count one more, unless there were `most` of them within any stretch of `window` that ends now. 0: it is counted;
    else the seconds until the next one would be."""
    length, moment = window // timedelta(milliseconds=1), to_millis(now)
    for _ in range(TRIES):
        query = select(Attempt.moments, Attempt.version).where(Attempt.key == key)
        found = (await session.exec(query)).first()
        # Other machines' clocks may be ahead; one that was set back must not lock anybody out for an hour.
        moments: list[int] = [] if found is None else [past for past in found[0] if abs(moment - past) < length]
        if len(moments) >= most:
            return (moments[-most] + length - moment) / 1000
        values = {"moments": sorted([*moments, moment]), "until": now + window}
        if found is None:
            if await _insert(session, key, values):
                return 0.0
        else:
            change = update(Attempt).where(col(Attempt.key) == key, col(Attempt.version) == found[1])
            result = await session.exec(change.values(version=found[1] + 1, **values))
            if result.rowcount:
                return 0.0
    return 1.0


async def _insert(session: AsyncSession, key: str, values: dict[str, Any]) -> bool:
    try:
        async with session.begin_nested():
            await session.exec(insert(Attempt).values(key=key, version=0, **values))
    except IntegrityError:
        return False
    return True


async def forget_attempts(session: AsyncSession, now: datetime, limit: int) -> None:
    """Delete up to `limit` rows that count no more."""
    old = select(Attempt.key).where(col(Attempt.until) <= now).order_by(col(Attempt.until)).limit(limit)
    await session.exec(delete(Attempt).where(col(Attempt.key).in_(old)))


async def forget_key(session: AsyncSession, key: str) -> None:
    """Nothing that was counted under this key counts any more."""
    await session.exec(delete(Attempt).where(col(Attempt.key) == key))
