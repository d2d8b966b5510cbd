"""The engine owns every generation of this process: admission, the work, its end, and who may follow it."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, suppress

from bus.base import Bus
from chat.admission import FairGate
from chat.events import RunEvent, RunFailure, RunFinished, RunQueued
from chat.generation import Generation, Outcome, internal_failure, set_end, set_failed, stopped
from chat.herald import Herald
from chat.jobs import EngineLimits, Job, Place, Work
from chat.keeper import Keeper
from chat.log import RunLog, ended_events
from chat.mirror import Mirror, Pruned
from chat.places import Places
from chat.records import Records, finished_event
from chat.run import Transition, transition
from chat.usage import estimate_prompt
from chat.writer import LogWriter, MovedElsewhere
from errors import ChatError, Unavailable
from models.columns import utc_now
from models.database import Database
from models.journal import Piece
from models.run import Run, RunStatus, request_cancel

logger = logging.getLogger(__name__)

ENDED_POLL_SECONDS = 0.25
REFUSED_SECONDS = 5.0
"""A write that was refused longer ago says nothing of now."""
KEPT_RUNS = 1_000
"""Finished logs kept for late followers; at the default limits an answer is about 10 KB, so 10 MB."""


class Engine:
    """`limits` bound it, `database` holds its log, over `bus` other processes hear of it at once. To be set: by
    `keeper.restart` runs of a dead process that had not come to a word are taken over, `ended` is told of each run that
    has ended here, and its text."""

    def __init__(self, database: Database, bus: Bus, limits: EngineLimits) -> None:
        self.limits = limits
        self._herald = Herald(bus)
        self.keeper = Keeper(database, self, self._herald, limits.lease, limits.keep)
        self.writer = LogWriter(database.journal_writer(), limits.generation.coalesce)
        self._database = database
        self._records = Records(database)
        self._mirror = Mirror(database, self._herald)
        self._jobs: dict[str, Job] = {}
        self._kept: OrderedDict[str, Job] = OrderedDict()
        self._unstored: dict[str, Job] = {}
        """Runs that have ended, which the database would not take: the keeper goes on trying."""
        self.places = Places(limits)
        self._gate = FairGate(limits.per_process)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self.ended: Callable[[Run, str], None] | None = None

    async def start(self) -> None:
        self.writer.on_fenced = self.keeper.hurry
        self.writer.on_stored = self._stored
        self.writer.start(self.keeper.worker)
        await self.keeper.start()

    async def _stored(self, row: int, entries: Sequence[Piece], body: bytes) -> None:
        self._mirror.told(row)
        await self._herald.window(row, entries, body)

    async def drain(self) -> None:
        """Take no more runs; let those under way finish for the grace, then mark them INTERRUPTED."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.shutdown_grace)
        for job in list(self._jobs.values()):
            job.halt(Transition.INTERRUPT)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.shutdown_grace + 5)

    async def aclose(self) -> None:
        await self.drain()
        await self._records.aclose()
        with suppress(Unavailable):
            await self.store_late()
        await self._mirror.aclose()
        await self.keeper.aclose()
        await self.writer.aclose()

    @property
    def active(self) -> int:
        """Runs that this process is working on or has waiting."""
        return len(self._tasks)

    @property
    def storing(self) -> bool:
        """Whether the database takes what is written. The lease is, all the time: nothing has to be tried for it."""
        refused_at = max(self._database.refused_at, self.writer.refused_at)
        return time.monotonic() - refused_at > REFUSED_SECONDS

    def place(self, user_id: str | None, *, again: bool = False) -> AbstractContextManager[Place]:
        """Reserve a place in this process for one run; given back if the block leaves without `launch`. What the user
        may have over all processes is asked where the run is stored (`admit`). `again`: it is stored already.

        Raises:
            RateLimited: the user has too many runs under way, or began too many.
            Unavailable: the queue is full, or the server is stopping.
        """
        if self._closing:
            raise Unavailable("The server is stopping; try again", retry_after=2)
        return self.places.take(user_id, again=again)

    def claim(self, run: Run) -> Run:
        """Mark a row that is about to be stored as this worker's."""
        run.worker = self.keeper.worker
        return run

    def launch(self, place: Place, run: Run, work: Work, before: list[RunEvent] | None = None) -> RunLog:
        """Begin to work on a stored run. Returns its log at once. `before`: what an earlier worker logged of it."""
        place.used = True
        log = RunLog(run.id)
        log.extend(before or [])
        job = Job(run, log, self.writer.open(log, run.worker or ""), place, self._keep_seconds(run))
        self._jobs[run.id] = job
        if run.conversation_id is None:
            log.on_left = lambda: self._left(job)
        log.on_lost = lambda: job.halt(Transition.INTERRUPT)
        task = asyncio.create_task(self._drive(job, work), name=f"run {run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return log

    def _keep_seconds(self, run: Run) -> float:
        if run.conversation_id is not None:
            return self.limits.keep
        return self.limits.chat_key if run.idempotency_key is not None else 0

    def _left(self, job: Job) -> None:
        """The last follower of a stateless run has gone: no one else can want it, but for one who comes back."""
        if job.ended.is_set():
            return
        if job.alone is not None:
            job.alone.cancel()
        grace = self.limits.chat_grace if job.run.idempotency_key is not None else 0
        if grace:
            job.alone = asyncio.get_running_loop().call_later(grace, job.halt_if_alone)
        else:
            job.halt(Transition.CANCEL)

    async def _drive(self, job: Job, work: Work) -> None:
        generation = Generation(job.run, work.candidates, job.tail, self.limits.generation)
        try:
            outcome = await self._outcome(job, work, generation)
            await self._end(job, generation, outcome)
        finally:
            self.places.leave(job.place.user_id)
            self.writer.close(job.tail)
            job.ended.set()
            self._forget_later(job)
        if self.ended is not None and job.log.lost is None and job.log.finished:
            self.ended(job.run, job.log.text)

    async def _outcome(self, job: Job, work: Work, generation: Generation) -> Outcome:
        if job.stop is not None:
            return stopped(job.stop)
        # A task of its own: a cancel that comes before its first step, or during the end's writes, loses nothing.
        job.task = asyncio.create_task(self._work(job, work, generation), name=f"run {job.run.id}")
        await asyncio.wait([job.task])
        if job.task.cancelled():
            return stopped(job.stop or Transition.INTERRUPT)
        try:
            return job.task.result()
        except Exception:
            return internal_failure(job.run.id)

    async def _work(self, job: Job, work: Work, generation: Generation) -> Outcome:
        user_id = job.run.user_id
        if work.behind is not None:
            job.tail.event(lambda run_id, seq: RunQueued(run_id, seq, 1))
            await work.behind()
        if self._gate.full:
            position = self._gate.position(user_id)
            job.tail.event(lambda run_id, seq: RunQueued(run_id, seq, position))
        await self._gate.acquire(user_id)
        try:
            prompt = await work.prompt()
            job.run.prompt_estimate = estimate_prompt(prompt.turns, prompt.max_tokens, work.candidates[0])
            job.run.status = transition(RunStatus(job.run.status), Transition.START)
            job.run.started_at = utc_now()
            self._records.started(job.run)
            return await generation.write(prompt)
        finally:
            self._gate.release()

    async def _end(self, job: Job, generation: Generation, outcome: Outcome) -> None:
        run, log = job.run, job.log
        try:
            await job.tail.settled()
        except MovedElsewhere:
            return
        except ChatError as error:
            # What was not written was not seen: the answer ends where it could.
            job.tail.believe()
            if outcome.event is Transition.COMPLETE or outcome.error is None:
                outcome = Outcome(Transition.INTERRUPT, error=RunFailure(error.code, error.message, retryable=True))
        set_end(run, generation, outcome)
        run.last_seq = log.next_seq
        await self._store_end(job)
        logger.debug("run %s %s after %d events", run.id, run.status, log.next_seq)

    async def _store_end(self, job: Job) -> None:
        """Store the end; only then tell it: what a follower has seen finished is stored as finished."""
        rest = job.tail.take_segment()
        try:
            event = await self._stored_end(job, rest)
        except Exception as error:
            # Followers are told; the keeper goes on trying, and the journal keeps what they have seen.
            if rest is not None:
                job.tail.put_back(rest)
            job.log.lose(error if isinstance(error, ChatError) else Unavailable("The answer could not be stored"))
            self._unstored[job.run.id] = job
            return
        self.writer.drop(job.tail)
        if event is None:
            job.log.lose(MovedElsewhere())
        elif job.log.lost is None:
            job.log.append(event)
            await self._herald.end(event)

    async def _stored_end(self, job: Job, rest: Piece | None) -> RunFinished | None:
        """Raises Unavailable: not now."""
        try:
            return await self._records.finished(job.run, job.log, rest, keep=job.on_disk)
        except Unavailable:
            raise
        except Exception:
            # Something in the figures, then: the text must not go with them.
            set_failed(job.run)
            return await self._records.finished(job.run, job.log, rest, keep=job.on_disk)

    async def store_late(self) -> None:
        """Try again to store the ends that the database would not take.

        Raises:
            Unavailable: it still does not.
        """
        for run_id, job in list(self._unstored.items()):
            if not job.ended.is_set() or self.writer.is_busy(job.tail):
                continue
            rest = job.tail.take_segment()
            try:
                await self._records.finished_now(job.run, job.log, rest, keep=job.on_disk)
            except Exception as error:
                if rest is not None:
                    job.tail.put_back(rest)
                if isinstance(error, Unavailable):
                    raise
                # Nobody knows it now: the keeper ends it as INTERRUPTED.
                logger.exception("run %s: its end cannot be stored", run_id)
            else:
                self.writer.drop(job.tail)
                await self._herald.ended(run_id)
            self._unstored.pop(run_id, None)

    def _forget_later(self, job: Job) -> None:
        if job.keep == 0 or job.log.lost is not None:
            self._forget(job)
            return
        self._kept[job.run.id] = job
        if len(self._kept) > KEPT_RUNS:
            self._forget(next(iter(self._kept.values())))
        asyncio.get_running_loop().call_later(job.keep, self._forget, job)

    def forget(self, run_id: str) -> None:
        """Nobody may read any more of an ended run's log."""
        if (job := self._kept.get(run_id)) is not None:
            self._forget(job)

    def _forget(self, job: Job) -> None:
        # Not by its id alone: a run that was begun again here has a younger job.
        run_id = job.run.id
        if self._jobs.get(run_id) is job:
            del self._jobs[run_id]
        if self._kept.get(run_id) is job:
            del self._kept[run_id]
            self.keeper.expire(run_id)

    def live(self, run: Run) -> Run:
        """The run as it is at this moment, where this process knows better than the row; never an end that is not
        stored yet: whoever reads of it would look for an answer that is not there."""
        job = self._jobs.get(run.id)
        return run if job is None or not (job.run.active or job.log.finished) else job.run

    def log_of(self, run_id: str) -> RunLog | None:
        job = self._jobs.get(run_id)
        return None if job is None else job.log

    async def follow(self, run: Run, after: int | None) -> AsyncGenerator[RunEvent, None]:
        """The run's events behind `after`; ends behind RunFinished. The caller has checked whose run it is.

        Raises:
            BadUserInput: `after` is out of range.
            Unavailable: the log cannot be written or read now.
        """
        job = self._jobs.get(run.id)
        if job is not None:
            await job.tail.acknowledged(after)
            try:
                async with aclosing(job.log.follow(after)) as events:
                    async for event in events:
                        after = event.seq
                        yield event
                return
            except MovedElsewhere:
                run = await self._records.reload(run.id) or run
        async with aclosing(self._follow_stored(run, after)) as events:
            async for event in events:
                yield event

    async def _follow_stored(self, run: Run, after: int | None) -> AsyncGenerator[RunEvent, None]:
        """A run of another process, or one of which only the database knows."""
        if not run.active and run.conversation_id is None and run.idempotency_key is None:
            # Its text went with it, though rows of the journal that wait to be deleted may have some for seconds yet.
            for event in ended_events(finished_event(run, run.last_seq), after, None, None):
                yield event
            return
        async with self._mirror.open(run.id, after) as log:
            if not isinstance(log.lost, Pruned):
                try:
                    async with aclosing(log.follow(after)) as events:
                        async for event in events:
                            after = event.seq
                            yield event
                    return
                except Pruned:
                    pass
        ended = await self._records.reload(run.id) or run
        message = None if ended.message_id is None else await self._records.message(ended.message_id)
        text, reasoning = (None, None) if message is None else (message.content, message.reasoning)
        for event in ended_events(finished_event(ended, ended.last_seq), after, text, reasoning):
            yield event

    async def wait_for_end(self, run: Run) -> Run:
        """The run as it ended, whoever writes it."""
        job = self._jobs.get(run.id)
        if job is not None:
            await job.ended.wait()
            if job.log.lost is None:
                return job.run
        async with self._herald.end_of(run.id) as sleep:
            while run.active:
                await sleep(ENDED_POLL_SECONDS)
                run = await self._records.reload(run.id) or run
        return run

    async def cancel(self, run: Run) -> Run:
        """Stop a run, whoever writes it, and return it as it ended. An ended run is returned as it is.

        Raises:
            Unavailable: its end cannot be stored now.
        """
        job = self._jobs.get(run.id)
        if job is not None and job.log.lost is None:
            self.stop_here(run.id)
        elif run.active:
            async with self._database.write() as session:
                await request_cancel(session, run.id)
            await self._herald.cancel(run.id)
        if job is not None:
            await job.ended.wait()
        if (late := self._unstored.get(run.id)) is not None:
            raise late.log.lost or Unavailable()
        return await self.wait_for_end(run)

    def stop_here(self, run_id: str) -> None:
        if (job := self._jobs.get(run_id)) is not None:
            job.halt(Transition.CANCEL)

    def knows(self, run_id: str) -> bool:
        return run_id in self._jobs or run_id in self._unstored

    def renamed(self, worker: str) -> None:
        self.writer.rename(worker)
