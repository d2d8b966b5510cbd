"""The counting itself; who is counted, and over which processes, is in test_run_limits."""

import asyncio
from typing import Any

import pytest
from alembic import command
from sqlalchemy import BigInteger, ColumnElement, literal

import models.run_rate
from models.address import Address
from models.database import Database
from models.opening import open_database
from models.run import Run, count_under_way, runs_writing_and_under_way
from models.run_rate import MINUTE, count_begun
from tests.conftest import add_user
from tests.databases import look
from tests.models.test_migrate import alembic, migrate_apart

pytestmark = pytest.mark.on_both


class Clock:
    """The database's, in milliseconds."""

    now = 30_000_000 * MINUTE

    def __call__(self) -> ColumnElement[int]:
        return literal(self.now, BigInteger())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(models.run_rate, "database_now", made)
    return made


async def begin(database: Database, user: str, most: int | None) -> int:
    async with database.write() as session:
        return await count_begun(session, user, most)


async def begin_all(database: Database, user: str, most: int | None, tries: int) -> int:
    """How many of so many tries began."""
    return sum([await begin(database, user, most) == 0 for _ in range(tries)])


async def test_so_many_a_minute_and_each_user_their_own(database: Database, clock: Clock) -> None:
    one, other = await add_user(database), await add_user(database)
    clock.now += 10_000
    assert await begin_all(database, one, 3, 9) == 3
    assert await begin(database, one, 3) == 50 + 20, "the first of the next minute, when a third of three has faded"
    assert await begin_all(database, other, 3, 9) == 3


@pytest.mark.parametrize("most", [1, 2, 7, 2**31 - 1])
async def test_whoever_waits_as_told_may_go_on(database: Database, clock: Clock, most: int) -> None:
    user = await add_user(database)
    for step in (0, 1, 999, 17_003, 59_999, 60_000, 61_234, 119_999, 120_000, 10**9):
        clock.now += step
        await begin_all(database, user, most, 9)
        wait = await begin(database, user, most)
        assert 0 <= wait <= 120
        clock.now += wait * 1_000
        assert wait == 0 or await begin(database, user, most) == 0


async def test_no_turn_of_the_clock_doubles_it(database: Database, clock: Clock) -> None:
    user = await add_user(database)
    clock.now += MINUTE - 1
    assert await begin_all(database, user, 5, 9) == 5
    clock.now += 2
    assert await begin_all(database, user, 5, 9) == 0
    clock.now += MINUTE // 2
    assert await begin_all(database, user, 5, 9) == 2
    clock.now += 2 * MINUTE
    assert await begin_all(database, user, 5, 9) == 5


async def test_whoever_had_to_wait_comes_with_an_earlier_moment(database: Database, clock: Clock) -> None:
    user = await add_user(database)
    clock.now += 10
    assert await begin_all(database, user, 5, 3) == 3
    clock.now -= 20
    assert await begin_all(database, user, 5, 9) == 2
    clock.now += 20
    assert await begin(database, user, 5) > 0


async def test_a_clock_that_was_set_back_locks_nobody_out(database: Database, clock: Clock) -> None:
    user = await add_user(database)
    assert await begin_all(database, user, 2, 3) == 2
    clock.now -= 60 * MINUTE
    assert await begin_all(database, user, 2, 3) == 2


async def test_what_is_taken_back_does_not_count(database: Database) -> None:
    user = await add_user(database)
    for _ in range(3):
        async with database.write() as session:
            assert await count_begun(session, user, 1) == 0
            await session.rollback()
    assert await begin_all(database, user, 1, 2) == 1


@pytest.mark.parametrize("most", [None, 100])
async def test_what_begins_meanwhile_waits_and_then_sees_the_run(address: Address, most: int | None) -> None:
    """Also what comes first of all, when there is no row yet."""
    one, other = open_database(address), open_database(address)
    user = await add_user(one)

    async def look_behind() -> int:
        async with other.write() as session:
            await count_begun(session, user, most)
            return await count_under_way(session, user)

    for seen in (1, 2):
        async with one.write() as session:
            await count_begun(session, user, most)
            behind = asyncio.create_task(look_behind())
            await asyncio.sleep(0.1)
            session.add(Run(user_id=user, requested_model="m", model="m", provider="p"))
            await session.flush()
            assert not behind.done()
        assert await behind == seen
    await one.aclose()
    await other.aclose()


async def test_who_is_under_way(database: Database) -> None:
    user, other = await add_user(database), await add_user(database)
    common: dict[str, Any] = {"requested_model": "m", "model": "m", "provider": "p"}
    async with database.write() as session:
        assert await runs_writing_and_under_way(session, "conv", user) == ([], 0)
        first = Run(user_id=other, conversation_id="conv", status="RUNNING", **common)
        second = Run(user_id=user, conversation_id="conv", **common)
        session.add_all([first, second, Run(user_id=user, status="RUNNING", **common)])
        for status in ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED"):
            session.add(Run(user_id=user, conversation_id="conv", status=status, **common))
        session.add(Run(user_id=user, purpose="TITLE", **common))
        session.add(Run(conversation_id="another", **common))
        await session.flush()
        runs, count = await runs_writing_and_under_way(session, "conv", user)
        assert [run.id for run in runs] == sorted([first.id, second.id])
        assert (count, await count_under_way(session, user)) == (2, 2)
        assert await runs_writing_and_under_way(session, "nowhere", other) == ([], 1)


async def test_its_migration_can_be_undone_while_answers_are_under_way(address: Address) -> None:
    database = open_database(address)
    user = await add_user(database)
    async with database.write() as session:
        assert await count_begun(session, user, 1) == 0
        session.add(Run(user_id=user, requested_model="m", model="m", provider="p"))
    await database.aclose()
    alembic(address, command.downgrade, "0015")
    migrate_apart(address)
    assert look(address, "SELECT count(*) FROM run_rate") == [(0,)]
    database = open_database(address)
    async with database.write() as session:
        assert await count_begun(session, user, 1) == 0
        assert await count_under_way(session, user) == 1
    await database.aclose()
