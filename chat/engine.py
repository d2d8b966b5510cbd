"""The engine owns every generation of this process: admission, leases, cancel, recovery, and a graceful stop."""

import asyncio
import logging
import secrets
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from chat.events import RunEvent, RunFailure, RunQueued
from chat.generation import Generation, GenerationLimits, Outcome, Prompt, end_of, internal_failure
from chat.log import RunLog, ended_events
from chat.records import Records, finished_event, lease_from_now
from chat.run import Transition, transition
from errors import ErrorCode, RateLimited, Unavailable
from models.columns import utc_now
from models.database import Database
from models.run import Run, RunStatus, renew_leases, request_cancel, runs_to_cancel
from providers.base import Usage
from providers.catalog import Candidate

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
KEPT_RUNS = 1_000
"""Finished logs kept for late followers; at the default limits an answer is about 10 KB, so 10 MB."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Counts are of runs, times in seconds."""

    generation: GenerationLimits
    per_process: int
    per_user: int
    queue: int
    keep: float
    chat_grace: float
    chat_key: float
    lease: float
    shutdown_grace: float
    counted: bool = True


@dataclass(slots=True)
class Job:
    """A run that this process writes, or wrote a moment ago."""

    run: Run
    log: RunLog
    keep: float
    stop: Transition | None = None
    work: "asyncio.Task[Outcome] | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    alone: asyncio.TimerHandle | None = None

    def halt(self, reason: Transition) -> None:
        """Stop the work at once, also before it began. The first reason stays."""
        if self.stop is None and not self.ended.is_set():
            self.stop = reason
            if self.work is not None:
                self.work.cancel()


@dataclass(slots=True)
class Place:
    """A reserved place: taken before the run is stored, so that what is stored can always be worked on."""

    user_id: str | None
    used: bool = False


