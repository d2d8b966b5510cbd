"""Connections to Redis for those who have somebody waiting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bus.address import RedisAddress
from bus.base import Away
from errors import Unavailable

ANSWER_SECONDS = 2.0
"""To open a connection and for two commands: a millisecond, but a process hears it late on a busy machine. At a load of
12 on two cores one crowd of 100 in 30 did not hear it within 1 s, and none in 40 within 2."""
LINE_SECONDS = 5.0


def open_pool(address: RedisAddress, seconds: float) -> ConnectionPool:
    """No connection is opened or listened to for longer, and nothing is tried again."""
    return ConnectionPool.from_url(
        address.url,
        protocol=2,
        socket_connect_timeout=seconds,
        socket_timeout=seconds,
        retry=Retry(NoBackoff(), 0),
    )


class Line:
    """At most `abreast` ask Redis at a time, in turn. To stand in line says nothing about Redis: who does is told Away
    when those in front were."""

    def __init__(self, address: RedisAddress, abreast: int) -> None:
        # What is open is bounded by the turns: redis-py's own bound may lose count when a command is cancelled.
        self.pool = open_pool(address, ANSWER_SECONDS)
        self._turns = asyncio.Semaphore(abreast)
        self._failures = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A block in which to ask, over one connection of the pool at a time.

        Raises:
            Away: Redis does not answer.
            Unavailable: the turn did not come within LINE_SECONDS.
        """
        failures = self._failures
        try:
            async with asyncio.timeout(LINE_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise Unavailable("Too many are waiting for this; try again", retry_after=LINE_SECONDS) from None
        try:
            if self._failures != failures:
                raise Away("those in front had no answer")
            async with asyncio.timeout(ANSWER_SECONDS):
                yield
        except (RedisError, OSError, TimeoutError) as error:
            self._failures += 1
            raise Away(str(error).partition("\n")[0] or type(error).__name__) from error
        finally:
            self._turns.release()

    async def aclose(self) -> None:
        await self.pool.disconnect()
