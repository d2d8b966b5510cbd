"""What clients send to be stored, checked: conversations and their messages, before they are rows."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from chat.inputs import InputLimits, clean, clean_id, clean_model
from errors import BadUserInput
from models.branch import PORTION, BranchRow
from models.columns import to_millis, utc_now
from models.conversation import Conversation
from models.ids import new_id
from providers.base import Role

DEFAULT_TITLE = "新对话"


@dataclass(frozen=True, slots=True)
class MessageDraft:
    role: Role
    content: str
    external_id: str | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ConversationDraft:
    """None for a time means now; None for the title and the model, the default."""

    title: str | None = None
    model: str | None = None
    system_prompt: str | None = None
    external_id: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    messages: Sequence[MessageDraft] = ()


def check_draft(draft: ConversationDraft, limits: InputLimits) -> None:
    """
    Raises:
        BadUserInput: names the field.
    """
    check_title(draft.title, limits)
    if draft.model is not None:
        clean_model(draft.model)
    check_system_prompt(draft.system_prompt, limits)
    clean_id(draft.external_id, "id")
    check_count(len(draft.messages), limits)
    ids: Counter[str] = Counter()
    for message in draft.messages:
        clean(message.content, "messages.content", limits.message)
        if (key := clean_id(message.external_id, "messages.id")) is not None:
            ids[key] += 1
            if ids[key] > 1:
                raise BadUserInput(f"The message id {key!r} stands twice", field="messages.id")


def check_count(messages: int, limits: InputLimits) -> None:
    if messages > limits.conversation_messages:
        raise BadUserInput(f"At most {limits.conversation_messages} messages at once", field="messages")


def check_title(title: str | None, limits: InputLimits) -> None:
    if title is not None:
        clean(title, "title", limits.title)


def check_system_prompt(prompt: str | None, limits: InputLimits) -> None:
    if prompt is not None:
        clean(prompt, "systemPrompt", limits.system_prompt)


def same_as_stored(draft: ConversationDraft, stored: Conversation, messages: Sequence[BranchRow], model: str) -> bool:
    """Whether creating the draft again would change nothing: a client's retry, not a second conversation."""
    times = ((draft.created_at, stored.created_at), (draft.updated_at, stored.updated_at))
    return (
        (draft.title or DEFAULT_TITLE) == stored.title
        and (draft.model or model) == stored.model
        and draft.system_prompt == stored.system_prompt
        and all(mine is None or to_millis(mine) == to_millis(theirs) for mine, theirs in times)
        and len(draft.messages) == len(messages)
        and all(_same_message(mine, theirs) for mine, theirs in zip(draft.messages, messages, strict=True))
    )


def _same_message(draft: MessageDraft, stored: BranchRow) -> bool:
    key = clean_id(draft.external_id, "id")
    return (
        draft.role == stored.role
        and draft.content == stored.content
        and key in {None, stored.external_id, stored.id}
        and (draft.created_at is None or to_millis(draft.created_at) == to_millis(stored.created_at))
    )


async def lay_branch(
    conversation: Conversation, drafts: Sequence[MessageDraft], known: Mapping[str, BranchRow], author_id: str
) -> list[BranchRow]:
    """The drafts as one branch of rows, root first. A known message whose role and content are unchanged keeps its row,
    and with it its identity, run and usage. Many take several turns of the event loop.

    Raises:
        BadUserInput: a message stands twice, under our id and the client's.
    """
    branch: list[BranchRow] = []
    used: set[str] = set()
    for depth, draft in enumerate(drafts):
        if depth % PORTION == PORTION - 1:
            await asyncio.sleep(0)
        key = clean_id(draft.external_id, "id")
        row = known.get(key) if key is not None else None
        if row is not None and row.id in used:
            raise BadUserInput(f"The message {row.id!r} stands twice", field="messages.id")
        if row is not None:
            used.add(row.id)
        if row is None or row.content != draft.content or row.role != draft.role:
            row = BranchRow(
                id=new_id("msg"),
                conversation_id=conversation.id,
                external_id=key,
                parent_id=None,
                depth=depth,
                active=True,
                role=draft.role,
                content=draft.content,
                created_at=draft.created_at or utc_now(),
                author_id=author_id if draft.role is Role.USER else None,
            )
        elif draft.created_at is not None:
            row.created_at = draft.created_at
        row.parent_id = branch[-1].id if branch else None
        row.depth, row.active = depth, True
        branch.append(row)
    conversation.head_id = branch[-1].id if branch else None
    conversation.message_count = len(branch)
    return branch
