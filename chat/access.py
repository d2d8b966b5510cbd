"""Who may do what in a conversation. What one has no part in does not exist; a role too low is told so."""

import time

from sqlmodel.ext.asyncio.session import AsyncSession

from errors import Forbidden, NotFound
from models.conversation import Conversation, conversation_of
from models.database import Database
from models.member import MemberRole, role_in, shared_conversation
from models.run import Run

RANK = {MemberRole.VIEWER: 0, MemberRole.EDITOR: 1, MemberRole.OWNER: 2}


async def readable(session: AsyncSession, user_id: str, key: str) -> Conversation | None:
    """By its own id, else by the id that the user's client gave to one that the user owns."""
    return await conversation_of(session, user_id, key) or await shared_conversation(session, user_id, key)


async def allowed(session: AsyncSession, user_id: str, key: str, least: MemberRole) -> Conversation:
    """
    Raises:
        NotFound: the user has no part in it.
        Forbidden: the user's role is below `least`.
    """
    conversation = await readable(session, user_id, key)
    role = None if conversation is None else await role_in(session, user_id, conversation)
    if conversation is None or role is None:
        raise NotFound("对话不存在")
    if RANK[role] < RANK[least]:
        raise Forbidden(f"This takes the role {least}")
    return conversation


RECHECK_SECONDS = 1.0
"""What another process revokes is seen this late; what this one revokes, at once."""


class Revocations:
    """Counts what this process has taken from anyone, so that a right is looked up again only when it may be gone."""

    count = 0


class Right:
    """A follower's right to a run, looked up again while events flow."""

    def __init__(self, database: Database, user_id: str, run: Run) -> None:
        self._database = database
        self._user_id = user_id
        self._conversation_id = run.conversation_id
        self._seen = Revocations.count
        self._checked_at = time.monotonic()

    async def check(self) -> None:
        """
        Raises:
            NotFound: it is gone.
        """
        if self._conversation_id is None:
            return
        now = time.monotonic()
        if self._seen == Revocations.count and now - self._checked_at < RECHECK_SECONDS:
            return
        self._seen, self._checked_at = Revocations.count, now
        async with self._database.read() as session:
            if await readable(session, self._user_id, self._conversation_id) is None:
                raise NotFound("No such run", field="runId")
