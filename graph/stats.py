"""The viewer's figures."""

import strawberry

from chat.stats import user_stats
from graph.context import Info


@strawberry.type
class Stats:
    total_conversations: int
    total_messages: int = strawberry.field(description="On the active branches.")
    total_tokens: int = strawberry.field(description="Of every run that the viewer ever caused.")
    average_messages_per_conversation: float


@strawberry.type
class StatsQuery:
    @strawberry.field
    async def stats(self, info: Info) -> Stats:
        stats = await user_stats(info.context.services.database, info.context.user_id)
        return Stats(
            total_conversations=stats.total_conversations,
            total_messages=stats.total_messages,
            total_tokens=stats.total_tokens,
            average_messages_per_conversation=stats.average_messages_per_conversation,
        )
