"""The bus over a real server: between two processes' buses, and when the server is away."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio.connection import AbstractConnection

from bus.address import RedisAddress
from bus.base import BACKLOG, Bus
from bus.redis import OUTBOX, RedisBus
from models.ids import new_id
from tests.bus.conformance import BusConformance, is_quiet, take
from tests.redises import OwnRedis, Redis, ask
from tests.waiting import until

SECONDS = 10


@asynccontextmanager
async def two(url: str) -> AsyncIterator[tuple[RedisBus, RedisBus]]:
    """The buses of two processes of one deployment."""
    namespace = new_id("test")
    buses = [RedisBus(RedisAddress.parse(url), namespace) for _ in range(2)]
    try:
        yield buses[0], buses[1]
    finally:
        for bus in buses:
            await bus.aclose()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    """A server to be stopped."""
    server = OwnRedis(tmp_path)
    yield server
    server.stop()


class Across:
    """What is published in one process is heard in the other."""

    def __init__(self, url: str) -> None:
        namespace = new_id("test")
        self.here, self.there = (RedisBus(RedisAddress.parse(url), namespace) for _ in range(2))

    @property
    def reaches_others(self) -> bool:
        return self.there.reaches_others

    async def publish(self, channel: str, message: bytes, *, here: bool = True) -> None:
        await self.here.publish(channel, message, here=here)
        if self.there._listening is None:
            # Publishing waits for nothing, not even for the message to go: who comes next might still hear it.
            await asyncio.sleep(0.1)

    def subscribe(
        self, channel: str, backlog: int = BACKLOG
    ) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        return self.there.subscribe(channel, backlog)

    async def aclose(self) -> None:
        await self.here.aclose()
        await self.there.aclose()


class TestInOneProcess(BusConformance):
    @pytest.fixture
    def bus(self, redis: Redis) -> Bus:
        return RedisBus(RedisAddress.parse(redis.url), new_id("test"))


class TestAcrossProcesses(BusConformance):
    @pytest.fixture
    def bus(self, redis: Redis) -> Bus:
        return Across(redis.url)


class TestChannels:
    async def test_are_there_only_while_someone_listens(self, redis: Redis) -> None:
        """Redis sends each message to whoever has subscribed: a channel that is left open costs every process."""
        async with two(redis.url) as (bus, _):

            def count(name: str) -> str:
                return ask(redis.url, "PUBSUB", "NUMSUB", bus._prefix + name)

            async with bus.subscribe("a"):
                async with bus.subscribe("a"), bus.subscribe("b"):
                    assert bus.reaches_others
                    assert ask(redis.url, "PUBSUB", "CHANNELS", f"{bus._prefix}*") == "*2"
                await until(lambda: ask(redis.url, "PUBSUB", "CHANNELS", f"{bus._prefix}*") == "*1")
            await until(lambda: ask(redis.url, "PUBSUB", "CHANNELS", f"{bus._prefix}*") == "*0")
            assert bus._listening is None
            assert count("a") == "*2"
            async with bus.subscribe("a") as messages:
                await bus.publish("a", b"1")
                assert await take(messages, 1) == ["1"]

    async def test_of_another_deployment_are_others(self, redis: Redis) -> None:
        """Two products may share one server; the number of the database means nothing to pub/sub."""
        async with two(redis.url) as (mine, _), two(redis.url) as (theirs, _), mine.subscribe("a") as messages:
            await theirs.publish("a", b"1")
            assert await is_quiet(messages)

    async def test_what_is_for_others_is_heard_by_them_alone(self, redis: Redis) -> None:
        async with two(redis.url) as (here, there), here.subscribe("a") as mine, there.subscribe("a") as theirs:
            await here.publish("a", b"1", here=False)
            assert await take(theirs, 1) == ["1"]
            assert await is_quiet(mine)

    async def test_whoever_comes_and_goes_at_any_moment_leaves_nothing_behind(
        self, redis: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A cancel that comes as redis-py's work is done can be swallowed by it: followers that had gone went on for
        ever, listeners and pings with connections of their own."""
        for _ in range(60):
            made: list[AbstractConnection] = []
            bus = RedisBus(RedisAddress.parse(redis.url), new_id("test"))
            make = bus._pool.make_connection
            bus._pool.make_connection = lambda make=make, made=made: made.append(make()) or made[-1]  # type: ignore[method-assign,misc]
            crowd = [asyncio.create_task(_follow(bus, f"c{number % 2}")) for number in range(3)]
            for each in crowd:
                await bus.publish("c0", b"x")
                await asyncio.sleep(random.choice([0, 0.0003, 0.001, 0.003]))
                each.cancel()
            _, late = await asyncio.wait(crowd, timeout=SECONDS)
            assert not late
            await bus.aclose()
            assert not [connection for connection in made if connection.is_connected]
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert "arguments" not in caplog.text


