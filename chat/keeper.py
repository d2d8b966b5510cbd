"""Keeps this process's lease, stops what others asked to stop, and ends the runs of processes that died."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.codec import decode_event
from chat.events import RunEvent, RunReasoningDelta, RunStarted, RunTextDelta
from chat.generation import SERVER_STOPPED
from chat.herald import Herald
from chat.records import Text, end_run
from chat.usage import estimated, priced, set_usage
from errors import ErrorCode, Unavailable
from models.columns import utc_now
from models.database import Database
from models.journal import (
    Encoded,
    delete_segments,
    newest_journal_row,
    replace_segments,
    stored_events,
    trim_orphaned_journal,
    unread_segments,
)
from models.run import Run, RunStatus, claim_run, prune_stateless, release_runs, runs_of_worker
from models.worker import (
    Patience,
    anyone_missing,
    clock_of,
    fence_the_dead,
    live_workers,
    orphaned_runs,
    register_worker,
    renew_lease,
    retire_worker,
    take_orphaned_runs,
)
from providers.prices import Price

logger = logging.getLogger(__name__)

LOOKS_PER_LEASE = 12
"""A look is two small reads: a worker's death is noticed within 0.2 s of the end of its lease of 2 s."""
LEASES_WHILE_THERE = 5
"""That a worker may be late whose process is known to live (`models/vitals.py`). Four of them under more work than two
cores could do renewed every 1.4 to 2.2 s what was to be renewed every 0.5, and were taken for dead 14 times in 40 s."""
RECOVERED_AT_ONCE = 50
"""Runs ended in one transaction, so that the other writers wait some 50 ms at most."""
SWEEP_SECONDS = 10.0
PRUNE_SECONDS = 3_600.0
PRUNED_AT_ONCE = 500
STATELESS_DAYS = 30

PriceOf = Callable[[str, str], Price | None]
Restart = Callable[[Run, list[RunEvent]], Awaitable[bool]]
NEVER = float("inf")


class Works(Protocol):
    """What the keeper asks of the engine."""

    def stop_here(self, run_id: str) -> None:
        """Somebody wants this run stopped."""

    def knows(self, run_id: str) -> bool:
        """Whether a run of this worker is worked on, or its end waits to be stored."""

    async def store_late(self) -> None:
        """Try again to store what the database would not take."""

    def renamed(self, worker: str) -> None:
        """This worker was fenced off and goes on under another name."""


