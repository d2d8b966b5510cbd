"""The log's writer: one per process, one commit per window for all its runs, followers told only after the commit."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from chat.log import RunLog
from chat.tail import Batch, Tail
from errors import ChatError, Unavailable
from models.journal import Piece, encode
from models.journal_writer import Fenced, JournalWriter

logger = logging.getLogger(__name__)

OnStored = Callable[[int, Sequence[Piece], bytes], Awaitable[None]]

SEGMENT_SECONDS = 1.0
JOURNAL_SECONDS = 5.0
"""Followers in other processes read the journal every 50 ms: a hundred times as often as rows go."""
WIDEST_SECONDS = 0.25
EVENT_SECONDS = 0.000125
"""A process makes about 8,000 events a second; with more to say, it joins more into each (docs/decisions.md)."""
PATIENCE_SECONDS = 8.0
"""A file that is locked for so long is not coming back soon: the runs of this process are given up."""


class MovedElsewhere(Unavailable):
    """Another process has taken this log over: what follows is in the database."""

    default_message = "The answer goes on elsewhere; ask for it again"


class LogWriter:
    """Collects from the tails, commits, publishes. `on_fenced` is called when this process has lost its name,
    `on_stored` with each window that is stored, when its followers here have been told."""

    def __init__(self, journal: JournalWriter, window: float) -> None:
        self.worker = ""
        self.on_fenced: Callable[[], None] | None = None
        self.on_stored: OnStored | None = None
        self.commits = 0
        self.refused_at = float("-inf")
        """When the journal was last not to be written, by time.monotonic."""
        self._refused_since: float | None = None
        self._journal = journal
        self._base = self._window = window
        self._dirty: dict[Tail, None] = {}
        self._tails: set[Tail] = set()
        self._closed: set[Tail] = set()
        self._busy: set[Tail] = set()
        self._go = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: set[asyncio.Future[None]] = set()
        self._last_begin = self._took = 0.0
        self._size = self._last_size = 0
        self._last_segments = 0.0
        self._rows: deque[tuple[float, int]] = deque()
        self._task: asyncio.Task[None] | None = None

    def start(self, worker: str) -> None:
        self.worker = worker
        self._task = asyncio.create_task(self._run(), name="log.writer")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._journal.aclose()

    @property
    def window(self) -> float:
        """Seconds between two commits at the moment: wider than asked when storing or publishing takes long, or when
        there are many events in one."""
        return self._window

    def rename(self, worker: str) -> None:
        """This process goes on under another name; the runs it had under the old one are another's."""
        self.worker = worker
        self._lose([tail for tail in self._tails if tail.worker != worker], MovedElsewhere())
        self._forget_closed()

    def open(self, log: RunLog, worker: str) -> Tail:
        tail = Tail(log, worker, self)
        self._tails.add(tail)
        return tail

    def close(self, tail: Tail) -> None:
        """Nothing more will come. Kept until all of it is in segments: rows of the journal go after seconds."""
        self._dirty.pop(tail, None)
        self._closed.add(tail)
        self._forget_closed()

    def drop(self, tail: Tail) -> None:
        """Its events are stored elsewhere, or are no longer this process's."""
        self._dirty.pop(tail, None)
        self._tails.discard(tail)
        self._closed.discard(tail)

    def _forget_closed(self) -> None:
        for tail in list(self._closed):
            done = tail.segmented and tail not in self._busy
            if done or tail.worker != self.worker:
                self.drop(tail)

    def mark(self, tail: Tail, *, urgent: bool) -> None:
        """There is something to write for this run."""
        if tail.log.lost is not None:
            tail.drop_pending()
            return
        self._dirty[tail] = None
        if self._go.is_set() or (self._timer is not None and not urgent):
            return
        now = time.monotonic()
        if urgent or now - self._last_begin >= self._window:
            self._go.set()
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._last_begin + self._window - now, self._go.set)

    def is_busy(self, tail: Tail) -> bool:
        """Whether a window or a segment of this run is on its way to the disk."""
        return tail in self._busy

    async def next_commit(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    async def _run(self) -> None:
        while True:
            # Rows that wait to be deleted are not left to the next answer, which may come in a year.
            with suppress(TimeoutError):
                async with asyncio.timeout(SEGMENT_SECONDS if self._rows or self._closed else None):
                    await self._go.wait()
            self._go.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._last_begin = time.monotonic()
            commits = self.commits
            try:
                await self._write_window()
                if self._last_begin - self._last_segments >= SEGMENT_SECONDS:
                    await self._write_segments()
                    self._forget_closed()
            except Exception:
                logger.exception("the log's writer failed")
            if self.commits > commits:
                self._widen(time.monotonic() - self._last_begin)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _widen(self, took: float) -> None:
        """Behind: half of the time at most is spent on storing, so that the rest of the process goes on. One window
        alone says nothing of the next: it was slow by a checkpoint of the file, or small by a first text."""
        behind = 2 * min(took, self._took)
        crowded = EVENT_SECONDS * max(self._size, self._last_size)
        self._window = min(max(self._base, behind, crowded), WIDEST_SECONDS)
        self._took, self._last_size = took, self._size

    def _collect(self) -> list[Batch]:
        """The window's events. One that cannot be made costs its own run alone."""
        batches: list[Batch] = []
        for tail in self._dirty:
            try:
                if tail.worker == self.worker and (batch := tail.number()) is not None:
                    batches.append(batch)
            except Exception:
                _give_up(tail)
        self._dirty.clear()
        return batches

    async def _write_window(self) -> None:
        worker = self.worker
        # A run that was claimed under a name which this process has lost meanwhile.
        self._lose([tail for tail in self._dirty if tail.worker != worker], MovedElsewhere())
        batches, entries, body = _encoded(self._collect())
        if not batches:
            return
        self._busy = {tail for tail, _, _ in batches}
        try:
            row = await self._patiently(worker, body)
        except Fenced:
            self._fenced(worker)
            return
        except Exception as error:
            if not isinstance(error, Unavailable):
                logger.exception("a window of the log could not be written")
            reason = error if isinstance(error, ChatError) else Unavailable("The answer could not be stored")
            for batch in batches:
                batch[0].doubt(batch)
            self._lose(self._busy, reason)
            return
        finally:
            self._busy = set()
        self.commits += 1
        self._size = len(batches)
        self._rows.append((self._last_begin, row))
        for tail, events, (_, _, encoded) in batches:
            tail.stored(events, encoded)
        if self.on_stored is not None:
            await self.on_stored(row, entries, body)

    async def _patiently(self, worker: str, body: bytes) -> int:
        begun, pause = time.monotonic(), 0.02
        while True:
            try:
                row = await self._journal.append(worker, body)
            except Unavailable:
                self.refused_at = time.monotonic()
                # From the first window that was refused: what came behind it has waited as long.
                self._refused_since = self._refused_since or begun
                if self.refused_at - self._refused_since > PATIENCE_SECONDS:
                    raise
            else:
                self._refused_since = None
                return row
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    @staticmethod
    def _lose(tails: Iterable[Tail], reason: ChatError) -> None:
        for tail in tails:
            tail.drop_pending()
            tail.log.lose(reason)

    def _fenced(self, worker: str) -> None:
        logger.warning("this worker was taken for dead: its runs have been ended by another")
        self._lose([tail for tail in self._tails if tail.worker == worker], MovedElsewhere())
        if self.on_fenced is not None:
            self.on_fenced()

    async def _write_segments(self) -> None:
        worker = self.worker
        self._last_segments = self._last_begin
        taken = [
            (tail, entry)
            for tail in self._tails
            if tail.worker == worker and (entry := tail.take_segment()) is not None
        ]
        old = [row for begun, row in self._rows if begun < self._last_begin - JOURNAL_SECONDS]
        if not taken and not old:
            return
        self._busy = {tail for tail, _ in taken}
        try:
            await self._journal.checkpoint(worker, [entry for _, entry in taken], old[-1] if old else 0)
        except BaseException as error:
            # What has no segment is in the journal still, and no row of it has been deleted.
            for tail, entry in taken:
                tail.put_back(entry)
            if isinstance(error, Fenced):
                self._fenced(worker)
            elif not isinstance(error, Unavailable):
                raise
        else:
            for _ in old:
                self._rows.popleft()
        finally:
            self._busy = set()


def _encoded(batches: list[Batch]) -> tuple[list[Batch], list[Piece], bytes]:
    """The window as it is stored, encoded at once: three times cheaper than run by run. One event that cannot be stored
    costs its own run alone."""
    entries = [entry for _, _, entry in batches]
    try:
        return batches, entries, encode(entries)
    except TypeError:
        kept = [batch for batch in batches if _storable(*batch)]
        entries = [entry for _, _, entry in kept]
        return kept, entries, encode(entries)


def _storable(tail: Tail, _: object, entry: Piece) -> bool:
    try:
        encode([entry])
    except TypeError:
        _give_up(tail)
        return False
    return True


def _give_up(tail: Tail) -> None:
    logger.exception("run %s: an event cannot be stored", tail.log.run_id)
    tail.log.lose(Unavailable("The answer could not be stored"))
