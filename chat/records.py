"""What a run leaves in the database: its start, its end, and the runs of workers that died."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

from chat.events import RunFailure, RunFinished
from chat.log import RunLog
from errors import ErrorCode, Unavailable
from models.columns import utc_now
from models.conversation import touch_conversation
from models.database import Database
from models.message import Message, MessageStatus, finish_message, interrupt_message
from models.run import Run, RunStatus, abandoned_runs, finish_run, start_run
from models.user import add_to_counters
from providers.base import FinishReason, Usage

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.2, 1.0, 3.0)
"""A full disk or a locked file often passes; after 4 s the answer is given up, and its follower told so."""

MESSAGE_STATUS = {
    RunStatus.COMPLETED: MessageStatus.COMPLETE,
    RunStatus.CANCELLED: MessageStatus.CANCELLED,
    RunStatus.FAILED: MessageStatus.FAILED,
    RunStatus.INTERRUPTED: MessageStatus.INTERRUPTED,
}


class Records:
    """Writes on behalf of the engine, which is the only one to call it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def started(self, run: Run) -> None:
        """A run left the queue. Only for those who look: losing this write loses nothing."""
        try:
            async with self._database.write() as session:
                await start_run(session, run.id, {"status": RunStatus.RUNNING, "started_at": run.started_at})
        except Unavailable:
            logger.warning("run %s: its start could not be stored", run.id)

    async def finished(self, run: Run, log: RunLog) -> bool:
        """Store the end of a run and its text; False when another worker had ended it.

        Raises:
            Unavailable: the database would not take it, several times.
        """
        for pause in (*RETRY_SECONDS, None):
            try:
                return await self.finished_now(run, log)
            except Unavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def finished_now(self, run: Run, log: RunLog) -> bool:
        """`finished`, tried once."""
        async with self._database.write() as session:
            ended = await finish_run(session, run.id, end_values(run))
            if run.message_id is not None:
                # Also when another worker took this one for dead: the end is then the other's, the text is ours.
                await finish_message(
                    session,
                    run.message_id,
                    status=MESSAGE_STATUS[RunStatus(run.status) if ended else RunStatus.INTERRUPTED],
                    content=log.text,
                    reasoning=log.reasoning,
                    model=run.model,
                )
            if not ended:
                return False
            if run.conversation_id is not None:
                await touch_conversation(session, run.conversation_id)
            if run.user_id is not None:
                await add_to_counters(session, run.user_id, tokens=total_tokens(run))
        return True

    async def recover(self, mine: set[str]) -> None:
        """End the runs of workers that let their lease pass, this process's own apart."""
        async with self._database.read() as session:
            if all(run.id in mine for run in await abandoned_runs(session, utc_now())):
                return
        async with self._database.write() as session:
            # Looked for again: a worker that was only slow may have renewed its leases between the two.
            lost = [run for run in await abandoned_runs(session, utc_now()) if run.id not in mine]
            for run in lost:
                ended = await finish_run(
                    session,
                    run.id,
                    {
                        "status": RunStatus.INTERRUPTED,
                        "finished_at": utc_now(),
                        "error_code": ErrorCode.UNAVAILABLE,
                        "error_message": "The server that wrote this answer stopped",
                        "error_retryable": True,
                        "last_seq": run.last_seq + 1,
                    },
                )
                if ended and run.message_id is not None:
                    await interrupt_message(session, run.message_id)
        if lost:
            logger.warning("%d runs of a worker that stopped were ended as INTERRUPTED", len(lost))

    async def reload(self, run_id: str) -> Run | None:
        async with self._database.read() as session:
            return await session.get(Run, run_id)

    async def message(self, message_id: str) -> Message | None:
        async with self._database.read() as session:
            return await session.get(Message, message_id)


def end_values(run: Run) -> dict[str, Any]:
    columns = (
        "status model provider started_at finished_at time_to_first_token_ms finish_reason error_code "
        "error_message error_retryable prompt_tokens completion_tokens cached_tokens reasoning_tokens "
        "usage_estimated attempts last_seq"
    )
    return {column: getattr(run, column) for column in columns.split()}


def total_tokens(run: Run) -> int:
    return (run.prompt_tokens or 0) + (run.completion_tokens or 0)


def usage_of(run: Run) -> Usage | None:
    if run.prompt_tokens is None or run.completion_tokens is None:
        return None
    return Usage(run.prompt_tokens, run.completion_tokens, run.cached_tokens, run.reasoning_tokens, run.usage_estimated)


def failure_of_run(run: Run) -> RunFailure | None:
    if run.error_code is None:
        return None
    return RunFailure(ErrorCode(run.error_code), run.error_message or "", bool(run.error_retryable))


def finished_event(run: Run, seq: int) -> RunFinished:
    """RunFinished as the stored row tells it."""
    return RunFinished(
        run.id,
        seq,
        RunStatus(run.status),
        None if run.finish_reason is None else FinishReason(run.finish_reason),
        usage_of(run),
        failure_of_run(run),
        run.model,
        run.message_id,
    )


def lease_from_now(seconds: float) -> dict[str, Any]:
    return {"lease_until": utc_now() + timedelta(seconds=seconds)}