async def _follow(bus: Bus, channel: str) -> None:
    async with bus.subscribe(channel) as messages:
        async for _ in messages:
            pass


class TestAway:
    async def test_from_the_start_nobody_waits_and_nobody_is_told_an_error(
        self, own: OwnRedis, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is never the truth: the server starts, and says once what is missing."""
        own.stop()
        async with two(own.url) as (bus, _):
            assert not await bus.check()
            begun = time.monotonic()
            async with bus.subscribe("a") as messages:
                for number in range(3 * OUTBOX):
                    await bus.publish("a", str(number).encode())
                assert time.monotonic() - begun < 0.5
                assert len(bus._outbox) <= OUTBOX
                assert not bus.reaches_others
                assert len(await take(messages, BACKLOG)) == BACKLOG, "within the process nothing is missing"
            assert [record.levelno for record in caplog.records] == [logging.WARNING]
            assert "is away" in caplog.text

    async def test_and_back_it_is_heard_again_by_itself(self, own: OwnRedis, caplog: pytest.LogCaptureFixture) -> None:
        async with two(own.url) as (here, there), there.subscribe("a") as messages:
            await here.publish("a", b"1")
            assert await take(messages, 1) == ["1"]
            own.stop()
            await until(lambda: not there.reaches_others)
            await here.publish("a", b"lost")
            own.start()
            begun = time.monotonic()
            await until(lambda: there.reaches_others)
            assert time.monotonic() - begun < 3
            await _until_heard(here, messages)
            await until(lambda: "is back" in caplog.text)

    async def test_one_that_stands_still_is_noticed(self, own: OwnRedis) -> None:
        """Its connections stay open and nothing comes: followers would wait for ever."""
        async with two(own.url) as (here, there), there.subscribe("a") as messages:
            assert there.reaches_others
            own.signal(signal.SIGSTOP)
            begun = time.monotonic()
            await here.publish("a", b"1")
            await until(lambda: not there.reaches_others)
            assert time.monotonic() - begun < 4
            async with asyncio.timeout(0.1):
                await here.publish("a", b"2")
            own.signal(signal.SIGCONT)
            await until(lambda: there.reaches_others)
            await _until_heard(here, messages)

    async def test_a_connection_that_is_cut_is_made_again(self, own: OwnRedis) -> None:
        async with two(own.url) as (here, there), there.subscribe("a") as messages:
            for number in "123":
                await here.publish("a", number.encode())
                assert await take(messages, 1) == [number]
                ask(own.url, "CLIENT", "KILL", "TYPE", "normal")
                ask(own.url, "CLIENT", "KILL", "TYPE", "pubsub")
                await until(lambda: not there.reaches_others)
                await until(lambda: there.reaches_others)


async def _until_heard(bus: RedisBus, messages: AsyncGenerator[bytes, None]) -> None:
    hearing = asyncio.ensure_future(anext(messages))
    async with asyncio.timeout(SECONDS):
        while not hearing.done():
            await bus.publish("a", b"again")
            await asyncio.wait([hearing], timeout=0.05)
    assert hearing.result() in {b"again", b"lost"}, "what was told while it was away may come late"
