"""A user's conversations on their way out, with everything that hangs on their messages, and in."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import sqlalchemy
from sqlalchemy import func, insert, update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.batches import batched
from models.conversation import Conversation
from models.message import Message
from models.run import Run
from models.search import AT_ONCE, index_messages

PORTION = 500
"""Rows of one statement."""
MESSAGE = (
    "id",
    "external_id",
    "parent_id",
    "role",
    "content",
    "reasoning",
    "status",
    "created_at",
    "model",
    "author_id",
)
RUN = (
    *("id", "status", "requested_model", "model", "provider", "created_at", "started_at", "finished_at"),
    *("time_to_first_token_ms", "finish_reason", "error_code", "error_message", "error_retryable"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "usage_estimated", "cost_nanos"),
    *("last_seq", "temperature", "max_tokens"),
)
"""What of them leaves with a conversation."""
Row = dict[str, Any]


async def next_conversations(session: AsyncSession, owner_id: str, after: str, limit: int) -> Sequence[Conversation]:
    """Those that the user owns, behind this id, the first made first."""
    query = select(Conversation).where(Conversation.owner_id == owner_id, col(Conversation.id) > after)
    return (await session.exec(query.order_by(col(Conversation.id)).limit(limit))).all()


async def count_messages(session: AsyncSession, conversation_id: str) -> int:
    """Of the whole tree."""
    query = select(func.count()).select_from(Message).where(Message.conversation_id == conversation_id)
    return (await session.exec(query)).one()


async def whole_tree(session: AsyncSession, conversation_id: str) -> AsyncGenerator[tuple[Row, Row | None], None]:
    """Every message of a conversation, those above before those below, each with the run that wrote it."""
    columns = [getattr(Message, name) for name in MESSAGE] + [getattr(Run, name) for name in RUN]
    query = sqlalchemy.select(*columns).outerjoin(Run, col(Run.id) == col(Message.run_id))
    query = query.where(col(Message.conversation_id) == conversation_id).order_by(col(Message.depth), col(Message.id))
    result = await session.stream(query, execution_options={"yield_per": PORTION})
    async for part in result.partitions():
        for row in part:
            values = tuple(row)
            run = dict(zip(RUN, values[len(MESSAGE) :], strict=True))
            yield dict(zip(MESSAGE, values, strict=False)), None if run["id"] is None else run


async def taken_ids(session: AsyncSession, table: type[Message | Run | Conversation], ids: Iterable[str]) -> set[str]:
    """Those of `ids` that are somebody's already, whoever's."""
    found: set[str] = set()
    for batch in batched(ids):
        found.update(await session.exec(select(table.id).where(col(table.id).in_(batch))))
    return found


async def add_tree(session: AsyncSession, messages: Sequence[Row], runs: Sequence[Row], owner_id: str) -> None:
    """Store rows of messages, parents first, and of the runs that wrote them. The messages can be found from now on by
    this user, or from when the conversation is the user's."""
    connection = await session.connection()
    for table, rows in ((Message, messages), (Run, runs)):
        for batch in batched(rows, PORTION):
            await connection.execute(insert(table), batch)
    for batch in batched(messages, AT_ONCE):
        await index_messages(session, [(row["id"], row["content"]) for row in batch], owner_id)


async def hand_over(session: AsyncSession, conversation: Conversation, owner_id: str) -> None:
    """The conversation is this user's from now on, and so is what its runs used."""
    conversation.owner_id = owner_id
    session.add(conversation)
    await session.flush()
    runs = update(Run).where(col(Run.conversation_id) == conversation.id)
    await session.exec(runs.values(user_id=owner_id))
