"""Runs: one generation each. Every query takes the user who caused it, but for the worker's own."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, Index, UniqueConstraint, update
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.columns import Millis, utc_now
from models.ids import new_id


class RunStatus(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


ACTIVE = (RunStatus.QUEUED, RunStatus.RUNNING)


class Run(SQLModel, table=True):
    """`user_id` is None for a guest of the legacy socket; `conversation_id` is None for a stateless run.
    `lease_until` is renewed by the `worker` that writes the run; past it the run counts as abandoned."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("user_id", "idempotency_key"),
        Index("ix_run_conversation", "conversation_id", "status"),
        Index("ix_run_user_status", "user_id", "status"),
        Index("ix_run_lease", "status", "lease_until"),
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
    attempts: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    last_seq: int = -1
    worker: str | None = None
    lease_until: datetime | None = Field(default=None, sa_column=Column(Millis))
    cancel_requested: bool = False

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


async def run_by_key(session: AsyncSession, user_id: str, idempotency_key: str) -> Run | None:
    query = select(Run).where(Run.user_id == user_id, Run.idempotency_key == idempotency_key)
    return (await session.exec(query)).first()


async def runs_of(session: AsyncSession, user_id: str, ids: Iterable[str]) -> dict[str, Run]:
    """Those of `ids` that the user caused."""
    query = select(Run).where(Run.user_id == user_id, col(Run.id).in_(list(ids)))
    return {run.id: run for run in await session.exec(query)}


async def active_run(session: AsyncSession, conversation_id: str) -> Run | None:
    query = select(Run).where(Run.conversation_id == conversation_id, col(Run.status).in_(ACTIVE))
    return (await session.exec(query.order_by(col(Run.id).desc()))).first()


async def active_runs(session: AsyncSession, conversation_ids: Sequence[str]) -> dict[str, Run]:
    """The newest active run of each of these conversations."""
    query = select(Run).where(col(Run.conversation_id).in_(conversation_ids), col(Run.status).in_(ACTIVE))
    return {run.conversation_id or "": run for run in await session.exec(query.order_by(col(Run.id)))}


async def renew_leases(session: AsyncSession, ids: Sequence[str], until: datetime) -> None:
    """Of the runs that are really worked on: one that was stored but never launched has to be found abandoned."""
    for start in range(0, len(ids), 500):
        chunk = ids[start : start + 500]
        await session.exec(
            update(Run).where(col(Run.id).in_(chunk), col(Run.status).in_(ACTIVE)).values(lease_until=until)
        )


async def request_cancel(session: AsyncSession, run_id: str) -> None:
    """Ask the run's worker, whichever it is, to stop."""
    await session.exec(
        update(Run).where(col(Run.id) == run_id, col(Run.status).in_(ACTIVE)).values(cancel_requested=True)
    )


async def runs_to_cancel(session: AsyncSession, worker: str) -> Sequence[str]:
    query = select(Run.id).where(Run.worker == worker, col(Run.cancel_requested), col(Run.status).in_(ACTIVE))
    return (await session.exec(query)).all()


async def abandoned_runs(session: AsyncSession, now: datetime) -> Sequence[Run]:
    """Active runs whose worker has let the lease pass."""
    query = select(Run).where(col(Run.status).in_(ACTIVE), col(Run.lease_until) < now)
    return (await session.exec(query)).all()


async def finish_run(session: AsyncSession, run_id: str, values: dict[str, Any]) -> bool:
    """Write a run's end, once: False when it had ended already."""
    result = await session.exec(update(Run).where(col(Run.id) == run_id, col(Run.status).in_(ACTIVE)).values(**values))
    return bool(result.rowcount)


async def start_run(session: AsyncSession, run_id: str, values: dict[str, Any]) -> None:
    await session.exec(update(Run).where(col(Run.id) == run_id, col(Run.status).in_(ACTIVE)).values(**values))


async def detach_runs(session: AsyncSession, conversation_id: str) -> None:
    """Let runs outlive their conversation: their usage counts for ever."""
    await session.exec(
        update(Run).where(col(Run.conversation_id) == conversation_id).values(conversation_id=None, message_id=None)
    )


async def release_key(session: AsyncSession, run_id: str) -> None:
    """Let the run's idempotency key be used again."""
    await session.exec(update(Run).where(col(Run.id) == run_id).values(idempotency_key=None))
