"""A user's figures, read from counters, never by scanning."""

from dataclasses import dataclass

from errors import NotFound
from models.conversation import count_conversations
from models.database import Database
from models.user import count_users, user_by_id


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


async def user_stats(database: Database, user_id: str) -> UserStats:
    async with database.read() as session:
        user = await user_by_id(session, user_id)
    if user is None:
        raise NotFound("用户不存在")
    return UserStats(user.conversation_count, user.message_count, user.total_tokens)


async def server_totals(database: Database) -> tuple[int, int]:
    """Users and conversations of the whole server, for /health."""
    async with database.read() as session:
        return await count_users(session), await count_conversations(session)
