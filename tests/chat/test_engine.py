import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from chat.chats import StatelessChat
from chat.events import RunEvent, RunFinished, RunQueued, RunStarted, RunTextDelta, text_of
from errors import BadUserInput, RateLimited, Unavailable
from models.columns import utc_now
from models.message import messages_of
from models.run import RunStatus
from providers.base import Role, Turn
from tests.chat.conftest import GENERATION, SECONDS, Core, OddProvider, open_core
from tests.waiting import until


def asking(script: str, key: str | None = None) -> StatelessChat:
    return StatelessChat([Turn(Role.USER, "hello")], model=f"scripted:{script}", idempotency_key=key)


async def all_of(core: Core, user: str | None, chat: StatelessChat) -> list[RunEvent]:
    async with asyncio.timeout(SECONDS):
        return [event async for event in core.chats.chat(user, chat)]


class TestAdmission:
    async def test_runs_wait_in_order_and_are_told_how_many_wait_in_front(self, path: Path) -> None:
        gate = asyncio.Event()
        async with open_core(path, per_process=1, providers=[OddProvider(gate, "first")]) as core:
            user = await core.user()
            first = asyncio.create_task(all_of(core, user, StatelessChat([Turn(Role.USER, "x")], model="odd")))
            await until(lambda: core.engine.active == 1)
            waiting = []
            for number, text in enumerate("abc"):
                waiting.append(asyncio.create_task(all_of(core, user, asking(f"text={text}"))))
                await until(lambda expected=number + 2: core.engine.active == expected)  # type: ignore[misc]
            gate.set()
            assert not any(isinstance(event, RunQueued) for event in await first)
            begun = []
            for position, events in enumerate(await asyncio.gather(*waiting)):
                begun.append((await core.row(events[0].run_id)).started_at)
                assert isinstance(events[0], RunQueued)
                assert events[0].position == position
                assert isinstance(events[1], RunStarted)
            assert begun == sorted(begun, key=lambda at: at or utc_now())

    async def test_one_user_cannot_take_more_than_their_share(self, path: Path) -> None:
        async with open_core(path, per_user=2) as core:
            greedy, modest = await core.user(), await core.user()
            runs = [await core.send(greedy, "wait=30") for _ in range(2)]
            with pytest.raises(RateLimited) as caught:
                await core.send(greedy, "text=a")
            assert caught.value.retry_after
            assert text_of(await core.events(modest, await core.send(modest, "text=a"))) == "a"
            await core.chats.cancel(greedy, runs[0].id)
            assert text_of(await core.events(greedy, await core.send(greedy, "text=b"))) == "b"

    async def test_a_full_queue_is_said_at_once(self, path: Path) -> None:
        async with open_core(path, per_process=1, queue=1) as core:
            user = await core.user()
            for _ in range(2):
                await core.send(user, "wait=30")
            with pytest.raises(Unavailable) as caught:
                await core.send(user, "text=a")
            assert caught.value.retry_after

    async def test_without_counts_nobody_is_refused(self, path: Path) -> None:
        async with open_core(path, per_process=1, queue=1, per_user=1, counted=False) as core:
            user = await core.user()
            runs = [await core.send(user, "text=a") for _ in range(5)]
            assert [text_of(await core.events(user, run)) for run in runs] == ["a"] * 5

    @pytest.mark.parametrize("script", ["text=a", "fail=PROVIDER_ERROR", "cut", "fail=NO_SUCH_CODE"])
    async def test_a_place_is_given_back_however_the_run_ends(self, path: Path, script: str) -> None:
        async with open_core(path, per_process=1, per_user=1, queue=0) as core:
            user = await core.user()
            for _ in range(3):
                await core.events(user, await core.send(user, script))
                await until(lambda: core.engine.active == 0)

    async def test_a_place_is_given_back_when_the_block_raises(self, path: Path) -> None:
        async with open_core(path, per_user=1) as core:
            for _ in range(3):
                with pytest.raises(KeyError), core.engine.place("someone"):
                    raise KeyError
            with core.engine.place("someone"), pytest.raises(RateLimited), core.engine.place("someone"):
                pass
            with core.engine.place("someone"):
                pass


