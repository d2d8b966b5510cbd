"""Several workers on one database: who is taken for dead, when, and what becomes of the runs."""

import asyncio
import signal
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from sqlmodel import select

from chat.events import RunEvent, RunFinished, RunQueued, RunTextDelta, text_of
from models.address import Address
from models.journal import newest_journal_row
from models.run import Run, RunStatus
from models.worker import database_now, fence_the_dead, register_worker, renew_lease
from tests.chat.conftest import LONG_AGO, Core, open_core
from tests.databases import locked, look
from tests.log.conftest import SECONDS, several_processes
from tests.waiting import until

pytestmark = pytest.mark.on_both

LEASE = 2.0


async def follow(core: Core, user: str, run: Run, seen: list[RunEvent], after: int | None = None) -> None:
    async with asyncio.timeout(SECONDS):
        async for event in core.chats.follow(user, run.id, after):
            seen.append(event)


def status_of(events: list[RunEvent]) -> RunStatus | None:
    return events[-1].status if events and isinstance(events[-1], RunFinished) else None


class TestADeadWorker:
    @pytest.mark.parametrize("script", ["every=0.02,words=2000", "think=why,every=0.02,words=2000"])
    async def test_is_noticed_within_a_lease_and_a_second(self, address: Address, script: str) -> None:
        """Invariant 5: a follower of a run whose process was killed gets the rest and an honest end, and what it saw
        is exactly how the stored text begins. The text is never continued silently."""
        async with several_processes(address, lease=LEASE) as setup:
            assert setup.writer is not None
            run = await setup.send(script)
            seen: list[RunEvent] = []
            following = asyncio.create_task(follow(setup.reader, setup.user, run, seen))
            await until(lambda: len(text_of(seen)) > 50)
            await setup.writer.kill()
            killed = time.monotonic()
            await following
            assert time.monotonic() - killed < LEASE + 1
            assert status_of(seen) is RunStatus.INTERRUPTED
            end = seen[-1]
            assert isinstance(end, RunFinished)
            assert end.error is not None
            assert end.error.retryable
            content, status = setup.look("SELECT content, status FROM message WHERE id = ?", run.message_id)[0]
            assert (content, status) == (text_of(seen), "INTERRUPTED")
            for event in seen:
                assert text_of(await setup.events(run, event.seq)) == text_of(
                    later for later in seen if later.seq > event.seq
                )

    async def test_leaves_nothing_in_the_journal(self, address: Address) -> None:
        """Its rows are nobody's, and nobody's cleaning would ever meet them."""
        soon = {"chat.keeper.SWEEP_SECONDS": 0.2}
        async with several_processes(address, soon, lease=0.8, keep=0.3) as setup:
            assert setup.writer is not None
            run, chat = await setup.send("every=0.01,words=2000"), await setup.chat("text=secret_of_mine,wait=30")
            await until(lambda: len(text_of(setup.stored(run.id))) > 10 and text_of(setup.stored(chat.id)) != "")
            await setup.writer.kill()
            for each in (run, chat):
                assert status_of(await setup.events(each)) is RunStatus.INTERRUPTED
            await until(lambda: setup.look("SELECT count(*) FROM run_journal") == [(0,)])
            await until(lambda: setup.look("SELECT count(*) FROM run_segment") == [(0,)])
            assert text_of(await setup.events(run)).startswith("w0 w1 ")

    async def test_s_runs_are_cancelled_if_that_was_wanted(self, address: Address) -> None:
        """A cancel is durable: the death of the worker that was to carry it out does not undo it."""
        async with several_processes(address, lease=0.8, restart=True) as setup:
            assert setup.writer is not None
            run = await setup.send("wait=30")
            await until(lambda: setup.look("SELECT count(*) FROM run WHERE status = 'RUNNING'") == [(1,)])
            setup.writer.signal(signal.SIGSTOP)
            cancelling = asyncio.create_task(setup.reader.chats.cancel(setup.user, run.id))
            await asyncio.sleep(0.1)
            await setup.writer.kill()
            assert (await cancelling).status == RunStatus.CANCELLED

    async def test_s_runs_without_a_word_are_begun_again(self, address: Address) -> None:
        """Nothing was said that could be contradicted: whoever waits for the answer gets one, under the numbers that
        follow those it has seen."""
        async with several_processes(address, lease=0.8, restart=True, per_process=1) as setup:
            assert setup.writer is not None
            first = await setup.send("wait=1.5,text=a")
            queued = await setup.send("text=b,text=c")
            seen: list[RunEvent] = []
            following = asyncio.create_task(follow(setup.reader, setup.user, queued, seen))
            await until(lambda: bool(seen))
            assert isinstance(seen[0], RunQueued)
            await setup.writer.kill()
            assert text_of(await setup.events(first)) == "a"
            await following
            assert text_of(seen) == "bc"
            numbers = [event.seq for event in seen]
            # Two deltas that waited come as one, under the number of the second.
            assert numbers == sorted(set(numbers))
            assert status_of(seen) is RunStatus.COMPLETED
            assert setup.look("SELECT content FROM message WHERE id = ?", queued.message_id) == [("bc",)]
            assert text_of(await setup.events(queued, 0)) == "bc"

    async def test_s_runs_without_a_word_end_where_that_is_not_wanted(self, address: Address) -> None:
        async with several_processes(address, lease=0.8) as setup:
            assert setup.writer is not None
            run = await setup.send("wait=30")
            await setup.writer.kill()
            events = await setup.events(run)
            assert (status_of(events), text_of(events)) == (RunStatus.INTERRUPTED, "")

    async def test_with_many_runs_keeps_nobody_waiting(self, address: Address) -> None:
        """More than are ended in one transaction."""
        async with several_processes(address, lease=0.8, per_user=200, per_process=200) as setup:
            assert setup.writer is not None
            runs = [await setup.send("every=1,words=100") for _ in range(70)]
            await until(lambda: setup.look("SELECT count(*) FROM run WHERE status = 'RUNNING'") == [(70,)])
            await until(lambda: all(text_of(setup.stored(run.id)) for run in runs))
            await setup.writer.kill()
            await until(lambda: setup.look("SELECT count(*) FROM run WHERE status = 'INTERRUPTED'") == [(70,)])
            for run in runs:
                content = setup.look("SELECT content FROM message WHERE id = ?", run.message_id)[0][0]
                assert content == text_of(await setup.events(run)) != ""


