"""A cancel works at every moment of a run's life, from anywhere, and closes the upstream request at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlmodel import select

from chat.conversations import Conversations
from chat.events import RunFinished, RunQueued, RunTextDelta, text_of
from chat.generation import Prompt
from chat.jobs import Work
from errors import RunActive
from models.address import Address
from models.message import Message, MessageStatus, active_branch
from models.run import Run, RunStatus
from models.user import User
from tests.chat.conftest import GENERATION, SECONDS, Core, OddProvider, open_core
from tests.waiting import until

pytestmark = pytest.mark.on_both


async def branch(core: Core, run: Run) -> Sequence[Message]:
    async with core.database.read() as session:
        return await active_branch(session, run.conversation_id or "")


async def never_asked() -> Prompt:
    raise AssertionError("the run was cancelled before its prompt was needed")


async def test_before_the_first_step(core: Core) -> None:
    user = await core.user()
    candidates = core.catalog.candidates("scripted:wait=30")
    run = core.engine.claim(Run(user_id=user, requested_model="scripted", model="scripted", provider="scripted"))
    async with core.database.write() as session:
        session.add(run)
    with core.engine.place(user) as place:
        log = core.engine.launch(place, run, Work(never_asked, candidates))
    ended = await core.engine.cancel(run)
    assert ended.status == RunStatus.CANCELLED
    assert core.provider.active == 0
    assert [type(event) for event in log.read()] == [RunFinished]
    assert (await core.row(run.id)).prompt_tokens is None, "nobody was asked: nothing is counted"


async def test_while_queued(address: Address) -> None:
    async with open_core(address, per_process=1) as core:
        user = await core.user()
        first = await core.send(user, "wait=30")
        queued = await core.send(user, "text=never")
        log = core.engine.log_of(queued.id)
        assert log is not None
        await until(lambda: log.last_seq == 0)
        assert (await core.chats.cancel(user, queued.id)).status == RunStatus.CANCELLED
        assert [type(event) for event in await core.events(user, queued)] == [RunQueued, RunFinished]
        await core.chats.cancel(user, first.id)
        third = await core.send(user, "text=a")
        assert text_of(await core.events(user, third)) == "a"


async def test_before_the_first_token(core: Core) -> None:
    user = await core.user()
    run = await core.send(user, "wait=30,text=never")
    await until(lambda: core.provider.active == 1)
    await core.chats.cancel(user, run.id)
    assert core.provider.active == 0
    row = await core.row(run.id)
    assert (row.status, row.time_to_first_token_ms) == (RunStatus.CANCELLED, None)


async def test_in_the_middle_keeps_what_was_written(core: Core) -> None:
    user = await core.user()
    run = await core.send(user, "text=a,text=b,text=c,wait=30")
    log = core.engine.log_of(run.id)
    assert log is not None
    await until(lambda: log.text == "abc")
    following = asyncio.create_task(core.events(user, run))
    await core.chats.cancel(user, run.id)
    assert core.provider.active == 0
    assert text_of(await following) == "abc"
    answer = (await branch(core, run))[-1]
    assert (answer.content, answer.status) == ("abc", MessageStatus.CANCELLED)


async def test_keeps_text_that_was_still_being_gathered(core: Core) -> None:
    """What is in the window of coalescing when the cancel comes is seen and stored, or neither."""
    user = await core.user()
    run = await core.send(user, "text=a,text=b,wait=30")
    log = core.engine.log_of(run.id)
    assert log is not None
    await until(lambda: log.text != "")
    await core.chats.cancel(user, run.id)
    assert text_of(await core.events(user, run)) == (await branch(core, run))[-1].content


async def test_twice_and_at_once_is_as_once(core: Core) -> None:
    user = await core.user()
    run = await core.send(user, "wait=30")
    ended = await asyncio.gather(*(core.chats.cancel(user, run.id) for _ in range(5)))
    assert {each.status for each in ended} == {RunStatus.CANCELLED}
    assert (await core.chats.cancel(user, run.id)).status == RunStatus.CANCELLED


async def test_of_an_ended_run_returns_it_as_it_is(core: Core) -> None:
    user = await core.user()
    run = await core.send(user, "text=a")
    await core.events(user, run)
    assert (await core.chats.cancel(user, run.id)).status == RunStatus.COMPLETED


async def test_during_the_write_of_the_end_loses_nothing(core: Core) -> None:
    """The answer is whole: a cancel that comes now is too late, and must not tear the end's transaction."""
    user = await core.user()
    run = await core.send(user, "text=a")
    job = core.engine._jobs[run.id]
    async with core.database.write():  # whoever ends waits for the one writer
        await until(lambda: job.task is not None)
        # The start of the run waits for the writer as well: let it go first.
    await until(lambda: job.run.finished_at is not None)
    ended = await core.chats.cancel(user, run.id)
    assert ended.status == RunStatus.COMPLETED
    assert (await core.row(run.id)).status == RunStatus.COMPLETED
    assert (await branch(core, run))[-1].content == "a"


