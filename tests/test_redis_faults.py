"""Redis under servers that stream: stopped, restarted, flushed, standing still. The clients are those of
tests/test_kill.py. The longest anybody waited is printed (`-s`)."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from models.address import PostgresAddress
from tests.redises import OwnRedis, ask
from tests.test_faults import SEVEN_SECONDS, crowd_on
from tests.test_kill import Crowd, servers

FIFTEEN_SECONDS = "scripted:every=0.05,words=300"
LONGEST_WAIT = 8
"""Seconds. Redis that is away costs none that can be seen; two servers and fifty clients on two busy cores do."""


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
        self, tmp_path: Path, postgres_address: PostgresAddress, own_redis: OwnRedis, how: str
    ) -> None:
        """It is never the truth: what its followers have not heard they read."""
        async with servers(tmp_path, 2, DATABASE_URL=postgres_address.dsn, REDIS_URL=own_redis.url) as started:
            crowd = await crowd_on(started, SEVEN_SECONDS)
            assert crowd.mark()
            pace = Pace(crowd)
            if how == "flushed":
                assert ask(own_redis.url, "FLUSHALL") == "+OK"
                ask(own_redis.url, "CLIENT", "KILL", "TYPE", "pubsub")
            else:
                await asyncio.to_thread(own_redis.stop)
            await asyncio.sleep(random.uniform(0, 1))
            if how == "stopped and started":
                own_redis.start()
            await crowd.end()
            assert pace.told(f"Redis {how}") < LONGEST_WAIT
            await crowd.check(started[1], "COMPLETED")
            assert "Traceback" not in started[0].log() + started[1].log()

    @pytest.mark.soak
    async def test_that_stands_still_for_ten_seconds_costs_time_alone(
        self, tmp_path: Path, postgres_address: PostgresAddress, own_redis: OwnRedis
    ) -> None:
        """Its connections stay open, and nothing says that anything is wrong."""
        async with servers(tmp_path, 2, DATABASE_URL=postgres_address.dsn, REDIS_URL=own_redis.url) as started:
            crowd = await crowd_on(started, FIFTEEN_SECONDS)
            assert crowd.mark()
            pace = Pace(crowd)
            own_redis.signal(signal.SIGSTOP)
            await asyncio.sleep(10)
            own_redis.signal(signal.SIGCONT)
            await crowd.end()
            assert pace.told("Redis stopped by SIGSTOP for 10 s") < LONGEST_WAIT
            await crowd.check(started[1], "COMPLETED")
