"""Several people and the model in one conversation."""

from chat.access import allowed
from chat.changes import tell_changed, tell_conversation, tell_viewers
from errors import BadUserInput, Conflict, NotFound
from models.change import ChangeKind
from models.conversation import Conversation
from models.database import Database, mark_revoked
from models.member import Member, MemberRole, count_members, remove_members
from models.run import request_cancels
from models.user import user_by_name

MAX_MEMBERS = 50
"""Every change of a conversation is written down once for each of them."""


class Members:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user_id: str, key: str, username: str, role: MemberRole) -> Conversation:
        """Let another user in, or change the role of one who is.

        Raises:
            NotFound: no such conversation, or no such user.
            Forbidden: the user does not own it.
            Conflict: too many members.
            BadUserInput: OWNER cannot be given.
        """
        if role is MemberRole.OWNER:
            raise BadUserInput("A conversation has one owner", field="role")
        async with self._database.write() as session:
            conversation = await allowed(session, user_id, key, MemberRole.OWNER)
            other = await user_by_name(session, username[:300])
            if other is None or other.disabled:
                raise NotFound("No such user", field="username")
            if other.id == conversation.owner_id:
                raise BadUserInput("The owner is in it already", field="username")
            member = await session.get(Member, (conversation.id, other.id))
            if member is None and await count_members(session, conversation.id) >= MAX_MEMBERS:
                raise Conflict(f"At most {MAX_MEMBERS} members")
            member = member or Member(conversation_id=conversation.id, user_id=other.id, role=role)
            member.role = role
            session.add(member)
            await session.flush()
            await tell_changed(session, conversation)
        return conversation

    async def remove(self, user_id: str, key: str, other_id: str) -> Conversation:
        """Put a member out, or leave oneself. What the member follows of it ends at once, and the answers that the
        member asked for are stopped where they are, within a second.

        Raises:
            NotFound: no such conversation, or no such member.
            Forbidden: only the owner puts others out.
            BadUserInput: the owner cannot leave.
        """
        async with self._database.write() as session:
            least = MemberRole.VIEWER if other_id == user_id else MemberRole.OWNER
            conversation = await allowed(session, user_id, key, least)
            if other_id == conversation.owner_id:
                raise BadUserInput("The owner cannot leave; delete the conversation instead", field="userId")
            if await session.get(Member, (conversation.id, other_id)) is None:
                raise NotFound("No such member", field="userId")
            await remove_members(session, conversation.id, other_id)
            # Whoever pays for them can neither see nor stop them any more.
            await request_cancels(session, other_id, conversation.id)
            mark_revoked(session, conversation.id, other_id)
            await tell_conversation(session, conversation, ChangeKind.CHANGED, [conversation.id])
            await tell_viewers(session, conversation, ChangeKind.CHANGED, conversation.id, also=[other_id])
        return conversation
