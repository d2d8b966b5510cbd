"""What was held of a day comes back, whatever ends the run; and several at once never have more than there is."""

import asyncio
import random
from typing import Any

import pytest

from chat.budget import quota_of
from chat.members import Members
from errors import QuotaExceeded
from models.address import Address
from models.columns import utc_now
from models.member import MemberRole
from models.run import RunStatus
from models.usage import Limits
from models.worker import renew_lease
from tests.chat.conftest import LONG_AGO, SECONDS, Core, open_core
from tests.chat.spending import PROMPT, ask, chat, held, limited, settled, today
from tests.waiting import until

pytestmark = pytest.mark.on_both


class TestTheEnd:
    @pytest.mark.parametrize(
        "script",
        ["text=a", "text=a,usage=3/4", "text=a,cut", "fail=PROVIDER_AUTH", "fail=PROVIDER_TIMEOUT", "crash", "think=a"],
    )
    async def test_gives_back_what_was_held(self, address: Address, script: str) -> None:
        async with limited(address, tokens=10**6, dollars=100) as core:
            user = await core.user()
            run = await core.ask(user, await core.conversation(user), f"scripted@2/8:{script}")
            assert run.reserved_nanos > 0
            await core.events(user, run)
            row, ended = await today(core, user), await core.row(run.id)
            assert (row.reserved_tokens, row.reserved_nanos) == (0, 0)
            assert row.tokens == (ended.prompt_tokens or 0) + (ended.completion_tokens or 0)
            assert row.cost_nanos == (ended.cost_nanos or 0)

    async def test_by_a_delete_gives_it_back(self, address: Address) -> None:
        async with limited(address, tokens=10**6) as core:
            user = await core.user()
            place = await core.conversation(user)
            run = await core.ask(user, place, "scripted:text=a,wait=30")
            log = core.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == "a")
            await core.conversations.delete(user, place.id)
            assert await held(core, user) == (0, 0)
            assert (await today(core, user)).tokens > 0

    async def test_in_the_queue_gives_it_back(self, address: Address) -> None:
        async with limited(address, tokens=10**6, dollars=100, per_process=1) as core:
            user = await core.user()
            place = await core.conversation(user)
            first = await core.ask(user, place, "scripted@1/1:wait=30", "one")
            behind = await core.ask(user, place, "scripted@1/1:text=a", "two", queue=True)
            elsewhere = await core.ask(user, await core.conversation(user), "scripted@1/1:text=a")
            held_by = {run.id: (run.reserved_tokens, run.reserved_nanos) for run in (first, behind, elsewhere)}
            for run in (behind, elsewhere):
                before = await held(core, user)
                assert (await core.chats.cancel(user, run.id)).status == RunStatus.CANCELLED
                gone = held_by[run.id]
                assert await held(core, user) == (before[0] - gone[0], before[1] - gone[1])
            assert await held(core, user) == held_by[first.id]
            await core.chats.cancel(user, first.id)
            row = await today(core, user)
            assert (row.messages, row.reserved_tokens, row.reserved_nanos) == (3, 0, 0)

    async def test_by_a_stop_of_the_server_gives_it_back(self, address: Address) -> None:
        async with limited(address, tokens=10**6, per_process=1) as core:
            user = await core.user()
            for _ in range(3):
                await core.ask(user, await core.conversation(user), "scripted:text=a,wait=30")
            await core.engine.aclose()
            row = await today(core, user)
            assert (row.messages, row.reserved_tokens) == (3, 0)

    async def test_of_a_chat_that_everyone_left_gives_it_back(self, address: Address) -> None:
        async with limited(address, tokens=10**6) as core:
            user = await core.user()
            events = core.chats.chat(user, chat("scripted:text=a,wait=30"))
            await anext(events)
            assert await held(core, user) == (PROMPT + 100, 0)
            await events.aclose()
            await settled(core, user)

    async def test_of_a_dead_process_s_runs_gives_it_back(self, address: Address) -> None:
        async with limited(address, tokens=10**6) as core, limited(address, tokens=10**6) as dead:
            user = await core.user()
            run = await dead.ask(user, await core.conversation(user), "scripted:text=abc,wait=30")
            log = dead.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == "abc")
            await kill(core, dead)
            assert (await core.row(run.id)).status == RunStatus.INTERRUPTED
            row = await today(core, user)
            assert (row.messages, row.reserved_tokens) == (1, 0)
            assert row.tokens > 0

    async def test_of_a_run_that_is_begun_again_gives_it_back_once(self, address: Address) -> None:
        limits = Limits(tokens=10**6)
        options: dict[str, Any] = {"budget": limits, "lease": 3_000}
        async with open_core(address, restart=True, **options) as core, open_core(address, **options) as dead:
            user = await core.user()
            run = await dead.ask(user, await core.conversation(user), "scripted:wait=0.5,text=a,usage=5/6")
            before = await held(core, user)
            assert before == (run.reserved_tokens, 0)
            await kill(core, dead)
            assert await held(core, user) == before
            await core.events(user, run)
            row = await today(core, user)
            assert (row.messages, row.tokens, row.reserved_tokens) == (1, 11, 0)

    async def test_of_what_took_more_than_was_held_leaves_nothing(self, address: Address) -> None:
        async with limited(address, tokens=1_000) as core:
            user = await core.user()
            await ask(core, user, "scripted:text=a,usage=5000/5000")
            with pytest.raises(QuotaExceeded, match="0 tokens left"):
                await ask(core, user, "scripted:text=a", 1)