class TestAWorkerTakenForDead:
    async def test_writes_nothing_more_and_its_followers_get_the_other_s_end(self, address: Address) -> None:
        """Fencing: a process that stood still for longer than its lease finds its runs ended. One word more from it
        would stand behind the end that others have seen."""
        async with several_processes(address, lease=1.0) as setup:
            assert setup.writer is not None
            run = await setup.send("every=0.02,words=2000")
            seen: list[RunEvent] = []
            following = asyncio.create_task(follow(setup.reader, setup.user, run, seen))
            await until(lambda: len(text_of(seen)) > 50)
            setup.writer.signal(signal.SIGSTOP)
            await following
            stored = setup.look("SELECT content FROM message WHERE id = ?", run.message_id)
            setup.writer.signal(signal.SIGCONT)
            assert status_of(seen) is RunStatus.INTERRUPTED
            # It works on, under another name, and says nothing more of this run.
            # What it is asked for before it has noticed its death is ended by the other, like all of its runs.
            async with asyncio.timeout(20):
                while text_of(await setup.events(await setup.send("text=again"))) != "again":
                    pass
            assert setup.look("SELECT content FROM message WHERE id = ?", run.message_id) == stored
            assert text_of(await setup.events(run)) == text_of(seen) == stored[0][0]
            kept = [event for event in setup.stored(run.id) if not isinstance(event, RunFinished)]
            assert len(kept) == seen[-1].seq

    async def test_hands_its_own_followers_over(self, address: Address) -> None:
        """They sit at the process that lost the run, and still get the truth: from the database."""
        async with open_core(address, lease=3_000) as slow, open_core(address, lease=3_000) as other:
            user = await slow.user()
            run = await slow.send(user, "every=0.02,words=200")
            seen: list[RunEvent] = []
            following = asyncio.create_task(follow(slow, user, run, seen))
            await until(lambda: len(text_of(seen)) > 20)
            async with other.database.write() as session:
                await renew_lease(session, slow.engine.keeper.worker, LONG_AGO)
            await other.engine.keeper.recover()
            await following
            assert status_of(seen) is RunStatus.INTERRUPTED
            row = (await other.row(run.id)).last_seq
            assert seen[-1].seq == row
            assert slow.provider.active == 0, "an answer that nobody can get is not paid for"

    async def test_by_a_clock_that_was_set_is_left_alone(self, address: Address) -> None:
        """By the new time all leases have run out, and everybody is alive: nobody is judged for one whole lease."""
        async with open_core(address, lease=3_000) as mine, open_core(address, lease=3_000) as other:
            keeper = other.engine.keeper
            await keeper.recover()
            run = await mine.send(await mine.user(), "every=0.02,words=2000")
            assert keeper._clock is not None
            keeper._clock = (keeper._clock[0] - 10_000, keeper._clock[1] - 10_000)
            async with other.database.write() as session:
                await renew_lease(session, mine.engine.keeper.worker, LONG_AGO)
            await keeper.recover()
            assert (await other.row(run.id)).active
            assert keeper._judge_from > time.monotonic() + 2_000

    async def test_twice_gets_a_third_name(self, address: Address) -> None:
        async with open_core(address, lease=1.5) as slow, open_core(address, lease=3_000) as other:
            user, names = await slow.user(), set()
            for _ in range(2):
                names.add(slow.engine.keeper.worker)
                run = await slow.send(user, "every=0.02,words=400")
                async with aclosing(slow.chats.follow(user, run.id, None)) as events:
                    while not isinstance(await anext(events), RunTextDelta):
                        pass
                async with other.database.write() as session:
                    await renew_lease(session, slow.engine.keeper.worker, LONG_AGO)
                    await fence_the_dead(session)
                await other.engine.keeper.recover()
                assert status_of(await other_events(other, user, run)) is RunStatus.INTERRUPTED
                await until(lambda: slow.engine.writer.worker not in names)
            assert text_of(await other_events(slow, user, await slow.send(user, "text=a"))) == "a"


