"""The list of a user's conversations with all their messages, read without holding the event loop."""

from collections.abc import AsyncGenerator

from chat.conversations import owned
from models.conversation import Position
from models.database import Database
from models.whole import Whole, whole_conversations


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
        async for whole in whole_conversations(session, user_id, limit=limit, older_than=place):
            yield whole
