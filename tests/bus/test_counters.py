"""Counted attempts in a real Redis, by two processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bus.address import RedisAddress
from bus.base import Away
from bus.counters import RedisCounters
from models.ids import new_id
from tests.redises import OwnRedis, Redis, ask


@pytest.fixture
async def two(redis: Redis) -> AsyncIterator[tuple[RedisCounters, RedisCounters]]:
    namespace = new_id("test")
    counters = [RedisCounters(RedisAddress.parse(redis.url), namespace) for _ in range(2)]
    yield counters[0], counters[1]
    for each in counters:
        await each.aclose()


async def test_of_a_crowd_in_two_processes_exactly_as_many_pass(two: tuple[RedisCounters, RedisCounters]) -> None:
    waits = await asyncio.gather(*(two[number % 2].count("ann", 10, 60) for number in range(100)))
    assert sum(wait == 0 for wait in waits) == 10
    assert all(59 < wait <= 60 for wait in waits if wait)
    assert await two[0].count("bob", 10, 60) == 0


async def test_any_stretch_counts_not_the_clock_s(two: tuple[RedisCounters, RedisCounters]) -> None:
    """And who is told to wait so long passes then, whatever was refused meanwhile."""
    here, there = two
    assert await here.count("ann", 2, 1) == 0
    await asyncio.sleep(0.6)
    assert await there.count("ann", 2, 1) == 0
    wait = await here.count("ann", 2, 1)
    assert 0 < wait <= 0.4
    await asyncio.sleep(wait + 0.02)
    assert await there.count("ann", 2, 1) == 0
    assert 0.3 < await here.count("ann", 2, 1) <= 1


async def test_another_deployment_counts_for_itself(redis: Redis, two: tuple[RedisCounters, RedisCounters]) -> None:
    other = RedisCounters(RedisAddress.parse(redis.url), new_id("test"))
    assert await two[0].count("ann", 1, 60) == 0
    assert await other.count("ann", 1, 60) == 0
    await other.aclose()


async def test_a_server_that_is_away_is_said_soon_and_used_again(tmp_path: Path) -> None:
    """Somebody waits to be let in."""
    own = OwnRedis(tmp_path)
    counters = RedisCounters(RedisAddress.parse(own.url), "test")
    assert await counters.count("ann", 1, 60) == 0
    own.stop()
    begun = time.monotonic()
    with pytest.raises(Away):
        await counters.count("ann", 1, 60)
    assert time.monotonic() - begun < 1.5
    own.start()
    assert await counters.count("ann", 1, 60) == 0, "a restart forgets: at worst a minute's attempts more"
    assert ask(own.url, "DBSIZE") == ":1"
    await counters.aclose()
    own.stop()
