"""What a user may use in a day: held back for an answer before it is begun, and settled at its end.

Two answers that begin at once cannot both have the last of it, in whatever processes: one statement looks and takes.
At the end of a run, by whomever, its counters get what it used, and what was held for it goes back (`count_run`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.usage import estimate_prompt
from errors import QuotaExceeded
from models.columns import utc_now
from models.database import Database
from models.run import Run
from models.usage import DailyUsage, Limits, day_of, reserve_on_day
from providers.base import Turn
from providers.catalog import Candidate
from providers.prices import NANOS

HELD_SECONDS = 5.0
"""When to ask again, while answers under way hold what they may not need."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What is left of a UTC day; money in billionths of a US dollar. None: there is no limit."""

    limits: Limits
    tokens_left: int | None
    nanos_left: int | None
    resets_at: datetime


def needed(
    turns: Sequence[Turn], answer_tokens: int, candidates: Sequence[Candidate], more: int = 0
) -> tuple[int, int]:
    """Tokens and billionths of a dollar that an answer may take, its thoughts too, whichever candidate gives it.
    `more`: tokens of the prompt that are still being written. A model without a known price is held no money for."""
    tokens = nanos = 0
    for candidate in candidates:
        prompt = estimate_prompt(tuple(turns), answer_tokens, candidate) + more
        completion = answer_tokens + candidate.model.thoughts(answer_tokens)
        tokens = max(tokens, prompt + completion)
        if (price := candidate.model.price) is not None:
            # Where thoughts have a price of their own, it may be the higher one.
            nanos = max(nanos, price.cost(prompt, completion), price.cost(prompt, completion, 0, completion))
    return tokens, nanos


async def reserve(session: AsyncSession, limits: Limits, run: Run) -> None:
    """Hold for the run what it says it may take, on the day on which it was asked for.

    Raises:
        QuotaExceeded: so much is not left.
    """
    if run.user_id is None or not limits.any:
        return
    day = run.created_at.date()
    if not await reserve_on_day(session, run.user_id, day, run.reserved_tokens, run.reserved_nanos, limits):
        row = await day_of(session, run.user_id, day) or DailyUsage(user_id=run.user_id, day=day)
        raise _refusal(limits, run, row)


def _refusal(limits: Limits, run: Run, row: DailyUsage) -> QuotaExceeded:
    parts = (
        (limits.tokens, row.tokens, row.reserved_tokens, run.reserved_tokens, _tokens),
        (limits.nanos, row.cost_nanos, row.reserved_nanos, run.reserved_nanos, _dollars),
    )
    for limit, used, held, wanted, shown in parts:
        if limit is None or used + held + wanted <= limit:
            continue
        resets_at = _tomorrow(run.created_at)
        left = shown(max(limit - used - held, 0))
        message = f"This answer may take {shown(wanted)}, and of today's {shown(limit)} you have {left} left"
        if used + wanted <= limit:
            message += f"; {shown(held)} are held for answers under way: try again when they have ended"
            return QuotaExceeded(message, resets_at=resets_at, retry_after=HELD_SECONDS)
        if wanted <= limit:
            message += f", until {resets_at:%Y-%m-%d %H:%M} UTC"
        message += "; a smaller maxTokens needs less"
        wait = (resets_at - utc_now()).total_seconds()
        return QuotaExceeded(message, resets_at=resets_at, retry_after=max(1.0, round(wait, 3)))
    raise AssertionError("so much is left")


def _tokens(amount: int) -> str:
    return f"{amount:,} tokens"


def _dollars(nanos: int) -> str:
    return f"${nanos / NANOS:.6f}"


def _tomorrow(moment: datetime) -> datetime:
    return datetime.combine(moment.date() + timedelta(days=1), time(), UTC)


async def quota_of(database: Database, limits: Limits, user_id: str, now: datetime | None = None) -> Quota | None:
    """What the user may still use today; None: as much as they like."""
    if not limits.any:
        return None
    moment = now or utc_now()
    async with database.read() as session:
        row = await day_of(session, user_id, moment.date()) or DailyUsage(user_id=user_id, day=moment.date())
    tokens = None if limits.tokens is None else max(limits.tokens - row.tokens - row.reserved_tokens, 0)
    nanos = None if limits.nanos is None else max(limits.nanos - row.cost_nanos - row.reserved_nanos, 0)
    return Quota(limits, tokens, nanos, _tomorrow(moment))
