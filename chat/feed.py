"""Following what happens to a conversation or to a user: the stored changes behind a cursor, then what comes."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

from errors import Unavailable
from models.change import Change, audiences_since, changes_for, newest_change, oldest_change
from models.database import Database

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
"""For what other processes change; what this one changes is told at once."""
READ_AT_ONCE = 200


class TooOld(Exception):
    """What was behind this cursor is no longer kept."""


class Feed:
    """One poll for all the followers of a process, and only while there are any."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._position = 0
        self._poke = asyncio.Event()
        self._poller: asyncio.Task[None] | None = None
        database.on_changed = self._poke.set

    async def now(self) -> int:
        """The cursor of this moment."""
        async with self._database.read() as session:
            return await newest_change(session)

    async def follow(self, audience: str, after: int) -> AsyncGenerator[Sequence[Change], None]:
        """The changes behind `after`, in batches of up to 200, for ever.

        Raises:
            TooOld: some of them are gone.
        """
        arrived = asyncio.Event()
        self._waiters.setdefault(audience, set()).add(arrived)
        try:
            await self._start()
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
        finally:
            waiters = self._waiters[audience]
            waiters.discard(arrived)
            if not waiters:
                del self._waiters[audience]

    async def _check(self, after: int) -> None:
        async with self._database.read() as session:
            oldest, newest = await oldest_change(session), await newest_change(session)
        # Beyond the newest: a cursor of another database, restored from a backup, say.
        if after + 1 < oldest or after > newest:
            raise TooOld

    async def _start(self) -> None:
        if self._poller is None or self._poller.done():
            self._position = await self.now()
            if self._poller is None or self._poller.done():
                self._poller = asyncio.create_task(self._poll(), name="feed")

    async def _poll(self) -> None:
        while self._waiters:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._poke.wait()
            self._poke.clear()
            try:
                async with self._database.read() as session:
                    self._position, audiences = await audiences_since(session, self._position, READ_AT_ONCE * 5)
            except Unavailable:
                continue
            for audience in audiences:
                for waiter in self._waiters.get(audience, ()):
                    waiter.set()

    async def aclose(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
