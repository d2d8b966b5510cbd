"""Connections to Redis for those who have somebody waiting."""

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from bus.address import RedisAddress

ANSWER_SECONDS = 0.5
"""Somebody waits for a place, or to be let in: a server that is there answers within a millisecond."""


def open_pool(address: RedisAddress, connections: int) -> BlockingConnectionPool:
    """At most so many; none is waited for, opened or listened to for longer than ANSWER_SECONDS, and nothing is tried
    again."""
    return BlockingConnectionPool.from_url(
        address.url,
        max_connections=connections,
        timeout=ANSWER_SECONDS,
        protocol=2,
        socket_connect_timeout=ANSWER_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
