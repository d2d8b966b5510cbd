"""Conversations: read, list, create, update, replace, delete."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import strawberry
from strawberry import ID, UNSET

from chat import conversations as use_cases
from chat.conversations import ConversationChanges
from chat.drafts import ConversationDraft, MessageDraft
from errors import BadUserInput, ChatError
from graph.context import Info
from graph.enums import Role
from graph.paging import PageInfo, decode_cursor, encode_cursor, number_in, page_info, page_size, trim_page
from graph.types import Conversation, First, given
from models.columns import MAX_MILLIS, from_millis, to_millis
from models.conversation import ConversationFilter as Filter
from models.conversation import Position


@strawberry.input
class ConversationFilter:
    archived: bool | None = None
    pinned: bool | None = None
    title_contains: str | None = None
    model: str | None = None


@strawberry.type
class ConversationEdge:
    cursor: str
    node: Conversation


@strawberry.type
class ConversationConnection:
    edges: list[ConversationEdge]
    page_info: PageInfo


@strawberry.input
class MessageInput:
    role: Role
    content: str
    external_id: str | None = None
    created_at: datetime | None = None


@strawberry.input
class CreateConversationInput:
    title: str | None = None
    model: str | None = None
    system_prompt: str | None = None
    external_id: str | None = None
    messages: list[MessageInput] | None = None


@strawberry.input(description="An absent field leaves the value, null clears it.")
class UpdateConversationInput:
    id: ID
    title: str | None = UNSET
    model: str | None = UNSET
    system_prompt: str | None = UNSET
    archived: bool | None = UNSET
    pinned: bool | None = UNSET
    head_message_id: ID | None = UNSET
    expected_version: int | None = None


@strawberry.input(description="The messages become one branch; those of unchanged id and content keep their identity.")
class ReplaceConversationInput:
    id: ID
    title: str
    model: str
    messages: list[MessageInput]
    system_prompt: str | None = None
    expected_version: int | None = None


@strawberry.input
class DeleteConversationInput:
    id: ID


@strawberry.input
class DeleteMessageInput:
    id: ID


@strawberry.type
class ConversationPayload:
    conversation: Conversation


@strawberry.type
class DeleteConversationPayload:
    id: ID


@strawberry.type
class ConversationQuery:
    @strawberry.field(description="By its own id, or by the externalId that the viewer gave it.")
    async def conversation(self, info: Info, id: ID) -> Conversation | None:
        if info.context.viewer is None:
            return None
        row = await info.context.services.conversations.find(info.context.user_id, id)
        return None if row is None else Conversation.of(row)

    @strawberry.field(description="Newest `updatedAt` first.")
    async def conversations(
        self,
        info: Info,
        first: First = None,
        after: str | None = None,
        last: First = None,
        before: str | None = None,
        filter: Annotated[ConversationFilter | None, strawberry.argument()] = None,
    ) -> ConversationConnection:
        user_id = info.context.user_id
        size = page_size(first, last)
        rows = await info.context.services.conversations.page(
            user_id,
            limit=size.count + 1,
            older_than=_position(after, "after"),
            newer_than=_position(before, "before"),
            from_oldest=size.from_end,
            only=None
            if filter is None
            else Filter(filter.archived, filter.pinned, filter.title_contains, filter.model),
        )
        page, more, fewer = trim_page(rows, size, after=after is not None, before=before is not None)
        edges = [
            ConversationEdge(cursor=encode_cursor(to_millis(row.updated_at), row.id), node=Conversation.of(row))
            for row in page
        ]
        return ConversationConnection(edges=edges, page_info=page_info([edge.cursor for edge in edges], more, fewer))


@strawberry.type
class ConversationMutation:
    @strawberry.mutation
    async def create_conversation(self, info: Info, input: CreateConversationInput) -> ConversationPayload:
        draft = ConversationDraft(
            title=input.title,
            model=input.model,
            system_prompt=input.system_prompt,
            external_id=input.external_id,
            messages=_drafts(input.messages or []),
        )
        with _renamed():
            row, _ = await info.context.services.conversations.create(info.context.user_id, draft)
        return ConversationPayload(conversation=Conversation.of(row))

    @strawberry.mutation
    async def update_conversation(self, info: Info, input: UpdateConversationInput) -> ConversationPayload:
        prompt, head = input.system_prompt, input.head_message_id
        changes = ConversationChanges(
            title=use_cases.UNSET if input.title is UNSET else given(input.title, "title"),
            model=use_cases.UNSET if input.model is UNSET else given(input.model, "model"),
            system_prompt=use_cases.UNSET if prompt is UNSET else prompt,
            archived=use_cases.UNSET if input.archived is UNSET else given(input.archived, "archived"),
            pinned=use_cases.UNSET if input.pinned is UNSET else given(input.pinned, "pinned"),
            head_id=use_cases.UNSET if head is UNSET else str(given(head, "headMessageId")),
        )
        row = await info.context.services.conversations.update(
            info.context.user_id, input.id, changes, input.expected_version
        )
        return ConversationPayload(conversation=Conversation.of(row))

    @strawberry.mutation
    async def replace_conversation(self, info: Info, input: ReplaceConversationInput) -> ConversationPayload:
        draft = ConversationDraft(
            title=input.title, model=input.model, system_prompt=input.system_prompt, messages=_drafts(input.messages)
        )
        with _renamed():
            row, _ = await info.context.services.conversations.replace(
                info.context.user_id, input.id, draft, input.expected_version
            )
        return ConversationPayload(conversation=Conversation.of(row))

    @strawberry.mutation
    async def delete_conversation(self, info: Info, input: DeleteConversationInput) -> DeleteConversationPayload:
        own_id = await info.context.services.conversations.delete(info.context.user_id, input.id)
        return DeleteConversationPayload(id=ID(own_id))

    @strawberry.mutation(description="With the branches below it; the newest branch beside it becomes active.")
    async def delete_message(self, info: Info, input: DeleteMessageInput) -> ConversationPayload:
        row = await info.context.services.conversations.delete_message(info.context.user_id, input.id)
        return ConversationPayload(conversation=Conversation.of(row))


FIELDS = {"id": "externalId", "messages.id": "messages.externalId"}


@contextmanager
def _renamed() -> Iterator[None]:
    """A draft's fields have the names of the documented contract; say those of this schema instead."""
    try:
        yield
    except ChatError as error:
        error.field = FIELDS.get(error.field or "", error.field)
        raise


def _drafts(inputs: list[MessageInput]) -> list[MessageDraft]:
    return [MessageDraft(item.role, item.content, item.external_id, _moment(item.created_at)) for item in inputs]


def _moment(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    try:
        millis = to_millis(aware)
    except OverflowError:
        millis = -1
    if not 0 <= millis <= MAX_MILLIS:
        raise BadUserInput("createdAt must be from 1970 to 9999", field="messages.createdAt")
    return from_millis(millis)


def _position(cursor: str | None, field: str) -> Position | None:
    millis = number_in(cursor, field, parts=2)
    if cursor is None or millis is None:
        return None
    if millis > MAX_MILLIS:
        raise BadUserInput(f"{field} is not a cursor of this list", field=field)
    return Position(from_millis(millis), decode_cursor(cursor, field)[1])
