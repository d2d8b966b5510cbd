"""Users, and the counters that statistics are read from."""

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Column, func, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now
from models.ids import new_id


class UserRole(StrEnum):
    USER = "USER"
    ADMIN = "ADMIN"


def name_key(name: str) -> str:
    """What two spellings of one name have in common: NFC, case-folded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class User(SQLModel, table=True):
    """`username_key` and `email_key` carry the uniqueness; counters change in the transaction of what they count.
    `password_hash` None: the user signs in elsewhere."""

    __tablename__ = "user_account"

    id: str = Field(default_factory=lambda: new_id("user"), primary_key=True)
    username: str
    username_key: str = Field(unique=True)
    email: str
    email_key: str = Field(unique=True)
    password_hash: str | None
    role: str = UserRole.USER
    disabled: bool = False
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    conversation_count: int = 0
    message_count: int = 0
    total_tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class Erasure(SQLModel, table=True):
    """A user that is nobody any more, or never was anybody: what is left of it is being erased (models/erasure.py)."""

    __tablename__ = "erasure"

    user_id: str = Field(primary_key=True)
    asked_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))


async def user_by_id(session: AsyncSession, user_id: str) -> User | None:
    return await session.get(User, user_id)


async def users_by_ids(session: AsyncSession, user_ids: list[str]) -> dict[str, User]:
    rows = await session.exec(select(User).where(col(User.id).in_(user_ids)))
    return {user.id: user for user in rows}


async def user_by_name(session: AsyncSession, username: str) -> User | None:
    return (await session.exec(select(User).where(User.username_key == name_key(username)))).first()


async def users_after(session: AsyncSession, after: str | None, limit: int) -> Sequence[User]:
    """For the operator alone: all users, by their ids, which begin with when they came."""
    query = select(User).where(col(User.id).not_in(select(Erasure.user_id))).order_by(col(User.id)).limit(limit)
    return (await session.exec(query if after is None else query.where(col(User.id) > after))).all()


async def user_exists(session: AsyncSession, *, username: str | None = None, email: str | None = None) -> bool:
    by_name = username is not None
    clause = User.username_key == name_key(username or "") if by_name else User.email_key == name_key(email or "")
    return (await session.exec(select(User.id).where(clause))).first() is not None


async def count_users(session: AsyncSession) -> int:
    """Without those that are being erased."""
    gone = select(func.count()).select_from(Erasure).scalar_subquery()
    return (await session.exec(select(func.count() - gone).select_from(User))).one()


async def add_to_counters(
    session: AsyncSession, user_id: str, *, conversations: int = 0, messages: int = 0, tokens: int = 0
) -> None:
    """Change a user's counters by these amounts."""
    await session.exec(
        update(User)
        .where(col(User.id) == user_id)
        .values(
            conversation_count=col(User.conversation_count) + conversations,
            message_count=col(User.message_count) + messages,
            total_tokens=col(User.total_tokens) + tokens,
        )
    )
