"""Sessions: where a user is signed in. Ending one is deleting it: a token that names no session is refused."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, CursorResult, Index, and_, delete, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.batches import batched
from models.columns import Millis, utc_now
from models.ids import new_id
from models.locks import taken
from models.user import User


class UserSession(SQLModel, table=True):
    """Hashes are SHA-256 in hexadecimal. `family_hash` names all refresh tokens of the session, `token_hash` the one
    that is good now, `previous_hash` the one that it was made from, with `salt`; all are None where the session cannot
    be refreshed. `expires_at` is never before the end of an access token of the session."""

    __tablename__ = "user_session"
    __table_args__ = (
        Index("ix_user_session_user", "user_id", "expires_at"),
        Index("ix_user_session_expires", "expires_at"),
    )

    id: str = Field(default_factory=lambda: new_id("sess"), primary_key=True)
    user_id: str = Field(foreign_key="user_account.id")
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    last_seen_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    expires_at: datetime = Field(sa_column=Column(Millis, nullable=False))
    user_agent: str | None = None
    address: str | None = None
    family_hash: str | None = Field(default=None, unique=True)
    token_hash: str | None = None
    previous_hash: str | None = None
    salt: str | None = None
    rotated_at: datetime | None = Field(default=None, sa_column=Column(Millis))


async def user_in_session(
    session: AsyncSession, user_id: str, session_id: str
) -> tuple[User | None, UserSession | None]:
    """By one statement, since every request asks it. No session without its user."""
    mine = and_(col(UserSession.user_id) == col(User.id), col(UserSession.id) == session_id)
    query = select(User, UserSession).outerjoin(UserSession, mine).where(User.id == user_id)
    found = (await session.exec(query)).first()
    return (None, None) if found is None else (found[0], found[1])


async def user_to_sign_in(session: AsyncSession, user_id: str) -> User | None:
    """The user as it is now, for this transaction alone: nobody changes its password meanwhile."""
    query = taken(session, select(User).where(User.id == user_id))
    return (await session.exec(query.execution_options(populate_existing=True))).first()


async def session_of_family(session: AsyncSession, family_hash: str) -> UserSession | None:
    """In a transaction that writes, for it alone."""
    query = taken(session, select(UserSession).where(UserSession.family_hash == family_hash))
    return (await session.exec(query)).first()


async def session_of(session: AsyncSession, user_id: str, session_id: str) -> UserSession | None:
    query = select(UserSession).where(UserSession.id == session_id, UserSession.user_id == user_id)
    return (await session.exec(query)).first()


async def sessions_of(session: AsyncSession, user_id: str, now: datetime) -> Sequence[UserSession]:
    """Those that have not expired, the last used first."""
    query = select(UserSession).where(UserSession.user_id == user_id, col(UserSession.expires_at) > now)
    return (await session.exec(query.order_by(col(UserSession.last_seen_at).desc(), col(UserSession.id).desc()))).all()


async def end_sessions(session: AsyncSession, user_id: str, *, only: str | None = None, but: str | None = None) -> int:
    """Of this user: one of them, or all, or all but one. How many there were."""
    query = delete(UserSession).where(col(UserSession.user_id) == user_id)
    if only is not None:
        query = query.where(col(UserSession.id) == only)
    if but is not None:
        query = query.where(col(UserSession.id) != but)
    return _count(await session.exec(query))


async def keep_newest_sessions(session: AsyncSession, user_id: str, most: int, but: str) -> int:
    """End those that would expire first, so that `most` are left with `but`, which stays."""
    others = select(UserSession.id).where(UserSession.user_id == user_id, UserSession.id != but)
    others = others.order_by(col(UserSession.expires_at).desc(), col(UserSession.id).desc()).offset(most - 1)
    return _count(await session.exec(delete(UserSession).where(col(UserSession.id).in_(others))))


async def end_expired_sessions(session: AsyncSession, now: datetime, limit: int) -> int:
    """Delete up to `limit`, and say how many."""
    old = select(UserSession.id).where(col(UserSession.expires_at) <= now)
    old = old.order_by(col(UserSession.expires_at)).limit(limit)
    return _count(await session.exec(delete(UserSession).where(col(UserSession.id).in_(old))))


async def touch_sessions(session: AsyncSession, ids: Collection[str], now: datetime, before: datetime) -> None:
    """They were used now; those that another process has seen since `before` are left alone."""
    for batch in batched(ids):
        mine = col(UserSession.id).in_(batch), col(UserSession.last_seen_at) < before
        await session.exec(update(UserSession).where(*mine).values(last_seen_at=now))


async def standing_sessions(session: AsyncSession, ids: Collection[str]) -> set[str]:
    """Those of `ids` that are there, of users who may sign in. For the server alone: not scoped to a user."""
    found = set[str]()
    for batch in batched(ids):
        query = select(UserSession.id).join(User, col(User.id) == col(UserSession.user_id))
        query = query.where(col(UserSession.id).in_(batch), col(User.disabled).is_(False))
        found.update(await session.exec(query))
    return found


def _count(result: CursorResult[Any]) -> int:
    return result.rowcount
