"""What two processes count, added up in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis as Client

from bus import tallies
from bus.address import RedisAddress
from bus.base import Away, Seat, Tally
from bus.tallies import RedisTallies
from models.ids import new_id
from tests.redises import OwnRedis, Redis, ask

Two = tuple[RedisTallies, RedisTallies]


@pytest.fixture
def namespace() -> str:
    return new_id("test")


@pytest.fixture
async def two(redis: Redis, namespace: str) -> AsyncIterator[Two]:
    made = [RedisTallies(RedisAddress.parse(redis.url), namespace) for _ in range(2)]
    for each in made:
        await each.greet()
    yield made[0], made[1]
    for each in made:
        await each.aclose()


async def test_what_both_count_is_added_up_by_minute_and_by_key(two: Two) -> None:
    here, there = two
    assert await here.add([Tally("a", 7, 3), Tally("b", 7, 1)]) == [(3, 0), (1, 0)]
    assert await there.add([Tally("a", 7, 4), Tally("a", 8, 1)]) == [(7, 0), (1, 7)]
    assert await here.add([Tally("a", 8, 2), Tally("b", 9, 5)]) == [(3, 7), (5, 0)]


async def test_a_crowd_of_keys_is_one_round_trip_and_a_key_may_be_anything(two: Two) -> None:
    odd = ["", "\0", "x" * 100_000, "\ud800", "用户"]
    counted = [Tally(key, 1, number + 1) for number, key in enumerate([*odd, *map(str, range(495))])]
    assert [total for total, _ in await two[0].add(counted)] == list(range(1, 501))
    assert [total for total, _ in await two[1].add(counted)] == list(range(2, 1_001, 2))


async def test_places_are_those_of_all_and_too_many_are_not_held(two: Two) -> None:
    here, there = two
    assert await here.place([Seat("a", 1, 3), Seat("a", 2, 3)]) == [0, 0]
    assert await there.place([Seat("a", 1, 3)]) == [2]
    assert await here.place([Seat("a", 3, 3)]) == [1], "no place for it"
    assert await there.place([Seat("a", 1, 3), Seat("b", 1, 1)]) == [2, 0], "two, not three"
    assert await there.place([Seat("a", 5)]) == [2], "without a limit it is so in any case"
    assert await here.place([Seat("a", 0)]) == [5]
    assert await there.place([Seat("a", 1, 1)]) == [0]


async def test_of_a_crowd_in_two_processes_exactly_as_many_get_a_place(two: Two) -> None:
    held = [0, 0]

    async def take(which: int) -> None:
        held[which] += 1
        (others,) = await two[which].place([Seat("a", held[which], 10)])
        if others + held[which] > 10:
            held[which] -= 1

    for _ in range(15):
        await asyncio.gather(take(0), take(1))
    assert sum(held) == 10


async def test_the_dead_hold_no_places(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SIGKILL: nobody says so, it is only silent."""
    here, there = two
    await here.place([Seat("a", 3, 3)])
    monkeypatch.setattr(tallies, "DEAD_SECONDS", 1)
    assert (await here.greet()).known
    assert await there.place([Seat("a", 1, 3)]) == [3]
    await asyncio.sleep(1.1)
    assert await there.place([Seat("a", 1, 3)]) == [0]
    assert not (await here.greet()).known, "and who was only slow is told that it has to say all again"
    assert await here.place([Seat("a", 3, 3)]) == [1]


async def test_who_leaves_or_begins_anew_gives_all_back(two: Two) -> None:
    here, there = two
    await here.place([Seat("a", 3, 3)])
    await here.greet(anew=True)
    assert await there.place([Seat("a", 3, 3)]) == [0]
    await there.leave()
    assert await here.place([Seat("a", 3, 3)]) == [0]


async def test_all_count_by_one_clock(two: Two) -> None:
    begun = await two[0].greet()
    await asyncio.sleep(0.05)
    ended = await two[1].greet()
    assert 0.05 <= ended.now - begun.now < 5
    assert ended.memory == begun.memory


async def test_what_is_kept_is_bounded_forgotten_and_tells_no_names(redis: Redis, namespace: str, two: Two) -> None:
    async with Client.from_url(redis.url) as client:
        digest = blake2b(b"user ann", digest_size=16).digest()
        shard = f"chat:{namespace}:rates:{digest[0]}:5"
        await cast(Any, client).hset(shard, mapping={str(number): 1 for number in range(2_000)})
        assert await two[0].add([Tally("user ann", 5, 2)]) == [(2, 0)]
        assert await two[0].add([Tally("user ann", 5, 2)]) == [(2, 0)], "there is no room: it counts for itself"
        await two[0].add([Tally("user ann", 6, 1)])
        await two[0].place([Seat("user ann", 1, 1)])
        keys = [key async for key in client.scan_iter(f"chat:{namespace}:*")]
        assert len(keys) == 6, "two that live, a memory, two minutes, a place"
        for key in keys:
            assert await client.ttl(key) > 0
            assert b"ann" not in key
        fields = await cast(Any, client).hkeys(f"chat:{namespace}:rates:{digest[0]}:6")
        assert fields == [digest]


async def test_another_deployment_counts_for_itself(redis: Redis, two: Two) -> None:
    other = RedisTallies(RedisAddress.parse(redis.url), new_id("test"))
    await two[0].add([Tally("a", 1, 1)])
    assert await other.add([Tally("a", 1, 1)]) == [(1, 0)]
    await other.aclose()


async def test_a_server_that_is_away_is_said_soon_and_one_that_forgot_says_so(tmp_path: Path) -> None:
    own = OwnRedis(tmp_path)
    counting = RedisTallies(RedisAddress.parse(own.url), "test")
    before = await counting.greet()
    own.stop()
    begun = time.monotonic()
    with pytest.raises(Away):
        await counting.place([Seat("a", 1, 1)])
    assert time.monotonic() - begun < 1.5
    own.start()
    again = await counting.greet()
    assert not again.known
    assert again.memory != before.memory
    assert ask(own.url, "DBSIZE") == ":2"
    await counting.aclose()
    own.stop()
