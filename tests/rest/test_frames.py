from __future__ import annotations

import pytest

from chat.events import RunEvent, RunFailure, RunFinished, RunQueued, RunReasoningDelta, RunStarted, RunTextDelta
from errors import BadUserInput, ErrorCode, TooLarge
from models.run import RunStatus
from providers.base import Usage
from rest.frames import complete_frame, frame_of, read_frame

LIMIT = 100
VALUES = 10


def finished(status: RunStatus, error: RunFailure | None = None, usage: Usage | None = None) -> RunFinished:
    return RunFinished("run", 3, status, None, usage, error, "m", None)


async def test_a_frame_is_an_object() -> None:
    assert await read_frame({"text": '{"type": "ping"}'}, LIMIT, VALUES) == {"type": "ping"}
    assert await read_frame({"text": '{"type": "ping"}', "bytes": None}, LIMIT, VALUES) == {"type": "ping"}


@pytest.mark.parametrize("text", [None, "", "5", "[]", "{", "NaN", '{"a": "\\udfff"}'])
async def test_what_is_no_frame(text: str | None) -> None:
    with pytest.raises(BadUserInput):
        await read_frame({"text": text, "bytes": b"{}"}, LIMIT, VALUES)


@pytest.mark.parametrize(("size", "letter"), [(LIMIT, "x"), (LIMIT // 3, "啊"), (LIMIT // 4, "😀")])
async def test_the_limit_is_in_bytes(size: int, letter: str) -> None:
    with pytest.raises(BadUserInput, match="JSON"):
        await read_frame({"text": letter * size}, LIMIT, VALUES)
    with pytest.raises(TooLarge):
        await read_frame({"text": letter * (size + 1)}, LIMIT, VALUES)


async def test_a_frame_of_too_many_values_is_not_read() -> None:
    with pytest.raises(TooLarge, match="more than 10 keys and values"):
        await read_frame({"text": "no JSON" + "[" * 11}, LIMIT, VALUES)


@pytest.mark.parametrize(
    "event",
    [
        RunQueued("run", 0, 1),
        RunStarted("run", 0, "m", "m", "p", None),
        RunReasoningDelta("run", 1, "hm"),
        finished(RunStatus.COMPLETED),
    ],
)
def test_events_that_have_no_frame(event: RunEvent) -> None:
    assert frame_of(event) is None


def test_text_is_a_chunk() -> None:
    assert frame_of(RunTextDelta("run", 1, "hi")) == {"type": "chat_chunk", "content": "hi"}


def test_a_failure_is_an_error_with_the_codes_of_graphql() -> None:
    failure = RunFailure(ErrorCode.PROVIDER_TIMEOUT, "late", retryable=True)
    assert frame_of(finished(RunStatus.FAILED, failure)) == {
        "type": "error",
        "code": "PROVIDER_TIMEOUT",
        "message": "late",
    }


@pytest.mark.parametrize(
    ("status", "code"), [(RunStatus.CANCELLED, "CONFLICT"), (RunStatus.INTERRUPTED, "UNAVAILABLE")]
)
def test_a_run_that_was_stopped_is_no_success(status: RunStatus, code: str) -> None:
    frame = frame_of(finished(status))
    assert frame is not None
    assert (frame["type"], frame["code"]) == ("error", code)


def test_complete_has_tokens_and_model() -> None:
    assert complete_frame(finished(RunStatus.COMPLETED, usage=Usage(3, 4))) == {
        "type": "chat_complete",
        "tokens": 7,
        "model": "m",
    }
    assert complete_frame(finished(RunStatus.FAILED))["tokens"] == 0
