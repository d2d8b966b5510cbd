"""What a user is told of days and models."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from chat.chats import StatelessChat
from chat.stats import MOST_DAYS, DayStats, ModelStats, count_run, daily_stats, model_stats, user_stats
from errors import BadUserInput
from models.run import Run
from models.usage import MOST_MODELS, OTHERS
from providers.base import Role, Turn
from tests.chat.conftest import Core

pytestmark = pytest.mark.on_both
NOW = datetime(2026, 3, 1, 0, 0, 0, tzinfo=UTC)
PRICED = "scripted@2/8:text=a,usage=1000/500"
UNPRICED = "scripted:text=a,usage=1000/500"
COST = 6_000_000


async def chat(core: Core, user: str, model: str) -> None:
    async for _ in core.chats.chat(user, StatelessChat([Turn(Role.USER, "x")], model=model)):
        pass


async def add(core: Core, user: str, at: datetime, **values: Any) -> None:
    """Count a run that was asked for at this time."""
    given: dict[str, Any] = {
        "model": "m",
        "provider": "p",
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "cost_nanos": 5,
    } | values
    async with core.database.write() as session:
        await count_run(session, Run(user_id=user, requested_model="m", created_at=at, **given))


@contextmanager
def statements() -> Iterator[list[str]]:
    """On the counters' tables; the engine has its own to do."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if any(table in statement for table in ("user_account", "daily_usage", "model_usage")):
            seen.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", note)


class TestDays:
    async def test_without_use_are_told_too(self, core: Core, user: str) -> None:
        await add(core, user, NOW - timedelta(days=2))
        days = await daily_stats(core.database, user, 4, NOW)
        assert [day.day.isoformat() for day in days] == ["2026-02-26", "2026-02-27", "2026-02-28", "2026-03-01"]
        assert days[1] == DayStats(days[1].day, 1, 7, 5)
        assert [day for number, day in enumerate(days) if number != 1] == [
            DayStats(days[number].day, 0, 0, 0) for number in (0, 2, 3)
        ]

    async def test_end_at_midnight_in_utc(self, core: Core, user: str) -> None:
        """A run belongs to the day on which it was asked for, whenever it ends."""
        for seconds in (-0.001, 0, 86_399.999, 86_400):
            await add(core, user, NOW + timedelta(seconds=seconds))
        days = await daily_stats(core.database, user, 3, NOW + timedelta(days=1))
        assert [day.messages for day in days] == [1, 2, 1]
        assert [day.messages for day in await daily_stats(core.database, user, 1, NOW)] == [2]

    async def test_of_another_zone_s_clock_are_utc_s(self, core: Core, user: str) -> None:
        shanghai = datetime.fromisoformat("2026-03-01T07:59:00+08:00")
        await add(core, user, shanghai.astimezone(UTC))
        assert [day.messages for day in await daily_stats(core.database, user, 2, NOW)] == [1, 0]

    @pytest.mark.parametrize("days", [0, -1, MOST_DAYS + 1, 2**31])
    async def test_are_bounded(self, core: Core, user: str, days: int) -> None:
        with pytest.raises(BadUserInput, match=f"1 to {MOST_DAYS}"):
            await daily_stats(core.database, user, days)

    async def test_of_a_whole_leap_year_fit(self, core: Core, user: str) -> None:
        days = await daily_stats(core.database, user, MOST_DAYS)
        assert len({day.day for day in days}) == MOST_DAYS
        assert days == sorted(days, key=lambda day: day.day)

    async def test_count_stored_and_stateless_runs(self, core: Core, user: str) -> None:
        await chat(core, user, PRICED)
        await core.events(user, await core.ask(user, await core.conversation(user), PRICED))
        assert [(day.messages, day.tokens, day.cost_nanos) for day in await daily_stats(core.database, user, 1)] == [
            (2, 3_000, 2 * COST)
        ]

    async def test_keep_what_a_deleted_conversation_used(self, core: Core, user: str) -> None:
        conversation = await core.conversation(user)
        await core.events(user, await core.ask(user, conversation, PRICED))
        await core.conversations.delete(user, conversation.id)
        assert (await daily_stats(core.database, user, 1))[0].tokens == 1_500
        assert (await model_stats(core.database, user))[0].tokens == 1_500

    async def test_with_an_unknown_price_tell_what_is_known(self, core: Core, user: str) -> None:
        await chat(core, user, UNPRICED)
        assert (await daily_stats(core.database, user, 1))[0].cost_nanos is None
        await chat(core, user, PRICED)
        assert (await daily_stats(core.database, user, 1))[0].cost_nanos == COST

    async def test_are_everyone_s_own(self, core: Core, user: str) -> None:
        await chat(core, await core.user(), PRICED)
        assert (await daily_stats(core.database, user, 1))[0].messages == 0
        assert await model_stats(core.database, user) == []

    async def test_of_a_guest_are_nobody_s(self, core: Core) -> None:
        async for _ in core.chats.chat(None, StatelessChat([Turn(Role.USER, "x")], model=PRICED)):
            pass