class TestLeaving:
    """Disconnecting is not cancelling, but for the stateless calls: they have no one else to serve."""

    async def test_a_conversation_s_run_goes_on_without_followers(self, core: Core) -> None:
        user = await core.user()
        run = await core.send(user, "text=a,wait=0.05,text=b")
        async with aclosing(core.chats.follow(user, run.id, None)) as events:
            await anext(events)
        assert text_of(await core.events(user, run)) == "ab"

    async def test_a_stateless_run_ends_with_its_last_follower(self, core: Core) -> None:
        async with aclosing(core.chats.chat(None, asking("text=a,wait=30"))) as events:
            run_id = (await anext(events)).run_id
        await until(lambda: core.engine.active == 0)
        assert core.provider.active == 0
        assert (await core.row(run_id)).status == RunStatus.CANCELLED

    async def test_one_of_two_that_leaves_does_not_end_it(self, core: Core) -> None:
        user = await core.user()
        async with aclosing(core.chats.chat(user, asking("text=a,wait=0.05,text=b", "key"))) as first:
            run_id = (await anext(first)).run_id
            second = asyncio.create_task(all_of(core, user, asking("", "key")))
            log = core.engine.log_of(run_id)
            assert log is not None
            await until(lambda: log.followers == 2)
        assert text_of(await second) == "ab"

    async def test_a_keyed_one_ends_when_nobody_comes_back_in_time(self, path: Path) -> None:
        async with open_core(path, chat_grace=0.05) as core:
            user = await core.user()
            async with aclosing(core.chats.chat(user, asking("text=a,wait=30", "key"))) as events:
                run_id = (await anext(events)).run_id
            assert core.engine.active == 1
            await until(lambda: core.engine.active == 0)
            assert (await core.row(run_id)).status == RunStatus.CANCELLED

    async def test_one_who_comes_back_within_the_grace_keeps_it(self, path: Path) -> None:
        async with open_core(path, chat_grace=0.1) as core:
            user = await core.user()
            chat = asking("text=a,wait=0.3,text=b", "key")
            async with aclosing(core.chats.chat(user, chat)) as events:
                await anext(events)
            assert text_of(await all_of(core, user, chat)) == "ab"

    async def test_every_leave_has_its_whole_grace(self, path: Path) -> None:
        """The timer of an earlier leave must not cut short the grace of a later one."""
        async with open_core(path, chat_grace=0.2) as core:
            user = await core.user()
            chat = asking("text=a,wait=30", "key")
            for _ in range(2):
                async with aclosing(core.chats.chat(user, chat)) as events:
                    await anext(events)
                await asyncio.sleep(0.12)
            assert core.engine.active == 1
            await until(lambda: core.engine.active == 0)

    async def test_the_events_of_a_keyed_one_can_be_read_again(self, core: Core) -> None:
        user = await core.user()
        first = await all_of(core, user, asking("text=a,text=b", "key"))
        again = await all_of(core, user, asking("text=other", "key"))
        assert (text_of(again), again[-1]) == ("ab", first[-1])


class TestFollow:
    async def test_from_every_number_gives_the_rest(self, core: Core) -> None:
        user = await core.user()
        run = await core.send(user, "every=0.01,words=4")
        whole = await core.events(user, run)
        for event in whole:
            rest = await core.events(user, run, event.seq)
            assert text_of(rest) == text_of(later for later in whole if later.seq > event.seq)
            assert all(later.seq > event.seq for later in rest)
            assert rest == [] or rest[-1] == whole[-1]

    async def test_once_the_events_are_gone_gives_a_snapshot(self, path: Path) -> None:
        async with open_core(path, keep=0) as core:
            user = await core.user()
            run = await core.send(user, "think=why,text=a,text=b")
            end = (await core.events(user, run))[-1]
            await until(lambda: core.engine.log_of(run.id) is None)
            events = await core.events(user, run, 1)
            assert text_of(events) == "ab"
            assert events[-1] == end
            assert [event.seq for event in events] == [end.seq - 1, end.seq]
            with pytest.raises(BadUserInput):
                await core.events(user, run, end.seq + 1)

    async def test_the_end_comes_only_when_the_row_says_so(self, core: Core) -> None:
        user = await core.user()
        for script in ("text=a", "fail=PROVIDER_ERROR", "cut"):
            run = await core.send(user, script)
            async for event in core.chats.follow(user, run.id, None):
                if isinstance(event, RunFinished):
                    row = await core.row(run.id)
                    assert row.status == event.status
                    assert row.last_seq == event.seq

    async def test_finished_logs_are_forgotten(self, path: Path) -> None:
        async with open_core(path, keep=0.05) as core:
            user = await core.user()
            run = await core.send(user, "text=a")
            await core.events(user, run)
            assert core.engine.log_of(run.id) is not None
            await until(lambda: core.engine.log_of(run.id) is None)
            await all_of(core, user, asking("text=a"))
            assert not core.engine._jobs


class TestStop:
    async def test_runs_that_end_in_the_grace_are_whole(self, path: Path) -> None:
        async with open_core(path, shutdown_grace=SECONDS) as core:
            user = await core.user()
            run = await core.send(user, "text=a,wait=0.1,text=b")
            await core.engine.aclose()
            assert (await core.row(run.id)).status == RunStatus.COMPLETED

    async def test_the_others_are_interrupted_with_their_text_kept(self, path: Path) -> None:
        async with open_core(path, shutdown_grace=0.05, per_process=1) as core:
            user = await core.user()
            run = await core.send(user, "text=a,wait=30")
            queued = await core.send(user, "text=never")
            following = asyncio.create_task(core.events(user, run))
            log = core.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == "a")
            await core.engine.drain()
            assert core.provider.active == 0
            assert (await following)[-1].seq == (await core.row(run.id)).last_seq
            async with core.database.read() as session:
                assert run.message_id is not None
                message = (await messages_of(session, user, [run.message_id]))[run.message_id]
            assert (message.content, message.status) == ("a", "INTERRUPTED")
            assert [(await core.row(each.id)).status for each in (run, queued)] == [RunStatus.INTERRUPTED] * 2

    async def test_a_stopping_engine_takes_no_more(self, path: Path) -> None:
        async with open_core(path) as core:
            user = await core.user()
            conversation = await core.conversation(user)
            await core.engine.drain()
            with pytest.raises(Unavailable):
                await core.send(user, "text=a", conversation)
            _, messages = await core.conversations.get(user, conversation.id)
            assert messages == []


async def test_a_hundred_at_once_all_come_to_their_own_end(path: Path) -> None:
    limits = replace(GENERATION, coalesce=0.001)
    async with open_core(path, per_process=5, per_user=1_000, queue=1_000, generation=limits) as core:
        user = await core.user()
        answers = await asyncio.gather(*(all_of(core, user, asking(f"text={n},text=-,text={n}")) for n in range(100)))
        assert [text_of(events) for events in answers] == [f"{n}-{n}" for n in range(100)]
        assert sum(isinstance(event, RunTextDelta) for events in answers for event in events) >= 100
