"""What a run is said to have used and cost, however it ended, live and as it is stored."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from chat.codec import decode_event, encode_event
from chat.events import RunEvent, RunFinished, RunTextDelta
from chat.prompt import PER_TURN, estimate_tokens
from chat.usage import priced, usage_of
from models.address import Address
from models.run import Run, RunStatus
from models.worker import renew_lease
from providers.base import ModelInfo, Usage, UsageChunk
from providers.prices import FREE, NANOS, flat_price
from tests.chat.conftest import LONG_AGO, Core, OddProvider, open_core
from tests.waiting import until

pytestmark = pytest.mark.on_both
PRICED = "scripted@2/8"


async def play(core: Core, model: str) -> tuple[RunFinished, Run]:
    user = await core.user()
    run = await core.ask(user, await core.conversation(user), model)
    end = (await core.events(user, run))[-1]
    assert isinstance(end, RunFinished)
    return end, await core.row(run.id)


class Cached(OddProvider):
    """Has its price from a file of the operator's, say."""

    def find(self, model: str) -> ModelInfo | None:
        price = flat_price(Decimal(2), Decimal(8), Decimal("0.5"))
        return ModelInfo("odd", self.name, None, price=price) if model == "odd" else None


class TestTheCost:
    async def test_is_the_provider_s_figures_at_the_model_s_price(self, core: Core) -> None:
        end, row = await play(core, f"{PRICED}:text=a,usage=1000/500")
        assert end.usage == usage_of(row) == Usage(1000, 500, cost_nanos=6_000_000)

    async def test_is_not_known_where_the_price_is_not(self, core: Core) -> None:
        end, row = await play(core, "scripted:text=a,usage=1000/500")
        assert end.usage == usage_of(row) == Usage(1000, 500, cost_nanos=None)

    async def test_takes_cached_tokens_for_what_they_cost(self, address: Address) -> None:
        async with open_core(address, providers=[Cached("a", UsageChunk(Usage(1000, 500, 600)))]) as core:
            end, row = await play(core, "odd")
            assert end.usage == usage_of(row) == Usage(1000, 500, 600, cost_nanos=800_000 + 300_000 + 4_000_000)

    async def test_is_the_provider_s_own_if_it_tells_one(self, address: Address) -> None:
        async with open_core(address, providers=[Cached("a", UsageChunk(Usage(1000, 500, cost_nanos=7)))]) as core:
            assert (await play(core, "odd"))[0].usage == Usage(1000, 500, cost_nanos=7)

    @pytest.mark.parametrize("told", [-1, 10**16, 2**70, True, "7", 0.5])
    async def test_that_cannot_be_is_not_believed(self, address: Address, told: Any) -> None:
        async with open_core(address, providers=[Cached("a", UsageChunk(Usage(1000, 500, cost_nanos=told)))]) as core:
            assert (await play(core, "odd"))[0].usage == Usage(1000, 500, cost_nanos=6_000_000)

    @pytest.mark.parametrize("prompt", [-1, 10**9 + 1, 2**70, True, "7", 0.5, None])
    async def test_of_figures_that_cannot_be_is_estimated(self, address: Address, prompt: Any) -> None:
        async with open_core(address, providers=[Cached("a", UsageChunk(Usage(prompt, 500)))]) as core:
            end, row = await play(core, "odd")
            assert end.usage == usage_of(row)
            assert end.usage is not None
            assert end.usage.estimated
            assert 0 < (end.usage.cost_nanos or 0) < 1_000_000

    @pytest.mark.parametrize("told", [Usage(0, 0, 0, 0), Usage(0, 500, 0, 7), Usage(1000, 0, 300, 0)])
    async def test_of_nothing_beside_a_text_is_estimated(self, address: Address, told: Usage) -> None:
        """Else nobody's budget would end at such a server. What it does count stays as it is."""
        async with open_core(address, providers=[Cached("a text", UsageChunk(replace(told, cost_nanos=0)))]) as core:
            end, row = await play(core, "odd")
            usage = end.usage
            assert usage == usage_of(row)
            assert usage is not None
            assert usage.estimated
            assert usage.prompt_tokens == (told.prompt_tokens or estimate_tokens("hello") + PER_TURN)
            assert usage.completion_tokens == (told.completion_tokens or estimate_tokens("a text"))
            assert usage.cached_tokens == (told.cached_tokens or None)
            assert usage.reasoning_tokens == (told.reasoning_tokens or None)
            assert (usage.cost_nanos or 0) > 0

    async def test_of_an_answer_without_a_word_is_believed(self, core: Core) -> None:
        end, _ = await play(core, "scripted:usage=1000/0")
        assert end.usage == Usage(1000, 0)

    @pytest.mark.parametrize("end", ["fail=PROVIDER_ERROR", "cut"])
    async def test_of_a_failed_answer_is_that_of_what_came(self, core: Core, end: str) -> None:
        finished, row = await play(core, f"{PRICED}:text=abcdef,{end}")
        usage = finished.usage
        assert usage == usage_of(row)
        assert usage is not None
        assert usage.estimated
        assert usage.cost_nanos == usage.prompt_tokens * 2_000 + usage.completion_tokens * 8_000 > 0

    async def test_of_a_cancelled_answer_too(self, core: Core) -> None:
        user = await core.user()
        run = await core.ask(user, await core.conversation(user), f"{PRICED}:text=abcdef,wait=30")
        async with asyncio.timeout(5):
            async for event in core.chats.follow(user, run.id, None):
                if isinstance(event, RunTextDelta):
                    break
        await core.chats.cancel(user, run.id)
        row = await core.row(run.id)
        assert row.status == RunStatus.CANCELLED
        assert (row.cost_nanos or 0) >= estimate_tokens("abcdef") * 8_000

    @pytest.mark.parametrize(
        "code", ["PROVIDER_AUTH", "PROVIDER_RATE_LIMITED", "CONTEXT_TOO_LONG", "MODEL_UNAVAILABLE"]
    )
    async def test_of_what_was_refused_is_nothing(self, core: Core, code: str) -> None:
        """A provider that is down, or whose key is wrong, must not use up what its users may ask for."""
        end, row = await play(core, f"{PRICED}:fail={code}")
        assert (end.usage, usage_of(row)) == (None, None)

    async def test_of_silence_is_the_prompt_s(self, core: Core) -> None:
        """It may have been read, and then it is on the bill."""
        end, _ = await play(core, f"{PRICED}:fail=PROVIDER_TIMEOUT")
        assert end.usage is not None
        assert end.usage.prompt_tokens > 0
        assert end.usage.completion_tokens == 0

    async def test_is_that_of_who_answered(self, address: Address) -> None:
        async with open_core(address, fallback=["scripted@1/1:text=a,usage=100/10"]) as core:
            end, row = await play(core, "scripted@500/500:fail=PROVIDER_TIMEOUT")
            assert row.model == "scripted@1/1:text=a,usage=100/10"
            assert end.usage == Usage(100, 10, cost_nanos=110_000)


