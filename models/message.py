"""Messages: a tree whose active branch is marked. Reached only through a conversation scoped to its viewer."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Index, UniqueConstraint, and_, delete, exists, func, literal, or_, update
from sqlalchemy.orm import aliased
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.batches import batched
from models.columns import Millis, utc_now
from models.conversation import Conversation
from models.ids import new_id
from models.member import readable_by
from models.search import index_messages

READ_AT_ONCE = 100
"""Messages with their texts that one statement reads, of those that are asked for by the hundred."""


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
        Index("ix_message_author", "author_id"),
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


async def path_to(session: AsyncSession, message_id: str, limit: int) -> Sequence[Message]:
    """The message and what stands above it, up to `limit`, oldest first."""
    step = (
        select(Message.id, Message.parent_id, literal(1).label("place"))
        .where(Message.id == message_id)
        .cte("path", recursive=True)
    )
    above = select(Message.id, Message.parent_id, step.c.place + 1).join(step, col(Message.id) == step.c.parent_id)
    path = step.union_all(above.where(step.c.place < limit))
    query = select(Message).join(path, col(Message.id) == path.c.id).order_by(col(Message.depth))
    return (await session.exec(query)).all()


async def on_path(session: AsyncSession, message_id: str, among: Sequence[str]) -> Sequence[str]:
    """Those of `among` that are the message or stand above it, the nearest to the root first. Reads no texts."""
    step = (
        select(Message.id, Message.parent_id, Message.depth)
        .where(Message.id == message_id)
        .cte("above", recursive=True)
    )
    above = select(Message.id, Message.parent_id, Message.depth).join(step, col(Message.id) == step.c.parent_id)
    path = step.union_all(above)
    return list(await session.exec(select(path.c.id).where(path.c.id.in_(among)).order_by(path.c.depth)))


async def inactive_path(session: AsyncSession, message_id: str) -> Sequence[Message]:
    """From the first ancestor that is not on the active branch down to the message; empty when it is active itself."""
    step = (
        select(Message.id, Message.parent_id)
        .where(Message.id == message_id, col(Message.active).is_(False))
        .cte("path", recursive=True)
    )
    above = select(Message.id, Message.parent_id).join(step, col(Message.id) == step.c.parent_id)
    path = step.union_all(above.where(col(Message.active).is_(False)))
    query = select(Message).join(path, col(Message.id) == path.c.id).order_by(col(Message.depth))
    return (await session.exec(query)).all()


async def ids_below(session: AsyncSession, message_id: str) -> Sequence[str]:
    """The message and all that stands below it, in whatever branch. Reads no texts."""
    tree = select(Message.id).where(Message.id == message_id).cte("below", recursive=True)
    tree = tree.union_all(select(Message.id).join(tree, col(Message.parent_id) == tree.c.id))
    return list(await session.exec(select(tree.c.id)))


async def newest_leaf_beside(session: AsyncSession, message: Message) -> Message | None:
    """The end of the branch that was last written in, of those that begin at a sibling; None without siblings."""
    same_parent = (
        col(Message.parent_id).is_(None) if message.parent_id is None else col(Message.parent_id) == message.parent_id
    )
    siblings = select(Message.id).where(
        Message.conversation_id == message.conversation_id, same_parent, Message.id != message.id
    )
    tree = siblings.cte("beside", recursive=True)
    tree = tree.union_all(select(Message.id).join(tree, col(Message.parent_id) == tree.c.id))
    child = aliased(Message)
    leaves = select(Message).join(tree, col(Message.id) == tree.c.id)
    leaves = leaves.where(~exists().where(col(child.parent_id) == col(Message.id)))
    return (await session.exec(leaves.order_by(col(Message.id).desc()).limit(1))).first()


async def deactivate_below(session: AsyncSession, conversation_id: str, depth: int) -> None:
    await session.exec(
        update(Message)
        .where(col(Message.conversation_id) == conversation_id, col(Message.active), col(Message.depth) > depth)
        .values(active=False)
    )


async def activate(session: AsyncSession, ids: Sequence[str]) -> None:
    for batch in batched(ids):
        await session.exec(update(Message).where(col(Message.id).in_(batch)).values(active=True))


async def message_in(session: AsyncSession, conversation_id: str, message_id: str) -> Message | None:
    query = select(Message).where(Message.conversation_id == conversation_id, Message.id == message_id)
    return (await session.exec(query)).first()


async def messages_of(session: AsyncSession, user_id: str, ids: Iterable[str]) -> dict[str, Message]:
    """Those of `ids` that stand in conversations in which the user has a part."""
    query = (
        select(Message)
        .join(Conversation, col(Conversation.id) == Message.conversation_id)
        .where(readable_by(user_id), col(Message.id).in_(list(ids)))
    )
    return {message.id: message for message in await session.exec(query)}


async def siblings_of(
    session: AsyncSession,
    messages: Sequence[Message],
    limit: int | None = None,
    hold: Callable[[Sequence[Message]], object] = len,
) -> dict[str, list[Message]]:
    """For each of these messages those with the same parent, itself included, the oldest first; about `limit` in all,
    READ_AT_ONCE by each statement. `hold` is given what was read, and may raise. Messages with the same parent have the
    same list."""
    parents = {message.parent_id for message in messages if message.parent_id is not None}
    roots = {message.conversation_id for message in messages if message.parent_id is None}
    root = and_(col(Message.conversation_id).in_(roots), col(Message.parent_id).is_(None))
    beside, order = or_(col(Message.parent_id).in_(parents), root), col(Message.id)
    rows = (await session.exec(select(Message).where(beside).order_by(order).limit(READ_AT_ONCE))).all()
    families: dict[tuple[str, str | None], list[Message]] = {}
    rest: list[str] = []
    if len(rows) == READ_AT_ONCE:
        seen = {row.id for row in rows}
        ids = (await session.exec(select(Message.id).where(beside).order_by(order).limit(limit))).all()
        rest = [key for key in ids if key not in seen]
    while rows:
        hold(rows)
        for row in rows:
            families.setdefault((row.conversation_id, row.parent_id), []).append(row)
        some, rest = rest[:READ_AT_ONCE], rest[READ_AT_ONCE:]
        rows = (await session.exec(select(Message).where(order.in_(some)).order_by(order))).all() if some else []
    return {message.id: families.get((message.conversation_id, message.parent_id), []) for message in messages}


async def delete_messages(session: AsyncSession, conversation_id: str, ids: Sequence[str]) -> None:
    """Delete these messages of the conversation."""
    for batch in batched(ids):
        mine = col(Message.conversation_id) == conversation_id, col(Message.id).in_(batch)
        await session.exec(delete(Message).where(*mine))


async def move_messages(session: AsyncSession, ids: Sequence[str], conversation_id: str) -> None:
    """Let these stand in another conversation, each alone: nothing leads from one to the other."""
    for batch in batched(ids):
        moved = update(Message).where(col(Message.id).in_(batch))
        moved = moved.values(conversation_id=conversation_id, parent_id=None, active=False)
        await session.exec(moved.execution_options(synchronize_session=False))


async def delete_some_messages(session: AsyncSession, conversation_id: str, limit: int, chars: int) -> None:
    """Delete up to `limit` messages of the conversation, whichever, and no more of them when they have so many
    characters."""
    # In an index's order: SQLite would sort all that there are for each portion.
    size = func.length(col(Message.content)) + func.length(func.coalesce(col(Message.reasoning), ""))
    some = select(Message.id, size.label("size")).where(Message.conversation_id == conversation_id)
    part = some.order_by(col(Message.active), col(Message.depth)).limit(limit).subquery()
    before = func.sum(part.c.size).over(order_by=part.c.id) - part.c.size
    placed = select(part.c.id, before.label("before")).subquery()
    chosen = delete(Message).where(col(Message.id).in_(select(placed.c.id).where(placed.c.before < chars)))
    await session.exec(chosen.execution_options(synchronize_session=False))


async def finish_message(
    session: AsyncSession, message_id: str, *, status: str, content: str, reasoning: str | None, model: str | None
) -> None:
    """Store what a run wrote, to be found from now on; a message that was deleted meanwhile stays deleted."""
    await session.exec(
        update(Message)
        .where(col(Message.id) == message_id)
        .values(status=status, content=content, reasoning=reasoning, model=model)
    )
    await index_messages(session, [(message_id, content)])
