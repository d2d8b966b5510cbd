"""The conversation as a tree: which branch is active, and how another becomes so."""

from sqlmodel.ext.asyncio.session import AsyncSession

from models.conversation import Conversation
from models.message import Message, activate, deactivate_below, inactive_path
from models.user import add_to_counters


async def set_head(session: AsyncSession, conversation: Conversation, head: Message | None) -> None:
    """Make the branch that ends in `head` the active one; None: an empty one. Costs as much as the branches differ."""
    if head is None:
        await deactivate_below(session, conversation.id, -1)
    else:
        path = await inactive_path(session, head.id)
        junction = path[0].depth - 1 if path else head.depth
        await deactivate_below(session, conversation.id, junction)
        await activate(session, [message.id for message in path])
    count = 0 if head is None else head.depth + 1
    await add_to_counters(session, conversation.owner_id, messages=count - conversation.message_count)
    conversation.message_count = count
    conversation.head_id = None if head is None else head.id
    session.add(conversation)


async def append(session: AsyncSession, conversation: Conversation, messages: list[Message]) -> None:
    """Put new messages under the head, one under the other."""
    for message in messages:
        message.parent_id = conversation.head_id
        message.depth = conversation.message_count
        conversation.head_id = message.id
        conversation.message_count += 1
    session.add_all([*messages, conversation])
    await add_to_counters(session, conversation.owner_id, messages=len(messages))
