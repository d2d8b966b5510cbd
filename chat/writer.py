"""The log's writer: one per process, one commit per window for all its runs, followers told only after the commit."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from chat.codec import Encoded, encode_event
from chat.events import RunEvent, RunReasoningDelta, RunTextDelta
from chat.log import RunLog
from errors import ChatError, Unavailable
from models.journal import Entry
from models.journal_writer import Fenced, JournalWriter

logger = logging.getLogger(__name__)

Delta = type[RunTextDelta] | type[RunReasoningDelta]
Make = Callable[[str, int], RunEvent]

SEGMENT_SECONDS = 1.0
JOURNAL_SECONDS = 5.0
"""Followers in other processes read the journal every 50 ms: a hundred times as often as rows go."""
WIDEST_SECONDS = 0.25
PATIENCE_SECONDS = 8.0
"""A file that is locked for so long is not coming back soon: the runs of this process are given up."""


class MovedElsewhere(Unavailable):
    """Another process has taken this log over: what follows is in the database."""

    default_message = "The answer goes on elsewhere; ask for it again"


class Tail:
    """One run's end of the log on the writing side: what has no number yet, and what has no segment yet."""

    def __init__(self, log: RunLog, writer: "LogWriter") -> None:
        self.log = log
        self._writer = writer
        self._pending: list[tuple[Delta, list[str]] | Make] = []
        self._next = log.next_seq
        self._segment_from = self._next
        self._unsegmented: list[Encoded] = []
        self._begun = False

    def delta(self, kind: Delta, text: str) -> None:
        """Text: joined with what else of its kind comes within the window. The first of a run goes at once."""
        if not text:
            return
        last = self._pending[-1] if self._pending else None
        if isinstance(last, tuple) and last[0] is kind:
            last[1].append(text)
        else:
            self._pending.append((kind, [text]))
        urgent, self._begun = not self._begun, True
        self._writer.mark(self, urgent=urgent)

    def event(self, make: Make) -> None:
        """Any other event, built when its number is known."""
        self._pending.append(make)
        self._writer.mark(self, urgent=False)

    @property
    def idle(self) -> bool:
        return not self._pending

    def number(self) -> list[RunEvent]:
        """Give what is pending its numbers."""
        run_id, events = self.log.run_id, []
        for item in self._pending:
            seq = self._next
            self._next += 1
            events.append(item[0](run_id, seq, "".join(item[1])) if isinstance(item, tuple) else item(run_id, seq))
        self._pending.clear()
        return events

    def stored(self, events: list[RunEvent], encoded: list[Encoded]) -> None:
        self._unsegmented.extend(encoded)
        self.log.extend(events)

    def take_segment(self) -> Entry | None:
        """What came since the last segment."""
        if not self._unsegmented:
            return None
        entry = Entry(self.log.run_id, self._segment_from, self._unsegmented)
        self._segment_from += len(self._unsegmented)
        self._unsegmented = []
        return entry

    def put_back(self, entry: Entry) -> None:
        self._segment_from = entry.first_seq
        self._unsegmented = entry.events + self._unsegmented

    async def settled(self) -> None:
        """Until all that was written is stored.

        Raises:
            ChatError: the log of this run was given up.
        """
        self._writer.mark(self, urgent=True)
        while not self.idle or self._writer.is_writing(self):
            if self.log.lost is not None:
                raise self.log.lost
            await self._writer.next_commit()


