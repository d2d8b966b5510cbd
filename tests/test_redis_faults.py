"""Redis under servers that stream: stopped, restarted, flushed, standing still. The clients are those of
tests/test_kill.py. The longest anybody waited is printed (`-s`)."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.address import PostgresAddress
from tests.databases import Postgres
from tests.redises import OwnRedis, ask
from tests.test_faults import SEVEN_SECONDS, crowd_on
from tests.test_kill import Crowd, servers

FIFTEEN_SECONDS = "scripted:every=0.05,words=300"
LONGEST_WAIT = 8
"""Seconds. Redis that is away costs none that can be seen; two servers and fifty clients on two busy cores do."""


@pytest.fixture
def address(postgres: Postgres) -> Iterator[PostgresAddress]:
    with postgres.migrated() as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OwnRedis]:
    """A server to be stopped. It ends with the thread that started it, which is the main one."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = OwnRedis(folder)
    yield server
    server.stop()


class Pace:
    """The longest time for which a crowd had nothing new."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._task = asyncio.create_task(self._watch())
        self.longest = 0.0

    async def _watch(self) -> None:
        last = {id(follower): (follower.text, time.monotonic()) for follower in self._crowd.followers}
        while True:
            await asyncio.sleep(0.02)
            for follower in self._crowd.followers:
                text, since = last[id(follower)]
                if follower.finished is None and not follower.flaky:
                    self.longest = max(self.longest, time.monotonic() - since)
                if follower.text != text:
                    last[id(follower)] = follower.text, time.monotonic()

    def told(self, what: str) -> float:
        self._task.cancel()
        print(f"\n{what}: nobody waited longer than {self.longest:.2f} s")
        return self.longest


class TestRedis:
    @pytest.mark.parametrize(
        "how",
        [
            "stopped and started",
            pytest.param("flushed", marks=pytest.mark.soak),
            pytest.param("stopped for good", marks=pytest.mark.soak),
        ],
    )
    async def test_that_fails_costs_time_alone(
        self, tmp_path: Path, address: PostgresAddress, own: OwnRedis, how: str
    ) -> None:
        """It is never the truth: what its followers have not heard they read."""
        async with servers(tmp_path, 2, DATABASE_URL=address.dsn, REDIS_URL=own.url) as started:
            crowd = await crowd_on(started, SEVEN_SECONDS)
            assert crowd.mark()
            pace = Pace(crowd)
            if how == "flushed":
                assert ask(own.url, "FLUSHALL") == "+OK"
                ask(own.url, "CLIENT", "KILL", "TYPE", "pubsub")
            else:
                await asyncio.to_thread(own.stop)
            await asyncio.sleep(random.uniform(0, 1))
            if how == "stopped and started":
                own.start()
            await crowd.end()
            assert pace.told(f"Redis {how}") < LONGEST_WAIT
            await crowd.check(started[1], "COMPLETED")
            assert "Traceback" not in started[0].log() + started[1].log()

    async def test_that_stands_still_for_ten_seconds_costs_time_alone(
        self, tmp_path: Path, address: PostgresAddress, own: OwnRedis
    ) -> None:
        """Its connections stay open, and nothing says that anything is wrong."""
        async with servers(tmp_path, 2, DATABASE_URL=address.dsn, REDIS_URL=own.url) as started:
            crowd = await crowd_on(started, FIFTEEN_SECONDS)
            assert crowd.mark()
            pace = Pace(crowd)
            own.signal(signal.SIGSTOP)
            await asyncio.sleep(10)
            own.signal(signal.SIGCONT)
            await crowd.end()
            assert pace.told("Redis stopped by SIGSTOP for 10 s") < LONGEST_WAIT
            await crowd.check(started[1], "COMPLETED")
