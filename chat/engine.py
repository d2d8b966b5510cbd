"""The engine owns every generation of this process: admission, the work, its end, and who may follow it."""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

from chat.admission import FairGate
from chat.events import RunEvent, RunFailure, RunQueued
from chat.generation import Generation, Outcome, end_of, internal_failure
from chat.jobs import EngineLimits, Job, Place, Work
from chat.keeper import Keeper
from chat.log import RunLog, ended_events
from chat.mirror import Mirror
from chat.records import Records, finished_event
from chat.run import Transition, transition
from chat.writer import LogWriter, MovedElsewhere
from errors import ChatError, ErrorCode, RateLimited, Unavailable
from models.columns import utc_now
from models.database import Database
from models.run import Run, RunStatus, request_cancel

logger = logging.getLogger(__name__)

ENDED_POLL_SECONDS = 0.25
KEPT_RUNS = 1_000
"""Finished logs kept for late followers; at the default limits an answer is about 10 KB, so 10 MB."""


class Engine:
    """`limits` bound it; `database` holds its log; nothing else is needed. `restart` may be set to take over runs of a
    dead process that had not come to a word."""

    def __init__(self, database: Database, limits: EngineLimits) -> None:
        self.limits = limits
        self.keeper = Keeper(database, limits.lease, max(limits.keep, limits.chat_key))
        self.writer = LogWriter(database.journal_writer(), limits.generation.coalesce)
        self._database = database
        self._records = Records(database)
        self._mirror = Mirror(database)
        self._jobs: dict[str, Job] = {}
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._unstored: dict[str, Job] = {}
        """Runs that have ended, which the database would not take: the keeper goes on trying."""
        self._per_user: Counter[str | None] = Counter()
        self._gate = FairGate(limits.per_process)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def start(self) -> None:
        self.keeper.cancel = self._cancel_here
        self.keeper.reborn = self._reborn
        self.writer.on_fenced = self._fenced
        self.writer.start(self.keeper.worker)
        await self.keeper.start()

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
        await self._mirror.aclose()
        await self.keeper.aclose()
        await self.writer.aclose()

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
        run.worker = self.keeper.worker
        return run

    def launch(self, place: Place, run: Run, work: Work, before: list[RunEvent] | None = None) -> RunLog:
        """Begin to work on a stored run. Returns its log at once. `before`: what an earlier worker logged of it."""
        place.used = True
        log = RunLog(run.id)
        log.extend(before or [])
        job = Job(run, log, self.writer.open(log), self._keep_seconds(run))
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
            job.alone = asyncio.get_running_loop().call_later(grace, self._halt_if_alone, job)
        else:
            job.halt(Transition.CANCEL)

    @staticmethod
    def _halt_if_alone(job: Job) -> None:
        if job.log.followers == 0:
            job.halt(Transition.CANCEL)

    async def _drive(self, job: Job, work: Work) -> None:
        generation = Generation(job.run, work.candidates, job.tail, self.limits.generation)
        try:
            outcome = await self._outcome(job, work, generation)
            await self._end(job, generation, outcome)
        finally:
            self._leave(job.run.user_id)
            self.writer.close(job.tail)
            job.ended.set()
            self._forget_later(job)

    async def _outcome(self, job: Job, work: Work, generation: Generation) -> Outcome:
        if job.stop is not None:
            return Outcome(job.stop)
        # A task of its own: a cancel that comes before its first step, or during the end's writes, loses nothing.
        job.task = asyncio.create_task(self._work(job, work, generation))
        await asyncio.wait([job.task])
        if job.task.cancelled():
            return Outcome(job.stop or Transition.INTERRUPT)
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
            job.run.status = transition(RunStatus(job.run.status), Transition.START)
            job.run.started_at = utc_now()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._records.started(job.run))
                return await generation.write(prompt)
        finally:
            self._gate.release()

    async def _end(self, job: Job, generation: Generation, outcome: Outcome) -> None:
        run, log = job.run, job.log
        try:
            await job.tail.settled()
            _set_end(run, generation, outcome)
            run.last_seq = log.next_seq
            event = await self._records.finished(run, log, job.tail.take_segment(), keep=job.keep > 0)
        except ChatError as error:
            # The database will not have it: followers are told, and whoever can reach it again writes the end.
            log.lose(error)
            self.keeper.release(run.id)
        except Exception:
            log.lose(Unavailable("The answer could not be stored", retry_after=1))
            self.keeper.release(run.id)
            internal_failure(run.id)
        else:
            # Only now: what a follower has seen finished is stored as finished.
            if event is None:
                log.lose(MovedElsewhere())
            else:
                log.append(event)
        logger.debug("run %s %s after %d events", run.id, run.status, log.next_seq)

    def _forget_later(self, job: Job) -> None:
        run_id = job.run.id
        if job.keep == 0 or job.log.lost is not None:
            self._jobs.pop(run_id, None)
            return
        self._kept[run_id] = None
        if len(self._kept) > KEPT_RUNS:
            self._forget(next(iter(self._kept)))
        asyncio.get_running_loop().call_later(job.keep, self._forget, run_id)

    def _forget(self, run_id: str) -> None:
        if self._jobs.pop(run_id, None) is not None:
            self._kept.pop(run_id, None)
            self.keeper.expire(run_id)

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
            Unavailable: the log cannot be written or read now.
        """
        job = self._jobs.get(run.id)
        if job is not None:
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
        async with self._mirror.open(run) as log:
            if log.next_seq or run.active:
                async with aclosing(log.follow(after)) as events:
                    async for event in events:
                        yield event
                return
        message = None if run.message_id is None else await self._records.message(run.message_id)
        text, reasoning = (None, None) if message is None else (message.content, message.reasoning)
        for event in ended_events(finished_event(run, run.last_seq), after, text, reasoning):
            yield event

    async def wait_for_end(self, run: Run) -> Run:
        """The run as it ended, whoever writes it."""
        job = self._jobs.get(run.id)
        if job is not None:
            await job.ended.wait()
            if job.log.lost is None:
                return job.run
        while run.active:
            await asyncio.sleep(ENDED_POLL_SECONDS)
            run = await self._records.reload(run.id) or run
        return run

    async def cancel(self, run: Run) -> Run:
        """Stop a run, whoever writes it, and return it as it ended. An ended run is returned as it is."""
        if run.id in self._jobs:
            self._cancel_here(run.id)
        elif run.active:
            async with self._database.write() as session:
                await request_cancel(session, run.id)
        return await self.wait_for_end(run)

    def _cancel_here(self, run_id: str) -> None:
        if (job := self._jobs.get(run_id)) is not None:
            job.halt(Transition.CANCEL)

    def _fenced(self) -> None:
        """The writer has found out first; the keeper takes a new name at its next turn."""
        for job in list(self._jobs.values()):
            if not job.ended.is_set():
                job.log.lose(MovedElsewhere())

    def _reborn(self, worker: str) -> None:
        self._fenced()
        self.writer.worker = worker


def _set_end(run: Run, generation: Generation, outcome: Outcome) -> None:
    run.status = end_of(run, outcome)
    run.finished_at = utc_now()
    run.finish_reason = outcome.finish_reason
    _set_error(run, outcome.error)
    usage = generation.final_usage()
    if usage is not None:
        run.prompt_tokens, run.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        run.cached_tokens, run.reasoning_tokens = usage.cached_tokens, usage.reasoning_tokens
        run.usage_estimated = usage.estimated


def _set_error(run: Run, error: RunFailure | None) -> None:
    run.error_code = None if error is None else ErrorCode(error.code)
    run.error_message = None if error is None else error.message
    run.error_retryable = None if error is None else error.retryable
