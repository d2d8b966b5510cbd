"""The viewer's figures."""

import datetime
from typing import Annotated

import strawberry

from chat.budget import quota_of
from chat.stats import DEFAULT_DAYS, MOST_DAYS, daily_stats, model_stats, user_stats
from graph.context import Info, counted
from graph.types import dollars

MOST = 2**31 - 1
"""GraphQL's Int goes no further; a heavy user's tokens do. REST has them whole."""
Days = Annotated[int | None, strawberry.argument(description=f"1 to {MOST_DAYS}; the last one is today.")]
COST = "Of what has a known price; null when nothing has."


@strawberry.type
class DailyUsage:
    date: datetime.date = strawberry.field(description="In UTC. A run counts on the day on which it was asked for.")
    messages: int = strawberry.field(description="That asked for an answer, stored or not, whatever became of it.")
    tokens: int
    cost_usd: float | None = strawberry.field(description=COST)


@strawberry.type
class ModelUsage:
    model: str
    provider: str
    runs: int
    tokens: int
    cost_usd: float | None = strawberry.field(description=COST)
    median_time_to_first_token_ms: float | None = strawberry.field(description="From a histogram: off by at most 10%.")


@strawberry.type(description="Answers under way hold what they may take, so that it is not left for others.")
class Quota:
    tokens_per_day: int | None = strawberry.field(description="Null: no limit, as all of these.")
    tokens_left: int | None
    cost_per_day_usd: float | None
    cost_left_usd: float | None
    resets_at: datetime.datetime


def _int(amount: int | None) -> int | None:
    return None if amount is None else min(amount, MOST)


@strawberry.type
class Stats:
    total_conversations: int
    total_messages: int = strawberry.field(description="On the active branches.")
    total_tokens: int = strawberry.field(description="Of every run that the viewer ever caused.")
    average_messages_per_conversation: float

    @strawberry.field(description="What the viewer may still use today; null where nothing is limited.")
    async def quota(self, info: Info) -> Quota | None:
        services = info.context.services
        quota = await quota_of(services.database, services.budget, info.context.user_id)
        if quota is None:
            return None
        return Quota(
            tokens_per_day=_int(quota.limits.tokens),
            tokens_left=_int(quota.tokens_left),
            cost_per_day_usd=dollars(quota.limits.nanos),
            cost_left_usd=dollars(quota.nanos_left),
            resets_at=quota.resets_at,
        )

    @strawberry.field(description="Every day, also those without use; the oldest first.")
    async def daily(self, info: Info, days: Days = DEFAULT_DAYS) -> list[DailyUsage]:
        wanted = DEFAULT_DAYS if days is None else days
        return [
            DailyUsage(
                date=each.day,
                messages=each.messages,
                tokens=min(each.tokens, MOST),
                cost_usd=dollars(each.cost_nanos),
            )
            for each in await daily_stats(info.context.services.database, info.context.user_id, wanted)
        ]

    @strawberry.field(description="The most used first.")
    async def by_model(self, info: Info) -> list[ModelUsage]:
        return [
            ModelUsage(
                model=each.model,
                provider=each.provider,
                runs=each.runs,
                tokens=min(each.tokens, MOST),
                cost_usd=dollars(each.cost_nanos),
                median_time_to_first_token_ms=each.median_first_token,
            )
            for each in counted(info, await model_stats(info.context.services.database, info.context.user_id))
        ]


@strawberry.type
class StatsQuery:
    @strawberry.field
    async def stats(self, info: Info) -> Stats:
        stats = await user_stats(info.context.services.database, info.context.user_id)
        return Stats(
            total_conversations=stats.total_conversations,
            total_messages=stats.total_messages,
            total_tokens=min(stats.total_tokens, MOST),
            average_messages_per_conversation=stats.average_messages_per_conversation,
        )
