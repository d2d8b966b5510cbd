"""What the model is told of a conversation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sqlmodel.ext.asyncio.session import AsyncSession

from models.conversation import Conversation
from models.message import Message, MessageStatus, path_to
from providers.base import Role, Turn

HISTORY = 400
"""Messages read back for a prompt: more than any window here holds, so that a long conversation costs no more."""


async def read_branch(session: AsyncSession, conversation: Conversation, last_id: str | None) -> tuple[Turn, ...]:
    """What the model is told of the branch that ends in this message."""
    return history_turns(conversation, await path_to(session, last_id, HISTORY) if last_id is not None else ())


@dataclass(frozen=True, slots=True)
class Branch:
    """What stood above a new message a moment ago, read before the transaction that stores it: a long conversation
    would hold up all who write."""

    last_id: str | None
    turns: tuple[Turn, ...]
    written: bool
    """Whether no answer in it was under way: one that has ended since has a text by now."""

    @classmethod
    async def read(cls, session: AsyncSession, conversation: Conversation, last_id: str | None) -> Self:
        messages = await path_to(session, last_id, HISTORY) if last_id is not None else ()
        written = all(message.status != MessageStatus.STREAMING for message in messages)
        return cls(last_id, history_turns(conversation, messages), written)

    async def turns_to(
        self, session: AsyncSession, conversation: Conversation, parent: Message | None, content: str | None
    ) -> tuple[Turn, ...]:
        """The prompt with the new question under `parent`; read again if what is above it may be another by now."""
        parent_id = None if parent is None else parent.id
        same = self.written and parent_id == self.last_id
        turns = self.turns if same else await read_branch(session, conversation, parent_id)
        return turns if content is None else (*turns, Turn(Role.USER, content))


def history_turns(conversation: Conversation, messages: Sequence[Message]) -> tuple[Turn, ...]:
    """What the model is told: the system prompt, then the branch without answers that never came to a word."""
    turns = [Turn(Role.SYSTEM, conversation.system_prompt)] if conversation.system_prompt else []
    turns += [Turn(Role(message.role), message.content) for message in messages if message.content.strip()]
    return tuple(turns)
