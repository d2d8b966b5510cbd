import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chat.chats import StatelessChat
from chat.events import (
    RunAttemptFailed,
    RunEvent,
    RunFinished,
    RunReasoningDelta,
    RunStarted,
    RunTextDelta,
    text_of,
)
from chat.prompt import estimate_tokens
from errors import ErrorCode, InternalError, ProviderAuth, ProviderError, ProviderTimeout
from models.run import Run, RunStatus
from providers.base import (
    FinishChunk,
    FinishReason,
    ReasoningChunk,
    Role,
    TextChunk,
    Turn,
    Usage,
    UsageChunk,
)
from tests.chat.conftest import GENERATION, Core, OddProvider, end_of, open_core


async def play(core: Core, script: str, **more: Any) -> list[RunEvent]:
    user = await core.user()
    return await core.events(user, await core.send(user, script, **more))


async def ask_odd(core: Core) -> tuple[list[RunEvent], Run]:
    user = await core.user()
    run = await core.ask(user, await core.conversation(user), "odd")
    return await core.events(user, run), await core.row(run.id)


class TestAnAnswer:
    async def test_comes_as_started_deltas_finished(self, core: Core) -> None:
        events = await play(core, "text=a,text=b,usage=7/2")
        kinds = [type(event) for event in events]
        assert kinds[0] is RunStarted
        assert set(kinds[1:-1]) == {RunTextDelta}
        assert end_of(events).status is RunStatus.COMPLETED
        assert end_of(events).finish_reason is FinishReason.STOP
        assert end_of(events).usage == Usage(7, 2)
        assert text_of(events) == "ab"
        assert [event.seq for event in events] == list(range(len(events)))

    async def test_reasoning_is_not_text(self, core: Core) -> None:
        events = await play(core, "think=why,text=because")
        assert [type(event) for event in events] == [RunStarted, RunReasoningDelta, RunTextDelta, RunFinished]
        assert text_of(events) == "because"

    async def test_says_who_really_answers(self, core: Core) -> None:
        started = (await play(core, "text=a"))[0]
        assert isinstance(started, RunStarted)
        assert (started.requested_model, started.model, started.provider) == (
            "scripted:text=a",
            "scripted:text=a",
            "scripted",
        )

    async def test_without_a_finish_it_failed_with_its_text_kept(self, core: Core) -> None:
        events = await play(core, "text=a,cut")
        assert end_of(events).status is RunStatus.FAILED
        assert end_of(events).error is not None
        assert text_of(events) == "a"

    async def test_a_stop_for_length_is_a_whole_answer(self, core: Core) -> None:
        events = await play(core, "words=9", max_tokens=3)
        assert (end_of(events).status, end_of(events).finish_reason) == (RunStatus.COMPLETED, FinishReason.LENGTH)
        assert text_of(events) == "w0 w1 w2 "

    async def test_beyond_the_longest_text_it_is_cut_for_length(self, path: Path) -> None:
        async with open_core(path, generation=replace(GENERATION, chars=10)) as core:
            events = await play(core, "text=123456,think=789,text=0123456789,text=more")
            assert (end_of(events).status, end_of(events).finish_reason) == (RunStatus.COMPLETED, FinishReason.LENGTH)
            assert text_of(events) == "1234560"
            assert core.provider.active == 0

    async def test_one_that_fills_the_longest_text_exactly_is_whole(self, path: Path) -> None:
        async with open_core(path, generation=replace(GENERATION, chars=10)) as core:
            assert end_of(await play(core, "text=0123456789")).finish_reason is FinishReason.STOP

    async def test_text_that_no_database_takes_is_mended(self, path: Path) -> None:
        """A provider that splits a surrogate pair over two chunks must not cost the whole answer."""
        async with open_core(path, providers=[OddProvider("a\ud83d", "\ude00b\x00c")]) as core:
            events, row = await ask_odd(core)
            assert end_of(events).status is RunStatus.COMPLETED
            assert text_of(events) == "a\ufffd\ufffdb\ufffdc"
            assert row.status == RunStatus.COMPLETED

    async def test_trouble_behind_the_finish_is_none(self, path: Path) -> None:
        """The answer is whole once the provider said so; only its figures may be missing."""
        odd = OddProvider("a", FinishChunk(FinishReason.STOP), ProviderError("reset"))
        async with open_core(path, providers=[odd]) as core:
            events, _ = await ask_odd(core)
            assert end_of(events).status is RunStatus.COMPLETED
            usage = end_of(events).usage
            assert usage is not None
            assert usage.estimated


