"""What the run log promises, held in every set-up. Each test's docstring says why the promise is made."""

import asyncio
import time
from contextlib import aclosing
from itertools import groupby

import pytest

from chat.drafts import ConversationDraft, MessageDraft
from chat.events import (
    RunEvent,
    RunFinished,
    RunReasoningDelta,
    RunSnapshot,
    RunStarted,
    RunTextDelta,
    text_of,
)
from errors import BadUserInput, Unavailable
from models.run import Run, RunStatus
from providers.base import Role
from tests.chat.conftest import end_of
from tests.log.conftest import OpenSetup, Setup
from tests.waiting import until

pytestmark = pytest.mark.on_both

LARGE = ConversationDraft(messages=[MessageDraft(Role.USER, "x" * 2_000)] * 50)
"""More than fits into what the trimmed journal leaves free."""
SOON = {"chat.writer.SEGMENT_SECONDS": 0.1, "chat.writer.JOURNAL_SECONDS": 0.4, "chat.keeper.SWEEP_SECONDS": 0.2}
"""Ten times as fast as in life."""


async def asked_again(setup: Setup, run: Run, after: int) -> RunFinished:
    """The end, for a client that comes back as often as it is told to."""
    while True:
        try:
            return end_of(await setup.events(run, after))
        except Unavailable:
            await asyncio.sleep(0.2)


async def content(setup: Setup, message_id: str | None) -> str:
    return str(setup.look("SELECT content FROM message WHERE id = ?", message_id)[0][0])


class TestSeenMeansKept:
    async def test_an_event_that_is_handed_out_is_in_the_database(self, opened: OpenSetup) -> None:
        """A client that saw a word and lost it with a killed worker cannot be told anything that is true. So the look
        from another connection, at the very moment of the hand-over, finds every word."""
        async with opened() as setup:
            run = await setup.send("every=0.01,words=60")
            text = ""
            async for event in setup.follow(run):
                if isinstance(event, RunTextDelta):
                    text += event.text
                    assert text_of(setup.stored(run.id)).startswith(text)
            assert text == "".join(f"w{number} " for number in range(60))
            assert await content(setup, run.message_id) == text

    async def test_who_sees_the_end_finds_the_answer_whole(self, opened: OpenSetup) -> None:
        """A client that reads the message on RunFinished must not find it STREAMING."""
        async with opened() as setup:
            for script in ("text=a", "fail=PROVIDER_ERROR", "cut"):
                run = await setup.send(script)
                async for event in setup.follow(run):
                    if isinstance(event, RunFinished):
                        row = setup.look("SELECT status, last_seq FROM run WHERE id = ?", run.id)
                        assert row == [(event.status, event.seq)]


class TestInOrderOnce:
    async def test_from_every_number_comes_the_rest(self, opened: OpenSetup) -> None:
        """A reload may come at any moment: nothing is missing and nothing comes twice, live and afterwards."""
        async with opened() as setup:
            run = await setup.send("think=why,every=0.02,words=12")
            live = [asyncio.create_task(setup.events(run))]
            seen: list[RunEvent] = []
            async for event in setup.follow(run):
                seen.append(event)
                live.append(asyncio.create_task(setup.events(run, event.seq)))
            whole = [event for event in setup.stored(run.id) if not isinstance(event, RunFinished)] + [seen[-1]]
            for after, task in zip([None, *(event.seq for event in seen)], live, strict=True):
                for rest in (await task, await setup.events(run, after)):
                    behind = [event for event in whole if after is None or event.seq > after]
                    assert text_of(rest) == text_of(behind)
                    assert [event.seq for event in rest] == sorted({event.seq for event in rest})
                    assert rest[-1:] == behind[-1:]

    async def test_what_was_seen_at_the_writer_s_is_known_elsewhere_at_once(self, opened: OpenSetup) -> None:
        """A client that changes to a process whose last look was 50 ms ago is not told that its cursor is from the
        future."""
        async with opened() as setup:
            run = await setup.send("every=0.01,words=2000")
            watching = asyncio.create_task(setup.events(run))
            await until(lambda: len(setup.stored(run.id)) > 10)
            for _ in range(20):
                newest = len(setup.stored(run.id)) - 1
                async with aclosing(setup.follow(run, newest)) as rest:
                    assert (await anext(rest)).seq > newest
            await setup.reader.chats.cancel(setup.user, run.id)
            await watching

    @pytest.mark.parametrize("after", [-1, 1_000])
    async def test_a_number_that_was_never_given_is_refused(self, opened: OpenSetup, after: int) -> None:
        async with opened() as setup:
            run = await setup.send("text=a,wait=0.3")
            for _ in range(2):
                with pytest.raises(BadUserInput):
                    await setup.events(run, after)
                await setup.events(run)

    async def test_a_gap_in_the_journal_is_healed(self, opened: OpenSetup) -> None:
        """The journal is a hint that may be late or gone; the truth is what all that is stored says together."""
        async with opened({"chat.writer.SEGMENT_SECONDS": 0.05}) as setup:
            run = await setup.send("every=0.02,words=60")
            following = asyncio.create_task(setup.events(run))
            for _ in range(8):
                await asyncio.sleep(0.1)
                await asyncio.to_thread(setup.trim_what_is_in_segments, run.id)
            assert text_of(await following) == "".join(f"w{number} " for number in range(60))


