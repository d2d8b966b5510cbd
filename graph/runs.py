"""Runs: send a message, follow the log, cancel."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import strawberry
from strawberry import ID

from chat.sending import Asking
from graph.context import Info
from graph.events import RunEvent, to_graph
from graph.types import Message, Run, load_run

KEY = "The same key again returns the first result, and starts nothing."


@strawberry.input
class SendMessageInput:
    conversation_id: ID
    content: str
    parent_id: ID | None = strawberry.field(default=None, description="Null: the head.")
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = strawberry.field(default=None, description=KEY)
    queue: bool | None = strawberry.field(
        default=False, description="Behind a run that is active in the branch; otherwise RUN_ACTIVE."
    )


@strawberry.input
class EditMessageInput:
    message_id: ID
    content: str
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = strawberry.field(default=None, description=KEY)


@strawberry.input
class RegenerateInput:
    message_id: ID
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    idempotency_key: str | None = strawberry.field(default=None, description=KEY)


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


def _asking(input: SendMessageInput | EditMessageInput | RegenerateInput, *, queue: bool = False) -> Asking:
    return Asking(input.model, input.temperature, input.max_tokens, input.idempotency_key, queue)


@strawberry.type
class RunQuery:
    @strawberry.field
    async def run(self, info: Info, id: ID) -> Run | None:
        return await load_run(info.context, id)


@strawberry.type
class RunMutation:
    @strawberry.mutation(description="Stores the message, starts a run, returns at once.")
    async def send_message(self, info: Info, input: SendMessageInput) -> SendMessagePayload:
        message, run = await info.context.services.sendings.send(
            info.context.user_id,
            input.conversation_id,
            input.content,
            _asking(input, queue=bool(input.queue)),
            input.parent_id,
        )
        return SendMessagePayload(message=Message.of(message), run=Run.of(run, info.context))

    @strawberry.mutation(description="A sibling of the edited message, and a new run below it.")
    async def edit_message(self, info: Info, input: EditMessageInput) -> SendMessagePayload:
        sendings = info.context.services.sendings
        message, run = await sendings.edit(info.context.user_id, input.message_id, input.content, _asking(input))
        return SendMessagePayload(message=Message.of(message), run=Run.of(run, info.context))

    @strawberry.mutation(description="A sibling of the answer.")
    async def regenerate(self, info: Info, input: RegenerateInput) -> RunPayload:
        run = await info.context.services.sendings.regenerate(info.context.user_id, input.message_id, _asking(input))
        return RunPayload(run=Run.of(run, info.context))

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
        async with aclosing(context.services.happenings.of_run(context.user_id, run_id, after)) as events:
            async for event in events:
                yield to_graph(event)
