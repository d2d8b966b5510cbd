import asyncio
import gc
from collections.abc import Sequence
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.events import (
    MERGE_ABOVE,
    RunEvent,
    RunFinished,
    RunQueued,
    RunReasoningDelta,
    RunSnapshot,
    RunStarted,
    RunTextDelta,
    merge,
    text_of,
)
from chat.log import RunLog, ended_events
from errors import BadUserInput
from models.run import RunStatus
from providers.base import FinishReason

RUN = "run_1"
DELTAS = st.lists(st.tuples(st.sampled_from("tr"), st.text(min_size=1, max_size=3)), max_size=30)


def delta(kind: str, seq: int, text: str) -> RunEvent:
    return RunTextDelta(RUN, seq, text) if kind == "t" else RunReasoningDelta(RUN, seq, text)


def started(seq: int) -> RunStarted:
    return RunStarted(RUN, seq, "scripted", "scripted", "scripted", None)


def finished(seq: int) -> RunFinished:
    return RunFinished(RUN, seq, RunStatus.COMPLETED, FinishReason.STOP, None, None, "scripted", None)


def whole_log(*texts: str) -> RunLog:
    log = RunLog(RUN)
    log.append(started(0))
    for text in texts:
        log.append(RunTextDelta(RUN, log.next_seq, text))
    log.append(finished(log.next_seq))
    return log


async def read_all(log: RunLog, after: int | None = None) -> list[RunEvent]:
    return [event async for event in log.follow(after)]


def reasoning_of(events: Sequence[RunEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, RunReasoningDelta))


class TestAppend:
    def test_a_gap_a_repeat_and_what_comes_behind_the_end_are_refused(self) -> None:
        log = RunLog(RUN)
        log.append(started(0))
        for wrong in (0, 2):
            with pytest.raises(ValueError, match="does not follow 0"):
                log.append(RunTextDelta(RUN, wrong, "x"))
        log.append(finished(1))
        with pytest.raises(ValueError, match="does not follow 1"):
            log.append(RunTextDelta(RUN, 2, "x"))
        assert log.last_seq == 1
        assert log.text == ""

    def test_text_and_reasoning_are_kept_apart(self) -> None:
        log = RunLog(RUN)
        assert (log.text, log.reasoning, log.finished, log.last_seq) == ("", None, None, -1)
        for number, kind in enumerate("trtr"):
            log.append(delta(kind, number, str(number)))
        assert (log.text, log.reasoning) == ("02", "13")


class TestFollow:
    async def test_every_after_gives_the_rest(self) -> None:
        log = whole_log("a", "b", "c")
        everything = await read_all(log)
        assert [event.seq for event in everything] == [0, 3, 4]  # five events: neighbours joined
        for after in range(log.last_seq + 1):
            rest = await read_all(log, after)
            assert text_of(rest) == "abc"[after:]
            assert [event.seq for event in rest] == list(range(after + 1, 5))

    @pytest.mark.parametrize("after", [-1, -(2**31), 5, 2**31])
    async def test_an_after_out_of_range_is_bad_input(self, after: int) -> None:
        with pytest.raises(BadUserInput) as caught:
            await read_all(whole_log("a", "b", "c"), after)
        assert caught.value.field == "after"
        assert caught.value.message == "after must be from 0 to 4, the last seq so far"

    async def test_an_after_before_there_is_anything_is_told_to_be_left_out(self) -> None:
        with pytest.raises(BadUserInput, match="after must be left out: there is no event yet"):
            await read_all(RunLog(RUN), 0)

    async def test_an_empty_log_has_nothing_to_be_behind_of(self) -> None:
        with pytest.raises(BadUserInput):
            await read_all(RunLog(RUN), 0)

    async def test_a_reader_that_never_waits_lets_others_run(self) -> None:
        """Trap 15: a generator that never truly awaits holds the loop for as long as it has something to say."""
        log = RunLog(RUN)
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while not log.finished:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count_turns())
        log.append(started(0))
        async with aclosing(log.follow()) as events:
            async for event in events:
                if event.seq == 20:
                    log.append(finished(21))
                    break
                log.append(RunTextDelta(RUN, event.seq + 1, "x"))
        await counting
        assert turns >= 15

    async def test_a_slow_follower_keeps_no_events_of_its_own(self) -> None:
        """Followers hold a number each and share the one list: a thousand that do not read cost no text."""
        log = RunLog(RUN)
        log.append(started(0))
        streams = [log.follow() for _ in range(200)]
        for stream in streams:
            await anext(stream)
        for seq in range(1, 2_001):
            log.append(RunTextDelta(RUN, seq, "x"))
        event = log.read(999)[0]
        # The list itself, the slice and `event`: not one for each follower.
        assert len([holder for holder in gc.get_referrers(event) if isinstance(holder, list)]) == 1
        assert log.followers == 200
        for stream in streams:
            await stream.aclose()
        assert log.followers == 0

    async def test_the_last_one_to_leave_is_told_of(self) -> None:
        log, left = RunLog(RUN), []
        log.append(started(0))
        log.on_left = lambda: left.append(log.followers)
        first, second = log.follow(), log.follow()
        await anext(first)
        await anext(second)
        await first.aclose()
        assert left == []
        await second.aclose()
        assert left == [0]


