"""Runs: one generation each. Every query takes the user who caused it, but for the worker's own."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, UniqueConstraint, and_, delete, exists, func, or_, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

from models.columns import Millis, utc_now
from models.conversation import Conversation, erased
from models.ids import new_id
from models.member import readable_by


class RunStatus(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


class RunPurpose(StrEnum):
    """What a run is for that is no answer to anybody: it costs its user, and is neither counted nor told as one."""

    TITLE = "TITLE"


ACTIVE = (RunStatus.QUEUED, RunStatus.RUNNING)


class Run(SQLModel, table=True):
    """`user_id` is None for a guest of the legacy socket; `conversation_id` is None for a stateless run.
    `worker` writes the run; an active run whose worker has no lease any more is nobody's. `prompt_estimate`: tokens of
    what was sent. `cost_nanos`: billionths of a US dollar, None when nobody knows the price. `reserved_…`: what is held
    of the user's day until the run has ended. `purpose` None: to answer."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("user_id", "idempotency_key"),
        Index("ix_run_conversation", "conversation_id", "status"),
        Index("ix_run_user_status", "user_id", "status"),
        Index("ix_run_status_worker", "status", "worker"),
    )

    id: str = Field(default_factory=lambda: new_id("run"), primary_key=True)
    user_id: str | None = Field(default=None, foreign_key="user_account.id")
    conversation_id: str | None = None
    message_id: str | None = None
    idempotency_key: str | None = None
    status: str = RunStatus.QUEUED
    requested_model: str
    model: str
    provider: str
    created_at: datetime = Field(default_factory=utc_now, sa_column=Column(Millis, nullable=False))
    started_at: datetime | None = Field(default=None, sa_column=Column(Millis))
    finished_at: datetime | None = Field(default=None, sa_column=Column(Millis))
    time_to_first_token_ms: float | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_retryable: bool | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    usage_estimated: bool = False
    cost_nanos: int | None = Field(default=None, sa_column=Column(BigInteger))
    attempts: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    last_seq: int = -1
    worker: str | None = None
    cancel_requested: bool = False
    prompt_estimate: int | None = None
    reserved_tokens: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    reserved_nanos: int = Field(default=0, sa_column=Column(BigInteger, nullable=False))
    temperature: float | None = None
    max_tokens: int | None = None
    purpose: str | None = None

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


async def run_by_key(session: AsyncSession, user_id: str, idempotency_key: str) -> Run | None:
    """None also for one of a conversation that is being erased: its key is free."""
    run, free = await _keyed(session, user_id, idempotency_key)
    return None if free else run


async def take_key(session: AsyncSession, user_id: str, idempotency_key: str) -> bool:
    """Whether a new run may have this key; if one that is being erased has it, that one loses it."""
    run, free = await _keyed(session, user_id, idempotency_key)
    if run is not None and free:
        await release_key(session, run.id)
    return free


async def _keyed(session: AsyncSession, user_id: str, idempotency_key: str) -> tuple[Run | None, bool]:
    """The run that has the key, and whether it is free all the same."""
    gone = exists().where(col(Conversation.id) == col(Run.conversation_id), erased())
    query = select(Run, gone).where(Run.user_id == user_id, Run.idempotency_key == idempotency_key)
    return (await session.exec(query)).first() or (None, True)


async def runs_of(session: AsyncSession, user_id: str, ids: Iterable[str]) -> dict[str, Run]:
    """Those of `ids` that the user caused, or that write in conversations in which the user has a part."""
    mine = and_(col(Run.conversation_id).is_(None), col(Run.user_id) == user_id)
    query = select(Run).outerjoin(Conversation, col(Conversation.id) == col(Run.conversation_id))
    query = query.where(col(Run.id).in_(list(ids)), or_(mine, readable_by(user_id)))
    return {run.id: run for run in await session.exec(query)}


async def run_by_id(session: AsyncSession, run_id: str) -> Run | None:
    """For the engine alone: not scoped to a user."""
    return await session.get(Run, run_id)


async def runs_writing(session: AsyncSession, conversation_id: str) -> Sequence[Run]:
    """The active runs of a conversation, oldest first."""
    query = select(Run).where(Run.conversation_id == conversation_id, col(Run.status).in_(ACTIVE))
    return (await session.exec(query.order_by(col(Run.id)))).all()


async def count_under_way(session: AsyncSession, user_id: str) -> int:
    """Answers of the user's that run or wait."""
    return (await session.exec(_under_way(user_id))).one()


async def runs_writing_and_under_way(
    session: AsyncSession, conversation_id: str, user_id: str
) -> tuple[Sequence[Run], int]:
    """`runs_writing` and `count_under_way` in one statement."""
    mine = _under_way(user_id).subquery()
    writing = and_(col(Run.conversation_id) == conversation_id, col(Run.status).in_(ACTIVE))
    query: Any = select(mine.c[0], Run).select_from(mine).outerjoin(Run, writing)
    rows = (await session.exec(query.order_by(col(Run.id)))).all()
    return [run for _, run in rows if run is not None], rows[0][0]


