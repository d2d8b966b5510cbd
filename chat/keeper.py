"""Keeps this process's lease, stops what others asked to stop, and ends the runs of processes that died."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.codec import decode_event
from chat.events import RunEvent, RunReasoningDelta, RunTextDelta
from chat.prompt import estimate_tokens
from chat.records import Text, end_run
from errors import ErrorCode, Unavailable
from models.columns import utc_now
from models.database import Database
from models.journal import (
    delete_old_segments,
    delete_segments,
    newest_journal_row,
    stored_events,
    trim_orphaned_journal,
)
from models.run import Run, RunStatus, claim_run, prune_stateless, release_runs, runs_to_cancel
from models.worker import (
    anyone_missing,
    fence_the_dead,
    live_workers,
    orphaned_runs,
    register_worker,
    renew_lease,
    retire_worker,
)

logger = logging.getLogger(__name__)

RECOVERED_AT_ONCE = 50
"""Runs ended in one transaction, so that the other writers wait some 50 ms at most."""
SWEEP_SECONDS = 10.0
STATELESS_DAYS = 30

Restart = Callable[[Run, list[RunEvent]], Awaitable[bool]]


class Keeper:
    """`jobs` says how many runs this process writes; `cancel` stops one; `reborn` is called when this worker was fenced
    off; `restart` takes over a run that had not come to a word, and says whether it did."""

    def __init__(self, database: Database, lease: float, keep: float) -> None:
        self.worker = secrets.token_hex(8)
        self.cancel: Callable[[str], None] | None = None
        self.reborn: Callable[[str], None] | None = None
        self.restart: Restart | None = None
        self._database = database
        self._lease = lease
        self._keep = keep
        self._judge_from = 0.0
        self._swept_at = time.monotonic()
        self._swept_row = 0
        self._expired: list[str] = []
        self._released: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        async with self._database.write() as session:
            await register_worker(session, self.worker, self._lease)
            self._swept_row = await newest_journal_row(session)
        await self.recover()
        self._task = asyncio.create_task(self._run(), name="engine.keeper")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            with suppress(Unavailable):
                async with self._database.write() as session:
                    await retire_worker(session, self.worker)

    def expire(self, run_id: str) -> None:
        """Its log need not be kept any longer."""
        self._expired.append(run_id)

    def release(self, run_id: str) -> None:
        """This process cannot store the run's end: whoever can, ends it."""
        self._released.append(run_id)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 4)
            try:
                await self._keep_once()
            except Unavailable:
                # The file is locked for everyone, or the disk is full: nobody's silence means death now.
                self._judge_from = float("inf")
                logger.warning("the lease could not be renewed: the database is not available")
            except Exception:
                logger.exception("the lease could not be renewed")

    async def _keep_once(self) -> None:
        begun = time.monotonic()
        async with self._database.write() as session:
            alive = await renew_lease(session, self.worker, self._lease)
            wanted = await runs_to_cancel(session, self.worker)
            await release_runs(session, self._released)
        self._released.clear()
        now = time.monotonic()
        if now - begun > self._lease / 4 or self._judge_from == float("inf"):
            self._judge_from = now + self._lease
        if not alive:
            await self.fenced()
        for run_id in wanted:
            if self.cancel is not None:
                self.cancel(run_id)
        if now >= self._judge_from:
            await self.recover()
        if now - self._swept_at > SWEEP_SECONDS:
            await self._sweep(now)

    async def fenced(self) -> None:
        """Somebody took this process for dead. Its runs are theirs; it goes on under a new name."""
        self.worker = secrets.token_hex(8)
        async with self._database.write() as session:
            await register_worker(session, self.worker, self._lease)
        if self.reborn is not None:
            self.reborn(self.worker)

    async def recover(self) -> None:
        """End the runs that no live worker writes: INTERRUPTED with the text kept, or begun again where none is."""
        async with self._database.read() as session:
            if not await anyone_missing(session):
                return
        async with self._database.write() as session:
            dead = await fence_the_dead(session)
        ended = 0
        while True:
            async with self._database.write() as session:
                orphans = await orphaned_runs(session, RECOVERED_AT_ONCE)
                stored = await stored_events(session, [run.id for run in orphans]) if orphans else {}
                fresh = [run for run in orphans if self._may_restart(run, stored.get(run.id, []))]
                for run in orphans:
                    if run in fresh:
                        await claim_run(session, run.id, self.worker)
                    else:
                        ended += await self._interrupt(session, run, decoded(run.id, stored.get(run.id, [])))
            for run in fresh:
                await self._begin_again(run, decoded(run.id, stored.get(run.id, [])))
            if len(orphans) < RECOVERED_AT_ONCE:
                break
        if dead or ended:
            logger.warning("%d runs of a process that stopped were ended as INTERRUPTED", ended)

    def _may_restart(self, run: Run, events: Sequence[list[object]]) -> bool:
        produced = any(event[0] in {"t", "r"} for event in events)
        return self.restart is not None and run.conversation_id is not None and not produced

    async def _begin_again(self, run: Run, events: list[RunEvent]) -> None:
        run.worker = self.worker
        if self.restart is not None and await self.restart(run, events):
            logger.info("run %s was begun again", run.id)
            return
        async with self._database.write() as session:
            await self._interrupt(session, run, events)

    async def _interrupt(self, session: AsyncSession, run: Run, events: list[RunEvent]) -> bool:
        text = Text(
            "".join(event.text for event in events if isinstance(event, RunTextDelta)),
            "".join(event.text for event in events if isinstance(event, RunReasoningDelta)) or None,
        )
        if run in session:
            session.expunge(run)
        run.status = RunStatus.INTERRUPTED
        run.finished_at = utc_now()
        run.error_code = ErrorCode.UNAVAILABLE
        run.error_message = "The server that wrote this answer stopped"
        run.error_retryable = True
        run.last_seq = len(events)
        if text.text:
            run.prompt_tokens, run.completion_tokens = 0, estimate_tokens(text.text + (text.reasoning or ""))
            run.usage_estimated = True
        return await end_run(session, self.worker, run, text) is not None

    async def _sweep(self, now: float) -> None:
        """Delete what nobody reads any more."""
        async with self._database.write() as session:
            await delete_segments(session, self._expired)
            await delete_old_segments(session, utc_now() - timedelta(seconds=self._keep))
            await trim_orphaned_journal(session, await live_workers(session), self._swept_row)
            await prune_stateless(session, utc_now() - timedelta(days=STATELESS_DAYS))
            self._swept_row = await newest_journal_row(session)
        self._expired.clear()
        self._swept_at = now


def decoded(run_id: str, stored: Sequence[list[object]]) -> list[RunEvent]:
    return [decode_event(run_id, seq, encoded) for seq, encoded in enumerate(stored)]
