"""What a run leaves in the database: its start, its end, and the runs of workers that died."""

import asyncio
import logging
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.changes import tell_run
from chat.codec import encode_event
from chat.events import RunFailure, RunFinished
from chat.log import RunLog
from chat.stats import count_run
from chat.usage import usage_of
from errors import ErrorCode, Unavailable
from models.conversation import take_conversations, touch_conversation
from models.database import Database
from models.journal import Piece, add_journal, add_segment, delete_segments
from models.message import Message, MessageStatus, finish_message
from models.run import Run, RunStatus, finish_run, start_run
from providers.base import FinishReason

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.2, 1.0, 3.0)
"""A full disk or a locked file often passes; after 4 s the answer is given up, and its follower told so."""

STARTS_AT_ONCE = 20
"""In one transaction, behind which the log's window may have to wait."""

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
        self._starting: dict[str, dict[str, Any]] = {}
        self._starter: asyncio.Task[None] | None = None

    def started(self, run: Run) -> None:
        """A run left the queue. Only for those who look: losing this write loses nothing, and those that begin while
        one is on its way go together with the next."""
        self._starting[run.id] = {
            "status": RunStatus.RUNNING,
            "started_at": run.started_at,
            "prompt_estimate": run.prompt_estimate,
        }
        if self._starter is None or self._starter.done():
            self._starter = asyncio.create_task(self._store_starts(), name="records.starts")

    async def _store_starts(self) -> None:
        while self._starting:
            starts = dict(islice(self._starting.items(), STARTS_AT_ONCE))
            self._starting = {run_id: values for run_id, values in self._starting.items() if run_id not in starts}
            try:
                async with self._database.write() as session:
                    for run_id, values in sorted(starts.items()):
                        await start_run(session, run_id, values)
            except Unavailable:
                logger.warning("the start of %d runs could not be stored", len(starts))

    async def aclose(self) -> None:
        if self._starter is not None:
            await asyncio.wait({self._starter})

    async def finished(self, run: Run, log: RunLog, rest: Piece | None, *, keep: bool) -> RunFinished | None:
        """Store the end of a run, its text and its last event, all in one; None when another worker had ended it.
        `rest`: what of the log has no segment yet; not `keep`: the log goes with the run.

        Raises:
            Unavailable: the database would not take it, several times.
        """
        for pause in (*RETRY_SECONDS, None):
            try:
                return await self.finished_now(run, log, rest, keep=keep)
            except Unavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def finished_now(self, run: Run, log: RunLog, rest: Piece | None, *, keep: bool) -> RunFinished | None:
        """`finished`, tried once."""
        async with self._database.write() as session:
            event = await end_run(session, run, Text(log.text, log.reasoning))
            if event is not None and not keep:
                await delete_segments(session, [run.id])
            elif event is not None and rest is not None:
                await add_segment(session, rest)
        return event

    async def reload(self, run_id: str) -> Run | None:
        async with self._database.read() as session:
            return await session.get(Run, run_id)

    async def message(self, message_id: str) -> Message | None:
        async with self._database.read() as session:
            return await session.get(Message, message_id)


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    reasoning: str | None


async def end_run(session: AsyncSession, run: Run, text: Text) -> RunFinished | None:
    """Write the end that `run` says, once: the row, the message, the counters, and RunFinished into the log.
    None when it had ended already."""
    if run.conversation_id is not None:
        # Before the run: who changes the conversation takes them in this order.
        await take_conversations(session, [run.conversation_id])
    if not await finish_run(session, run, end_values(run)):
        return None
    if run.message_id is not None:
        await finish_message(
            session,
            run.message_id,
            status=MESSAGE_STATUS[RunStatus(run.status)],
            content=text.text,
            reasoning=text.reasoning,
            model=run.model,
        )
    if run.conversation_id is not None:
        await touch_conversation(session, run.conversation_id)
    await count_run(session, run)
    await tell_run(session, run)
    event = finished_event(run, run.last_seq)
    await add_journal(session, (run.id, event.seq, [encode_event(event)]))
    return event


def end_values(run: Run) -> dict[str, Any]:
    columns = (
        "status model provider started_at finished_at time_to_first_token_ms finish_reason error_code "
        "error_message error_retryable prompt_tokens completion_tokens cached_tokens reasoning_tokens "
        "usage_estimated cost_nanos attempts last_seq"
    )
    return {column: getattr(run, column) for column in columns.split()}


def failure_of_run(run: Run) -> RunFailure | None:
    if run.error_code is None:
        return None
    last = run.attempts[-1].get("error") if run.attempts else None
    after = last.get("retry_after") if last is not None and last["code"] == run.error_code else None
    return RunFailure(ErrorCode(run.error_code), run.error_message or "", bool(run.error_retryable), after)


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
