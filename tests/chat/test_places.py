"""Who is counted, and until when. Over real servers: test_run_limits."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from chat.chats import StatelessChat
from errors import RateLimited, RunActive
from models.address import Address
from models.run import Run, RunStatus
from providers.base import Role, Turn
from tests.chat.conftest import SECONDS, Core, open_core
from tests.log.conftest import worker
from tests.waiting import until

pytestmark = pytest.mark.on_both

NEVER_ENDS = StatelessChat([Turn(Role.USER, "hello")], model="scripted:text=a,wait=60")


async def begun_when_there_is_room(core: Core, user: str) -> Run:
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(RateLimited):
                return await core.send(user, "text=a,wait=60")
            await asyncio.sleep(0.02)


async def test_answers_of_a_process_that_died_count_until_they_are_ended(address: Address) -> None:
    async with worker(address, lease=1, per_user=2) as child, open_core(address, lease=1, per_user=2) as core:
        user = await core.user()
        lost = [await child.ask(do="send", user=user, script="text=a,wait=60") for _ in range(2)]
        with pytest.raises(RateLimited, match="At most 2 answers at a time"):
            await core.send(user, "text=a")
        await child.kill()
        for _ in range(2):
            await begun_when_there_is_room(core, user)
        assert [(await core.row(run)).status for run in lost] == [RunStatus.INTERRUPTED] * 2
        with pytest.raises(RateLimited):
            await core.send(user, "text=a")


async def test_an_answer_that_is_begun_again_is_the_same_one(address: Address) -> None:
    """It was counted when it was asked for: neither is it refused here, nor counted twice."""
    limits: dict[str, Any] = {"lease": 1, "per_user": 2, "per_minute": 2}
    async with worker(address, **limits) as child, open_core(address, restart=True, **limits) as core:
        user = await core.user()
        run = await child.ask(do="send", user=user, script="wait=2,text=a")
        assert (await core.events(user, await core.send(user, "text=b")))[-1]
        with pytest.raises(RateLimited, match="At most 2 answers a minute"):
            await core.send(user, "text=c")
        await child.kill()
        await until(lambda: core.engine.places.taken == 1)
        await core.engine.wait_for_end(await core.row(run))
        assert (await core.row(run)).status == RunStatus.COMPLETED


async def test_what_is_refused_in_the_transaction_is_not_counted(address: Address) -> None:
    async with open_core(address, per_minute=5) as one, open_core(address, per_minute=5) as other:
        user = await one.user()
        place = await one.conversation(user)
        run = await one.ask(user, place, "scripted:text=a,wait=60")
        for _ in range(4):
            with pytest.raises(RunActive):
                await one.ask(user, place, "scripted:text=a")
        await one.engine.cancel(run)
        for _ in range(4):
            await other.events(user, await other.send(user, "text=a"))
        with pytest.raises(RateLimited, match="a minute") as caught:
            await other.send(user, "text=a")
        assert 1 <= (caught.value.retry_after or 0) <= 120
        for core in (one, other):
            with pytest.raises(RateLimited, match="a minute"):
                await core.chats.answer(user, StatelessChat([Turn(Role.USER, "hello")], model="scripted:text=a"))


async def test_guests_are_not_counted(address: Address) -> None:
    async with open_core(address, per_user=1, per_minute=1) as core, AsyncExitStack() as stack:
        for _ in range(3):
            events = core.chats.chat(None, NEVER_ENDS)
            stack.push_async_callback(events.aclose)
            await anext(events)
        assert core.engine.active == 3
