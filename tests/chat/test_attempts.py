"""Retries and the fallback chain: what is asked again, when, how often, and what is told and kept of it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import chat.attempts
from chat.attempts import RetryLimits
from chat.chats import StatelessChat
from chat.events import RunAttemptFailed, RunEvent, RunFinished, RunStarted, RunTextDelta, text_of
from chat.prompt import estimate_tokens
from errors import ErrorCode, ProviderError, ProviderRateLimited
from models.run import Run, RunStatus
from providers.base import FinishReason, Role, Turn
from tests.chat.conftest import GENERATION, Core, OddProvider, end_of, open_core
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("in_no_time")

TWICE = replace(GENERATION, retry=RetryLimits(2, 10))


@pytest.fixture
async def core(path: Path) -> AsyncIterator[Core]:
    async with open_core(path, generation=TWICE) as opened:
        yield opened


async def play(core: Core, script: str, **more: Any) -> tuple[list[RunEvent], Run]:
    user = await core.user()
    run = await core.send(user, script, **more)
    return await core.events(user, run), await core.row(run.id)


def codes(run: Run) -> list[str | None]:
    """What each attempt failed with."""
    return [attempt.get("error", {}).get("code") for attempt in run.attempts]


class TestRetries:
    async def test_a_failure_that_passes_is_told_and_recorded_and_the_answer_is_whole(self, core: Core) -> None:
        events, row = await play(core, "flaky=2/PROVIDER_ERROR,text=a,text=b")
        assert [type(event) for event in events[:3]] == [RunAttemptFailed, RunAttemptFailed, RunStarted]
        assert text_of(events) == "ab"
        assert end_of(events).status is RunStatus.COMPLETED
        assert [event.seq for event in events] == list(range(len(events)))
        assert codes(row) == ["PROVIDER_ERROR", "PROVIDER_ERROR", None]
        began = [attempt["started_at"] for attempt in row.attempts]
        assert began == sorted(began)

    async def test_one_that_does_not_ends_the_run_behind_the_last_attempt(self, core: Core) -> None:
        events, row = await play(core, "fail=PROVIDER_ERROR")
        assert [type(event) for event in events] == [RunAttemptFailed, RunAttemptFailed, RunFinished]
        assert codes(row) == ["PROVIDER_ERROR"] * 3
        assert end_of(events).status is RunStatus.FAILED

    @pytest.mark.parametrize("code", ["PROVIDER_AUTH", "CONTENT_FILTERED", "CONTEXT_TOO_LONG", "MODEL_UNAVAILABLE"])
    async def test_what_will_not_pass_in_a_moment_is_not_asked_again(self, core: Core, code: str) -> None:
        events, row = await play(core, f"fail={code}")
        assert [type(event) for event in events] == [RunFinished]
        assert codes(row) == [code]

    @pytest.mark.parametrize("first", ["text=a", "think=a", "text=_"])
    async def test_nothing_is_asked_again_behind_the_first_text(self, core: Core, first: str) -> None:
        """Two answers must not be glued together: the text stays, and the user decides."""
        events, row = await play(core, f"{first},fail=PROVIDER_RATE_LIMITED/0")
        assert not any(isinstance(event, RunAttemptFailed) for event in events)
        assert codes(row) == ["PROVIDER_RATE_LIMITED"]
        assert end_of(events).status is RunStatus.FAILED
        assert text_of(events) == {"text=a": "a", "think=a": "", "text=_": " "}[first]

    async def test_silence_was_waited_for_and_is_not_waited_for_again(self, path: Path) -> None:
        async with open_core(path, generation=replace(TWICE, first_token=0.05)) as core:
            _, row = await play(core, "stall")
            assert codes(row) == ["PROVIDER_TIMEOUT"]

    async def test_can_be_switched_off(self, path: Path) -> None:
        async with open_core(path, generation=replace(TWICE, retry=RetryLimits(0, 10))) as core:
            assert codes((await play(core, "fail=PROVIDER_ERROR"))[1]) == ["PROVIDER_ERROR"]

    async def test_operators_read_of_each_failure(self, core: Core, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "chat.attempts"):
            _, row = await play(core, "flaky=1/PROVIDER_RATE_LIMITED,text=a")
        assert [record.getMessage() for record in caplog.records if row.id in record.getMessage()] == [
            f"run {row.id}: {row.model} of scripted: PROVIDER_RATE_LIMITED: {ProviderRateLimited.default_message}"
        ]

    async def test_figures_of_a_failed_attempt_are_not_the_answers(self, path: Path) -> None:
        odd = OddProvider("abcdef")
        async with open_core(path, fallback=["odd"], providers=[odd]) as core:
            events, _ = await play(core, "usage=5000/1,fail=PROVIDER_ERROR")
            usage = end_of(events).usage
            assert usage is not None
            assert usage.completion_tokens == estimate_tokens("abcdef")


class TestRetryAfter:
    async def test_is_waited_for(self, core: Core) -> None:
        events, row = await play(core, "flaky=1/PROVIDER_RATE_LIMITED/0.3,text=a")
        assert text_of(events) == "a"
        first, second = (attempt["started_at"] for attempt in row.attempts)
        assert second - first >= 300

    async def test_runs_that_were_told_the_same_do_not_come_back_together(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chat.attempts, "JITTER", 0.5)
        run = Run(requested_model="m", model="m", provider="p")
        attempts = chat.attempts.Attempts(run, None, RetryLimits(2, 10), time.monotonic() + 60)  # type: ignore[arg-type]
        pauses = {attempts._pause_behind(ProviderRateLimited(retry_after=2), 0.5) for _ in range(20)}
        assert len(pauses) > 10
        assert all(2 <= pause <= 2.5 for pause in pauses)

    async def test_beyond_the_longest_pause_the_run_fails_and_says_when_to_ask_again(self, core: Core) -> None:
        events, row = await play(core, "fail=PROVIDER_RATE_LIMITED/77")
        error = end_of(events).error
        assert error is not None
        assert (error.code, error.retryable, error.retry_after) == (ErrorCode.PROVIDER_RATE_LIMITED, True, 77)
        assert codes(row) == ["PROVIDER_RATE_LIMITED"]
        stateless = StatelessChat([Turn(Role.USER, "x")], model="scripted:fail=PROVIDER_RATE_LIMITED/77")
        with pytest.raises(ProviderRateLimited) as caught:
            await core.chats.answer(None, stateless)
        assert caught.value.retry_after == 77

    async def test_or_the_next_model_is_asked_at_once(self, path: Path) -> None:
        async with open_core(path, generation=TWICE, fallback=["odd"], providers=[OddProvider("second")]) as core:
            events, row = await play(core, "fail=PROVIDER_RATE_LIMITED/77")
            assert text_of(events) == "second"
            assert codes(row) == ["PROVIDER_RATE_LIMITED", None]
            failed = events[0]
            assert isinstance(failed, RunAttemptFailed)
            assert failed.error.retry_after == 77

    async def test_beyond_the_runs_own_time_nobody_waits(self, path: Path) -> None:
        async with open_core(path, generation=replace(TWICE, whole=8)) as core:
            async with asyncio.timeout(6):
                events, row = await play(core, "fail=PROVIDER_RATE_LIMITED/9")
            assert codes(row) == ["PROVIDER_RATE_LIMITED"]
            assert end_of(events).error is not None


class TestFallback:
    async def test_each_model_has_its_retries_and_all_of_it_is_in_order(self, path: Path) -> None:
        odd = OddProvider(ProviderError("odd too"))
        async with open_core(path, generation=TWICE, fallback=["odd", "scripted:text=c"], providers=[odd]) as core:
            events, row = await play(core, "fail=PROVIDER_ERROR")
            assert [attempt["model"] for attempt in row.attempts] == [
                *["scripted:fail=PROVIDER_ERROR"] * 3,
                *["odd"] * 3,
                "scripted:text=c",
            ]
            told = [event.model for event in events if isinstance(event, RunAttemptFailed)]
            assert told == [attempt["model"] for attempt in row.attempts[:-1]]
            assert (row.model, text_of(events)) == ("scripted:text=c", "c")

    async def test_a_model_that_its_provider_does_not_have_is_passed_on(self, path: Path) -> None:
        async with open_core(path, generation=TWICE, fallback=["odd"], providers=[OddProvider("second")]) as core:
            events, row = await play(core, "no-such-step")
            assert text_of(events) == "second"
            assert row.attempts[0]["error"]["retryable"] is False


class TestStops:
    async def test_a_cancel_in_a_pause_works_at_once(self, core: Core) -> None:
        user = await core.user()
        run = await core.send(user, "flaky=1/PROVIDER_RATE_LIMITED/9,text=a")
        await until(lambda: len((core.engine.live(run)).attempts) == 1 and core.provider.active == 0)
        async with asyncio.timeout(5):
            await core.chats.cancel(user, run.id)
        row = await core.row(run.id)
        assert row.status == RunStatus.CANCELLED
        assert codes(row) == ["PROVIDER_RATE_LIMITED"]

    async def test_a_stop_of_the_server_in_a_pause_is_an_interruption(self, core: Core) -> None:
        user = await core.user()
        run = await core.send(user, "flaky=1/PROVIDER_RATE_LIMITED/9,text=a")
        await until(lambda: len((core.engine.live(run)).attempts) == 1 and core.provider.active == 0)
        async with asyncio.timeout(5):
            await core.engine.drain()
        assert (await core.row(run.id)).status == RunStatus.INTERRUPTED

    async def test_the_runs_whole_time_has_the_pauses_in_it(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chat.attempts, "FIRST_PAUSE", 0.1)
        limits = replace(TWICE, whole=0.5, retry=RetryLimits(10, 10))
        async with open_core(path, generation=limits) as core:
            events, row = await play(core, "fail=PROVIDER_ERROR")
            assert 1 < len(row.attempts) < 10
            assert set(codes(row)) == {"PROVIDER_ERROR"}
            assert end_of(events).status is RunStatus.FAILED

    async def test_an_attempt_that_is_cut_off_by_it_says_so(self, path: Path) -> None:
        async with open_core(path, generation=replace(TWICE, whole=0.1)) as core:
            events, row = await play(core, "text=a,stall")
            assert codes(row) == ["PROVIDER_TIMEOUT"]
            assert text_of(events) == "a"


class TestWhatIsNoAnswer:
    async def test_nothing_but_white_space_ends(self, core: Core) -> None:
        """Models that lost their way write line breaks until somebody stops them; somebody pays for each."""
        events, row = await play(core, "text=a,blanks=999999999", max_tokens=4096)
        assert end_of(events).error is not None
        assert (row.error_code, row.error_retryable) == (ErrorCode.PROVIDER_ERROR, True)
        assert text_of(events).strip() == "a"
        assert len(text_of(events)) < 2_100
        assert core.provider.active == 0

    async def test_and_does_not_pass_for_going_on(self, path: Path) -> None:
        async with open_core(path, generation=replace(TWICE, next_token=0.2)) as core:
            async with asyncio.timeout(10):
                events, _ = await play(core, "text=a,every=0.02,blanks=4000")
            error = end_of(events).error
            assert error is not None
            assert error.code is ErrorCode.PROVIDER_TIMEOUT

    async def test_white_space_between_words_is_text(self, core: Core) -> None:
        events, _ = await play(core, "blanks=1900,text=a,blanks=1900,text=b", max_tokens=4096)
        assert end_of(events).status is RunStatus.COMPLETED
        assert len(text_of(events)) == 3_802

    async def test_an_answer_that_was_filtered_whole_failed(self, core: Core) -> None:
        events, row = await play(core, "finish=CONTENT_FILTER")
        assert end_of(events).status is RunStatus.FAILED
        assert (row.error_code, row.error_retryable) == (ErrorCode.CONTENT_FILTERED, False)

    async def test_one_that_was_cut_by_the_filter_ended_so(self, core: Core) -> None:
        events, _ = await play(core, "text=a,finish=CONTENT_FILTER")
        end = end_of(events)
        assert (end.status, end.finish_reason) == (RunStatus.COMPLETED, FinishReason.CONTENT_FILTER)

    @pytest.mark.parametrize("figures", ["-5/3", "3/-5", "1/99999999999999999999", "300000000/1"])
    async def test_figures_that_cannot_be_are_not_believed(self, core: Core, figures: str) -> None:
        """They would be paid for, and one of them does not even fit into the database."""
        events, row = await play(core, f"text=abcdef,usage={figures}")
        usage = end_of(events).usage
        assert usage is not None
        assert usage.estimated
        assert usage.completion_tokens == estimate_tokens("abcdef")
        assert row.status == RunStatus.COMPLETED

    async def test_deltas_still_come_in_between(self, core: Core) -> None:
        events, _ = await play(core, "flaky=1/PROVIDER_ERROR,words=3")
        assert isinstance(events[1], RunStarted)
        assert isinstance(events[2], RunTextDelta)
