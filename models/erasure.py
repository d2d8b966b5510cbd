"""What is being deleted in portions, under a user that is nobody any more: the row in `erasure` stays until nothing of
the user is left, whatever becomes of the process."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Column, Table, delete, exists, update
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.change import Change
from models.columns import utc_now
from models.conversation import Conversation
from models.journal import delete_segments
from models.member import Member
from models.message import Message, delete_messages, delete_some_messages, move_messages
from models.run import ACTIVE, Run, detach_runs
from models.user import Erasure, User

NO_NAME = "\x01"
"""Begins what no name or address can be: somebody could take it, and keep another from being deleted."""
MESSAGES_AT_ONCE, CHARS_AT_ONCE = 200, 100_000
"""Of one transaction that deletes messages: some 20 ms, most of it for the search index."""
KEPT_FOR_OTHERS = frozenset({"conversation", "message", "run"})
"""Tables of what may be somebody else's too: looked after one by one."""


async def close_user(session: AsyncSession, user: User) -> None:
    """Nobody can sign in, and name and address are free. What the user has is erased behind this."""
    user.disabled = True
    user.username = user.email = "deleted"
    user.username_key = user.email_key = f"{NO_NAME}{user.id}"
    user.password_hash = None
    session.add(user)
    await session.flush()
    session.add(Erasure(user_id=user.id))


async def open_stage(session: AsyncSession) -> str:
    """A user that nobody is, who has what is being stored in several transactions: nobody sees it, and where it does
    not become whole it is erased as a deleted account is."""
    user = User(username="", username_key="", email="", email_key="", password_hash=None)
    await close_user(session, user)
    return user.id


async def keep_stage(session: AsyncSession, user_id: str) -> bool:
    """Somebody still works on it. False: it is being erased."""
    kept = update(Erasure).where(col(Erasure.user_id) == user_id).values(asked_at=utc_now())
    return (await session.exec(kept)).rowcount == 1


async def set_aside(session: AsyncSession, conversation: Conversation) -> str:
    """A conversation that nobody has a part in but its owner is a stage's from now on, which is returned: what is left
    of it is erased behind this."""
    stage = conversation.owner_id = await open_stage(session)
    session.add(conversation)
    return stage


async def discard_messages(session: AsyncSession, conversation_id: str, ids: Sequence[str]) -> str | None:
    """Delete these messages of the conversation; too many for one transaction stand under a stage from now on, which is
    returned, and are erased behind this. To move one costs a twentieth of what it costs to delete it."""
    if len(ids) <= MESSAGES_AT_ONCE:
        await delete_messages(session, conversation_id, ids)
        return None
    stage = await open_stage(session)
    grave = Conversation(owner_id=stage, title="", model="")
    session.add(grave)
    await session.flush()
    await move_messages(session, ids, grave.id)
    return stage


async def close_stage(session: AsyncSession, user_id: str) -> None:
    """Nothing is the stage's any more."""
    await session.exec(delete(Erasure).where(col(Erasure.user_id) == user_id))
    await session.exec(delete(User).where(col(User.id) == user_id))


async def open_erasures(session: AsyncSession, before: datetime, limit: int) -> Sequence[str]:
    """The users whose erasure was asked for before this moment, and is not done."""
    query = select(Erasure.user_id).where(col(Erasure.asked_at) < before).order_by(col(Erasure.asked_at))
    return (await session.exec(query.limit(limit))).all()


async def owned_ids(session: AsyncSession, user_id: str, limit: int) -> Sequence[str]:
    """Conversations of the user."""
    return (await session.exec(select(Conversation.id).where(Conversation.owner_id == user_id).limit(limit))).all()


async def joined_ids(session: AsyncSession, user_id: str, limit: int) -> Sequence[str]:
    """Conversations of others in which the user is."""
    return (await session.exec(select(Member.conversation_id).where(Member.user_id == user_id).limit(limit))).all()


async def active_runs_of_user(session: AsyncSession, user_id: str) -> Sequence[Run]:
    return (await session.exec(select(Run).where(Run.user_id == user_id, col(Run.status).in_(ACTIVE)))).all()


async def erase_conversation(session: AsyncSession, conversation_id: str) -> bool:
    """Delete as much of a conversation as one transaction may, and let as many of its runs outlive it. True: that was
    all, and the conversation itself is gone."""
    await detach_runs(session, conversation_id, MESSAGES_AT_ONCE)
    await delete_some_messages(session, conversation_id, MESSAGES_AT_ONCE, CHARS_AT_ONCE)
    left = (exists().where(col(table.conversation_id) == conversation_id) for table in (Message, Run))
    empty = delete(Conversation).where(col(Conversation.id) == conversation_id, *(~some for some in left))
    if (await session.exec(empty.execution_options(synchronize_session=False))).rowcount:
        return True
    # Another process may have come to the end of it.
    return (await session.exec(select(Conversation.id).where(Conversation.id == conversation_id))).first() is None


async def erase_some(session: AsyncSession, user_id: str, limit: int) -> bool:
    """Delete up to `limit` ended runs with their logs, and take the name off up to `limit` messages and runs that stand
    in conversations of others. False: there is no more of them."""
    mine = select(Run.id).where(Run.user_id == user_id, col(Run.status).not_in(ACTIVE))
    alone = (await session.exec(mine.where(col(Run.conversation_id).is_(None)).limit(limit))).all()
    await delete_segments(session, alone)
    await session.exec(delete(Run).where(col(Run.id).in_(alone)))
    shared = (await session.exec(mine.where(col(Run.conversation_id).is_not(None)).limit(limit))).all()
    await session.exec(update(Run).where(col(Run.id).in_(shared)).values(user_id=None, idempotency_key=None))
    written = (await session.exec(select(Message.id).where(Message.author_id == user_id).limit(limit))).all()
    await session.exec(update(Message).where(col(Message.id).in_(written)).values(author_id=None))
    told = (await session.exec(select(Change.id).where(Change.audience == user_id).limit(limit))).all()
    await session.exec(delete(Change).where(col(Change.id).in_(told)))
    return bool(alone or shared or written or told)


async def erase_user(session: AsyncSession, user_id: str) -> None:
    """The rows of every other table that names the user, then the user."""
    for table in _tables_of_users():
        for column in _columns_of_users(table):
            await session.exec(delete(table).where(column == user_id))
    await session.exec(delete(User).where(col(User.id) == user_id))
    await session.exec(delete(Erasure).where(col(Erasure.user_id) == user_id))


def _tables_of_users() -> list[Table]:
    """Found, not listed: a table that is added later is not forgotten here."""
    tables = [table for table in SQLModel.metadata.sorted_tables if table.name not in KEPT_FOR_OTHERS]
    return [table for table in reversed(tables) if _columns_of_users(table)]


def _columns_of_users(table: Table) -> list["Column[str]"]:
    keys = [(column, key.target_fullname) for column in table.columns for key in column.foreign_keys]
    return [column for column, target in keys if target == "user_account.id"]
