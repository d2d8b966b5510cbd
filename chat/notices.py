"""A bus by the database, for several processes without Redis: a small table that is polled while somebody listens.

For what is rare and may be late, such as who is typing; the log and the feed have polls of their own.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from bus.base import BACKLOG, Bus
from errors import Unavailable
from models.database import Database
from models.frontier import Frontier
from models.notice import Told, add_notices, newest_notice, unread_notices
from models.worker import live_workers

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
FLUSH_SECONDS = 0.1
"""What is told within it is one transaction: ten a second, however many type."""
TOLD_AT_ONCE = 100
"""Of more the oldest are lost: 1,000 people who type at one moment are nobody whose names are read."""
KEEP_SECONDS = 5.0
"""Twenty polls."""


class NoticeBus:
    """`inner` is the bus of this process."""

    def __init__(self, database: Database, inner: Bus) -> None:
        self._database = database
        self._inner = inner
        self._origin = secrets.token_hex(8)
        self._outbox: deque[Told] = deque(maxlen=TOLD_AT_ONCE)
        self._flusher: asyncio.Task[None] | None = None
        self._listeners = 0
        self._poller: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()
        """Set when what is told from now on will be read."""

    @property
    def reaches_others(self) -> bool:
        return True

    async def publish(self, channel: str, message: bytes, *, here: bool = True) -> None:
        await self._inner.publish(channel, message, here=here)
        self._outbox.append(Told(channel, message))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="notices.flush")

    async def _flush(self) -> None:
        while self._outbox:
            await asyncio.sleep(FLUSH_SECONDS)
            notices = list(self._outbox)
            self._outbox.clear()
            try:
                await self._store(notices)
            except Unavailable:
                logger.debug("%d notices were lost", len(notices))
            except Exception:
                logger.exception("notices could not be stored")

    async def _store(self, notices: list[Told]) -> None:
        async with self._database.read() as session:
            if len(await live_workers(session)) < 2:
                return  # nobody else is there to be told
        async with self._database.write() as session:
            await add_notices(session, self._origin, notices, KEEP_SECONDS)

    @asynccontextmanager
    async def subscribe(self, channel: str, backlog: int = BACKLOG) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        async with self._inner.subscribe(channel, backlog) as messages:
            self._listeners += 1
            try:
                if self._poller is None or self._poller.done():
                    self._reading.clear()
                    self._poller = asyncio.create_task(self._poll(), name="notices.poll")
                await self._reading.wait()
                yield messages
            finally:
                self._listeners -= 1

    async def _poll(self) -> None:
        frontier: Frontier | None = None
        while self._listeners:
            try:
                async with self._database.read() as session:
                    if frontier is None:
                        frontier = Frontier(await newest_notice(session))
                    notices = await unread_notices(session, frontier, self._origin)
                for notice in notices:
                    await self._inner.publish(notice.channel, notice.body)
            except Unavailable:
                logger.debug("notices cannot be read now")
            except Exception:
                logger.exception("notices could not be read")
            self._reading.set()
            await asyncio.sleep(POLL_SECONDS)

    async def aclose(self) -> None:
        for task in (self._flusher, self._poller):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