class TestTimes:
    async def test_to_the_first_chunk(self, path: Path) -> None:
        async with open_core(path, generation=replace(GENERATION, first_token=0.05)) as core:
            last = end_of(await play(core, "wait=30,text=late"))
            assert last.error is not None
            assert last.error.code is ErrorCode.PROVIDER_TIMEOUT
            assert "begin within 0.05" in last.error.message
            assert core.provider.active == 0

    async def test_between_two_chunks(self, path: Path) -> None:
        async with open_core(path, generation=replace(GENERATION, next_token=0.05)) as core:
            events = await play(core, "text=a,wait=30,text=late")
            last = end_of(events)
            assert last.error is not None
            assert last.error.code is ErrorCode.PROVIDER_TIMEOUT
            assert "go on within 0.05" in last.error.message
            assert text_of(events) == "a"
            assert core.provider.active == 0

    async def test_of_the_whole_run(self, path: Path) -> None:
        async with open_core(path, generation=replace(GENERATION, whole=0.1)) as core:
            events = await play(core, "every=0.01,words=1000")
            last = end_of(events)
            assert last.error is not None
            assert last.error.code is ErrorCode.PROVIDER_TIMEOUT
            assert "longer than 0.1 seconds" in last.error.message
            assert text_of(events).startswith("w0 w1 ")
            assert core.provider.active == 0


class TestFallback:
    async def test_goes_on_to_the_next_model_before_the_first_text(self, path: Path) -> None:
        async with open_core(path, fallback=["odd"], providers=[OddProvider("second")]) as core:
            user = await core.user()
            asked = "scripted:fail=PROVIDER_RATE_LIMITED"
            run = await core.send(user, "fail=PROVIDER_RATE_LIMITED")
            events = await core.events(user, run)
            assert [type(event) for event in events] == [RunAttemptFailed, RunStarted, RunTextDelta, RunFinished]
            failed = events[0]
            assert isinstance(failed, RunAttemptFailed)
            assert (failed.provider, failed.error.code) == ("scripted", ErrorCode.PROVIDER_RATE_LIMITED)
            assert end_of(events).model == "odd"
            row = await core.row(run.id)
            assert (row.model, row.provider, row.requested_model) == ("odd", "odd", asked)
            assert [attempt["model"] for attempt in row.attempts] == [asked, "odd"]
            assert row.attempts[0]["error"]["code"] == "PROVIDER_RATE_LIMITED"
            assert "error" not in row.attempts[1]

    async def test_a_first_chunk_that_does_not_come_is_such_a_failure(self, path: Path) -> None:
        limits = replace(GENERATION, first_token=0.05)
        async with open_core(path, fallback=["odd"], providers=[OddProvider("second")], generation=limits) as core:
            assert text_of(await play(core, "wait=30")) == "second"

    @pytest.mark.parametrize("first", ["text=a,fail=PROVIDER_ERROR", "think=a,fail=PROVIDER_ERROR"])
    async def test_never_behind_the_first_text(self, path: Path, first: str) -> None:
        """Two models' answers must not be glued together."""
        odd = OddProvider("second")
        async with open_core(path, fallback=["odd"], providers=[odd]) as core:
            assert end_of(await play(core, first)).status is RunStatus.FAILED
            assert odd.asked == []

    @pytest.mark.parametrize("code", ["PROVIDER_AUTH", "CONTENT_FILTERED", "CONTEXT_TOO_LONG"])
    async def test_not_for_what_will_not_pass(self, path: Path, code: str) -> None:
        odd = OddProvider("second")
        async with open_core(path, fallback=["odd"], providers=[odd]) as core:
            last = end_of(await play(core, f"fail={code}"))
            assert last.error is not None
            assert (last.error.code, last.error.retryable) == (ErrorCode(code), False)
            assert odd.asked == []

    async def test_the_last_ones_failure_is_the_runs(self, path: Path) -> None:
        async with open_core(path, fallback=["odd"], providers=[OddProvider(ProviderAuth())]) as core:
            events = await play(core, "fail=PROVIDER_ERROR")
            assert [type(event) for event in events] == [RunAttemptFailed, RunFinished]
            last = end_of(events)
            assert last.error is not None
            assert last.error.code is ErrorCode.PROVIDER_AUTH


