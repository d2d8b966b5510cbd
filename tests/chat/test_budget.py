"""A day's limits: what is held, and what one is told who has nothing left."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from chat.budget import needed, quota_of, reserve
from chat.history import Branch
from chat.prompt import estimate_turns
from chat.sending import Asking
from chat.stats import count_run
from errors import QuotaExceeded
from models.address import Address
from models.columns import utc_now
from models.message import Message
from models.run import Run
from models.usage import Limits, day_of
from providers.base import ModelInfo, Role, Turn
from providers.catalog import Candidate, Catalog
from providers.prices import Price, Rate
from providers.scripted import ScriptedProvider
from tests.chat.conftest import open_core
from tests.chat.spending import PROMPT, QUESTION, ask, held, limited, settled, today

pytestmark = pytest.mark.on_both


class TestWhatIsNeeded:
    def test_is_the_prompt_and_the_longest_answer_at_the_model_s_price(self) -> None:
        candidates = Catalog([ScriptedProvider()], ()).candidates("scripted@2/8")
        assert needed(QUESTION, 100, candidates) == (PROMPT + 100, PROMPT * 2_000 + 100 * 8_000)
        assert needed(QUESTION, 100, candidates, 7) == (PROMPT + 107, (PROMPT + 7) * 2_000 + 100 * 8_000)

    def test_is_that_of_the_dearest_who_may_answer(self) -> None:
        catalog = Catalog([ScriptedProvider()], ("scripted@9/1", "scripted@1/9", "scripted"))
        assert needed(QUESTION, 100, catalog.candidates("scripted@0/0"))[1] == max(
            PROMPT * 9_000 + 100_000, PROMPT * 1_000 + 900_000
        )

    def test_has_room_for_thoughts_at_their_own_price(self) -> None:
        def thinker(reasoning: str | None) -> Candidate:
            rate = None if reasoning is None else Rate(Decimal(reasoning))
            price = Price(Rate(Decimal(1)), Rate(Decimal(2)), reasoning=rate)
            return Candidate(ScriptedProvider(), ModelInfo("m", "p", None, price=price, thoughts=lambda most: 4 * most))

        for reasoning, dearest in ((None, 2_000), ("1", 2_000), ("5", 5_000)):
            assert needed(QUESTION, 100, [thinker(reasoning)]) == (PROMPT + 500, PROMPT * 1_000 + 500 * dearest)

    def test_counts_no_more_of_a_long_prompt_than_the_model_is_sent(self) -> None:
        turns = [Turn(Role.USER, "x" * 3_000) for _ in range(100)]
        tokens, _ = needed(turns, 100, Catalog([ScriptedProvider()], ()).candidates("scripted"))
        assert tokens <= 8_192


class TestADay:
    async def test_is_used_up_and_then_nothing_is_asked(self, address: Address) -> None:
        async with limited(address, tokens=1_000) as core:
            user = await core.user()
            await ask(core, user, "scripted:text=a,usage=600/300")
            with pytest.raises(QuotaExceeded) as caught:
                await ask(core, user, "scripted:text=a,usage=600/300")
            assert "100 tokens left" in caught.value.message
            assert "1,000 tokens" in caught.value.message
            midnight = datetime.combine(utc_now().date() + timedelta(days=1), datetime.min.time(), UTC)
            assert caught.value.resets_at == midnight
            assert 0 < (caught.value.retry_after or 0) <= 86_400
            await ask(core, user, "scripted:text=a,usage=20/20", 50)
            row = await today(core, user)
            assert (row.messages, row.tokens, row.reserved_tokens) == (2, 940, 0)

    async def test_s_money_is_used_up_too(self, address: Address) -> None:
        async with limited(address, dollars=0.01) as core:
            user = await core.user()
            await ask(core, user, "scripted@2/8:text=a,usage=1000/900")
            with pytest.raises(QuotaExceeded, match=r"today's \$0\.010000 you have \$0\.000800 left"):
                await ask(core, user, "scripted@2/8:text=a", 120)
            # What costs nothing, and what nobody knows the price of, is asked on.
            await ask(core, user, "scripted@0/0:text=a,usage=100000/900000", 4_096)
            await ask(core, user, "scripted:text=a,usage=100000/900000", 4_096)
            assert (await today(core, user)).cost_nanos == 9_200_000

    async def test_begins_anew_at_midnight(self, address: Address) -> None:
        """In UTC; what is asked before and ends behind it counts for the day of the question."""
        limits = Limits(tokens=1_000)
        before = datetime(2026, 3, 1, 23, 59, 59, 999_000, tzinfo=UTC)

        async def begin(at: datetime) -> Run:
            run = Run(user_id=user, requested_model="m", model="m", provider="p", created_at=at, reserved_tokens=900)
            async with core.database.write() as session:
                await reserve(session, limits, run)
            return run

        async with open_core(address) as core:
            user = await core.user()
            late = await begin(before)
            with pytest.raises(QuotaExceeded) as caught:
                await begin(before)
            assert caught.value.resets_at == datetime(2026, 3, 2, tzinfo=UTC)
            await begin(before + timedelta(milliseconds=1))
            late.prompt_tokens, late.completion_tokens = 1, 2
            async with core.database.write() as session:
                await count_run(session, late)
            async with core.database.read() as session:
                first, second = [await day_of(session, user, (before + timedelta(days=n)).date()) for n in (0, 1)]
            assert first is not None
            assert second is not None
            assert (first.tokens, first.reserved_tokens, second.tokens, second.reserved_tokens) == (3, 0, 0, 900)

    async def test_is_everyone_s_own(self, address: Address) -> None:
        async with limited(address, tokens=1_000) as core:
            await ask(core, await core.user(), "scripted:text=a,usage=999/1")
            await ask(core, await core.user(), "scripted:text=a,usage=999/1")

    async def test_of_guests_has_no_limit_here(self, address: Address) -> None:
        async with limited(address, tokens=1) as core:
            await ask(core, None, "scripted:text=a,usage=999/1")

    async def test_that_can_never_hold_the_answer_says_so(self, address: Address) -> None:
        async with limited(address, tokens=100) as core:
            with pytest.raises(QuotaExceeded, match="a smaller maxTokens") as caught:
                await ask(core, await core.user(), "scripted:text=a", 100)
            assert "until" not in caught.value.message

    async def test_without_limits_nothing_is_held(self, address: Address) -> None:
        async with open_core(address) as core:
            user = await core.user()
            run = await core.send(user, "wait=30")
            assert await held(core, user) == (0, 0)
            assert (await core.row(run.id)).reserved_tokens == 0
            assert await quota_of(core.database, Limits(), user) is None
            await core.chats.cancel(user, run.id)


class TestAConversation:
    async def test_is_counted_with_its_history(self, address: Address) -> None:
        async with limited(address, tokens=10**6) as core:
            user = await core.user()
            place = await core.conversation(user)
            await core.events(user, await core.ask(user, place, "scripted:text=an_answer", "a question"))
            run = await core.ask(user, place, "scripted:wait=30", "and another", max_tokens=100)
            turns = [Turn(Role.USER, text) for text in ("a question", "an answer", "and another")]
            assert run.reserved_tokens == estimate_turns(turns) + 100
            assert await held(core, user) == (run.reserved_tokens, 0)
            await core.chats.cancel(user, run.id)
            await settled(core, user)

    async def test_counts_the_answer_that_is_waited_for(self, address: Address) -> None:
        async with limited(address, tokens=10**6) as core:
            user = await core.user()
            place = await core.conversation(user)
            first = await core.ask(user, place, "scripted:wait=30", "one", max_tokens=300)
            second = await core.ask(user, place, "scripted:text=a", "two", max_tokens=100, queue=True)
            assert second.reserved_tokens == estimate_turns([Turn(Role.USER, "one"), Turn(Role.USER, "two")]) + 400
            await core.chats.cancel(user, first.id)
            await core.events(user, second)
            await settled(core, user)

    async def test_is_read_again_where_an_answer_was_under_way(self, address: Address) -> None:
        """It may have ended between the two looks, and then nobody waits for it any more."""
        async with open_core(address) as core:
            user = await core.user()
            place = await core.conversation(user)
            run = await core.ask(user, place, "scripted:wait=0.3,text=an_answer", "one")
            async with core.database.read() as session:
                early = await Branch.read(session, place, run.message_id)
            await core.events(user, run)
            async with core.database.read() as session:
                answer = await session.get(Message, run.message_id)
                turns = await early.turns_to(session, place, answer, "two")
                late = await Branch.read(session, place, run.message_id)
                again = replace(late, turns=())
                kept = await again.turns_to(session, place, answer, "two")
            assert [turn.content for turn in turns] == ["one", "an answer", "two"]
            assert [turn.content for turn in kept] == ["two"]

    async def test_is_as_it_was_when_nothing_is_left(self, address: Address) -> None:
        async with limited(address, tokens=1_000) as core:
            user = await core.user()
            place = await core.conversation(user)
            with pytest.raises(QuotaExceeded):
                await core.ask(user, place, "scripted:text=a", max_tokens=1_000)
            found, messages = await core.conversations.get(user, place.id)
            assert (found.message_count, list(messages), await held(core, user)) == (0, [], (0, 0))
            assert (await core.events(user, await core.ask(user, place, "scripted:text=a", max_tokens=10)))[-1]

    async def test_that_is_edited_or_asked_again_is_held_for_too(self, address: Address) -> None:
        async with limited(address, tokens=300) as core:
            user = await core.user()
            place = await core.conversation(user)
            run = await core.ask(user, place, "scripted:text=a,usage=100/100", max_tokens=100)
            await core.events(user, run)
            _, (question, answer) = await core.conversations.get(user, place.id)
            again = Asking(model="scripted:text=a", max_tokens=100)
            with pytest.raises(QuotaExceeded):
                await core.sendings.edit(user, question.id, "other", again)
            with pytest.raises(QuotaExceeded):
                await core.sendings.regenerate(user, answer.id, again)

    async def test_s_first_result_costs_nothing_again(self, address: Address) -> None:
        async with limited(address, tokens=300) as core:
            user = await core.user()
            place = await core.conversation(user)
            asking = Asking(model="scripted:text=a,usage=200/100", max_tokens=100, idempotency_key="k")
            _, first = await core.sendings.send(user, place.id, "hello", asking)
            await core.events(user, first)
            _, second = await core.sendings.send(user, place.id, "hello", asking)
            assert second.id == first.id
            assert (await today(core, user)).tokens == 300