class LogWriter:
    """Collects from the tails, commits, publishes. `worker` changes when the process has been fenced off."""

    def __init__(self, journal: JournalWriter, window: float) -> None:
        self.worker = ""
        self.on_fenced: Callable[[], None] | None = None
        self._journal = journal
        self._base = self._window = window
        self._dirty: dict[Tail, None] = {}
        self._tails: set[Tail] = set()
        self._writing: set[Tail] = set()
        self._go = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._commits: set[asyncio.Future[None]] = set()
        self._last_begin = 0.0
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

    def open(self, log: RunLog) -> Tail:
        tail = Tail(log, self)
        self._tails.add(tail)
        return tail

    def close(self, tail: Tail) -> None:
        self._tails.discard(tail)
        self._dirty.pop(tail, None)

    def mark(self, tail: Tail, *, urgent: bool) -> None:
        """There is something to write for this run."""
        if tail.log.lost is not None:
            return
        self._dirty[tail] = None
        now = time.monotonic()
        if urgent or now - self._last_begin >= self._window:
            self._go.set()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._last_begin + self._window - now, self._go.set)

    def is_writing(self, tail: Tail) -> bool:
        return tail in self._writing

    async def next_commit(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._commits.add(waiter)
        try:
            await waiter
        finally:
            self._commits.discard(waiter)

    async def _run(self) -> None:
        while True:
            # Rows that wait to be deleted are not left to the next answer, which may come in a year.
            with suppress(TimeoutError):
                async with asyncio.timeout(SEGMENT_SECONDS if self._rows else None):
                    await self._go.wait()
            self._go.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._last_begin = time.monotonic()
            try:
                await self._write_window()
                if self._last_begin - self._last_segments >= SEGMENT_SECONDS:
                    await self._write_segments()
            except Exception:
                logger.exception("the log's writer failed")
            took = time.monotonic() - self._last_begin
            # Behind: half of the time at most is spent on storing, so that the rest of the process goes on.
            self._window = min(max(self._base, 2 * took), WIDEST_SECONDS)
            for waiter in self._commits:
                if not waiter.done():
                    waiter.set_result(None)

    async def _write_window(self) -> None:
        batch = [(tail, events) for tail in self._dirty if (events := tail.number())]
        self._dirty.clear()
        if not batch:
            return
        self._writing = {tail for tail, _ in batch}
        encoded = [[encode_event(event) for event in events] for _, events in batch]
        entries = [
            Entry(tail.log.run_id, events[0].seq, codes) for (tail, events), codes in zip(batch, encoded, strict=True)
        ]
        try:
            row = await self._patiently(entries)
        except (Unavailable, Fenced) as error:
            self._give_up([tail for tail, _ in batch], error)
            return
        except Exception:
            logger.exception("a window of the log could not be written")
            self._give_up([tail for tail, _ in batch], Unavailable("The answer could not be stored"))
            return
        finally:
            self._writing = set()
        self._rows.append((self._last_begin, row))
        for (tail, events), codes in zip(batch, encoded, strict=True):
            tail.stored(events, codes)

    async def _patiently(self, entries: list[Entry]) -> int:
        begun, pause = time.monotonic(), 0.02
        while True:
            try:
                return await self._journal.append(self.worker, entries)
            except Unavailable:
                if time.monotonic() - begun > PATIENCE_SECONDS:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    def _give_up(self, tails: list[Tail], error: Unavailable | Fenced) -> None:
        if isinstance(error, Fenced):
            logger.warning("this worker was taken for dead: its runs have been ended by another")
            tails = list(self._tails)
        reason = error if isinstance(error, ChatError) else MovedElsewhere()
        for tail in tails:
            tail.log.lose(reason)
            self.close(tail)
        if isinstance(error, Fenced) and self.on_fenced is not None:
            self.on_fenced()

    async def _write_segments(self) -> None:
        segments = [(tail, entry) for tail in self._tails if (entry := tail.take_segment()) is not None]
        up_to = 0
        while self._rows and self._rows[0][0] < self._last_begin - JOURNAL_SECONDS:
            up_to = self._rows.popleft()[1]
        self._last_segments = self._last_begin
        if not segments and not up_to:
            return
        try:
            await self._journal.checkpoint(self.worker, [entry for _, entry in segments], up_to)
        except (Unavailable, Fenced):
            # What has no segment is in the journal still; rows of which the deletion failed go with the next one.
            for tail, entry in segments:
                tail.put_back(entry)
