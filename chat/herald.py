"""What processes tell each other of runs, over the bus. Hints alone: each of them is in the database before it is told,
and whoever misses one reads it there."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from bus.base import Bus
from chat.codec import encode_event
from chat.events import RunFinished
from models.journal import Entry, Piece, decode, encode

LOG, ENDS, CANCELS = "log", "ends", "cancels"
WINDOWS = 512
"""Kept for a mirror that is behind: two seconds of windows of five workers."""
LARGEST_BYTES = 256 * 1024
"""A larger window is not sent, only that there is one: whoever follows reads it."""
NO_ROW = 0


class Herald:
    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @property
    def reaches_others(self) -> bool:
        return self._bus.reaches_others

    async def window(self, row: int, entries: Sequence[Piece], body: bytes) -> None:
        """This window has been stored as this row of the journal, with this body: one message for all runs of the
        process. Not for this process, where the runs are themselves."""
        if len(body) > LARGEST_BYTES:
            body = encode([(run_id, first_seq, []) for run_id, first_seq, _ in entries])
        await self._bus.publish(LOG, b"%d %b" % (row, body), here=False)

    async def end(self, event: RunFinished) -> None:
        """The end of a run has been stored."""
        await self._tell_end(event.run_id, (event.run_id, event.seq, [encode_event(event)]))

    async def ended(self, run_id: str) -> None:
        """A run that another process may be followed at has been ended here: look."""
        await self._tell_end(run_id, (run_id, 0, []))

    async def _tell_end(self, run_id: str, entry: Piece) -> None:
        await self._bus.publish(LOG, b"%d %b" % (NO_ROW, encode([entry])))
        await self._bus.publish(ENDS, run_id.encode())

    async def cancel(self, run_id: str) -> None:
        """Somebody wants this run stopped, which is stored."""
        await self._bus.publish(CANCELS, run_id.encode(), here=False)

    def windows(self) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """What `read` understands, of other processes and of this one's ends."""
        return self._bus.subscribe(LOG, WINDOWS)

    def cancels(self) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """Ids of runs."""
        return self._bus.subscribe(CANCELS)

    @asynccontextmanager
    async def end_of(self, run_id: str) -> AsyncIterator[Callable[[float], Awaitable[None]]]:
        """Gives a sleep, in seconds, that ends early when the run does."""
        ended = asyncio.Event()

        async def listen() -> None:
            async with self._bus.subscribe(ENDS) as ends:
                async for each in ends:
                    if each == run_id.encode():
                        ended.set()

        async def sleep(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ended.wait()
                    ended.clear()

        listening = asyncio.create_task(listen())
        try:
            yield sleep
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening


def read(hint: bytes) -> tuple[int, list[Entry]]:
    """The row of the journal (0: none) and what it holds. An entry without events: there is something to be read."""
    row, _, body = hint.partition(b" ")
    return int(row), decode(body)