class Keeper:
    """`restart` takes over a run that had not come to a word, and says whether it did; `price_of` knows what a
    provider's model costs; `sockets` how many are open in this process."""

    def __init__(self, database: Database, works: Works, herald: Herald, lease: float, keep: float) -> None:
        self.worker = secrets.token_hex(8)
        self.restart: Restart | None = None
        self.price_of: PriceOf = _unknown
        self.sockets: Callable[[], int] = int
        self._database = database
        self._works = works
        self._herald = herald
        self._lease = lease
        self._keep = keep
        self._awake_at = self._renewed_at = time.monotonic()
        self._judge_from = 0.0
        self._clock: tuple[float, float] | None = None
        """How far the database's clock is in front of time.monotonic: at least, at most."""
        self._away = False
        self._swept_at = self._pruned_at = time.monotonic()
        self._swept_row = 0
        self._expired: list[str] = []
        self._unknown: dict[str, float] = {}
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._database.vitals.hold(self.worker)
        async with self._database.write() as session:
            await register_worker(session, self.worker, self._lease)
            self._swept_row = await newest_journal_row(session)
        await self.recover()
        self._awake_at = self._renewed_at = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="engine.keeper")
        self._listener = asyncio.create_task(self._listen(), name="engine.cancels")

    async def aclose(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            with suppress(Unavailable):
                async with self._database.write() as session:
                    await retire_worker(session, self.worker)
                self._database.vitals.release(self.worker)

    def expire(self, run_id: str) -> None:
        """Its log need not be kept any longer."""
        self._expired.append(run_id)

    def hurry(self) -> None:
        """The writer was told that this worker is dead, or somebody wants a run stopped: find out at once."""
        self._hurry.set()

    async def _listen(self) -> None:
        async with self._herald.cancels() as cancels:
            async for run_id in cancels:
                if self._works.knows(run_id.decode(errors="replace")):
                    self.hurry()

    async def _run(self) -> None:
        while True:
            hurried = await self._pause()
            try:
                self._notice_a_delay(time.monotonic() - self._awake_at)
                if hurried or time.monotonic() - self._renewed_at >= self._lease / 4:
                    await self._keep_once()
                elif time.monotonic() >= self._judge_from:
                    await self.recover()
            except Unavailable as error:
                # Locked for everyone, away, or out of room: nobody's silence means death now.
                if not self._away:
                    reason = str(error.__cause__ or error).partition("\n")[0]
                    logger.warning("the lease cannot be renewed: the database is not available (%s)", reason)
                self._away = True
                self._judge_from = NEVER
            except Exception:
                logger.exception("the lease could not be renewed")
            self._awake_at = time.monotonic()

    async def _pause(self) -> bool:
        """Until the next look at the others' leases; whether there is a hurry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lease / LOOKS_PER_LEASE):
                await self._hurry.wait()
        hurried = self._hurry.is_set()
        self._hurry.clear()
        return hurried

    def _notice_a_delay(self, seconds: float) -> bool:
        """What kept this process waiting (a lock, a machine that stood still) may have kept the others from renewing:
        their silence means nothing until they have had a whole lease for it."""
        # They renew when a quarter of it has passed, so that they lose no more than three quarters.
        late = seconds > self._lease * 0.75
        if late or self._judge_from == NEVER:
            self._judge_from = time.monotonic() + self._lease
        return late

    def _clock_was_set(self, now: int, asked: float) -> bool:
        """Whether the database's clock has jumped since the last look. All leases would have run out at once, or would
        hold for hours: nobody is judged before everybody has had a whole lease to renew by the new time. `asked` for
        it, by time.monotonic: on a busy machine the answer comes late."""
        last, self._clock = self._clock, (now / 1000 - time.monotonic(), now / 1000 - asked)
        if last is None:
            return False
        forward, back = self._clock[0] - last[1], last[0] - self._clock[1]
        if max(forward, back) < self._lease / 4:
            return False
        jump = forward if forward > 0 else -back
        logger.warning("the database's clock was set by %+.1f s: no lease is judged for %g s", jump, self._lease)
        self._judge_from = time.monotonic() + self._lease
        return True

    async def _keep_once(self) -> None:
        begun = time.monotonic()
        async with self._database.write(urgent=True) as session:
            alive = await renew_lease(session, self.worker, self._lease, self.sockets())
            mine = await runs_of_worker(session, self.worker)
            if forgotten := self._forgotten(mine):
                await release_runs(session, self.worker, forgotten)
        now = self._renewed_at = time.monotonic()
        if self._away:
            self._away = False
            logger.warning("the database is available again")
        self._notice_a_delay(now - begun)
        if not alive:
            await self._fenced()
        for run_id, wanted in mine.items():
            if wanted:
                self._works.stop_here(run_id)
        await self._works.store_late()
        if now >= self._judge_from:
            await self.recover()
        if now - self._swept_at > SWEEP_SECONDS:
            await self._sweep(now)

    def _forgotten(self, mine: Iterable[str]) -> list[str]:
        """Runs that were stored and never launched: nobody works on them, though this worker lives."""
        now = time.monotonic()
        unknown = [run_id for run_id in mine if not self._works.knows(run_id)]
        self._unknown = {run_id: self._unknown.get(run_id, now) for run_id in unknown}
        return [run_id for run_id, since in self._unknown.items() if now - since > self._lease]

    async def _fenced(self) -> None:
        """Somebody took this process for dead. Its runs are theirs; it goes on under a new name."""
        old, self.worker = self.worker, secrets.token_hex(8)
        self._database.vitals.hold(self.worker)
        self._database.vitals.release(old)
        async with self._database.write(urgent=True) as session:
            await register_worker(session, self.worker, self._lease)
        self._works.renamed(self.worker)

    async def recover(self) -> None:
        """End the runs that no live worker writes: INTERRUPTED with the text kept, or begun again where none is."""
        begun = time.monotonic()
        async with self._database.read(urgent=True) as session:
            gone, there = self._database.vitals.look(await live_workers(session))
            patience = Patience(there, self._lease * (LEASES_WHILE_THERE - 1))
            missing, now = await anyone_missing(session, patience)
        if self._clock_was_set(now, begun) or not (missing or gone):
            return
        async with self._database.write(urgent=True) as session:
            asked = time.monotonic()
            waits = self._notice_a_delay(asked - begun) or self._clock_was_set(await clock_of(session), asked)
            if waits and not gone:
                return
            # The wait for this transaction may have been longer than one's own lease.
            await renew_lease(session, self.worker, self._lease)
            for worker in gone:
                await retire_worker(session, worker)
            dead = len(gone) + (0 if waits else await fence_the_dead(session, patience))
        self._database.vitals.bury(gone)
        found = RECOVERED_AT_ONCE
        ended = 0
        while found == RECOVERED_AT_ONCE:
            found, over, fresh = await self._recover_some()
            for run, events in fresh:
                await self._begin_again(run, events)
            for run_id in over:
                await self._herald.ended(run_id)
            ended += len(over)
        if ended:
            logger.warning("a process stopped: %d of its runs were ended as INTERRUPTED", ended)
        elif dead:
            logger.info("a process stopped; it left no run to be ended")

    async def _recover_some(self) -> tuple[int, list[str], list[tuple[Run, list[Encoded]]]]:
        """How many were found, those of them that were ended, and those that are to be begun again."""
        async with self._database.write() as session:
            # Many batches can take longer than the lease.
            await renew_lease(session, self.worker, self._lease)
            orphans = await take_orphaned_runs(session, RECOVERED_AT_ONCE)
            stored = await stored_events(session, [run.id for run in orphans]) if orphans else {}
            over, fresh = [], []
            for run in orphans:
                events = stored.get(run.id, [])
                if self._may_restart(run, events):
                    # Its first events may be in the dead one's journal alone, which goes.
                    await replace_segments(session, run.id, events)
                    await claim_run(session, run.id, self.worker)
                    fresh.append((run, events))
                else:
                    await self._interrupt(session, run, events)
                    over.append(run.id)
        return len(orphans), over, fresh

    def _may_restart(self, run: Run, events: Sequence[Encoded]) -> bool:
        produced = any(event[0] in {"t", "r"} for event in events)
        return (
            self.restart is not None and run.conversation_id is not None and not produced and not run.cancel_requested
        )

    async def _begin_again(self, run: Run, events: list[Encoded]) -> None:
        run.worker = self.worker
        if self.restart is not None and await self.restart(run, decoded(run.id, events)):
            logger.info("run %s was begun again", run.id)
            return
        async with self._database.write() as session:
            await self._interrupt(session, run, events)
        await self._herald.ended(run.id)

    async def _interrupt(self, session: AsyncSession, run: Run, stored: list[Encoded]) -> None:
        events = decoded(run.id, stored)
        text = Text(
            "".join(event.text for event in events if isinstance(event, RunTextDelta)),
            "".join(event.text for event in events if isinstance(event, RunReasoningDelta)) or None,
        )
        if run in session:
            session.expunge(run)
        for event in events:
            if isinstance(event, RunStarted):
                run.model, run.provider = event.model, event.provider
        run.finished_at, run.last_seq = utc_now(), len(events)
        run.status = RunStatus.CANCELLED if run.cancel_requested else RunStatus.INTERRUPTED
        if not run.cancel_requested:
            run.error_code = ErrorCode.UNAVAILABLE
            run.error_message = SERVER_STOPPED
            run.error_retryable = True
        if text.text or text.reasoning or run.prompt_estimate is not None:
            usage = estimated(run.prompt_estimate or 0, text.text, text.reasoning)
            set_usage(run, priced(usage, self.price_of(run.provider, run.model)))
        await end_run(session, run, text)
        # All in one place for those who come back; of a stateless chat nothing stays.
        await replace_segments(session, run.id, stored if run.conversation_id is not None else [])

    async def _sweep(self, now: float) -> None:
        """Delete what nobody reads any more."""
        async with self._database.read() as session:
            unread = await unread_segments(session, utc_now() - timedelta(seconds=self._keep))
        async with self._database.write() as session:
            await delete_segments(session, [*self._expired, *unread])
            # In this order: whoever is taken for dead behind the first statement keeps its rows this time.
            live = await live_workers(session)
            if not await orphaned_runs(session, 1):
                await trim_orphaned_journal(session, live, self._swept_row)
            if now - self._pruned_at > PRUNE_SECONDS:
                before = utc_now() - timedelta(days=STATELESS_DAYS)
                if await prune_stateless(session, before, PRUNED_AT_ONCE) < PRUNED_AT_ONCE:
                    self._pruned_at = now
            self._swept_row = await newest_journal_row(session)
        self._expired.clear()
        self._swept_at = now


def _unknown(_provider: str, _model: str) -> None:
    return None


def decoded(run_id: str, stored: Sequence[Encoded]) -> list[RunEvent]:
    return [decode_event(run_id, seq, encoded) for seq, encoded in enumerate(stored)]
