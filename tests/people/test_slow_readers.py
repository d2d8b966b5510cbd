"""Nothing grows with a reader that is slow, or was away for long."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from chat.cursor import MAX_RUNS, Cursor
from chat.events import RunFinished
from chat.gathering import BACKLOG, Gathering
from chat.happenings import Happening
from chat.sending import Asking
from tests.chat.conftest import SECONDS
from tests.people.conftest import Studio
from tests.people.told import texts
from tests.waiting import until

pytestmark = pytest.mark.on_both


async def test_a_slow_reader_gets_the_same_text_in_fewer_events(studio: Studio) -> None:
    """What waits for it is bounded, whatever is written meanwhile."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    async with aclosing(studio.happenings.of_conversation(user, conversation, None)) as events:
        first = asyncio.ensure_future(anext(events))
        await until(lambda: bool(studio.rights._guards))
        _, run = await studio.send(user, conversation, model="held:a")
        seen = [await first]
        for number in range(300):
            studio.held.say("a", f"{number} ")
            await asyncio.sleep(0.006)
        studio.held.say("a", None)
        await studio.ended(run)
        log = studio.engine.log_of(run.id)
        assert log is not None
        assert log.last_seq > 100
        async with asyncio.timeout(SECONDS):
            while not isinstance(seen[-1].what, RunFinished):
                seen.append(await anext(events))
    assert len(seen) <= BACKLOG + 10
    assert texts(seen)[run.id] == "".join(f"{number} " for number in range(300))


async def test_what_waits_is_bounded_and_the_first_failure_ends_it() -> None:
    class Failed(Exception):
        pass

    put = 0

    async def many() -> None:
        nonlocal put
        while True:
            await gathering.put(put)
            put += 1

    async def failing() -> None:
        raise Failed

    async with Gathering() as gathering:
        gathering.add(many())
        await until(lambda: put >= BACKLOG)
        for _ in range(10):
            await asyncio.sleep(0)
        assert put == BACKLOG
        assert [await gathering.next() for _ in range(5)] == list(range(5))
        await until(lambda: put == BACKLOG + 5)
    async with Gathering() as gathering:
        await gathering.put("before")
        gathering.add(failing())
        await asyncio.sleep(0)
        assert await gathering.next() == "before"
        with pytest.raises(Failed):
            await gathering.next()


async def test_who_was_away_for_long_follows_a_few_answers_at_a_time(studio: Studio) -> None:
    """Each answer behind the cursor is told, and no more than so many are open at once."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    start = Cursor(await studio.feed.now(""), {}).encode()
    runs = [(await studio.send(user, conversation))[1] for _ in range(1)]
    await studio.ended(runs[0])
    assert runs[0].message_id is not None
    for _ in range(MAX_RUNS + 8):
        runs.append(await studio.sendings.regenerate(user, runs[0].message_id, Asking()))
        await studio.ended(runs[-1])
    seen: list[Happening] = []
    async with (
        asyncio.timeout(SECONDS),
        aclosing(studio.happenings.of_conversation(user, conversation, start)) as events,
    ):
        async for happening in events:
            seen.append(happening)
            assert len(Cursor.decode(happening.cursor).runs) <= MAX_RUNS
            if sum(isinstance(item.what, RunFinished) for item in seen) == len(runs):
                break
    assert texts(seen) == {run.id: "ok" for run in runs}
