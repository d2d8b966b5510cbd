"""Counted attempts, on a real SQLite file that two connections share as two processes would."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from sqlmodel import col, select

from auth.device import Device
from auth.throttle import NO_LIMITS, Throttle, ThrottleLimits
from bus.base import Away
from errors import RateLimited
from models.address import Address
from models.attempt import Attempt
from models.columns import utc_now
from models.database import Database
from models.opening import open_database

pytestmark = pytest.mark.on_both

HERE, THERE = Device("192.0.2.1"), Device("192.0.2.2")
FEW = ThrottleLimits(account_logins=3, address_logins=5, address_registrations=2)


class Clock:
    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("auth.throttle.utc_now", clock)
    return clock


@pytest.fixture
def throttle(database: Database, clock: Clock) -> Throttle:
    return Throttle(database, FEW)


@pytest.fixture
async def twin(address: Address) -> AsyncIterator[Database]:
    """Another process's connection to the same database."""
    twin = open_database(address)
    yield twin
    await twin.aclose()


async def rows(database: Database) -> list[str]:
    async with database.read() as session:
        return list(await session.exec(select(Attempt.key).order_by(col(Attempt.key))))


async def test_an_account_is_tried_so_often_in_whatever_spelling_and_from_wherever(throttle: Throttle) -> None:
    for name in ("Ann", " ann ", "ANN"):
        await throttle.login(name, HERE)
    for device in (HERE, THERE):
        with pytest.raises(RateLimited) as caught:
            await throttle.login("aNN", device)
        assert caught.value.retry_after == 60
    await throttle.login("bob", HERE)


async def test_any_minute_counts_not_the_clock_s(throttle: Throttle, clock: Clock) -> None:
    """Counted by the calendar, twice as many would pass around the turn of a minute."""
    for wait in (0, 30, 29):
        clock.later(wait)
        await throttle.login("ann", HERE)
    with pytest.raises(RateLimited) as caught:
        await throttle.login("ann", HERE)
    assert caught.value.retry_after == 1
    clock.later(1)
    await throttle.login("ann", HERE)
    with pytest.raises(RateLimited) as caught:
        await throttle.login("ann", HERE)
    assert caught.value.retry_after == 30


async def test_what_was_refused_does_not_keep_the_door_shut(throttle: Throttle, clock: Clock) -> None:
    for _ in range(3):
        await throttle.login("ann", THERE)
    for _ in range(20):
        with pytest.raises(RateLimited):
            await throttle.login("ann", THERE)
    clock.later(60)
    await throttle.login("ann", THERE)


async def test_a_clock_that_was_set_back_locks_nobody_out(throttle: Throttle, clock: Clock) -> None:
    for _ in range(3):
        await throttle.login("ann", HERE)
    clock.later(-3_600)
    await throttle.login("ann", HERE)


async def test_an_address_tries_many_accounts_so_often(throttle: Throttle) -> None:
    for number in range(5):
        await throttle.login(f"user {number}", HERE)
    with pytest.raises(RateLimited):
        await throttle.login("another", HERE)
    await throttle.login("another", THERE)


async def test_an_address_registers_so_often(throttle: Throttle) -> None:
    for _ in range(2):
        await throttle.registration(HERE)
    with pytest.raises(RateLimited):
        await throttle.registration(HERE)
    await throttle.registration(THERE)
    await throttle.login("ann", HERE)


async def test_of_a_crowd_in_two_processes_exactly_as_many_pass(database: Database, twin: Database) -> None:
    throttles = [Throttle(each, ThrottleLimits(10, None, None)) for each in (database, twin)]
    outcomes = await asyncio.gather(
        *(throttles[number % 2].login("ann", HERE) for number in range(40)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [RateLimited] * 30


async def test_the_table_keeps_no_names_and_forgets(database: Database, throttle: Throttle, clock: Clock) -> None:
    """People type their password into the field of the name."""
    for number in range(30):
        await throttle.login(f"my secret password {number}", Device(f"192.0.2.{number}"))
    kept = await rows(database)
    assert len(kept) == 60
    assert "secret" not in "".join(kept)
    clock.later(61)
    for number in range(3):
        await throttle.login("ann", Device(f"198.51.100.{number % 2}"))
    assert len(await rows(database)) == 3


@pytest.mark.parametrize("name", ["", "\x00", "\ud800", "x" * 1_000_000, "ﷺ" * 300])
async def test_whatever_is_called_a_name_is_counted(throttle: Throttle, name: str) -> None:
    for _ in range(3):
        await throttle.login(name, HERE)
    with pytest.raises(RateLimited):
        await throttle.login(name, HERE)


async def test_without_limits_nothing_is_written(database: Database) -> None:
    throttle = Throttle(database, NO_LIMITS)
    for _ in range(20):
        await throttle.login("ann", HERE)
        await throttle.registration(HERE)
    assert await rows(database) == []


class Elsewhere:
    """Counters that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.counted: list[str] = []

    async def count(self, key: str, most: int, seconds: int) -> float:  # noqa: ARG002
        if self.away:
            raise Away("gone")
        self.counted.append(key)
        return 0.0 if self.counted.count(key) <= most else 1.5

    async def aclose(self) -> None:
        return None


async def test_counters_that_go_away_open_no_door(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither do they by coming and going: for a minute the database alone counts."""
    now = 1_000.0
    monkeypatch.setattr("auth.throttle.time.monotonic", lambda: now)
    counters = Elsewhere()
    throttle = Throttle(database, FEW, counters)
    for _ in range(3):
        await throttle.login("ann", HERE)
    with pytest.raises(RateLimited) as caught:
        await throttle.login("ann", HERE)
    assert caught.value.retry_after == 2
    assert await rows(database) == []

    counters.away = True
    for _ in range(3):
        await throttle.login("ann", HERE)
    counters.away = False
    for _ in range(2):
        with pytest.raises(RateLimited):
            await throttle.login("ann", HERE)
    seen = len(counters.counted)
    assert len(await rows(database)) == 2
    now += 61
    await throttle.login("bob", HERE)
    assert len(counters.counted) == seen + 2
