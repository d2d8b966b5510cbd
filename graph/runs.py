"""Runs: send a message, follow the log, cancel."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry
from strawberry import ID

from chat.chats import Sending
from graph.context import Info
from graph.events import RunEvent, to_graph
from graph.types import Message, Run, load_run


@strawberry.input
class SendMessageInput:
    conversation_id: ID
    content: str
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key again returns the first result, and starts nothing."
    )


@strawberry.input
class CancelRunInput:
    run_id: ID


@strawberry.type
class SendMessagePayload:
    message: Message
    run: Run


@strawberry.type
class RunPayload:
    run: Run


@strawberry.type
class RunQuery:
    @strawberry.field
    async def run(self, info: Info, id: ID) -> Run | None:
        return await load_run(info.context, id)


@strawberry.type
class RunMutation:
    @strawberry.mutation(description="Stores the message, starts a run, returns at once.")
    async def send_message(self, info: Info, input: SendMessageInput) -> SendMessagePayload:
        message, run = await info.context.services.chats.send_message(
            info.context.user_id,
            Sending(
                conversation_id=input.conversation_id,
                content=input.content,
                model=input.model,
                temperature=input.temperature,
                max_tokens=input.max_tokens,
                idempotency_key=input.idempotency_key,
            ),
        )
        return SendMessagePayload(message=Message.of(message, info.context), run=Run.of(run, info.context))

    @strawberry.mutation(description="Works also before the first token; keeps the partial answer.")
    async def cancel_run(self, info: Info, input: CancelRunInput) -> RunPayload:
        run = await info.context.services.chats.cancel(info.context.user_id, input.run_id)
        return RunPayload(run=Run.of(run, info.context))


@strawberry.type
class RunSubscription:
    @strawberry.subscription(description="The live log of one run. Completes behind RunFinished.")
    async def run_events(
        self,
        info: Info,
        run_id: ID,
        after: Annotated[
            int | None, strawberry.argument(description="The last seq that the client has; null: from the start.")
        ] = None,
    ) -> AsyncGenerator[RunEvent, None]:
        context = info.context
        async with aclosing(context.services.chats.follow(context.user_id, run_id, after)) as events:
            async for event in events:
                yield to_graph(event)
