"""Who is typing."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated

import strawberry
from strawberry import ID

from graph.context import Info


@strawberry.input
class SetTypingInput:
    conversation_id: ID | None = None


@strawberry.type
class SetTypingPayload:
    delivered: bool = strawberry.field(description="Accepted; false when throttled.")


@strawberry.type
class TypingEvent:
    user_id: ID
    username: str | None
    conversation_id: ID | None
    at: datetime


@strawberry.type
class TypingMutation:
    @strawberry.mutation
    async def set_typing(self, info: Info, input: SetTypingInput) -> SetTypingPayload:
        viewer = info.context.require()
        typing = info.context.services.typing
        return SetTypingPayload(delivered=await typing.tell(viewer.id, viewer.username, input.conversation_id))


@strawberry.type
class TypingSubscription:
    @strawberry.subscription(description="Never replayed. Without a conversation: the legacy socket's broadcast.")
    async def typing(
        self,
        info: Info,
        conversation_id: Annotated[ID | None, strawberry.argument(description="Null: the broadcast.")] = None,
    ) -> AsyncGenerator[TypingEvent, None]:
        follow = info.context.services.happenings.of_typing(info.context.user_id, conversation_id)
        async with aclosing(follow) as notices:
            async for notice in notices:
                yield TypingEvent(
                    user_id=ID(notice.user_id),
                    username=notice.username,
                    conversation_id=None if notice.conversation_id is None else ID(notice.conversation_id),
                    at=notice.at,
                )
