"""The stateless chat: as a mutation, and streamed as a subscription."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import strawberry
from strawberry import ID

from chat.chats import StatelessChat
from graph.context import Info
from graph.enums import Role
from graph.events import RunEvent, to_graph
from providers.base import Turn


@strawberry.input
class ChatMessageInput:
    role: Role
    content: str


@strawberry.input
class ChatInput:
    messages: list[ChatMessageInput]
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key within 10 minutes follows the same run from its start."
    )

    def to_chat(self) -> StatelessChat:
        return StatelessChat(
            turns=[Turn(message.role, message.content) for message in self.messages],
            model=self.model,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            idempotency_key=self.idempotency_key,
        )


@strawberry.type
class ChatPayload:
    content: str
    tokens: int
    model: str
    run_id: ID


@strawberry.type
class ChatMutation:
    @strawberry.mutation(description="The whole answer at once. Nothing is stored but the usage.")
    async def chat(self, info: Info, input: ChatInput) -> ChatPayload:
        answer = await info.context.services.chats.answer(info.context.user_id, input.to_chat())
        return ChatPayload(content=answer.content, tokens=answer.tokens, model=answer.model, run_id=ID(answer.run_id))


@strawberry.type
class ChatSubscription:
    @strawberry.subscription(description="Start a stateless run and follow it in one operation.")
    async def chat(self, info: Info, input: ChatInput) -> AsyncGenerator[RunEvent, None]:
        context = info.context
        async with aclosing(context.services.chats.chat(context.user_id, input.to_chat())) as events:
            async for event in events:
                yield to_graph(event)
