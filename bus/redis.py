"""The bus of many processes: Redis pub/sub, or Valkey's, which is the same.

Two connections, made when they are needed: one sends, one listens, and is there only while somebody subscribes. Each is
re-made when it breaks. What was published meanwhile is lost, and nobody waits for it.
"""

import asyncio
import logging
import math
import random
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from bus.address import RedisAddress
from bus.base import BACKLOG
from bus.memory import MemoryBus
from bus.pool import open_pool

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 1.0
"""A server that is there answers within a millisecond; one that stands still is given up after this."""
PING_SECONDS = 1.0
SILENCE_SECONDS = 2.5
"""Two pings without an answer: the connection is dead, whatever TCP says."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Between two attempts to connect, doubled each time: a restart of Redis takes 0.1 s."""
OUTBOX = 512
OUTBOX_BYTES = 8 * 1024 * 1024
"""What waits to be sent: ten seconds of windows. Beyond either bound the oldest goes."""
SENT_AT_ONCE = 64
ORIGIN_CHARS = 8
Publication = tuple[str, bytes]
BROKEN = (RedisError, OSError, TimeoutError, EOFError)


class RedisBus:
    """`namespace` keeps the channels of one deployment apart from those of others on the same server."""

    def __init__(self, address: RedisAddress, namespace: str) -> None:
        self.address = address
        self._prefix = f"chat:{namespace}:"
        self._origin = secrets.token_hex(ORIGIN_CHARS // 2).encode()
        self._local = MemoryBus()
        self._pool = open_pool(address, ANSWER_SECONDS)
        self._wanted: Counter[str] = Counter()
        self._confirmed: dict[str, asyncio.Future[None]] = {}
        self._listening: AbstractConnection | None = None
        self._listener: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False
        self._orders: list[tuple[str, ...]] = []
        """What the listening connection is to be told."""
        self._ordered = asyncio.Event()
        self._outbox: deque[Publication] = deque()
        self._outbox_bytes = 0
        self._more = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._lost = False

    async def check(self) -> bool:
        """Whether the server answers; logged when it does not."""
        connection = self._pool.make_connection()
        try:
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                await connection.connect()
                await connection.send_command("PING")
                await connection.read_response()
        except BROKEN as error:
            self._say_lost(error)
            return False
        finally:
            await _drop(connection)
        return True

    @property
    def reaches_others(self) -> bool:
        confirmed = self._confirmed
        return self._listening is not None and all(
            channel in confirmed and confirmed[channel].done() for channel in self._wanted
        )

    async def publish(self, channel: str, message: bytes, *, here: bool = True) -> None:
        if here:
            self._local.deliver(channel, message)
        self._outbox.append((self._prefix + channel, self._origin + message))
        self._outbox_bytes += len(self._origin) + len(message)
        while len(self._outbox) > OUTBOX or self._outbox_bytes > OUTBOX_BYTES:
            self._take_out(1)
        self._more.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="bus.sender")

    def _take_out(self, most: int) -> list[Publication]:
        taken = [self._outbox.popleft() for _ in range(min(most, len(self._outbox)))]
        self._outbox_bytes -= sum(len(message) for _, message in taken)
        return taken

    async def _send(self) -> None:
        pause = FIRST_PAUSE
        connection = self._pool.make_connection()
        try:
            while True:
                await self._more.wait()
                self._more.clear()
                while batch := self._take_out(SENT_AT_ONCE):
                    # Twice: a server closes connections that were idle, and says so to the next message.
                    if await self._sent(connection, batch) or await self._sent(connection, batch):
                        pause = FIRST_PAUSE
                        continue
                    await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
                    pause = min(2 * pause, LONGEST_PAUSE)
                    # Hints about the past: who comes back reads what is stored.
                    self._take_out(OUTBOX)
        finally:
            await _drop(connection)

    async def _sent(self, connection: AbstractConnection, batch: Sequence[Publication]) -> bool:
        try:
            await connection.connect()
            packed = connection.pack_commands([("PUBLISH", *publication) for publication in batch])
            await connection.send_packed_command(packed, check_health=False)
            for _ in batch:
                await connection.read_response()
        except BROKEN as error:
            self._say_lost(error)
            await _drop(connection)
            return False
        self._say_back()
        return True

    @asynccontextmanager
    async def subscribe(self, channel: str, backlog: int = BACKLOG) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        async with self._local.subscribe(channel, backlog) as messages:
            self._wanted[channel] += 1
            try:
                await self._listen_to(channel)
                yield messages
            finally:
                self._wanted[channel] -= 1
                if not self._wanted[channel]:
                    del self._wanted[channel]
                    self._leave(channel)

    async def _listen_to(self, channel: str) -> None:
        """Until what is published behind this moment arrives, or nobody knows when it will."""
        if self._closed:
            return
        if self._listener is None:
            self._listener = asyncio.create_task(self._listen(), name="bus.listener")
        confirmed = self._confirmed.get(channel)
        if confirmed is None:
            confirmed = self._confirmed[channel] = asyncio.get_running_loop().create_future()
            self._tell("SUBSCRIBE", channel)
        if not self._lost:
            await asyncio.wait([confirmed], timeout=ANSWER_SECONDS)

    def _leave(self, channel: str) -> None:
        self._confirmed.pop(channel, None)
        if self._wanted:
            self._tell("UNSUBSCRIBE", channel)
        elif self._listener is not None:
            stopping = asyncio.create_task(_stop(self._listener), name="bus.stopping")
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)
            self._listener = self._listening = None

    def _tell(self, command: str, *channels: str) -> None:
        """To the server, if it is there; the listener tells it all when it comes back. Never in the caller's own task,
        whose cancel redis-py might swallow: a follower that has gone would be followed by nobody for ever."""
        if self._listening is not None and channels:
            self._orders.append((command, *(self._prefix + channel for channel in channels)))
            self._ordered.set()

    async def _listen(self) -> None:
        pause, me = FIRST_PAUSE, asyncio.current_task()
        while self._listener is me:
            connection = self._pool.make_connection()
            try:
                await connection.connect()
                if self._listener is not me:
                    return
                pause = FIRST_PAUSE
                await self._hear(connection)
            except BROKEN as error:
                self._say_lost(error)
            except Exception:
                logger.exception("the bus could not read a message")
            finally:
                if self._listening is connection:
                    self._listening = None
                await _drop(connection)
            if self._listener is not me:
                return
            self._confirmed = {channel: asyncio.get_running_loop().create_future() for channel in self._wanted}
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _hear(self, connection: AbstractConnection) -> None:
        self._listening = connection
        self._orders.clear()
        self._tell("SUBSCRIBE", *self._wanted)
        self._say_back()
        talking = asyncio.create_task(self._talk(connection), name="bus.talk")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SILENCE_SECONDS) as patience:
                while True:
                    kind, channel, *rest = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
                    patience.reschedule(loop.time() + SILENCE_SECONDS)
                    if kind == b"message":
                        self._deliver(channel, rest[0])
                    elif kind == b"subscribe":
                        self._confirm(channel)
        finally:
            talking.cancel()

    def _deliver(self, channel: bytes, message: bytes) -> None:
        if not message.startswith(self._origin):
            self._local.deliver(channel.decode().removeprefix(self._prefix), message[ORIGIN_CHARS:])

    def _confirm(self, channel: bytes) -> None:
        confirmed = self._confirmed.get(channel.decode().removeprefix(self._prefix))
        if confirmed is not None and not confirmed.done():
            confirmed.set_result(None)

    async def _talk(self, connection: AbstractConnection) -> None:
        """Say what is ordered, and something each second. Looks whether it is still wanted: its cancel may have been
        swallowed, and redis-py would connect anew."""
        # AttributeError: redis-py's own, when the connection is dropped between its check and its write.
        with suppress(*BROKEN, AttributeError):
            while self._listening is connection:
                with suppress(TimeoutError):
                    async with asyncio.timeout(PING_SECONDS):
                        await self._ordered.wait()
                if self._listening is not connection:
                    break
                self._ordered.clear()
                orders, self._orders = self._orders or [("PING",)], []
                await connection.send_packed_command(connection.pack_commands(orders), check_health=False)

    def _say_lost(self, error: BaseException) -> None:
        if not self._lost:
            self._lost = True
            reason = str(error).partition("\n")[0] or type(error).__name__
            logger.warning("Redis at %s is away: going on without it, slower (%s)", self.address, reason)

    def _say_back(self) -> None:
        if self._lost:
            self._lost = False
            logger.warning("Redis at %s is back", self.address)

    async def aclose(self) -> None:
        self._closed = True
        sender, listener, self._listener = self._sender, self._listener, None
        for task in (sender, listener):
            if task is not None:
                await _stop(task)
        if self._stopping:
            await asyncio.wait(self._stopping)
        await self._local.aclose()


async def _stop(task: "asyncio.Task[None]") -> None:
    # Again and again: Python 3.11's wait_for, which redis-py uses, swallows a cancel that comes as its work is done.
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


async def _drop(connection: AbstractConnection) -> None:
    with suppress(*BROKEN):
        await connection.disconnect(nowait=True)
