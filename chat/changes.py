"""Writing down what happens, in the transaction in which it happens."""

from collections.abc import Iterable

from sqlmodel.ext.asyncio.session import AsyncSession

from models.change import Change, ChangeKind, add_changes
from models.conversation import Conversation
from models.member import audience_of
from models.run import Run

TOLD_ONE_BY_ONE = 50
"""More messages than this in one change are told as one «fetch it again»."""


async def tell_conversation(
    session: AsyncSession, conversation: Conversation, kind: ChangeKind, refs: Iterable[str]
) -> None:
    """Tell those who have the conversation open."""
    refs = list(refs)
    if len(refs) > TOLD_ONE_BY_ONE:
        kind, refs = ChangeKind.RESYNC, [conversation.id]
    add_changes(session, [Change(audience=conversation.id, kind=kind, ref=ref) for ref in refs])


async def tell_viewers(
    session: AsyncSession, conversation: Conversation, kind: ChangeKind, ref: str, *, also: Iterable[str] = ()
) -> None:
    """Tell everyone who has a part in the conversation, and those `also` who have just lost theirs."""
    users = dict.fromkeys([*await audience_of(session, conversation), *also])
    add_changes(session, [Change(audience=user_id, kind=kind, ref=ref) for user_id in users])


async def tell_changed(session: AsyncSession, conversation: Conversation) -> None:
    """Its title, model, head, members, … are others now."""
    await tell_conversation(session, conversation, ChangeKind.CHANGED, [conversation.id])
    await tell_viewers(session, conversation, ChangeKind.CHANGED, conversation.id)


def tell_user(session: AsyncSession, user_id: str, kind: ChangeKind, ref: str) -> None:
    add_changes(session, [Change(audience=user_id, kind=kind, ref=ref)])


async def tell_run(session: AsyncSession, run: Run) -> None:
    """A run has begun or ended: told to everyone who may see it, if it is anybody's answer."""
    if run.purpose is not None:
        return
    conversation = None if run.conversation_id is None else await session.get(Conversation, run.conversation_id)
    if conversation is not None:
        await tell_viewers(session, conversation, ChangeKind.RUN, run.id)
    elif run.user_id is not None:
        tell_user(session, run.user_id, ChangeKind.RUN, run.id)
