"""Second factors: a user's TOTP secret, and what is left of the recovery codes."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import BigInteger, Column, delete, insert, or_, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now
from models.upsert import insert_into


class Totp(SQLModel, table=True):
    """`secret` is sealed. It counts once `confirmed_at` is set. `last_step`: the newest 30 s whose code was used."""

    __tablename__ = "totp"

    user_id: str = Field(primary_key=True, foreign_key="user_account.id")
    secret: str
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    confirmed_at: datetime | None = Field(default=None, sa_column=Column(Millis))
    last_step: int | None = Field(default=None, sa_column=Column(BigInteger))


class RecoveryCode(SQLModel, table=True):
    __tablename__ = "recovery_code"

    user_id: str = Field(primary_key=True, foreign_key="user_account.id")
    digest: str = Field(primary_key=True)


async def totp_of(session: AsyncSession, user_id: str) -> Totp | None:
    query = select(Totp).where(Totp.user_id == user_id)
    return (await session.exec(query.execution_options(populate_existing=True))).first()


async def confirmed_totps(session: AsyncSession, user_ids: list[str]) -> set[str]:
    """Which of these users have a second factor."""
    query = select(Totp.user_id).where(col(Totp.user_id).in_(user_ids), col(Totp.confirmed_at).is_not(None))
    return set((await session.exec(query)).all())


async def offer_totp(session: AsyncSession, user_id: str, secret: str) -> bool:
    """Keep a secret that is not confirmed yet, in the place of an earlier such; False: there is one that counts."""
    values = {"secret": secret, "created_at": utc_now()}
    statement = insert_into(session, Totp).values(user_id=user_id, **values)
    statement = statement.on_conflict_do_update(
        index_elements=["user_id"], set_=values, where=col(Totp.confirmed_at).is_(None)
    )
    return bool((await session.exec(statement)).rowcount)


async def confirm_totp(session: AsyncSession, user_id: str, secret: str, step: int, digests: Iterable[str]) -> bool:
    """Let this secret count from now on, its code of `step` used; False: another one was offered meanwhile."""
    change = update(Totp).where(
        col(Totp.user_id) == user_id, col(Totp.secret) == secret, col(Totp.confirmed_at).is_(None)
    )
    result = await session.exec(change.values(confirmed_at=utc_now(), last_step=step))
    if not result.rowcount:
        return False
    rows = [{"user_id": user_id, "digest": digest} for digest in digests]
    await (await session.connection()).execute(insert(RecoveryCode), rows)
    return True


async def use_step(session: AsyncSession, user_id: str, secret: str, step: int) -> bool:
    """Use up the code of this step: one of all who try it at once, in whatever process, is told True, and nobody later.
    Codes of steps before it are used up too."""
    change = update(Totp).where(
        col(Totp.user_id) == user_id,
        col(Totp.secret) == secret,
        col(Totp.confirmed_at).is_not(None),
        or_(col(Totp.last_step).is_(None), col(Totp.last_step) < step),
    )
    result = await session.exec(change.values(last_step=step))
    return bool(result.rowcount)


async def use_recovery_code(session: AsyncSession, user_id: str, digest: str) -> bool:
    """Use up the code, as in `use_step`."""
    result = await session.exec(
        delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id, col(RecoveryCode.digest) == digest)
    )
    return bool(result.rowcount)


async def delete_totp(session: AsyncSession, user_id: str) -> bool:
    """The factor and its recovery codes; whether there was one that counted."""
    await session.exec(delete(RecoveryCode).where(col(RecoveryCode.user_id) == user_id))
    counted = (await confirmed_totps(session, [user_id])) == {user_id}
    await session.exec(delete(Totp).where(col(Totp.user_id) == user_id))
    return counted