async def kill(core: Core, dead: Core) -> None:
    """As if the other process had been killed: `core` finds its runs."""
    async with core.database.write() as session:
        await renew_lease(session, dead.engine.keeper.worker, LONG_AGO)
    await core.engine.keeper.recover()


class TestSeveralAtOnce:
    async def test_never_have_more_than_there_is(self, address: Address) -> None:
        """Over two engines on one database, of which neither knows the other's runs (LibreChat #6451)."""
        each, room = PROMPT + 100, 5
        limits = Limits(tokens=each * room + each - 1, nanos=None)
        options: dict[str, Any] = {"budget": limits, "per_user": 50, "queue": 100, "lease": 3_000}
        async with open_core(address, **options) as one, open_core(address, **options) as other:
            user = await one.user()
            streams = [random.choice((one, other)).chats.chat(user, chat("scripted:wait=30")) for _ in range(16)]
            started = [asyncio.ensure_future(anext(stream)) for stream in streams]
            async with asyncio.timeout(SECONDS):
                while sum(future.done() for future in started) < len(streams) - room:
                    await asyncio.sleep(0.01)
            refused = [future.exception() for future in started if future.done()]
            assert all(isinstance(error, QuotaExceeded) for error in refused)
            assert all("held for answers under way" in str(error) for error in refused)
            assert await held(one, user) == (each * room, 0)
            for future in started:
                future.cancel()
            await asyncio.gather(*started, return_exceptions=True)
            for stream in streams:
                await stream.aclose()
            await settled(one, user)
            row = await today(one, user)
            assert row.messages == room

    async def test_are_all_counted_once(self, address: Address) -> None:
        """Over two engines, and in somebody else's conversations too: who asks pays."""
        options: dict[str, Any] = {"budget": Limits(10**9, 10**15), "per_user": 50, "queue": 100, "lease": 3_000}
        async with open_core(address, **options) as one, open_core(address, **options) as other:
            user, owner = await one.user(), await one.user()

            async def talk(core: Core) -> None:
                place = await core.conversation(owner)
                await Members(core.database).add(owner, place.id, user, MemberRole.EDITOR)
                for _ in range(5):
                    run = await core.ask(user, place, "scripted@1/1:text=a,usage=5/6")
                    await core.events(user, run)

            async def chat_on(core: Core) -> None:
                for _ in range(10):
                    await ask(core, user, "scripted@1/1:text=a,usage=5/6")

            async with asyncio.timeout(SECONDS):
                await asyncio.gather(*(work(core) for core in (one, other) * 2 for work in (talk, chat_on)))
            row = await today(one, user)
            assert (row.messages, row.tokens, row.cost_nanos) == (60, 660, 660_000)
            assert await held(other, user) == (0, 0)
            assert (await today(one, owner)).messages == 0

    async def test_who_are_refused_are_told_to_come_back_soon(self, address: Address) -> None:
        async with limited(address, tokens=PROMPT + 150) as core:
            user = await core.user()
            events = core.chats.chat(user, chat("scripted:text=a,wait=30"))
            await anext(events)
            with pytest.raises(QuotaExceeded) as caught:
                await ask(core, user, "scripted:text=a")
            assert caught.value.retry_after == 5
            assert caught.value.resets_at > utc_now()
            quota = await quota_of(core.database, Limits(tokens=PROMPT + 150), user)
            assert quota is not None
            assert (quota.tokens_left, quota.nanos_left) == (50, None)
            await events.aclose()
            await settled(core, user)
