"""API keys: long-lived tokens for programs. Only the digest of a key is kept."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Column, delete, or_, update
from sqlmodel import Field, SQLModel, col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.batches import batched
from models.columns import Millis, utc_now
from models.ids import new_id
from models.locks import hold
from models.user import User

USE_NOTED_EVERY = timedelta(minutes=1)
"""A key that asks a thousand times a second must not write as often."""


class ApiKey(SQLModel, table=True):
    """`digest`: SHA-256 of the whole key. `prefix`: its beginning, to recognise it by."""

    __tablename__ = "api_key"

    id: str = Field(default_factory=lambda: new_id("key"), primary_key=True)
    user_id: str = Field(foreign_key="user_account.id", index=True)
    name: str
    prefix: str
    digest: str = Field(unique=True)
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    last_used_at: datetime | None = Field(default=None, sa_column=Column(Millis))
    expires_at: datetime | None = Field(default=None, sa_column=Column(Millis))


async def add_api_key(session: AsyncSession, key: ApiKey, most: int) -> bool:
    """False: the user has so many already, those that have expired too."""
    await hold(session, f"api keys {key.user_id}")
    count = select(func.count()).select_from(ApiKey).where(ApiKey.user_id == key.user_id)
    if (await session.exec(count)).one() >= most:
        return False
    session.add(key)
    return True


async def api_key_by_digest(session: AsyncSession, digest: str) -> tuple[ApiKey, User] | None:
    """The key and its user."""
    query = select(ApiKey, User).where(ApiKey.digest == digest, ApiKey.user_id == User.id)
    return (await session.exec(query)).first()


async def api_keys_of(session: AsyncSession, user_id: str) -> Sequence[ApiKey]:
    """The newest first."""
    query = select(ApiKey).where(ApiKey.user_id == user_id)
    return (await session.exec(query.order_by(col(ApiKey.id).desc()))).all()


async def standing_keys(session: AsyncSession, ids: Collection[str]) -> set[str]:
    """Those of `ids` that are there, of users who may sign in. For the server alone: not scoped to a user."""
    found = set[str]()
    for batch in batched(ids):
        query = select(ApiKey.id).join(User, col(User.id) == col(ApiKey.user_id))
        query = query.where(col(ApiKey.id).in_(batch), col(User.disabled).is_(False))
        found.update(await session.exec(query))
    return found


async def api_key_of(session: AsyncSession, user_id: str, key_id: str) -> ApiKey | None:
    return (await session.exec(select(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id))).first()


async def note_use(session: AsyncSession, key_id: str, now: datetime) -> None:
    """Once a minute, whoever asks first."""
    stale = or_(col(ApiKey.last_used_at).is_(None), col(ApiKey.last_used_at) <= now - USE_NOTED_EVERY)
    await session.exec(update(ApiKey).where(col(ApiKey.id) == key_id, stale).values(last_used_at=now))


async def delete_api_key(session: AsyncSession, user_id: str, key_id: str) -> bool:
    result = await session.exec(delete(ApiKey).where(col(ApiKey.id) == key_id, col(ApiKey.user_id) == user_id))
    return bool(result.rowcount)
