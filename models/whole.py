"""All of a user's conversations with their messages, as plain columns in partitions: 40,000 objects would hold the
event loop for a second."""

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, func, select, tuple_, type_coerce
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from models.branch import BranchRow
from models.columns import to_millis
from models.conversation import Conversation, Position, bound
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


class Wanted(NamedTuple):
    """Which of the owner's conversations: all, but for what is said here."""

    owner_id: str
    only_id: str | None = None
    limit: int | None = None
    older_than: Position | None = None


def whole_of(conversation: Conversation, messages: Iterable[BranchRow]) -> Whole:
    """The same of rows that are at hand."""
    row = conversation
    times = to_millis(row.created_at), to_millis(row.updated_at)
    whole = WholeConversation(row.id, row.external_id or row.id, row.title, row.model, row.system_prompt, *times)
    return whole, [
        WholeMessage(row.id, item.external_id or item.id, item.content, item.role, to_millis(item.created_at))
        for item in messages
    ]


async def whole_conversations(session: AsyncSession, wanted: Wanted) -> AsyncGenerator[Whole, None]:
    """Conversations with their active branches, newest `updated_at` first, by two statements."""
    conversations: list[WholeConversation] = []
    async for part in _partitions(session, _conversations(wanted)):
        conversations.extend(map(WholeConversation._make, part))
    waiting = iter(conversations)
    branch: list[WholeMessage] = []
    async for part in _partitions(session, _messages(wanted)):
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


def _narrowed(query: Rows, wanted: Wanted) -> Rows:
    query = query.where(col(Conversation.owner_id) == wanted.owner_id)
    if wanted.only_id is not None:
        query = query.where(col(Conversation.id) == wanted.only_id)
    if wanted.older_than is not None:
        place = tuple_(col(Conversation.updated_at), col(Conversation.id))
        query = query.where(place < tuple_(*bound(wanted.older_than)))
    return query.order_by(col(Conversation.updated_at).desc(), col(Conversation.id).desc()).limit(wanted.limit)


def _conversations(wanted: Wanted) -> Rows:
    query = select(
        col(Conversation.id),
        func.coalesce(col(Conversation.external_id), col(Conversation.id)),
        col(Conversation.title),
        col(Conversation.model),
        col(Conversation.system_prompt),
        type_coerce(col(Conversation.created_at), BigInteger),
        type_coerce(col(Conversation.updated_at), BigInteger),
    )
    return _narrowed(query, wanted)


def _messages(wanted: Wanted) -> Rows:
    """In the order of the list."""
    listed = select(col(Conversation.id), col(Conversation.updated_at))
    place = _narrowed(listed, wanted).subquery()
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
