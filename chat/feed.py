"""Following what happens to a conversation or to a user: the stored changes behind a cursor, then what comes."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import orjson

from bus.base import Bus
from errors import Unavailable
from models.change import Change, audiences_since, changes_for, forget_changes, newest_change, oldest_change
from models.columns import utc_now
from models.database import Database
from models.frontier import Frontier

logger = logging.getLogger(__name__)

CHANGES = "changes"
POLL_SECONDS = 0.25
"""For what other processes change; what this one changes is told at once."""
CALM_SECONDS = 1.0
"""The poll's pause while a bus brings what other processes change: a hint that is lost costs a second."""
HINTS = 256
READ_AT_ONCE = 200
READ_AGAIN = 500
"""More ids than are given out at one moment to transactions that are not committed yet."""
SWEEP_SECONDS = 60.0
FORGOTTEN_AT_ONCE = 1_000
"""Rows deleted in one transaction: some 5 ms, so that nobody who writes waits for it."""


class TooOld(Exception):
    """What was behind this cursor is no longer kept."""


class Feed:
    """One poll for all the followers of a process, while there are any. Changes are kept for `keep` seconds; over
    `bus` other processes hear at once whom one concerns."""

    def __init__(self, database: Database, bus: Bus, keep: float) -> None:
        self._database = database
        self._bus = bus
        self._keep = keep
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._frontier = Frontier()
        self._read_at = 0.0
        self._poller: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        database.on_changed = self._changed

    def start(self) -> None:
        """Begin to forget what is old."""
        self._sweeper = asyncio.create_task(self._sweep(), name="feed.sweep")

    async def _changed(self, audiences: AbstractSet[str]) -> None:
        self._wake(audiences)
        await self._bus.publish(CHANGES, orjson.dumps(list(audiences)), here=False)

    def _wake(self, audiences: Iterable[str]) -> None:
        for audience in audiences:
            for waiter in self._waiters.get(audience, ()):
                waiter.set()

    async def now(self, audience: str) -> int:
        """The audience's cursor of this moment."""
        async with self._database.still(audience) as session:
            return await newest_change(session)

    @asynccontextmanager
    async def arrivals(self, audience: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever something has happened to the audience, for as long as the block lasts."""
        arrived = asyncio.Event()
        waiters = self._waiters.setdefault(audience, set())
        waiters.add(arrived)
        try:
            await self._start()
            yield arrived
        finally:
            waiters.discard(arrived)
            if not waiters:
                del self._waiters[audience]

    async def follow(self, audience: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """The changes behind `after`, in batches of up to 200, for ever.

        Raises:
            TooOld: some of them are gone.
        """
        async with self.arrivals(audience) as arrived:
            await self._check(after)
            while True:
                arrived.clear()
                async with self._database.read() as session:
                    changes = await changes_for(session, audience, after, READ_AT_ONCE)
                if changes:
                    after = changes[-1].id or after
                    yield changes
                else:
                    await arrived.wait()

    async def _check(self, after: int) -> None:
        async with self._database.read() as session:
            oldest, newest = await oldest_change(session), await newest_change(session)
        # Beyond the newest: a cursor of another database, restored from a backup, say.
        if after + 1 < oldest or after > newest:
            raise TooOld

    async def _start(self) -> None:
        if self._poller is None or self._poller.done():
            async with self._database.read() as session:
                newest = await newest_change(session)
            # A little back: what is being committed at this moment may have smaller ids.
            self._frontier = Frontier(max(0, newest - READ_AGAIN))
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll(), name="feed")

    async def _poll(self) -> None:
        listening = asyncio.create_task(self._listen(), name="feed.hints")
        try:
            while self._waiters:
                await asyncio.sleep(POLL_SECONDS)
                if self._bus.reaches_others and time.monotonic() - self._read_at < CALM_SECONDS:
                    continue
                try:
                    await self._read_on()
                except Unavailable:
                    logger.debug("the feed cannot be read now")
                except Exception:
                    # A poller that ended would leave every follower waiting for ever.
                    logger.exception("the feed could not be read")
        finally:
            listening.cancel()

    async def _listen(self) -> None:
        async with self._bus.subscribe(CHANGES, HINTS) as hints:
            async for hint in hints:
                try:
                    self._wake(orjson.loads(hint))
                except (orjson.JSONDecodeError, TypeError):
                    logger.warning("a hint of the feed cannot be read")

    async def _read_on(self) -> None:
        audiences: set[str] | None = None
        while audiences is None or audiences:
            async with self._database.read() as session:
                audiences = await audiences_since(session, self._frontier, READ_AT_ONCE * 5)
            self._wake(audiences)
        self._read_at = time.monotonic()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self._keep / 4))
            try:
                await self.forget()
            except Unavailable:
                logger.debug("old changes cannot be deleted now")
            except Exception:
                logger.exception("old changes could not be deleted")

    async def forget(self) -> None:
        """Delete what is older than is kept."""
        before = utc_now() - timedelta(seconds=self._keep)
        deleted = FORGOTTEN_AT_ONCE
        while deleted == FORGOTTEN_AT_ONCE:
            async with self._database.write() as session:
                deleted = await forget_changes(session, before, FORGOTTEN_AT_ONCE)

    async def aclose(self) -> None:
        for task in (self._poller, self._sweeper):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