class Engine:
    def __init__(self, database: Database, limits: EngineLimits) -> None:
        self.worker = secrets.token_hex(8)
        self.limits = limits
        self._database = database
        self._records = Records(database)
        self._jobs: dict[str, Job] = {}
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._unstored: dict[str, Job] = {}
        """Runs that have ended, which the database would not take: the keeper goes on trying."""
        self._per_user: Counter[str | None] = Counter()
        self._places = asyncio.Semaphore(limits.per_process)
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closing = False

    async def start(self) -> None:
        await self._records.recover(set())
        self._keeper = asyncio.create_task(self._keep_leases(), name="engine.leases")

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
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        with suppress(Unavailable):
            await self._store_late()

    @property
    def active(self) -> int:
        """Runs that this process is working on or has waiting."""
        return len(self._tasks)

    @contextmanager
    def place(self, user_id: str | None) -> Iterator[Place]:
        """Reserve a place for one run; given back if the block leaves without `launch`.

        Raises:
            RateLimited: the user has too many runs under way.
            Unavailable: the queue is full, or the server is stopping.
        """
        if self._closing:
            raise Unavailable("The server is stopping; try again", retry_after=2)
        limits = self.limits
        if limits.counted and self._per_user.total() >= limits.per_process + limits.queue:
            raise Unavailable("Too many answers are waiting; try again", retry_after=5)
        if limits.counted and user_id is not None and self._per_user[user_id] >= limits.per_user:
            raise RateLimited(f"At most {limits.per_user} answers at a time", retry_after=2)
        place = Place(user_id)
        self._per_user[user_id] += 1
        try:
            yield place
        finally:
            if not place.used:
                self._leave(user_id)

    def _leave(self, user_id: str | None) -> None:
        self._per_user[user_id] -= 1
        if not self._per_user[user_id]:
            del self._per_user[user_id]

    def claim(self, run: Run) -> Run:
        """Mark a row that is about to be stored as this worker's."""
        run.worker = self.worker
        run.lease_until = lease_from_now(self.limits.lease)["lease_until"]
        return run

    def launch(self, place: Place, run: Run, prompt: Prompt, candidates: Sequence[Candidate]) -> RunLog:
        """Begin to work on a stored run. Returns its log at once."""
        place.used = True
        job = Job(run, RunLog(run.id), self._keep_seconds(run))
        self._jobs[run.id] = job
        if run.conversation_id is None:
            job.log.on_left = lambda: self._left(job)
        generation = Generation(run, prompt, candidates, job.log, self.limits.generation)
        task = asyncio.create_task(self._drive(job, generation), name=f"run {run.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job.log

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
            job.alone = asyncio.get_running_loop().call_later(grace, self._halt_if_alone, job)
        else:
            job.halt(Transition.CANCEL)

    @staticmethod
    def _halt_if_alone(job: Job) -> None:
        if job.log.followers == 0:
            job.halt(Transition.CANCEL)

    async def _drive(self, job: Job, generation: Generation) -> None:
        try:
            outcome = await self._outcome(job, generation)
            await self._end(job, generation, outcome)
        finally:
            self._leave(job.run.user_id)
            job.ended.set()
            self._forget_later(job)

    async def _outcome(self, job: Job, generation: Generation) -> Outcome:
        if job.stop is not None:
            return Outcome(job.stop)
        # A task of its own: a cancel that comes before its first step, or during the end's writes, loses nothing.
        job.work = asyncio.create_task(self._work(job, generation))
        await asyncio.wait([job.work])
        if job.work.cancelled():
            return Outcome(job.stop or Transition.INTERRUPT)
        try:
            return job.work.result()
        except Exception:
            return internal_failure(job.run.id)

    async def _work(self, job: Job, generation: Generation) -> Outcome:
        if self._places.locked():
            job.log.append(RunQueued(job.run.id, job.log.next_seq, self._waiting))
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            job.run.status = transition(RunStatus(job.run.status), Transition.START)
            job.run.started_at = utc_now()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._records.started(job.run))
                return await generation.write()
        finally:
            self._places.release()

    async def _end(self, job: Job, generation: Generation, outcome: Outcome) -> None:
        run, log = job.run, job.log
        run.status = end_of(run, outcome)
        run.finished_at = utc_now()
        run.finish_reason = outcome.finish_reason
        _set_error(run, outcome.error)
        _set_usage(run, generation.final_usage())
        run.last_seq = log.next_seq
        try:
            await self._store_end(job)
        except Unavailable as error:
            run.status = RunStatus.FAILED
            _set_error(run, RunFailure(error.code, "The answer could not be stored", retryable=True))
            self._unstored[run.id] = job
        except Exception:
            logger.exception("run %s: its end could not be stored; its lease will pass", run.id)
        # Only now: what a follower has seen finished is stored as finished.
        log.append(finished_event(job.run, log.next_seq))
        logger.debug("run %s %s after %d events", run.id, job.run.status, log.next_seq)

    async def _store_end(self, job: Job) -> None:
        """
        Raises:
            Unavailable: not now.
        """
        run = job.run
        try:
            stored = await self._records.finished(run, job.log)
        except Unavailable:
            raise
        except Exception:
            # Something in the figures, then: the text must not go with them.
            run.status = RunStatus.FAILED
            _set_error(run, internal_failure(run.id).error)
            _set_usage(run, None)
            stored = await self._records.finished(run, job.log)
        if not stored:
            job.run = await self._records.reload(run.id) or run

    async def _store_late(self) -> None:
        """
        Raises:
            Unavailable: the database still does not take them.
        """
        for run_id, job in list(self._unstored.items()):
            await self._records.finished_now(job.run, job.log)
            self._unstored.pop(run_id, None)

    def _forget_later(self, job: Job) -> None:
        run_id = job.run.id
        if job.keep == 0:
            self._jobs.pop(run_id, None)
            return
        self._kept[run_id] = None
        if len(self._kept) > KEPT_RUNS:
            self._forget(next(iter(self._kept)))
        asyncio.get_running_loop().call_later(job.keep, self._forget, run_id)

    def _forget(self, run_id: str) -> None:
        self._kept.pop(run_id, None)
        self._jobs.pop(run_id, None)

    def live(self, run: Run) -> Run:
        """The run as it is at this moment, where this process knows better than the row."""
        job = self._jobs.get(run.id)
        return run if job is None else job.run

    def log_of(self, run_id: str) -> RunLog | None:
        job = self._jobs.get(run_id)
        return None if job is None else job.log

    async def follow(self, run: Run, after: int | None) -> AsyncGenerator[RunEvent, None]:
        """The run's events behind `after`; ends behind RunFinished. The caller has checked whose run it is.

        Raises:
            BadUserInput: `after` is out of range.
        """
        log = self.log_of(run.id)
        if log is not None:
            async for event in log.follow(after):
                yield event
            return
        latest = await self._ended(run)
        message = None if latest.message_id is None else await self._records.message(latest.message_id)
        text, reasoning = (None, None) if message is None else (message.content, message.reasoning)
        for event in ended_events(finished_event(latest, latest.last_seq), after, text, reasoning):
            yield event

    async def _ended(self, run: Run) -> Run:
        """Wait for a run that another process writes."""
        while run.active:
            await asyncio.sleep(POLL_SECONDS)
            run = await self._records.reload(run.id) or run
        return run

    async def cancel(self, run: Run) -> Run:
        """Stop a run, whoever writes it, and return it as it ended. An ended run is returned as it is.

        Raises:
            Unavailable: its end cannot be stored.
        """
        job = self._jobs.get(run.id)
        if job is not None:
            job.halt(Transition.CANCEL)
            await job.ended.wait()
            if run.id in self._unstored:
                await self._store_late()
            return job.run
        if run.active:
            async with self._database.write() as session:
                await request_cancel(session, run.id)
            run = await self._ended(run)
        return run

    async def _keep_leases(self) -> None:
        """Renew the leases of this process's runs, stop those that another process asked to stop, end the abandoned."""
        while True:
            await asyncio.sleep(self.limits.lease / 4)
            try:
                await self._keep_once()
            except Unavailable:
                logger.warning("leases could not be renewed: the database is not available")
            except Exception:
                logger.exception("leases could not be renewed")

    async def _keep_once(self) -> None:
        mine = [run_id for run_id, job in self._jobs.items() if not job.ended.is_set()] + list(self._unstored)
        if mine:
            async with self._database.write() as session:
                await renew_leases(session, mine, lease_from_now(self.limits.lease)["lease_until"])
                wanted = await runs_to_cancel(session, self.worker)
            for run_id in wanted:
                if (job := self._jobs.get(run_id)) is not None:
                    job.halt(Transition.CANCEL)
        await self._store_late()
        await self._records.recover(set(mine))


def _set_usage(run: Run, usage: Usage | None) -> None:
    run.prompt_tokens = None if usage is None else usage.prompt_tokens
    run.completion_tokens = None if usage is None else usage.completion_tokens
    run.cached_tokens = None if usage is None else usage.cached_tokens
    run.reasoning_tokens = None if usage is None else usage.reasoning_tokens
    run.usage_estimated = usage is not None and usage.estimated


def _set_error(run: Run, error: RunFailure | None) -> None:
    run.error_code = None if error is None else ErrorCode(error.code)
    run.error_message = None if error is None else error.message
    run.error_retryable = None if error is None else error.retryable