class TestModels:
    async def test_are_told_with_the_most_used_first(self, core: Core, user: str) -> None:
        for _ in range(2):
            await chat(core, user, PRICED)
        await chat(core, user, "scripted:text=a,usage=1/1")
        found = await model_stats(core.database, user)
        assert [(each.model, each.provider, each.runs, each.tokens, each.cost_nanos) for each in found] == [
            (PRICED, "scripted", 2, 3_000, 2 * COST),
            ("scripted:text=a,usage=1/1", "scripted", 1, 2, None),
        ]

    async def test_have_the_median_of_the_times_to_the_first_token(self, core: Core, user: str) -> None:
        for milliseconds in (100.0, 120.0, 900.0, 5_000.0, 200.0, None, None):
            await add(core, user, NOW, time_to_first_token_ms=milliseconds)
        (model,) = await model_stats(core.database, user)
        assert model.runs == 7
        assert model.median_first_token is not None
        assert 180 <= model.median_first_token <= 220

    async def test_without_a_first_token_have_no_median(self, core: Core, user: str) -> None:
        await chat(core, user, "scripted:fail=PROVIDER_AUTH")
        assert await model_stats(core.database, user) == [
            ModelStats("scripted:fail=PROVIDER_AUTH", "scripted", 1, 0, 0, None)
        ]

    async def test_of_one_name_at_two_providers_are_two(self, core: Core, user: str) -> None:
        await add(core, user, NOW, provider="one")
        await add(core, user, NOW, provider="two")
        assert [(each.model, each.provider) for each in await model_stats(core.database, user)] == [
            ("m", "one"),
            ("m", "two"),
        ]

    async def test_beyond_the_most_are_counted_as_others(self, core: Core, user: str) -> None:
        """A server that takes any name must not let a user fill the table."""
        async with core.database.write() as session:
            for number in range(MOST_MODELS + 30):
                run = Run(user_id=user, requested_model="m", model=f"m{number:03}", provider="p", created_at=NOW)
                run.time_to_first_token_ms = float(number % 3 + 1)
                await count_run(session, run)
            known = Run(user_id=user, requested_model="m", model="m000", provider="p", created_at=NOW)
            known.time_to_first_token_ms = 70_000.0
            await count_run(session, known)
        found = {each.model: each.runs for each in await model_stats(core.database, user)}
        assert len(found) == MOST_MODELS + 1
        assert (found[OTHERS], found["m000"]) == (30, 2)


async def test_figures_take_as_many_statements_whatever_there_is_to_tell(core: Core, user: str) -> None:
    async def count() -> int:
        with statements() as seen:
            await user_stats(core.database, user)
            await daily_stats(core.database, user, MOST_DAYS, NOW)
            await model_stats(core.database, user)
        return len(seen)

    empty = await count()
    async with core.database.write() as session:
        for number in range(300):
            run = Run(user_id=user, requested_model="m", model=f"m{number % 50}", provider="p")
            run.created_at, run.time_to_first_token_ms = NOW - timedelta(days=number), float(number + 1)
            await count_run(session, run)
    assert await count() == empty == 3


async def test_the_end_of_a_run_takes_as_many_statements_whatever_is_counted(core: Core, user: str) -> None:
    run = Run(user_id=user, requested_model="m", model="m", provider="p", created_at=NOW, time_to_first_token_ms=5.0)

    async def count() -> int:
        with statements() as seen:
            async with core.database.write() as session:
                await count_run(session, run)
        return len(seen)

    await count()
    second = await count()
    for number in range(50):
        await add(core, user, NOW - timedelta(days=number), model=f"other{number}")
    assert await count() == second == 3
