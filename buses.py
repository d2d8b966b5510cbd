"""Between the processes of one deployment: what REDIS_URL opens, or what one process has alone."""

from contextlib import AsyncExitStack
from hashlib import sha256

from bus.base import Bus, Counters
from bus.counters import RedisCounters
from bus.memory import MemoryBus
from bus.redis import RedisBus
from bus.tallies import RedisTallies
from chat.notices import NoticeBus
from models.database import Database
from settings import Settings
from sharing import Sharing

NAMESPACE_CHARS = 16


def namespace(settings: Settings) -> str:
    """What all processes of one deployment share, and no other one on the same Redis has."""
    return sha256(f"channels of {settings.signing_secret()}".encode()).hexdigest()[:NAMESPACE_CHARS]


async def open_bus(settings: Settings) -> Bus:
    """Redis that does not answer is said, and no reason not to start."""
    if settings.redis is None:
        return MemoryBus()
    bus = RedisBus(settings.redis, namespace(settings))
    await bus.check()
    return bus


def open_counters(settings: Settings, stack: AsyncExitStack) -> Counters | None:
    """Where attempts are counted; None: in the database."""
    if settings.redis is None:
        return None
    counters = RedisCounters(settings.redis, namespace(settings))
    stack.push_async_callback(counters.aclose)
    return counters


def open_sharing(settings: Settings, stack: AsyncExitStack) -> Sharing:
    """For limits; without Redis each process has its own."""
    if settings.redis is None or not settings.rate_limits:
        return Sharing()
    sharing = Sharing(RedisTallies(settings.redis, namespace(settings)))
    stack.push_async_callback(sharing.aclose)
    return sharing


def open_notices(database: Database, bus: Bus) -> Bus:
    """For what has no poll of its own. Without Redis it goes through the database."""
    return bus if isinstance(bus, RedisBus) else NoticeBus(database, bus)