def logged(core: Core, run: Run) -> list[RunEvent]:
    log = core.engine.log_of(run.id)
    return [] if log is None else log.read()


async def other_events(core: Core, user: str, run: Run) -> list[RunEvent]:
    seen: list[RunEvent] = []
    await follow(core, user, run, seen)
    return seen


class TestTheLease:
    async def test_is_judged_by_the_database_s_clock(self, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two machines seldom agree on the time. A worker whose own clock is an hour off neither dies nor kills."""
        async with open_core(address, lease=0.8) as mine:
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + 3_600)
            async with open_core(address, lease=0.8) as theirs:
                user = await mine.user()
                run = await mine.send(user, "text=a,wait=2,text=b")
                seen = await other_events(theirs, user, run)
                assert (text_of(seen), status_of(seen)) == ("ab", RunStatus.COMPLETED)
                async with theirs.database.read() as session:
                    now = (await session.exec(select(database_now()))).one()
                assert abs(now / 1000 - real()) < 60

    async def test_a_database_locked_for_everybody_is_no_death(self, address: Address) -> None:
        """Nobody can renew while a backup holds the file: when it lets go, the first to look must not take all the
        others for dead, but wait one whole lease."""
        async with several_processes(address, lease=LEASE) as setup:
            run = await setup.send("every=0.05,words=200")
            seen: list[RunEvent] = []
            following = asyncio.create_task(follow(setup.reader, setup.user, run, seen))
            await until(lambda: len(text_of(seen)) > 20)
            async with locked(address):
                await asyncio.sleep(5)
            await following
            assert status_of(seen) is RunStatus.COMPLETED
            assert text_of(seen) == "".join(f"w{number} " for number in range(200))
            assert setup.writer is not None
            assert setup.look("SELECT id FROM worker WHERE id = ?", setup.writer.name) != []

    async def test_one_that_dies_while_the_database_is_locked_is_found_afterwards(self, address: Address) -> None:
        async with several_processes(address, lease=LEASE) as setup:
            assert setup.writer is not None
            run = await setup.send("text=a,wait=30")
            seen: list[RunEvent] = []
            following = asyncio.create_task(follow(setup.reader, setup.user, run, seen))
            await until(lambda: text_of(seen) == "a")
            async with locked(address):
                await setup.writer.kill()
                await asyncio.sleep(3)
            unlocked = time.monotonic()
            await following
            # Of a process on the same machine it is known that it has ended; of others there is only the lease.
            at_least = 0 if isinstance(address, Path) else LEASE * 0.5
            assert at_least < time.monotonic() - unlocked < 2 * LEASE + 1
            assert status_of(seen) is RunStatus.INTERRUPTED

    async def test_rows_of_the_dead_stay_until_their_runs_are_ended(self, address: Address) -> None:
        """The race: one worker fences a dead one off, and before it has read the dead one's rows a third cleans up."""
        async with open_core(address, lease=3_000) as core:
            user = await core.user()
            run = await core.send(user, "text=a,wait=30")
            await until(lambda: text_of(logged(core, run)) == "a")
            row = await core.row(run.id)
            async with core.database.write() as session:
                await register_worker(session, "dead", -1)
                row.worker = "dead"
                await session.merge(row)
                await (await session.connection()).exec_driver_sql("UPDATE run_journal SET worker = 'dead'")
                await (await session.connection()).exec_driver_sql("DELETE FROM run_segment")
                await fence_the_dead(session)
            async with core.database.read() as session:
                core.engine.keeper._swept_row = await newest_journal_row(session)
            await core.engine.keeper._sweep(time.monotonic())
            await core.engine.keeper.recover()
            assert look(address, "SELECT content FROM message WHERE id = ?", row.message_id) == [("a",)]


async def test_a_stop_by_signal_s_standards_keeps_the_text(address: Address) -> None:
    """The child's input ends: it drains, and what does not end in the grace is INTERRUPTED with its text."""
    async with several_processes(address, lease=LEASE, shutdown_grace=0.2) as setup:
        assert setup.writer is not None
        run = await setup.send("every=0.02,words=2000")
        seen: list[RunEvent] = []
        following = asyncio.create_task(follow(setup.reader, setup.user, run, seen))
        await until(lambda: len(text_of(seen)) > 50)
        setup.writer.orders.close()
        await following
        assert status_of(seen) is RunStatus.INTERRUPTED
        assert setup.look("SELECT content FROM message WHERE id = ?", run.message_id) == [(text_of(seen),)]
