"""All of a user's conversations with their messages, as plain columns in partitions: 40,000 objects would hold the
event loop for a second."""

from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, func, literal, select, tuple_, type_coerce
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis
from models.conversation import Conversation, Position
from models.message import Message

PARTITION = 500
"""Rows between two turns of the event loop."""


class WholeMessage(NamedTuple):
    """`id` is the client's own if it gave one; `created_at` in milliseconds."""

    conversation_id: str
    id: str
    content: str
    role: str
    created_at: int


class WholeConversation(NamedTuple):
    """`key` is the client's own id if it gave one, else `id`; times in milliseconds."""

    id: str
    key: str
    title: str
    model: str
    system_prompt: str | None
    created_at: int
    updated_at: int


Rows = Select[*tuple[Any, ...]]
Whole = tuple[WholeConversation, list[WholeMessage]]


async def whole_conversations(
    session: AsyncSession, owner_id: str, *, limit: int | None = None, older_than: Position | None = None
) -> AsyncGenerator[Whole, None]:
    """The owner's conversations with their active branches, newest `updated_at` first, by two statements."""
    conversations: list[WholeConversation] = []
    async for part in _partitions(session, _conversations(owner_id, limit, older_than)):
        conversations.extend(map(WholeConversation._make, part))
    waiting = iter(conversations)
    branch: list[WholeMessage] = []
    async for part in _partitions(session, _messages(owner_id, limit, older_than)):
        for row in part:
            if branch and branch[0].conversation_id != row[0]:
                for whole in _up_to(waiting, branch):
                    yield whole
                branch = []
            branch.append(WholeMessage._make(row))
    for whole in _up_to(waiting, branch):
        yield whole
    for conversation in waiting:
        yield conversation, []


def _up_to(waiting: Iterator[WholeConversation], branch: list[WholeMessage]) -> Iterator[Whole]:
    """The conversations, empty ones, up to the one that the branch belongs to."""
    if not branch:
        return
    for conversation in waiting:
        if conversation.id == branch[0].conversation_id:
            yield conversation, branch
            return
        yield conversation, []


async def _partitions(session: AsyncSession, query: Rows) -> AsyncGenerator[Any, None]:
    result = await session.stream(query, execution_options={"yield_per": PARTITION})
    async for part in result.partitions():
        yield part


def _wanted(query: Rows, owner_id: str, limit: int | None, older_than: Position | None) -> Rows:
    query = query.where(col(Conversation.owner_id) == owner_id)
    if older_than is not None:
        place = tuple_(col(Conversation.updated_at), col(Conversation.id))
        query = query.where(place < tuple_(literal(older_than.updated_at, Millis), literal(older_than.id)))
    return query.order_by(col(Conversation.updated_at).desc(), col(Conversation.id).desc()).limit(limit)


def _conversations(owner_id: str, limit: int | None, older_than: Position | None) -> Rows:
    query = select(
        col(Conversation.id),
        func.coalesce(col(Conversation.external_id), col(Conversation.id)),
        col(Conversation.title),
        col(Conversation.model),
        col(Conversation.system_prompt),
        type_coerce(col(Conversation.created_at), BigInteger),
        type_coerce(col(Conversation.updated_at), BigInteger),
    )
    return _wanted(query, owner_id, limit, older_than)


def _messages(owner_id: str, limit: int | None, older_than: Position | None) -> Rows:
    """In the order of the list."""
    listed = select(col(Conversation.id), col(Conversation.updated_at))
    place = _wanted(listed, owner_id, limit, older_than).subquery()
    return (
        select(
            col(Message.conversation_id),
            func.coalesce(col(Message.external_id), col(Message.id)),
            col(Message.content),
            col(Message.role),
            type_coerce(col(Message.created_at), BigInteger),
        )
        .join(place, place.c.id == col(Message.conversation_id))
        .where(col(Message.active))
        .order_by(place.c.updated_at.desc(), place.c.id.desc(), col(Message.depth))
    )
