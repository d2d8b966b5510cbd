"""Messages: a tree whose active branch is marked. Reached only through a conversation scoped to its viewer."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Index, UniqueConstraint, delete, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now
from models.conversation import Conversation
from models.ids import new_id


class MessageStatus(StrEnum):
    COMPLETE = "COMPLETE"
    STREAMING = "STREAMING"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


class Message(SQLModel, table=True):
    """`depth` counts from the root of the tree, 0 first; `active` marks the branch that ends in the head."""

    __tablename__ = "message"
    __table_args__ = (
        UniqueConstraint("conversation_id", "external_id"),
        Index("ix_message_branch", "conversation_id", "active", "depth"),
        Index("ix_message_parent", "parent_id"),
    )

    id: str = Field(default_factory=lambda: new_id("msg"), primary_key=True)
    conversation_id: str = Field(foreign_key="conversation.id")
    external_id: str | None = None
    parent_id: str | None = None
    depth: int
    active: bool = True
    role: str
    content: str
    reasoning: str | None = None
    status: str = MessageStatus.COMPLETE
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    author_id: str | None = Field(default=None, foreign_key="user_account.id")
    model: str | None = None
    run_id: str | None = None


async def active_branch(
    session: AsyncSession,
    conversation_id: str,
    *,
    limit: int | None = None,
    after_depth: int | None = None,
    before_depth: int | None = None,
    from_end: bool = False,
) -> Sequence[Message]:
    """The active branch, oldest first (newest first with `from_end`), by keyset on depth."""
    query = select(Message).where(Message.conversation_id == conversation_id, col(Message.active))
    if after_depth is not None:
        query = query.where(Message.depth > after_depth)
    if before_depth is not None:
        query = query.where(Message.depth < before_depth)
    order = col(Message.depth).desc() if from_end else col(Message.depth).asc()
    return (await session.exec(query.order_by(order).limit(limit))).all()


async def messages_of(session: AsyncSession, owner_id: str, ids: Iterable[str]) -> dict[str, Message]:
    """Those of `ids` that stand in the owner's conversations."""
    query = (
        select(Message)
        .join(Conversation, col(Conversation.id) == Message.conversation_id)
        .where(Conversation.owner_id == owner_id, col(Message.id).in_(list(ids)))
    )
    return {message.id: message for message in await session.exec(query)}


async def all_messages(session: AsyncSession, conversation_id: str) -> Sequence[Message]:
    """Every message of the tree, by depth."""
    query = select(Message).where(Message.conversation_id == conversation_id)
    return (await session.exec(query.order_by(col(Message.depth), col(Message.id)))).all()


async def siblings_of(session: AsyncSession, message: Message) -> Sequence[Message]:
    """The messages with the same parent, this one included, oldest first."""
    query = select(Message).where(
        Message.conversation_id == message.conversation_id, Message.parent_id == message.parent_id
    )
    return (await session.exec(query.order_by(col(Message.id)))).all()


async def delete_messages(session: AsyncSession, conversation_id: str, ids: Sequence[str] | None = None) -> None:
    """Delete these messages of the conversation, or all."""
    if ids is None:
        await session.exec(delete(Message).where(col(Message.conversation_id) == conversation_id))
        return
    for start in range(0, len(ids), 500):
        await session.exec(
            delete(Message).where(
                col(Message.conversation_id) == conversation_id, col(Message.id).in_(ids[start : start + 500])
            )
        )


async def finish_message(
    session: AsyncSession, message_id: str, *, status: str, content: str, reasoning: str | None, model: str | None
) -> None:
    """Store what a run wrote; a message that was deleted meanwhile stays deleted."""
    await session.exec(
        update(Message)
        .where(col(Message.id) == message_id)
        .values(status=status, content=content, reasoning=reasoning, model=model)
    )


async def interrupt_message(session: AsyncSession, message_id: str) -> None:
    """The worker that wrote it is gone: what is stored of it stays."""
    await session.exec(update(Message).where(col(Message.id) == message_id).values(status=MessageStatus.INTERRUPTED))
