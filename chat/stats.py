"""A user's figures, read from counters, never by scanning."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.latency import bucket_of, median_of
from errors import BadUserInput, NotFound
from models.columns import utc_now
from models.conversation import count_conversations
from models.database import Database
from models.run import Run
from models.usage import DailyUsage, ModelUsage, Spent, add_to_day, add_to_model, days_of, models_of
from models.user import add_to_counters, count_users, user_by_id
from models.worker import sockets_of_others

MOST_DAYS = 366
"""That `daily` answers at once: a year, leap years too."""
DEFAULT_DAYS = 30


@dataclass(frozen=True, slots=True)
class UserStats:
    """`total_tokens`: of every run that the user ever caused. The average has one decimal."""

    total_conversations: int
    total_messages: int
    total_tokens: int

    @property
    def average_messages_per_conversation(self) -> float:
        if self.total_conversations == 0:
            return 0.0
        return round(self.total_messages / self.total_conversations, 1)


@dataclass(frozen=True, slots=True)
class DayStats:
    """`messages`: that asked for an answer on this UTC day, whatever became of it. `cost_nanos`: of those whose cost is
    known, in billionths of a US dollar; None when it is known of none."""

    day: date
    messages: int = 0
    tokens: int = 0
    cost_nanos: int | None = 0


@dataclass(frozen=True, slots=True)
class ModelStats:
    """`median_first_token`: milliseconds, off by at most 10%; None when no run came to a first token."""

    model: str
    provider: str
    runs: int
    tokens: int
    cost_nanos: int | None
    median_first_token: float | None


async def count_run(session: AsyncSession, run: Run) -> None:
    """Add a run that has just ended to its user's counters, on the day on which it was asked for, and give back what
    was held for it."""
    if run.user_id is None:
        return
    tokens = (run.prompt_tokens or 0) + (run.completion_tokens or 0)
    asked = run.prompt_tokens is not None
    spent = Spent(tokens, run.cost_nanos if asked else 0, answers=int(run.purpose is None))
    await add_to_counters(session, run.user_id, tokens=tokens)
    await add_to_day(session, run.user_id, run.created_at.date(), spent, run.reserved_tokens, run.reserved_nanos)
    await add_to_model(session, run.user_id, run.model, run.provider, bucket_of(run.time_to_first_token_ms), spent)


async def user_stats(database: Database, user_id: str) -> UserStats:
    async with database.read() as session:
        user = await user_by_id(session, user_id)
    if user is None:
        raise NotFound("用户不存在")
    return UserStats(user.conversation_count, user.message_count, user.total_tokens)


async def daily_stats(database: Database, user_id: str, days: int, now: datetime | None = None) -> list[DayStats]:
    """The last so many UTC days, today the last; days without use too.

    Raises:
        BadUserInput: days is out of range.
    """
    if not 1 <= days <= MOST_DAYS:
        raise BadUserInput(f"days must be from 1 to {MOST_DAYS}", field="days")
    today = (now or utc_now()).date()
    first = today - timedelta(days=days - 1)
    async with database.read() as session:
        used = {row.day: _day(row) for row in await days_of(session, user_id, first, today)}
    wanted = (first + timedelta(days=number) for number in range(days))
    return [used.get(day) or DayStats(day) for day in wanted]


def _day(row: DailyUsage) -> DayStats:
    return DayStats(row.day, row.messages, row.tokens, _cost(row.cost_nanos, row.messages, row.unpriced))


async def model_stats(database: Database, user_id: str) -> list[ModelStats]:
    """Every model that the user's runs were answered by, or were meant for; the most used first."""
    async with database.read() as session:
        rows = await models_of(session, user_id)
    found = [_model(*key, list(group)) for key, group in groupby(rows, key=lambda row: (row.model, row.provider))]
    return sorted(found, key=lambda each: (-each.tokens, -each.runs, each.model, each.provider))


def _model(model: str, provider: str, rows: list[ModelUsage]) -> ModelStats:
    runs = sum(row.runs for row in rows)
    cost = _cost(sum(row.cost_nanos for row in rows), runs, sum(row.unpriced for row in rows))
    median = median_of((row.bucket, row.runs) for row in rows)
    return ModelStats(model, provider, runs, sum(row.tokens for row in rows), cost, median)


def _cost(nanos: int, runs: int, unpriced: int) -> int | None:
    return None if runs and unpriced == runs else nanos


async def server_totals(database: Database) -> tuple[int, int]:
    """Users and conversations of the whole server, counted."""
    async with database.read() as session:
        return await count_users(session), await count_conversations(session)


async def sockets_elsewhere(database: Database, worker: str) -> int:
    """Open sockets of all other workers, as of their last heartbeat."""
    async with database.read() as session:
        return await sockets_of_others(session, worker)