class TestCheapness:
    async def test_many_runs_share_few_transactions(self, opened: OpenSetup) -> None:
        """The commit is what costs: 20 runs × 40 tokens are 800 events and take as many transactions as one run."""
        async with opened(coalesce=0.05, per_user=50, per_process=50) as setup:
            runs = [await setup.send("every=0.025,words=40") for _ in range(20)]
            before, begun = setup.windows(), time.monotonic()
            everything = await asyncio.gather(*(setup.events(run) for run in runs))
            # A row for each window, and one for each run's end.
            windows, took = setup.windows() - before - len(runs), time.monotonic() - begun
            assert all(text_of(events) == text_of(everything[0]) for events in everything)
            # The first text of a run and what is left at its end do not wait for the window.
            assert windows <= took / 0.05 + 2 * len(runs)

    async def test_deltas_within_a_window_are_one_event(self, opened: OpenSetup) -> None:
        """Ten words in 20 ms are one event: the eye sees no difference, and the log is a tenth."""
        async with opened() as setup:
            run = await setup.send("text=a,wait=0.1,words=200")
            events = await setup.events(run)
            assert len(setup.stored(run.id)) < 60
            assert end_of(events).status is RunStatus.COMPLETED

    async def test_the_first_text_comes_at_once(self, opened: OpenSetup) -> None:
        """People wait for the first word. The window of a second that comes after it is not waited for."""
        async with opened(coalesce=1.0) as setup:
            await setup.events(await setup.send("text=a"))
            run = await setup.send("wait=0.3,text=first,wait=0.05,text=second,wait=3")
            begun = time.monotonic()
            async with aclosing(setup.follow(run)) as events:
                async for event in events:
                    if isinstance(event, RunTextDelta):
                        break
            assert time.monotonic() - begun < 0.3 + 0.6
            assert event == RunTextDelta(run.id, event.seq, "first")

    async def test_reasoning_and_text_are_never_one_event(self, opened: OpenSetup) -> None:
        """They are shown in two places."""
        async with opened() as setup:
            run = await setup.send("think=1,think=2,text=3,text=4,think=5,text=6")
            events = await setup.events(run)
            kinds = [kind for kind, _ in groupby(type(event) for event in events)]
            assert kinds == [RunStarted, *[RunReasoningDelta, RunTextDelta] * 2, RunFinished]
            assert [event.text for event in events if isinstance(event, RunReasoningDelta)][-1] == "5"
            assert text_of(events) == "346"


