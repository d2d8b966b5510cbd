"""Counters of what users have used, for each day and for each model. They change in the transaction that ends a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import BigInteger, Column, ColumnElement, and_, true, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Day
from models.upsert import insert_into

MOST_MODELS = 200
"""Counted by their names for one user; names may be made up where a server takes any. All others are one."""
OTHERS = "other"


class DailyUsage(SQLModel, table=True):
    """A UTC day of a user's. `unpriced`: how many of the messages cost nobody knows what. `reserved_…`: held for runs
    that are under way."""

    __tablename__ = "daily_usage"

    user_id: str = Field(foreign_key="user_account.id", primary_key=True)
    day: date = Field(sa_column=Column(Day, primary_key=True))
    messages: int = 0
    unpriced: int = 0
    tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    cost_nanos: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    reserved_tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    reserved_nanos: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


class ModelUsage(SQLModel, table=True):
    """A user's runs of one model whose time to the first token lies in one bucket (chat/latency.py says which): the
    rows of a model are a histogram, and their sums its figures."""

    __tablename__ = "model_usage"

    user_id: str = Field(foreign_key="user_account.id", primary_key=True)
    model: str = Field(primary_key=True)
    provider: str = Field(primary_key=True)
    bucket: int = Field(primary_key=True)
    runs: int = 0
    unpriced: int = 0
    tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    cost_nanos: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run adds. `cost_nanos` None: nobody knows. `answers`: 0 for a run that is no answer to anybody."""

    tokens: int
    cost_nanos: int | None
    answers: int = 1

    @property
    def columns(self) -> dict[str, int]:
        cost = self.cost_nanos
        return {"tokens": self.tokens, "cost_nanos": cost or 0, "unpriced": self.answers if cost is None else 0}


def _more(table: type[SQLModel], amounts: dict[str, int]) -> dict[str, ColumnElement[Any]]:
    return {name: getattr(table, name) + amount for name, amount in amounts.items()}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each user's UTC day; money in billionths of a US dollar. None: no limit."""

    tokens: int | None = None
    nanos: int | None = None

    @property
    def any(self) -> bool:
        return self.tokens is not None or self.nanos is not None


UNLIMITED = Limits()
NONE_HELD = {"reserved_tokens": 0, "reserved_nanos": 0}


async def reserve_on_day(
    session: AsyncSession, user_id: str, day: date, tokens: int, nanos: int, limits: Limits
) -> bool:
    """Reserve so much of the day, unless it is more than what is left; looks and takes in one statement."""
    day_, left = DailyUsage, []
    for limit, amount, used, held in (
        (limits.tokens, tokens, day_.tokens, day_.reserved_tokens),
        (limits.nanos, nanos, day_.cost_nanos, day_.reserved_nanos),
    ):
        if limit is not None and amount > limit:
            return False
        if limit is not None:
            left.append(col(used) + col(held) <= limit - amount)
    key, amounts = {"user_id": user_id, "day": day}, {"reserved_tokens": tokens, "reserved_nanos": nanos}
    statement = insert_into(session, DailyUsage).values(**key, messages=0, **Spent(0, 0).columns, **amounts)
    taken = statement.on_conflict_do_update(
        index_elements=list(key), set_=_more(DailyUsage, amounts), where=and_(true(), *left)
    )
    return bool((await session.exec(taken)).rowcount)


async def add_to_day(session: AsyncSession, user_id: str, day: date, spent: Spent, tokens: int, nanos: int) -> None:
    """Count a run, and give back what was reserved for it: so many tokens, so many nanos."""
    key, amounts = {"user_id": user_id, "day": day}, {"messages": spent.answers, **spent.columns}
    statement = insert_into(session, DailyUsage).values(**key, **amounts, **NONE_HELD)
    changes = _more(DailyUsage, amounts | {"reserved_tokens": -tokens, "reserved_nanos": -nanos})
    await session.exec(statement.on_conflict_do_update(index_elements=list(key), set_=changes))


async def day_of(session: AsyncSession, user_id: str, day: date) -> DailyUsage | None:
    """As it is now, whatever this session has read before."""
    query = select(DailyUsage).where(DailyUsage.user_id == user_id, DailyUsage.day == day)
    return (await session.exec(query.execution_options(populate_existing=True))).first()


async def add_to_model(
    session: AsyncSession, user_id: str, model: str, provider: str, bucket: int, spent: Spent
) -> None:
    amounts = {"runs": spent.answers, **spent.columns}
    this = col(ModelUsage.user_id) == user_id, col(ModelUsage.model) == model, col(ModelUsage.provider) == provider
    row = update(ModelUsage).where(*this, col(ModelUsage.bucket) == bucket)
    if (await session.exec(row.values(_more(ModelUsage, amounts)))).rowcount:
        return
    known = (await session.exec(_models_of(user_id))).all()
    if (model, provider) not in known and len(known) >= MOST_MODELS:
        model = provider = OTHERS
    key = {"user_id": user_id, "model": model, "provider": provider, "bucket": bucket}
    statement = insert_into(session, ModelUsage).values(**key, **amounts)
    await session.exec(statement.on_conflict_do_update(index_elements=list(key), set_=_more(ModelUsage, amounts)))


def _models_of(user_id: str) -> Any:
    query = select(ModelUsage.model, ModelUsage.provider).where(ModelUsage.user_id == user_id)
    return query.distinct().limit(MOST_MODELS + 1)


async def days_of(session: AsyncSession, user_id: str, since: date, until: date) -> Sequence[DailyUsage]:
    """The days on which the user asked anything, both ends included; the oldest first."""
    query = select(DailyUsage).where(DailyUsage.user_id == user_id, DailyUsage.day >= since, DailyUsage.day <= until)
    return (await session.exec(query.order_by(col(DailyUsage.day)))).all()


async def models_of(session: AsyncSession, user_id: str) -> Sequence[ModelUsage]:
    """All the user's models, each in its buckets; the quickest bucket of a model first."""
    query = select(ModelUsage).where(ModelUsage.user_id == user_id)
    order = col(ModelUsage.model), col(ModelUsage.provider), col(ModelUsage.bucket)
    return (await session.exec(query.order_by(*order))).all()
