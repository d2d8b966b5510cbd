"""A user's conversations with all their messages, read without holding the event loop."""

from collections.abc import AsyncGenerator

from chat.conversations import owned
from models.conversation import Position
from models.database import Database
from models.whole import Wanted, Whole, whole_conversations


async def whole_list(
    database: Database, user_id: str, limit: int | None = None, before: str | None = None
) -> AsyncGenerator[Whole, None]:
    """The conversations with their active branches, newest first; all of them unless `limit` says otherwise.
    `before` is the id of a conversation: those behind it in the list. A reader of the database is taken until the
    generator ends: read on without waiting for a client.

    Raises:
        NotFound: `before` is no conversation of the user.
    """
    async with database.read() as session:
        place = None
        if before is not None:
            mark = await owned(session, user_id, before)
            place = Position(mark.updated_at, mark.id)
        async for whole in whole_conversations(session, Wanted(user_id, None, limit, place)):
            yield whole


async def whole_conversation(database: Database, user_id: str, key: str) -> Whole:
    """One of them.

    Raises:
        NotFound: the user has none of this id.
    """
    async with database.read() as session:
        conversation = await owned(session, user_id, key)
        wholes = [whole async for whole in whole_conversations(session, Wanted(user_id, conversation.id))]
    return wholes[0]