class TestCompaction:
    async def test_an_old_number_is_answered_by_a_snapshot(self, opened: OpenSetup) -> None:
        """Deltas of finished answers would be stored twice for ever. Who comes late gets the text whole, under the
        number that stands for it, and the same end."""
        async with opened(SOON, keep=0.3) as setup:
            run = await setup.send("think=why,every=0.01,words=10")
            end = (await setup.events(run))[-1]
            await until(lambda: setup.leftovers(run.id) == (0, 0))
            for after in (None, 0, end.seq - 2):
                snapshot, last = await setup.events(run, after)
                assert isinstance(snapshot, RunSnapshot)
                assert (snapshot.seq, snapshot.text) == (end.seq - 1, await content(setup, run.message_id))
                assert (snapshot.reasoning, last) == ("why", end)
            assert await setup.events(run, end.seq - 1) == [end]
            assert await setup.events(run, end.seq) == []
            with pytest.raises(BadUserInput):
                await setup.events(run, end.seq + 1)

    async def test_the_journal_stays_small_while_one_run_streams_long(self, opened: OpenSetup) -> None:
        """Otherwise one long answer keeps every other's rows, and the file grows until it ends."""
        async with opened(SOON) as setup:
            run = await setup.send("every=0.005,words=600")
            following = asyncio.create_task(setup.events(run))
            most = 0
            while not following.done():
                most = max(most, setup.look("SELECT count(*) FROM run_journal")[0][0])
                await asyncio.sleep(0.02)
            assert text_of(await following) == await content(setup, run.message_id)
            # 0.4 s of windows of 5 ms, a segment's turn, and what a busy machine adds.
            assert 0 < most < 250

    async def test_the_journal_is_empty_when_nothing_streams(self, opened: OpenSetup) -> None:
        """Nobody comes along to clean up behind the last answer of the day."""
        async with opened(SOON) as setup:
            run = await setup.send("every=0.01,words=20")
            await setup.events(run)
            await until(lambda: setup.look("SELECT count(*) FROM run_journal") == [(0,)])
            assert text_of(await setup.events(run)) == await content(setup, run.message_id)

    @pytest.mark.parametrize("key", [None, "key"])
    async def test_a_stateless_chat_leaves_no_text(self, opened: OpenSetup, key: str | None) -> None:
        """`chat` promises that nothing of its text is stored. While it runs it has to be; seconds later it is gone,
        from the journal too, whether or not anyone chats again."""
        async with opened(SOON) as setup:
            run = await setup.chat("text=secret_of_mine,every=0.05,words=10", key)
            assert "secret" in text_of(await setup.events(run))
            await until(lambda: setup.leftovers(run.id) == (0, 0))
            for table in ("run", "message", "run_segment", "run_journal"):
                assert "secret of mine" not in str(setup.look(f"SELECT * FROM {table}"))


class TestCancel:
    async def test_before_the_first_token(self, opened: OpenSetup) -> None:
        """Whoever presses stop while the model thinks does not want to pay for the answer."""
        async with opened() as setup:
            run = await setup.send("wait=30,text=never")
            following = asyncio.create_task(setup.events(run))
            ended = await setup.reader.chats.cancel(setup.user, run.id)
            assert ended.status == RunStatus.CANCELLED
            events = await following
            assert (end_of(events).status, text_of(events)) == (RunStatus.CANCELLED, "")

    async def test_in_the_middle_keeps_what_was_written(self, opened: OpenSetup) -> None:
        """From any worker: the one that has the button is seldom the one that has the run."""
        async with opened() as setup:
            run = await setup.send("text=a,text=b,wait=30,text=never")
            async with aclosing(setup.follow(run)) as events:
                async for event in events:
                    if isinstance(event, RunTextDelta):
                        break
            await setup.reader.chats.cancel(setup.user, run.id)
            events_of_all = await setup.events(run)
            assert (end_of(events_of_all).status, text_of(events_of_all)) == (RunStatus.CANCELLED, "ab")
            assert await content(setup, run.message_id) == "ab"


class TestFullDisk:
    async def test_is_said_costs_nothing_that_was_kept_and_passes(self, opened: OpenSetup) -> None:
        """UNAVAILABLE to who follows and to who sends; reads go on; with room again the run gets its end, with what
        its followers saw and get when they come back, and the next answer is written."""
        patience = {"chat.writer.PATIENCE_SECONDS": 0.5}
        async with opened(patience, lease=0.8) as setup:
            run = await setup.send("text=kept,wait=0.5,every=0.002,words=3000")
            seen: list[RunEvent] = []

            async def follow() -> None:
                async for event in setup.follow(run):
                    seen.append(event)

            following = asyncio.create_task(follow())
            await until(lambda: text_of(seen) == "kept")
            await setup.limit(True)
            if setup.writer is None:
                with pytest.raises(Unavailable):
                    await following
                # A connection whose transaction was cancelled meanwhile has been replaced, and knows no limit.
                await setup.limit(True)
                with pytest.raises(Unavailable):
                    await setup.reader.conversations.create(setup.user, LARGE)
            else:
                await asyncio.sleep(2)
            assert text_of(setup.stored(run.id)).startswith(text_of(seen))
            assert await setup.reader.chats.run(setup.user, run.id) is not None
            await setup.limit(False)
            if setup.writer is None:
                assert (await asked_again(setup, run, seen[-1].seq)).status is RunStatus.INTERRUPTED
                # The window that was refused last may have been stored all the same, and is told with the end.
                seen += await setup.events(run, seen[-1].seq)
            else:
                await following
            assert end_of(seen).status is RunStatus.INTERRUPTED
            assert await content(setup, run.message_id) == text_of(seen)
            assert text_of(await setup.events(await setup.send("text=after"))) == "after"
