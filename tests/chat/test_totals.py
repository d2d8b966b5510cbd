"""What /health counts, and what a flood of those who ask costs."""

import asyncio

import pytest
from sqlalchemy import event

import chat.totals
from chat.totals import Totals
from errors import Unavailable
from tests.chat.conftest import Core

pytestmark = pytest.mark.on_both


@pytest.fixture
def counts(core: Core) -> list[str]:
    """The statements that count users, as they are made."""
    made: list[str] = []

    def note(*arguments: object) -> None:
        statement = str(arguments[2])
        if "count(" in statement and "user_account" in statement:
            made.append(statement)

    for engine in core.database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    return made


async def test_few_are_exact_at_once(core: Core) -> None:
    totals = Totals(core.database)
    assert await totals.read() == (0, 0)
    for number in range(1, 6):
        await core.conversation(await core.user())
        assert await totals.read() == (number, number)


async def test_a_flood_is_one_query_at_a_time_and_nobody_is_told_of_a_moment_before_he_asked(
    core: Core, counts: list[str]
) -> None:
    totals = Totals(core.database)
    first = [asyncio.create_task(totals.read()) for _ in range(200)]
    await asyncio.sleep(0)
    await core.user()
    assert await totals.read() == (1, 0)
    assert {users for users, _ in await asyncio.gather(*first)} <= {0, 1}
    assert 1 <= len(counts) <= 3


async def test_many_are_told_again_for_a_while(core: Core, counts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat.totals, "EXACT_ROWS", 1)
    monkeypatch.setattr(chat.totals, "KEEP_SECONDS", 1.0)
    monkeypatch.setattr(chat.totals, "KEEP_FACTOR", 0)
    totals = Totals(core.database)
    for _ in range(2):
        await core.user()
    assert await totals.read() == (2, 0)
    await core.user()
    assert {await totals.read() for _ in range(50)} == {(2, 0)}
    assert len(counts) == 1
    await asyncio.sleep(1.1)
    assert await totals.read() == (3, 0)


async def test_a_database_that_is_away_is_asked_once_for_all_who_wait(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(_database: object) -> tuple[int, int]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        raise Unavailable(retry_after=1)

    totals = Totals(core.database)
    with monkeypatch.context() as patch:
        patch.setattr(chat.totals, "server_totals", away)
        answers = await asyncio.gather(*(totals.read() for _ in range(100)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        assert asked <= 2
    assert await totals.read() == (0, 0)
