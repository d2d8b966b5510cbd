"""The events of a run log, as types."""

from collections.abc import Callable
from typing import Any

import strawberry
from strawberry import ID, Private

from chat import events
from graph.context import Info
from graph.enums import FinishReason, RunStatus
from graph.types import Message, RunError, Usage, load_message


@strawberry.interface(description="Numbered 0, 1, 2, … within one run.")
class RunEvent:
    run_id: ID
    seq: int


@strawberry.type
class RunQueued(RunEvent):
    position: int | None


@strawberry.type
class RunAttemptFailed(RunEvent):
    model: str
    provider: str
    error: RunError


@strawberry.type(description="Appended when a provider's first chunk arrives: it names who really answers.")
class RunStarted(RunEvent):
    requested_model: str
    model: str
    provider: str
    message_id: ID | None


@strawberry.type
class RunTextDelta(RunEvent):
    text: str


@strawberry.type
class RunReasoningDelta(RunEvent):
    text: str


@strawberry.type(description="The whole text up to and including `seq`, where the events are no longer kept.")
class RunSnapshot(RunEvent):
    text: str
    reasoning: str | None


@strawberry.type(description="The last event of every run.")
class RunFinished(RunEvent):
    status: RunStatus
    finish_reason: FinishReason | None
    usage: Usage | None
    error: RunError | None
    message_id: Private[str | None]

    @strawberry.field
    async def message(self, info: Info) -> Message | None:
        return await load_message(info.context, self.message_id)


EVENT_TYPES = (
    RunQueued,
    RunAttemptFailed,
    RunStarted,
    RunTextDelta,
    RunReasoningDelta,
    RunSnapshot,
    RunFinished,
)


def _attempt_failed(event: events.RunAttemptFailed) -> RunAttemptFailed:
    return RunAttemptFailed(
        run_id=ID(event.run_id),
        seq=event.seq,
        model=event.model,
        provider=event.provider,
        error=RunError.known(event.error),
    )


def _started(event: events.RunStarted) -> RunStarted:
    return RunStarted(
        run_id=ID(event.run_id),
        seq=event.seq,
        requested_model=event.requested_model,
        model=event.model,
        provider=event.provider,
        message_id=None if event.message_id is None else ID(event.message_id),
    )


def _finished(event: events.RunFinished) -> RunFinished:
    return RunFinished(
        run_id=ID(event.run_id),
        seq=event.seq,
        status=event.status,
        finish_reason=event.finish_reason,
        usage=Usage.of(event.usage),
        error=RunError.of(event.error),
        message_id=event.message_id,
    )


MAKERS: dict[type[events.RunEvent], Callable[[Any], RunEvent]] = {
    events.RunQueued: lambda event: RunQueued(run_id=event.run_id, seq=event.seq, position=event.position),
    events.RunAttemptFailed: _attempt_failed,
    events.RunStarted: _started,
    events.RunTextDelta: lambda event: RunTextDelta(run_id=event.run_id, seq=event.seq, text=event.text),
    events.RunReasoningDelta: lambda event: RunReasoningDelta(run_id=event.run_id, seq=event.seq, text=event.text),
    events.RunSnapshot: lambda event: RunSnapshot(
        run_id=event.run_id, seq=event.seq, text=event.text, reasoning=event.reasoning
    ),
    events.RunFinished: _finished,
}


def to_graph(event: events.RunEvent) -> RunEvent:
    return MAKERS[type(event)](event)
