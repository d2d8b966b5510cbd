"""Attempts that are counted in Redis, for all processes together."""

import time

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter

from bus.address import RedisAddress
from bus.pool import Line

CONNECTIONS = 4
"""More would not count more in a second: the process is busier than Redis. With 20, half of the crowds on a busy
machine waited for too long until all were open."""


class RedisCounters:
    """In any stretch of a window, not in calendar ones: a list of moments for each key, which Redis forgets by itself.
    The moments are the processes' own; whose clock is ahead is counted apart, and nobody for longer than a window."""

    def __init__(self, address: RedisAddress, namespace: str) -> None:
        self._line = Line(address, CONNECTIONS)
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"chat:{namespace}",
            connection_pool=self._line.pool,  # type: ignore[arg-type]  # it takes one, and says so in its documentation
        )
        self._limiter = MovingWindowRateLimiter(storage)

    async def count(self, key: str, most: int, seconds: int) -> float:
        """Count one more, unless there were `most` within the last `seconds`. 0: it is counted; else the seconds until
        the next one would be.

        Raises:
            Away: Redis does not answer.
            Unavailable: too many ask at once.
        """
        item = RateLimitItemPerSecond(most, seconds)
        async with self._line.turn():
            if await self._limiter.hit(item, key):
                return 0.0
            reset = (await self._limiter.get_window_stats(item, key)).reset_time
        return min(max(reset - time.time(), 0.001), seconds)

    async def aclose(self) -> None:
        await self._line.aclose()
