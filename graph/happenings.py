"""Everything that happens in a conversation, or to the viewer: replayable by cursor."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry
from strawberry import ID

from chat import events
from chat.happenings import Happening
from chat.typing import TypingNotice
from graph.context import Context, Info
from graph.events import RunEvent, to_graph
from graph.types import Conversation, Message, Run, load_conversation, load_message, load_run
from models.change import Change, ChangeKind

After = Annotated[str | None, strawberry.argument(description="The last cursor that the client has; null: from now.")]


@strawberry.interface
class ConversationEvent:
    conversation_id: ID
    cursor: str


@strawberry.type
class MessageAdded(ConversationEvent):
    message: Message


@strawberry.type
class MessageRemoved(ConversationEvent):
    id: ID


@strawberry.type(description="The last event: the subscription completes.")
class ConversationDeleted(ConversationEvent):
    pass


@strawberry.type
class ConversationChanged(ConversationEvent):
    conversation: Conversation


@strawberry.type
class ConversationRunEvent(ConversationEvent):
    event: RunEvent


@strawberry.type(description="Never stored, never replayed; hide it after 5 s.")
class ConversationTyping(ConversationEvent):
    user_id: ID
    username: str


@strawberry.type(description="The cursor is too old, or too much changed at once: fetch again.")
class ConversationResync(ConversationEvent):
    pass


@strawberry.type
class ConversationUpserted:
    cursor: str
    conversation: Conversation


@strawberry.type
class ViewerRunChanged:
    cursor: str
    run: Run


@strawberry.type
class ViewerResync:
    cursor: str


ViewerEvent = Annotated[
    ConversationUpserted | ConversationDeleted | ViewerRunChanged | ViewerResync, strawberry.union("ViewerEvent")
]

CONVERSATION_EVENT_TYPES = (
    MessageAdded,
    MessageRemoved,
    ConversationDeleted,
    ConversationChanged,
    ConversationRunEvent,
    ConversationTyping,
    ConversationResync,
)


@strawberry.type
class HappeningSubscription:
    @strawberry.subscription(description="For every device and member that has the conversation open.")
    async def conversation_events(
        self, info: Info, conversation_id: ID, after: After = None
    ) -> AsyncGenerator[ConversationEvent, None]:
        context = info.context
        follow = context.services.happenings.of_conversation(context.user_id, conversation_id, after)
        async with aclosing(follow) as happenings:
            async for happening in happenings:
                event = await _in_conversation(context, ID(happening.audience), happening)
                if event is not None:
                    yield event

    @strawberry.subscription(description="Conversations and runs of the viewer, on any device.")
    async def viewer_events(self, info: Info, after: After = None) -> AsyncGenerator[ViewerEvent, None]:
        context = info.context
        async with aclosing(context.services.happenings.of_viewer(context.user_id, after)) as happenings:
            async for happening in happenings:
                event = await _of_viewer(context, happening)
                if event is not None:
                    yield event


async def _in_conversation(context: Context, conversation_id: ID, happening: Happening) -> ConversationEvent | None:
    cursor, what = happening.cursor, happening.what
    if what is None:
        return ConversationResync(conversation_id=conversation_id, cursor=cursor)
    if isinstance(what, events.RunEvent):
        return ConversationRunEvent(conversation_id=conversation_id, cursor=cursor, event=to_graph(what))
    if isinstance(what, TypingNotice):
        return ConversationTyping(
            conversation_id=conversation_id, cursor=cursor, user_id=ID(what.user_id), username=what.username or ""
        )
    return await _changed(context, conversation_id, cursor, what)


async def _changed(context: Context, conversation_id: ID, cursor: str, change: Change) -> ConversationEvent | None:
    match change.kind:
        case ChangeKind.DELETED:
            return ConversationDeleted(conversation_id=conversation_id, cursor=cursor)
        case ChangeKind.MESSAGE_REMOVED:
            return MessageRemoved(conversation_id=conversation_id, cursor=cursor, id=ID(change.ref))
        case ChangeKind.MESSAGE_ADDED:
            # One that is gone by now is told as removed further on.
            message = await load_message(context, change.ref)
            if message is not None:
                return MessageAdded(conversation_id=conversation_id, cursor=cursor, message=message)
        case ChangeKind.CHANGED:
            conversation = await load_conversation(context, conversation_id)
            if conversation is not None:
                return ConversationChanged(conversation_id=conversation_id, cursor=cursor, conversation=conversation)
        case ChangeKind.RESYNC:
            return ConversationResync(conversation_id=conversation_id, cursor=cursor)
    return None


async def _of_viewer(
    context: Context, happening: Happening
) -> ConversationUpserted | ConversationDeleted | ViewerRunChanged | ViewerResync | None:
    cursor, change = happening.cursor, happening.what
    if not isinstance(change, Change):
        return ViewerResync(cursor=cursor)
    if change.kind == ChangeKind.RUN:
        run = await load_run(context, change.ref)
        return None if run is None else ViewerRunChanged(cursor=cursor, run=run)
    conversation = await load_conversation(context, change.ref)
    if conversation is not None:
        return ConversationUpserted(cursor=cursor, conversation=conversation)
    # Deleted, or the viewer was put out of it: either way it does not exist for the viewer any more.
    return ConversationDeleted(conversation_id=ID(change.ref), cursor=cursor)
