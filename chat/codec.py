"""Events as they are stored: a short list, the kind first. An older log must stay readable: kinds are only added."""

from chat.events import (
    RunAttemptFailed,
    RunEvent,
    RunFailure,
    RunFinished,
    RunQueued,
    RunReasoningDelta,
    RunStarted,
    RunTextDelta,
)
from errors import ErrorCode
from models.journal import Encoded
from models.run import RunStatus
from providers.base import FinishReason, Usage


def encode_event(event: RunEvent) -> Encoded:
    match event:
        case RunTextDelta():
            return ["t", event.text]
        case RunReasoningDelta():
            return ["r", event.text]
        case RunStarted():
            return ["s", event.requested_model, event.model, event.provider, event.message_id]
        case RunQueued():
            return ["q", event.position]
        case RunAttemptFailed():
            return ["a", event.model, event.provider, _encode_failure(event.error)]
        case RunFinished():
            return _encode_finished(event)
    raise AssertionError(f"{type(event).__name__} is never stored")


def _encode_finished(event: RunFinished) -> Encoded:
    usage = event.usage
    figures = None
    if usage is not None:
        # The last came later: an older log has five.
        cached, reasoning = usage.cached_tokens, usage.reasoning_tokens
        figures = [usage.prompt_tokens, usage.completion_tokens, cached, reasoning, usage.estimated, usage.cost_nanos]
    error = None if event.error is None else _encode_failure(event.error)
    return ["f", event.status, event.finish_reason, figures, error, event.model, event.message_id]


def _encode_failure(failure: RunFailure) -> Encoded:
    return [failure.code, failure.message, failure.retryable, failure.retry_after]


def decode_event(run_id: str, seq: int, encoded: Encoded) -> RunEvent:
    kind, *values = encoded
    match kind:
        case "t":
            return RunTextDelta(run_id, seq, values[0])
        case "r":
            return RunReasoningDelta(run_id, seq, values[0])
        case "s":
            return RunStarted(run_id, seq, *values)
        case "q":
            return RunQueued(run_id, seq, values[0])
        case "a":
            return RunAttemptFailed(run_id, seq, values[0], values[1], _decode_failure(values[2]))
        case "f":
            return _decode_finished(run_id, seq, values)
    raise ValueError(f"an event of kind {kind!r} is newer than this server")


def _decode_finished(run_id: str, seq: int, values: Encoded) -> RunFinished:
    status, reason, figures, error, model, message_id = values
    return RunFinished(
        run_id,
        seq,
        RunStatus(status),
        None if reason is None else FinishReason(reason),
        None if figures is None else Usage(*figures),
        None if error is None else _decode_failure(error),
        model,
        message_id,
    )


def _decode_failure(values: Encoded) -> RunFailure:
    return RunFailure(ErrorCode(values[0]), *values[1:])
