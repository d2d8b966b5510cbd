"""The log's writer: one per process, one commit per window for all its runs, followers told only after the commit."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import orjson

from chat.codec import encode_event
from chat.events import RunEvent, RunReasoningDelta, RunTextDelta
from chat.log import RunLog
from errors import ChatError, Unavailable
from models.journal import Packed
from models.journal_writer import Fenced, JournalWriter

logger = logging.getLogger(__name__)

Delta = type[RunTextDelta] | type[RunReasoningDelta]
Make = Callable[[str, int], RunEvent]
OnStored = Callable[[int, Sequence[Packed]], Awaitable[None]]

SEGMENT_SECONDS = 1.0
JOURNAL_SECONDS = 5.0
"""Followers in other processes read the journal every 50 ms: a hundred times as often as rows go."""
WIDEST_SECONDS = 0.25
PATIENCE_SECONDS = 8.0
"""A file that is locked for so long is not coming back soon: the runs of this process are given up."""


class MovedElsewhere(Unavailable):
    """Another process has taken this log over: what follows is in the database."""

    default_message = "The answer goes on elsewhere; ask for it again"


@dataclass(slots=True)
class Batch:
    """What one run has in a window: numbered, and as it is stored."""

    tail: "Tail"
    events: list[RunEvent]
    packed: Packed


class Tail:
    """One run's end of the log on the writing side: what has no number yet, and what has no segment yet.
    `worker` is the name under which the run is written; the process may have lost it."""

    def __init__(self, log: RunLog, worker: str, writer: "LogWriter") -> None:
        self.log = log
        self.worker = worker
        self._writer = writer
        self._pending: list[tuple[Delta, list[str]] | Make] = []
        self._next = log.next_seq
        self._segment_from = self._next
        self._unsegmented: list[bytes] = []
        self._begun = False
        self._doubted: Batch | None = None

    def delta(self, kind: Delta, text: str) -> None:
        """Text: joined with what else of its kind comes within the window. The first of a run goes at once."""
        if not text:
            return
        pending = self._pending
        if pending and isinstance(last := pending[-1], tuple) and last[0] is kind:
            last[1].append(text)
            return
        pending.append((kind, [text]))
        urgent, self._begun = not self._begun, True
        self._writer.mark(self, urgent=urgent)

    def event(self, make: Make) -> None:
        """Any other event, built when its number is known."""
        self._pending.append(make)
        self._writer.mark(self, urgent=False)

    @property
    def idle(self) -> bool:
        return not self._pending

    @property
    def segmented(self) -> bool:
        return not self._unsegmented

    def number(self) -> Batch | None:
        """Give what is pending its numbers.

        Raises:
            TypeError: it cannot be stored as it is.
        """
        run_id, first = self.log.run_id, self._next
        seq = first
        events: list[RunEvent] = []
        codes: list[object] = []
        for item in self._pending:
            if isinstance(item, tuple):
                kind, texts = item
                text = texts[0] if len(texts) == 1 else "".join(texts)
                events.append(kind(run_id, seq, text))
                codes.append(("t" if kind is RunTextDelta else "r", text))
            else:
                event = item(run_id, seq)
                events.append(event)
                codes.append(encode_event(event))
            seq += 1
        self._pending.clear()
        if not events:
            return None
        self._next = seq
        return Batch(self, events, Packed(run_id, first, orjson.dumps(codes)[1:-1]))

    def drop_pending(self) -> None:
        self._pending.clear()

    async def acknowledged(self, after: int | None) -> None:
        """Who follows at another process may come here with a number before the writer heard that it is stored."""
        while after is not None and self.log.last_seq < after < self._next and self.log.lost is None:
            await self._writer.next_commit()

    def doubt(self, batch: Batch) -> None:
        """Nobody said that this window is stored; it may be all the same, and others may have read it."""
        self._doubted = batch

    def believe(self) -> None:
        """Let the run's end hold what is in doubt: stored with it, it takes back nothing that anyone may have seen."""
        batch, self._doubted = self._doubted, None
        if batch is not None:
            self._unsegmented.append(batch.packed.events)
            self.log.extend(batch.events)

    def stored(self, batch: Batch) -> None:
        self._unsegmented.append(batch.packed.events)
        if self.log.lost is None:
            self.log.extend(batch.events)

    def take_segment(self) -> Packed | None:
        """What came since the last segment."""
        if not self._unsegmented:
            return None
        entry = Packed(self.log.run_id, self._segment_from, b",".join(self._unsegmented))
        self._segment_from = self._next
        self._unsegmented = []
        return entry

    def put_back(self, entry: Packed) -> None:
        self._segment_from = entry.first_seq
        self._unsegmented.insert(0, entry.events)

    async def settled(self) -> None:
        """Until all that was written is stored, and no segment is on its way.

        Raises:
            ChatError: the log of this run was given up.
        """
        if not self.idle:
            self._writer.mark(self, urgent=True)
        while not self.idle or self._writer.is_busy(self):
            if self.log.lost is not None and not self._writer.is_busy(self):
                break
            await self._writer.next_commit()
        if self.log.lost is not None:
            raise self.log.lost


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
        """Seconds between two commits at the moment: wider than asked when storing or publishing takes long."""
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
                # Behind: half of the time at most is spent on storing, so that the rest of the process goes on. One
                # slow window alone (a full collection, a checkpoint of the file) says nothing of the next.
                took = time.monotonic() - self._last_begin
                self._window = min(max(self._base, 2 * min(took, self._took)), WIDEST_SECONDS)
                self._took = took
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _collect(self) -> list[Batch]:
        """The window's events. One that cannot be written costs its own run alone."""
        batches: list[Batch] = []
        for tail in self._dirty:
            try:
                if tail.worker == self.worker and (batch := tail.number()) is not None:
                    batches.append(batch)
            except Exception:
                logger.exception("run %s: an event cannot be stored", tail.log.run_id)
                tail.log.lose(Unavailable("The answer could not be stored"))
        self._dirty.clear()
        return batches

    async def _write_window(self) -> None:
        worker = self.worker
        # A run that was claimed under a name which this process has lost meanwhile.
        self._lose([tail for tail in self._dirty if tail.worker != worker], MovedElsewhere())
        batches = self._collect()
        if not batches:
            return
        self._busy = {batch.tail for batch in batches}
        try:
            row = await self._patiently(worker, [batch.packed for batch in batches])
        except Fenced:
            self._fenced(worker)
            return
        except Exception as error:
            if not isinstance(error, Unavailable):
                logger.exception("a window of the log could not be written")
            reason = error if isinstance(error, ChatError) else Unavailable("The answer could not be stored")
            for batch in batches:
                batch.tail.doubt(batch)
            self._lose([batch.tail for batch in batches], reason)
            return
        finally:
            self._busy = set()
        self.commits += 1
        self._rows.append((self._last_begin, row))
        for batch in batches:
            batch.tail.stored(batch)
        if self.on_stored is not None:
            await self.on_stored(row, [batch.packed for batch in batches])

    async def _patiently(self, worker: str, entries: list[Packed]) -> int:
        begun, pause = time.monotonic(), 0.02
        while True:
            try:
                row = await self._journal.append(worker, entries)
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
