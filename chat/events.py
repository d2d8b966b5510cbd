"""The events of a run log. `seq` counts 0, 1, 2, … within one run; a follower that has n asks for what is behind n."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from errors import ErrorCode
from models.run import RunStatus
from providers.base import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class RunFailure:
    """Why a run or an attempt failed. `message` may be shown to the user."""

    code: ErrorCode
    message: str
    retryable: bool
    retry_after: float | None = None


@dataclass(slots=True)
class RunEvent:
    """Shared by all who follow, and never changed. Not frozen: a frozen one costs three times as much to make, and
    one is made for each token."""

    run_id: str
    seq: int


@dataclass(slots=True)
class RunQueued(RunEvent):
    """`position` is the number of runs in front."""

    position: int


@dataclass(slots=True)
class RunAttemptFailed(RunEvent):
    model: str
    provider: str
    error: RunFailure


@dataclass(slots=True)
class RunStarted(RunEvent):
    """The provider's first chunk has arrived: this is who really answers."""

    requested_model: str
    model: str
    provider: str
    message_id: str | None


@dataclass(slots=True)
class RunTextDelta(RunEvent):
    text: str


@dataclass(slots=True)
class RunReasoningDelta(RunEvent):
    text: str


@dataclass(slots=True)
class RunSnapshot(RunEvent):
    """The whole text up to and including `seq`: stands for all the events that are no longer kept."""

    text: str
    reasoning: str | None


@dataclass(slots=True)
class RunFinished(RunEvent):
    """The last event of every run."""

    status: RunStatus
    finish_reason: FinishReason | None
    usage: Usage | None
    error: RunFailure | None
    model: str
    message_id: str | None


MERGE_ABOVE = 4
"""A reader that is up to so many events behind gets them as they are; beyond it, neighbouring deltas become one."""


def merge(events: list[RunEvent]) -> list[RunEvent]:
    """The same text in fewer events, for a reader that is behind: neighbours of a kind join under the last seq."""
    if len(events) <= MERGE_ABOVE:
        return events
    merged: list[RunEvent] = []
    parts: list[str] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, RunTextDelta | RunReasoningDelta) and type(event) is type(last):
            parts.append(event.text)
            merged[-1] = event
            continue
        _close(merged, parts)
        merged.append(event)
        parts = [event.text] if isinstance(event, RunTextDelta | RunReasoningDelta) else []
    _close(merged, parts)
    return merged


def _close(merged: list[RunEvent], parts: list[str]) -> None:
    if len(parts) > 1:
        last = merged[-1]
        assert isinstance(last, RunTextDelta | RunReasoningDelta)
        merged[-1] = replace(last, text="".join(parts))


def text_of(events: Iterable[RunEvent]) -> str:
    """The text that a follower of these events has."""
    text = ""
    for event in events:
        if isinstance(event, RunSnapshot):
            text = event.text
        elif isinstance(event, RunTextDelta):
            text += event.text
    return text