@pytest.mark.parametrize("by", ["cancel", "delete"])
async def test_at_every_moment_the_run_is_ended_once_and_the_next_one_works(core: Core, by: str) -> None:
    user = await core.user()
    for turns in range(0, 60, 3):
        conversation = await core.conversation(user)
        run = await core.send(user, "text=a,text=b,wait=0.003,text=c", conversation)
        for _ in range(turns):
            await asyncio.sleep(0)
        if by == "cancel":
            ended = await core.chats.cancel(user, run.id)
            assert ended.status in {RunStatus.CANCELLED, RunStatus.COMPLETED}
            row = await core.row(run.id)
            assert (row.status, row.last_seq) == (ended.status, ended.last_seq)
        else:
            await core.conversations.delete(user, conversation.id)
            assert await core.conversations.find(user, conversation.id) is None
            assert not (await core.row(run.id)).active
        assert core.provider.active == 0
    assert text_of(await core.events(user, await core.send(user, "text=still"))) == "still"


async def test_of_the_caller_at_every_moment_blocks_no_conversation(address: Address) -> None:
    """A client that goes away while its message is being stored leaves either nothing or a run that ends: not a
    conversation that says RUN_ACTIVE for ever, even while other runs of this process keep their leases."""
    async with open_core(address, lease=0.2, generation=replace(GENERATION, first_token=60)) as core:
        user = await core.user()
        other = await core.send(user, "wait=60")
        conversations = []
        for moment in range(40):
            conversation = await core.conversation(user)
            conversations.append(conversation)
            sending = asyncio.create_task(core.ask(user, conversation, "scripted:text=a"))
            await asyncio.sleep(moment * 0.0003)
            sending.cancel()
            await asyncio.wait([sending])
        for conversation in conversations:
            async with asyncio.timeout(SECONDS):
                while True:
                    try:
                        run = await core.send(user, "text=b", conversation)
                    except RunActive:
                        await asyncio.sleep(0.05)
                        continue
                    break
            assert text_of(await core.events(user, run)) == "b"
        await assert_counted(core, user)
        assert (await core.row(other.id)).active
        await core.chats.cancel(user, other.id)


async def test_an_abandoned_row_of_this_worker_is_ended_though_others_keep_their_leases(address: Address) -> None:
    """The sharp form of the test above: a stored run that was never launched."""
    async with open_core(address, lease=0.2) as core:
        user = await core.user()
        running = await core.send(user, "wait=30")
        orphan = core.engine.claim(Run(user_id=user, requested_model="x", model="x", provider="x"))
        async with core.database.write() as session:
            session.add(orphan)
        async with asyncio.timeout(SECONDS):
            while (await core.row(orphan.id)).active:
                await asyncio.sleep(0.02)
        assert (await core.row(orphan.id)).status == RunStatus.INTERRUPTED
        assert (await core.row(running.id)).active
        await core.chats.cancel(user, running.id)


async def test_from_another_process_works(address: Address) -> None:
    async with open_core(address, lease=0.4) as mine, open_core(address, lease=0.4) as theirs:
        user = await mine.user()
        run = await mine.send(user, "text=a,wait=30")
        following = asyncio.create_task(mine.events(user, run))
        async with asyncio.timeout(SECONDS):
            ended = await theirs.chats.cancel(user, run.id)
        assert ended.status == RunStatus.CANCELLED
        assert mine.provider.active == 0
        assert text_of(await following) == "a"
        assert text_of(await theirs.events(user, run)) == "a"


async def test_replacing_a_conversation_from_another_process_stops_its_run(address: Address) -> None:
    async with open_core(address, lease=0.4) as mine, open_core(address, lease=0.4) as theirs:
        user = await mine.user()
        run = await mine.send(user, "text=a,wait=30")
        async with asyncio.timeout(SECONDS):
            await theirs.conversations.delete(user, run.conversation_id or "")
        assert (await mine.row(run.id)).status == RunStatus.CANCELLED


async def test_what_a_cancelled_run_wrote_is_in_the_next_prompt(address: Address) -> None:
    odd = OddProvider("ok")
    async with open_core(address, providers=[odd]) as core:
        user = await core.user()
        conversation = await core.conversation(user)
        run = await core.send(user, "text=half,wait=30", conversation)
        async for event in core.chats.follow(user, run.id, None):
            if isinstance(event, RunTextDelta):
                break
        await core.chats.cancel(user, run.id)
        second = await core.ask(user, conversation, "odd", "go on")
        await core.events(user, second)
        assert [turn.content for turn in odd.asked[0].turns] == ["hello", "half", "go on"]


async def assert_counted(core: Core, user_id: str) -> None:
    """The user's counter equals what a recount of the conversations gives."""
    conversations: Conversations = core.conversations
    rows = await conversations.page(user_id, limit=1_000)
    async with core.database.read() as session:
        counted = 0
        for row in rows:
            messages = await active_branch(session, row.id)
            assert row.message_count == len(messages)
            counted += len(messages)
        user = (await session.exec(select(User).where(User.id == user_id))).one()
    assert (user.conversation_count, user.message_count) == (len(rows), counted)