class TestADeadProcess:
    async def test_leaves_an_estimate_of_prompt_and_text(self, address: Address) -> None:
        """Ended by another process, which has neither the provider's figures nor the prompt."""
        async with open_core(address, lease=3_000) as core, open_core(address, lease=3_000) as dead:
            user = await core.user()
            run = await dead.ask(user, await core.conversation(user), f"{PRICED}:text=abcdef,wait=30")
            log = dead.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == "abcdef")
            async with asyncio.timeout(5):
                while (await core.row(run.id)).prompt_estimate is None:
                    await asyncio.sleep(0.01)
            async with core.database.write() as session:
                await renew_lease(session, dead.engine.keeper.worker, LONG_AGO)
            await core.engine.keeper.recover()
            usage = usage_of(await core.row(run.id))
            assert usage is not None
            assert usage.estimated
            assert usage.prompt_tokens >= estimate_tokens("hello")
            assert usage.completion_tokens == estimate_tokens("abcdef")
            assert usage.cost_nanos == usage.prompt_tokens * 2_000 + usage.completion_tokens * 8_000
            end = (await core.events(user, run))[-1]
            assert isinstance(end, RunFinished)
            assert end.usage == usage

    async def test_is_paid_at_the_price_of_who_answered(self, address: Address) -> None:
        """Which the row of a run that is under way does not tell, but its log."""
        cheap = "scripted@1/1:text=abc,wait=30"
        async with open_core(address, lease=3_000) as core, open_core(address, lease=3_000, fallback=[cheap]) as dead:
            user = await core.user()
            run = await dead.ask(user, await core.conversation(user), "scripted@500/500:fail=PROVIDER_TIMEOUT")
            log = dead.engine.log_of(run.id)
            assert log is not None
            await until(lambda: log.text == "abc")
            async with core.database.write() as session:
                await renew_lease(session, dead.engine.keeper.worker, LONG_AGO)
            await core.engine.keeper.recover()
            row = await core.row(run.id)
            assert row.model == cheap
            assert row.cost_nanos == ((row.prompt_tokens or 0) + (row.completion_tokens or 0)) * 1_000 > 0


def finished(usage: Usage | None) -> RunEvent:
    return RunFinished("run_1", 7, RunStatus.COMPLETED, None, usage, None, "m", None)


@pytest.mark.parametrize(
    "usage", [None, Usage(1, 2), Usage(1, 2, 3, 4, True, 5 * NANOS), Usage(1, 2, None, None, False, 0)]
)
def test_the_log_keeps_all_of_it(usage: Usage | None) -> None:
    assert decode_event("run_1", 7, encode_event(finished(usage))) == finished(usage)


def test_a_log_from_before_costs_can_be_read() -> None:
    """A server that is brought up to date has such logs in its database."""
    old = ["f", "COMPLETED", None, [1, 2, None, None, True], None, "m", None]
    assert decode_event("run_1", 7, old) == finished(Usage(1, 2, estimated=True))


def test_what_is_free_costs_nothing_and_that_is_known() -> None:
    assert priced(Usage(1, 2), FREE).cost_nanos == 0
    assert priced(Usage(1, 2), None).cost_nanos is None
