"""Who else has a part in a conversation. The owner stands in the conversation's own row."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Column, Index, and_, delete, exists, func, or_
from sqlalchemy.sql.elements import ColumnElement
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now
from models.conversation import Conversation, ConversationFilter, Span, conversation_of, matching
from models.locks import taken


class MemberRole(StrEnum):
    """VIEWER reads and follows; EDITOR also sends, edits, regenerates, cancels, sets the head, renames; OWNER also
    deletes, replaces and manages members. Anyone may leave."""

    OWNER = "OWNER"
    EDITOR = "EDITOR"
    VIEWER = "VIEWER"


class Member(SQLModel, table=True):
    __tablename__ = "member"
    __table_args__ = (Index("ix_member_user", "user_id"),)

    conversation_id: str = Field(primary_key=True, foreign_key="conversation.id")
    user_id: str = Field(primary_key=True, foreign_key="user_account.id")
    role: str
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))


def readable_by(user_id: str) -> ColumnElement[bool]:
    """That the user owns the conversation of the query, or is a member of it."""
    membership = exists().where(
        and_(col(Member.conversation_id) == col(Conversation.id), col(Member.user_id) == user_id)
    )
    return or_(col(Conversation.owner_id) == user_id, membership)


async def role_in(session: AsyncSession, user_id: str, conversation: Conversation) -> MemberRole | None:
    if conversation.owner_id == user_id:
        return MemberRole.OWNER
    member = await session.get(Member, (conversation.id, user_id))
    return None if member is None else MemberRole(member.role)


async def members_of(session: AsyncSession, conversation_ids: Sequence[str]) -> dict[str, list[Member]]:
    """The members besides the owner, the longest first."""
    found: dict[str, list[Member]] = {key: [] for key in conversation_ids}
    query = select(Member).where(col(Member.conversation_id).in_(conversation_ids))
    for member in await session.exec(query.order_by(col(Member.created_at), col(Member.user_id))):
        found[member.conversation_id].append(member)
    return found


async def count_members(session: AsyncSession, conversation_id: str) -> int:
    query = select(func.count()).select_from(Member).where(Member.conversation_id == conversation_id)
    return (await session.exec(query)).one()


async def audience_of(session: AsyncSession, conversation: Conversation) -> list[str]:
    """The users who have a part in it, the owner first."""
    query = select(Member.user_id).where(Member.conversation_id == conversation.id)
    return [conversation.owner_id, *await session.exec(query)]


async def remove_members(session: AsyncSession, conversation_id: str, user_id: str | None = None) -> None:
    """One of them, or all."""
    query = delete(Member).where(col(Member.conversation_id) == conversation_id)
    await session.exec(query if user_id is None else query.where(col(Member.user_id) == user_id))


async def readable_conversation(session: AsyncSession, user_id: str, key: str) -> Conversation | None:
    """One in which the user has a part, by its own id; else one that the user owns, by the id that the user's client
    gave it. A transaction that writes has it to itself, but has yet to ask for the user's role: it may have changed
    while the conversation was another's."""
    query = select(Conversation).where(Conversation.id == key, readable_by(user_id))
    return (await session.exec(taken(session, query))).first() or await conversation_of(session, user_id, key)


async def shared_conversations(
    session: AsyncSession, user_id: str, *, only: ConversationFilter, span: Span
) -> Sequence[Conversation]:
    """Those of others of which the user is a member. Few: they are not the user's own index."""
    query = select(Conversation).join(Member, col(Member.conversation_id) == col(Conversation.id))
    return (await session.exec(span.of(matching(query.where(Member.user_id == user_id), only)))).all()


async def readable_conversations(session: AsyncSession, user_id: str, ids: Sequence[str]) -> dict[str, Conversation]:
    """Those of `ids` in which the user has a part."""
    query = select(Conversation).where(col(Conversation.id).in_(ids), readable_by(user_id))
    return {row.id: row for row in await session.exec(query)}


async def roles_in(session: AsyncSession, user_id: str, conversation_ids: Sequence[str]) -> dict[str, MemberRole]:
    """The user's roles where the user is a member and not the owner."""
    query = select(Member).where(Member.user_id == user_id, col(Member.conversation_id).in_(conversation_ids))
    return {member.conversation_id: MemberRole(member.role) for member in await session.exec(query)}