class TestTheUnforeseen:
    async def test_is_masked_logged_and_ends_the_run(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with open_core(path, providers=[OddProvider("a", KeyError("the password is 123"))]) as core:
            with caplog.at_level(logging.ERROR):
                events, row = await ask_odd(core)
            last = end_of(events)
            assert last.error is not None
            assert last.error.code is ErrorCode.INTERNAL_ERROR
            assert row.id in last.error.message
            assert "password" not in last.error.message
            assert text_of(events) == "a"
            assert "the password is 123" in caplog.text
            assert (row.status, row.error_code) == (RunStatus.FAILED, ErrorCode.INTERNAL_ERROR)

    async def test_is_an_internal_error_to_who_waits_for_the_whole_answer(self, path: Path) -> None:
        async with open_core(path, providers=[OddProvider(RuntimeError("inside"))]) as core:
            with pytest.raises(InternalError) as caught:
                await core.chats.answer(None, StatelessChat([Turn(Role.USER, "x")], model="odd"))
            assert "inside" not in caught.value.message

    async def test_a_timeout_of_the_provider_s_own_is_a_timeout(self, path: Path) -> None:
        async with open_core(path, providers=[OddProvider(ProviderTimeout("too slow"))]) as core:
            last = end_of((await ask_odd(core))[0])
            assert last.error is not None
            assert (last.error.code, last.error.message) == (ErrorCode.PROVIDER_TIMEOUT, "too slow")


class TestUsage:
    async def test_is_estimated_when_the_provider_gives_none(self, path: Path) -> None:
        async with open_core(path, providers=[OddProvider(ReasoningChunk("why"), TextChunk("because"))]) as core:
            usage = end_of((await ask_odd(core))[0]).usage
            assert usage is not None
            assert usage.estimated
            assert usage.completion_tokens == estimate_tokens("whybecause")
            assert usage.prompt_tokens >= estimate_tokens("hello")

    async def test_estimates_count_what_was_sent_not_what_was_trimmed_away(self, path: Path) -> None:
        async with open_core(path, providers=[OddProvider("a", window=100)]) as core:
            turns = [Turn(Role.USER, "x" * 300) for _ in range(19)] + [Turn(Role.USER, "y" * 90)]
            chat = StatelessChat(turns, model="odd", max_tokens=1)
            events = [event async for event in core.chats.chat(None, chat)]
            usage = end_of(events).usage
            assert usage is not None
            assert usage.prompt_tokens < 100

    async def test_the_providers_own_figures_win(self, path: Path) -> None:
        figures = Usage(11, 22, 3, 4)
        async with open_core(path, providers=[OddProvider("a", UsageChunk(figures))]) as core:
            events, row = await ask_odd(core)
            assert end_of(events).usage == figures
            stored = (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.reasoning_tokens)
            assert stored == (11, 22, 3, 4)
            assert not row.usage_estimated

    @pytest.mark.parametrize("script", ["text=abcdef,fail=PROVIDER_ERROR", "text=abcdef,cut"])
    async def test_a_failed_run_is_counted(self, core: Core, script: str) -> None:
        usage = end_of(await play(core, script)).usage
        assert usage is not None
        assert usage.completion_tokens >= 2

    async def test_a_cancelled_run_is_counted(self, core: Core) -> None:
        """An abandoned stream was paid for (litellm #17364)."""
        user = await core.user()
        run = await core.send(user, "text=abcdef,wait=30")
        async with asyncio.timeout(5):
            async for event in core.chats.follow(user, run.id, None):
                if isinstance(event, RunTextDelta):
                    break
        await core.chats.cancel(user, run.id)
        row = await core.row(run.id)
        assert (row.status, row.usage_estimated) == (RunStatus.CANCELLED, True)
        assert (row.completion_tokens or 0) >= 2
