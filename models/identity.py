"""Accounts elsewhere that open an account here, and the one-time codes that a browser brings back from there."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Index, UniqueConstraint, delete
from sqlmodel import Field, SQLModel, col, func, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now
from models.ids import new_id
from models.locks import hold

FORGOTTEN_AT_ONCE = 20
"""More than one code can add, so that the table never holds much more than those that count."""


class Identity(SQLModel, table=True):
    """`subject` is the provider's own, never-changing name of the account; `label` what its owner knows it by."""

    __tablename__ = "identity"
    __table_args__ = (UniqueConstraint("provider", "subject"),)

    id: str = Field(default_factory=lambda: new_id("ident"), primary_key=True)
    user_id: str = Field(foreign_key="user_account.id", index=True)
    provider: str
    subject: str
    label: str
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))


class CodePurpose(StrEnum):
    SIGN_IN = "SIGN_IN"
    LINK = "LINK"


class OAuthCode(SQLModel, table=True):
    """`digest`: SHA-256 of the code. `challenge`: what only the page that began can answer, if it set one. `subject`
    and `label`: of the identity that is to be linked."""

    __tablename__ = "oauth_code"
    __table_args__ = (Index("ix_oauth_code_expires_at", "expires_at"),)

    digest: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_account.id", index=True)
    purpose: str
    provider: str
    subject: str
    label: str
    challenge: str | None = None
    expires_at: datetime = Field(sa_column=Column(Millis, nullable=False))


async def identity_by_subject(session: AsyncSession, provider: str, subject: str) -> Identity | None:
    return (
        await session.exec(select(Identity).where(Identity.provider == provider, Identity.subject == subject))
    ).first()


async def identities_of(session: AsyncSession, user_id: str) -> Sequence[Identity]:
    """The oldest first."""
    return (await session.exec(select(Identity).where(Identity.user_id == user_id).order_by(col(Identity.id)))).all()


async def identity_of(session: AsyncSession, user_id: str, identity_id: str) -> Identity | None:
    query = select(Identity).where(Identity.id == identity_id, Identity.user_id == user_id)
    return (await session.exec(query)).first()


async def count_identities(session: AsyncSession, user_id: str) -> int:
    """Nobody adds or takes one away before this transaction ends."""
    await hold(session, f"identities {user_id}")
    query = select(func.count()).select_from(Identity).where(Identity.user_id == user_id)
    return (await session.exec(query)).one()


async def add_code(session: AsyncSession, code: OAuthCode) -> None:
    """Keep it, and forget some that count no more."""
    old = select(OAuthCode.digest).where(col(OAuthCode.expires_at) <= utc_now())
    old = old.order_by(col(OAuthCode.expires_at)).limit(FORGOTTEN_AT_ONCE)
    await session.exec(delete(OAuthCode).where(col(OAuthCode.digest).in_(old)))
    session.add(code)


async def code_by_digest(session: AsyncSession, digest: str) -> OAuthCode | None:
    query = select(OAuthCode).where(OAuthCode.digest == digest, col(OAuthCode.expires_at) > utc_now())
    return (await session.exec(query)).first()


async def use_code(session: AsyncSession, digest: str) -> bool:
    """One of all who try it at once is told True, and nobody later."""
    return bool((await session.exec(delete(OAuthCode).where(col(OAuthCode.digest) == digest))).rowcount)