def _under_way(user_id: str) -> SelectOfScalar[int]:
    mine = Run.user_id == user_id, col(Run.status).in_(ACTIVE), col(Run.purpose).is_(None)
    return select(func.count()).select_from(Run).where(*mine)


async def runs_by_ids(session: AsyncSession, ids: Sequence[str]) -> dict[str, Run]:
    """For the engine alone: not scoped to a user."""
    query = select(Run).where(col(Run.id).in_(ids))
    return {run.id: run for run in await session.exec(query)}


async def active_run(session: AsyncSession, conversation_id: str) -> Run | None:
    query = select(Run).where(Run.conversation_id == conversation_id, col(Run.status).in_(ACTIVE))
    return (await session.exec(query.order_by(col(Run.id).desc()))).first()


async def active_runs(session: AsyncSession, conversation_ids: Sequence[str]) -> dict[str, Run]:
    """The newest active run of each of these conversations."""
    query = select(Run).where(col(Run.conversation_id).in_(conversation_ids), col(Run.status).in_(ACTIVE))
    return {run.conversation_id or "": run for run in await session.exec(query.order_by(col(Run.id)))}


async def request_cancel(session: AsyncSession, run_id: str) -> None:
    """Ask the run's worker, whichever it is, to stop."""
    await session.exec(
        update(Run).where(col(Run.id) == run_id, col(Run.status).in_(ACTIVE)).values(cancel_requested=True)
    )


async def request_cancels(session: AsyncSession, user_id: str, conversation_id: str | None = None) -> None:
    """Ask the workers of this user's active runs to stop; None: in all conversations and in none."""
    mine = update(Run).where(col(Run.user_id) == user_id, col(Run.status).in_(ACTIVE))
    if conversation_id is not None:
        mine = mine.where(col(Run.conversation_id) == conversation_id)
    await session.exec(mine.values(cancel_requested=True))


async def runs_of_worker(session: AsyncSession, worker: str) -> dict[str, bool]:
    """The active runs that are this worker's, and whether somebody wants each stopped."""
    query = select(Run.id, Run.cancel_requested).where(Run.worker == worker, col(Run.status).in_(ACTIVE))
    return dict((await session.exec(query)).all())


async def claim_run(session: AsyncSession, run_id: str, worker: str) -> None:
    """Make a run this worker's, as if it had never begun."""
    await session.exec(
        update(Run)
        .where(col(Run.id) == run_id, col(Run.status).in_(ACTIVE))
        .values(worker=worker, status=RunStatus.QUEUED, started_at=None)
    )


async def release_runs(session: AsyncSession, worker: str, run_ids: Sequence[str]) -> None:
    """Make runs of this worker nobody's: whoever finds them ends them."""
    mine = col(Run.id).in_(run_ids), col(Run.worker) == worker, col(Run.status).in_(ACTIVE)
    await session.exec(update(Run).where(*mine).values(worker=None))


async def finish_run(session: AsyncSession, run: Run, values: dict[str, Any]) -> bool:
    """Write a run's end, once: False when it had ended already, or is another worker's now."""
    mine = col(Run.worker).is_not_distinct_from(run.worker)
    result = await session.exec(
        update(Run).where(col(Run.id) == run.id, mine, col(Run.status).in_(ACTIVE)).values(**values)
    )
    return bool(result.rowcount)


async def start_run(session: AsyncSession, run_id: str, values: dict[str, Any]) -> None:
    await session.exec(update(Run).where(col(Run.id) == run_id, col(Run.status).in_(ACTIVE)).values(**values))


async def detach_runs(session: AsyncSession, conversation_id: str, limit: int) -> None:
    """Let up to `limit` runs, the newest first, outlive their conversation: their usage counts for ever. Their keys are
    free: a chat without a conversation would be answered by them."""
    gone = dict.fromkeys(("conversation_id", "message_id", "idempotency_key"))
    newest = select(Run.id).where(Run.conversation_id == conversation_id).order_by(col(Run.id).desc()).limit(limit)
    detached = update(Run).where(col(Run.id).in_(newest)).values(**gone)
    await session.exec(detached.execution_options(synchronize_session=False))


async def release_key(session: AsyncSession, run_id: str) -> None:
    """Let the run's idempotency key be used again."""
    await session.exec(update(Run).where(col(Run.id) == run_id).values(idempotency_key=None))


async def prune_stateless(session: AsyncSession, before: datetime, limit: int) -> int:
    """Forget up to `limit` finished stateless runs that are older, and say how many; their tokens are in the users'
    counters."""
    stateless = select(Run.id).where(col(Run.conversation_id).is_(None), col(Run.status).not_in(ACTIVE))
    old = (await session.exec(stateless.where(Run.created_at < before).limit(limit))).all()
    await session.exec(delete(Run).where(col(Run.id).in_(old)))
    return len(old)
