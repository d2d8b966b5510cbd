from datetime import timedelta
from typing import Any

import pytest

from models.columns import utc_now
from models.database import Database
from models.run import (
    Run,
    RunStatus,
    abandoned_runs,
    active_run,
    active_runs,
    detach_runs,
    finish_run,
    release_key,
    renew_leases,
    request_cancel,
    run_by_key,
    runs_of,
    runs_to_cancel,
)
from tests.models.conftest import add_user


async def add(database: Database, user: str | None, **values: Any) -> Run:
    row = Run(**{"user_id": user, "requested_model": "m", "model": "m", "provider": "p", **values})
    async with database.write() as session:
        session.add(row)
    return row


async def reloaded(database: Database, row: Run) -> Run:
    async with database.read() as session:
        found = await session.get(Run, row.id)
    assert found is not None
    return found


@pytest.fixture
async def user(database: Database) -> str:
    return await add_user(database)


async def test_runs_are_the_user_s_who_caused_them(database: Database, user: str) -> None:
    row = await add(database, user, idempotency_key="k")
    stranger = await add_user(database)
    async with database.read() as session:
        assert await runs_of(session, user, [row.id, "none"]) == {row.id: row}
        assert await runs_of(session, stranger, [row.id]) == {}
        assert await run_by_key(session, user, "k") == row
        assert await run_by_key(session, stranger, "k") is None


async def test_only_queued_and_running_ones_are_active(database: Database, user: str) -> None:
    for status in RunStatus:
        await add(database, user, conversation_id=f"conv_{status}", status=status)
    async with database.read() as session:
        found = {status for status in RunStatus if (await active_run(session, f"conv_{status}")) is not None}
        several = await active_runs(session, [f"conv_{status}" for status in RunStatus])
    assert found == {RunStatus.QUEUED, RunStatus.RUNNING}
    assert set(several) == {"conv_QUEUED", "conv_RUNNING"}


async def test_an_end_is_written_once(database: Database, user: str) -> None:
    row = await add(database, user, status=RunStatus.RUNNING)
    async with database.write() as session:
        assert await finish_run(session, row.id, {"status": RunStatus.COMPLETED})
        assert not await finish_run(session, row.id, {"status": RunStatus.FAILED})
    assert (await reloaded(database, row)).status == RunStatus.COMPLETED


async def test_leases_are_renewed_for_those_named_and_still_active(database: Database, user: str) -> None:
    past, future = utc_now() - timedelta(seconds=1), utc_now() + timedelta(hours=1)
    mine, others, ended = [
        await add(database, user, worker="w", lease_until=past, status=status)
        for status in (RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.FAILED)
    ]
    async with database.write() as session:
        await renew_leases(session, [mine.id, ended.id, *(f"run_{number}" for number in range(1_200))], future)
    async with database.read() as session:
        assert [run.id for run in await abandoned_runs(session, utc_now())] == [others.id]
    assert (await reloaded(database, mine)).lease_until == future
    assert (await reloaded(database, ended)).lease_until == past


async def test_a_cancel_is_asked_of_the_worker_that_writes(database: Database, user: str) -> None:
    running = await add(database, user, worker="w", status=RunStatus.RUNNING)
    ended = await add(database, user, worker="w", status=RunStatus.COMPLETED)
    async with database.write() as session:
        for row in (running, ended):
            await request_cancel(session, row.id)
        assert await runs_to_cancel(session, "w") == [running.id]
        assert await runs_to_cancel(session, "other") == []
    assert not (await reloaded(database, ended)).cancel_requested


async def test_runs_outlive_their_conversation_and_keys_can_be_let_go(database: Database, user: str) -> None:
    row = await add(database, user, conversation_id="conv_1", message_id="msg_1", idempotency_key="k")
    async with database.write() as session:
        await detach_runs(session, "conv_1")
        await release_key(session, row.id)
    found = await reloaded(database, row)
    assert (found.conversation_id, found.message_id, found.idempotency_key) == (None, None, None)
    await add(database, user, idempotency_key="k")