class Reader:
    """A follower that drops its connection now and then and comes back with the last number it has."""

    def __init__(self, log: RunLog, drops: Sequence[int]) -> None:
        self.log = log
        self.drops = list(drops)
        self.events: list[RunEvent] = []

    async def read(self) -> None:
        while True:
            after = self.events[-1].seq if self.events else None
            patience = self.drops.pop() if self.drops else None
            async with aclosing(self.log.follow(after)) as events:
                async for event in events:
                    self.events.append(event)
                    if patience is not None:
                        patience -= 1
                        await asyncio.sleep(0)
                        if patience <= 0:
                            break
                else:
                    return


@given(
    script=DELTAS,
    pauses=st.lists(st.integers(0, 3), max_size=30),
    readers=st.lists(st.tuples(st.integers(0, 20), st.lists(st.integers(1, 4), max_size=5)), min_size=1, max_size=6),
)
def test_every_follower_has_exactly_the_text(
    script: list[tuple[str, str]], pauses: list[int], readers: list[tuple[int, list[int]]]
) -> None:
    """Invariant 2: whenever it came and however often it was cut off, nothing is missing and nothing comes twice."""

    async def play() -> None:
        log = RunLog(RUN)
        log.append(started(0))
        all_of_them = []

        async def join_later(reader: Reader, turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await reader.read()

        async with asyncio.TaskGroup() as group:
            for turns, drops in readers:
                reader = Reader(log, drops)
                all_of_them.append(reader)
                group.create_task(join_later(reader, turns))
            for number, (kind, text) in enumerate(script):
                log.append(delta(kind, log.next_seq, text))
                for _ in range(pauses[number] if number < len(pauses) else 0):
                    await asyncio.sleep(0)
            log.append(finished(log.next_seq))
        for reader in all_of_them:
            seqs = [event.seq for event in reader.events]
            assert seqs == sorted(set(seqs))
            assert text_of(reader.events) == "".join(text for kind, text in script if kind == "t")
            assert reasoning_of(reader.events) == "".join(text for kind, text in script if kind == "r")
            assert isinstance(reader.events[-1], RunFinished)
        assert log.followers == 0

    asyncio.run(play())


class TestMerge:
    @given(DELTAS, st.booleans())
    def test_keeps_text_kinds_and_the_last_number(self, script: list[tuple[str, str]], queued: bool) -> None:
        log = RunLog(RUN)
        if queued:
            log.append(RunQueued(RUN, 0, 3))
        log.append(started(log.next_seq))
        for kind, text in script:
            log.append(delta(kind, log.next_seq, text))
        events = log.read()
        merged = merge(events)
        assert text_of(merged) == text_of(events)
        assert reasoning_of(merged) == reasoning_of(events)
        assert merged[-1].seq == events[-1].seq
        assert [event.seq for event in merged] == sorted({event.seq for event in merged})
        others = [event for event in events if not isinstance(event, RunTextDelta | RunReasoningDelta)]
        assert [event for event in merged if event in others] == others
        if len(events) <= MERGE_ABOVE:
            assert merged == events
        else:
            kinds = [type(event) for event in merged]
            assert all(one is not following for one, following in pairwise(kinds))

    def test_leaves_the_events_it_was_given_as_they_were(self) -> None:
        events = [RunTextDelta(RUN, number, "x") for number in range(9)]
        assert merge(list(events)) == [RunTextDelta(RUN, 8, "x" * 9)]
        assert events == [RunTextDelta(RUN, number, "x") for number in range(9)]


class TestEndedEvents:
    """A follower of a run whose events are gone: one snapshot, and the end under its old number."""

    END = finished(7)

    @pytest.mark.parametrize("after", [None, 0, 3, 5])
    def test_the_text_comes_whole_under_the_number_in_front_of_the_end(self, after: int | None) -> None:
        assert ended_events(self.END, after, "text", "why") == [RunSnapshot(RUN, 6, "text", "why"), self.END]

    def test_who_has_the_text_gets_the_end_and_who_has_the_end_gets_nothing(self) -> None:
        assert ended_events(self.END, 6, "text", None) == [self.END]
        assert ended_events(self.END, 7, "text", None) == []

    def test_a_stateless_run_keeps_no_text(self) -> None:
        assert ended_events(self.END, 2, None, None) == [self.END]

    def test_a_run_that_never_began_is_its_end(self) -> None:
        assert ended_events(finished(0), None, "", None) == [finished(0)]

    @pytest.mark.parametrize("after", [-1, 8])
    def test_an_after_out_of_range_is_bad_input(self, after: int) -> None:
        with pytest.raises(BadUserInput):
            ended_events(self.END, after, "text", None)
