"""Runs that another process writes, followed through the database: one poll for all, only while there are any.

Where a bus brings the windows as they are stored, the poll is a safety net: it reads what did not come.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from chat.codec import decode_event
from chat.herald import Herald, read
from chat.log import RunLog
from chat.records import finished_event
from errors import NotFound, Unavailable
from models.database import Database
from models.frontier import MOST_HOLES, Frontier
from models.journal import NOBODY, Entry, newest_journal_row, stored_events, unread_rows
from models.run import run_by_id, runs_by_ids

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.05
"""One query for all followed runs: p50 44 ms, p99 76 ms behind the writer at 500 runs, 9.6 µs of CPU a token."""
READ_AGAIN = 20
"""Rows: more workers than commit at one moment."""
CALM_SECONDS = 0.25
"""The poll's pause while the bus brings everything: four reads a second, which find nothing. What the bus loses without
a trace is so much late, once: then it is doubted."""
LATE_SECONDS = 0.25
DOUBT_SECONDS = 5.0
"""A window that was stored and not told of within the first: the bus is doubted for the second. With a healthy Valkey a
window comes 1 ms behind its commit."""
RECHECK_SECONDS = 1.0
"""So often the runs themselves are read: whatever was missed, an ended one is noticed."""
STALE_SECONDS = 2.5
"""Rows of the journal are kept for 5 s: who has not read for half of that reads the segments as well."""


class Pruned(Unavailable):
    """The run has ended and its events are not all kept: its text is where the answer is."""

    default_message = "The answer has ended; ask for it again"


class Mirror:
    def __init__(self, database: Database, herald: Herald) -> None:
        self._database = database
        self._herald = herald
        self._logs: dict[str, RunLog] = {}
        self._users: Counter[str] = Counter()
        self._frontier = Frontier()
        self._untold: dict[int, float] = {}
        """Rows that were polled, and when: whoever wrote them should have told."""
        self._judged_from: int | None = None
        """Rows behind this one should be told of: None while the bus does not reach others."""
        self._doubt_until = 0.0
        self._read_at = self._rechecked_at = 0.0
        self._stale = False
        self._poller: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def open(self, run_id: str, after: int | None = None) -> AsyncGenerator[RunLog, None]:
        """The run's log, kept up to date for as long as the block lasts. `after` has been seen: it is in there.

        Raises:
            Unavailable: the database cannot be read now.
        """
        self._users[run_id] += 1
        try:
            async with self._lock:
                log = self._logs.get(run_id)
                if log is None:
                    log = await self._load(run_id)
                elif after is not None and after > log.last_seq:
                    # Seen at the writer's, or through another process: this one's next look is up to 50 ms away.
                    await self._fill(log)
            yield log
        finally:
            self._users[run_id] -= 1
            if not self._users[run_id]:
                del self._users[run_id]
                self._logs.pop(run_id, None)

    async def _load(self, run_id: str) -> RunLog:
        if self._poller is None or self._poller.done():
            await self._catch_up_from_here()
            self._poller = asyncio.create_task(self._poll(), name="log.mirror")
        # Known to the poller before it is filled: a row that it reads meanwhile would be nobody's.
        log = self._logs[run_id] = RunLog(run_id)
        try:
            await self._fill(log)
        except BaseException:
            self._logs.pop(run_id, None)
            raise
        return log

    async def _catch_up_from_here(self) -> None:
        begun = time.monotonic()
        async with self._database.read() as session:
            newest = await newest_journal_row(session)
        # A little back: what is being committed at this moment may have smaller ids.
        self._frontier = Frontier(max(0, newest - READ_AGAIN))
        self._read_at = begun

    async def _fill(self, log: RunLog) -> None:
        """Bring a log up to what is stored."""
        async with self._database.read() as session:
            stored = (await stored_events(session, [log.run_id])).get(log.run_id, [])
            run = await run_by_id(session, log.run_id)
        self._extend(log, Entry(log.run_id, 0, stored))
        if run is None:
            self._lose(log, NotFound("No such run", field="runId"))
        elif not run.active and log.finished is None:
            if log.next_seq == run.last_seq:
                log.append(finished_event(run, run.last_seq))
            else:
                self._lose(log, Pruned())

    def _lose(self, log: RunLog, error: NotFound | Pruned) -> None:
        log.lose(error)
        if self._logs.get(log.run_id) is log:
            del self._logs[log.run_id]

    @staticmethod
    def _extend(log: RunLog, entry: Entry) -> bool:
        """False when there is a gap in front of the entry."""
        if log.finished is not None:
            return True
        skip = log.next_seq - entry.first_seq
        if skip < 0:
            return False
        start = log.next_seq
        fresh = entry.events[skip:]
        if fresh:
            log.extend([decode_event(log.run_id, start + offset, encoded) for offset, encoded in enumerate(fresh)])
        return True

    async def _poll(self) -> None:
        listening = asyncio.create_task(self._listen(), name="log.hints")
        try:
            while self._users:
                await asyncio.sleep(POLL_SECONDS)
                if time.monotonic() - self._read_at >= CALM_SECONDS or not self._is_told_all():
                    await self._read_once()
        finally:
            listening.cancel()

    async def _read_once(self) -> None:
        try:
            if self._stale or time.monotonic() - self._read_at > STALE_SECONDS:
                await self._refill()
            else:
                await self._read_journal()
            if time.monotonic() - self._rechecked_at >= RECHECK_SECONDS:
                await self._recheck()
                self._rechecked_at = time.monotonic()
        except Unavailable:
            self._stale = True
            logger.debug("the log cannot be read now")
        except Exception:
            self._stale = True
            logger.exception("the log's mirror failed")

    def _is_told_all(self) -> bool:
        """Whether the bus has brought all that was stored of late."""
        now = time.monotonic()
        if any(now - since > LATE_SECONDS for since in self._untold.values()):
            self._doubt_until = now + DOUBT_SECONDS
            self._untold.clear()
        if not self._herald.reaches_others:
            self._judged_from = None
        elif self._judged_from is None:
            # What is on its way at this moment was told before anybody listened here.
            self._judged_from = self._frontier.position + READ_AGAIN
            self._doubt_until = now + 2 * POLL_SECONDS
        return self._judged_from is not None and now >= self._doubt_until

    async def _listen(self) -> None:
        async with self._herald.windows() as hints:
            async for hint in hints:
                try:
                    await self._take(hint)
                except Unavailable:
                    self._stale = True
                except Exception:
                    self._stale = True
                    logger.exception("a hint of the log cannot be read")

    async def _take(self, hint: bytes) -> None:
        row, entries = read(hint)
        self.told(row)
        for entry in entries:
            log = self._logs.get(entry.run_id)
            if log is None or (entry.events and self._extend(log, entry)):
                continue
            if entry.events:
                await self._read_journal()
            if not entry.events or not self._extend(log, entry):
                await self._fill(log)

    def told(self, row: int) -> None:
        """This row of the journal need not be read: the bus has brought it, or it is this process's own."""
        self._untold.pop(row, None)
        # One from far ahead would leave more holes behind than are looked for again.
        if self._users and 0 < row <= self._frontier.position + MOST_HOLES:
            self._frontier.passed([row])

    async def _read_journal(self) -> None:
        begun = time.monotonic()
        async with self._database.read() as session:
            rows = await unread_rows(session, self._frontier)
        self._read_at = begun
        for row in rows:
            if row.worker != NOBODY and self._judged_from is not None and row.id > self._judged_from:
                self._untold[row.id] = begun
            for entry in row.entries:
                log = self._logs.get(entry.run_id)
                if log is not None and not self._extend(log, entry):
                    await self._fill(log)

    async def _refill(self) -> None:
        """Rows may have gone unread."""
        await self._catch_up_from_here()
        for log in list(self._logs.values()):
            await self._fill(log)
        self._stale = False

    async def _recheck(self) -> None:
        waiting = [log for log in self._logs.values() if log.finished is None]
        if not waiting:
            return
        async with self._database.read() as session:
            rows = await runs_by_ids(session, [log.run_id for log in waiting])
        for log in waiting:
            run = rows.get(log.run_id)
            if run is None or not run.active:
                await self._fill(log)

    async def aclose(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
