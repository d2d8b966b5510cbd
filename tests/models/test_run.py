from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func
from sqlmodel import select

from models.columns import utc_now
from models.database import Database
from models.run import (
    Run,
    RunStatus,
    active_run,
    active_runs,
    detach_runs,
    finish_run,
    prune_stateless,
    release_key,
    run_by_key,
    runs_of,
)
from tests.conftest import add_user

pytestmark = pytest.mark.on_both


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
        assert await finish_run(session, row, {"status": RunStatus.COMPLETED})
        assert not await finish_run(session, row, {"status": RunStatus.FAILED})
    assert (await reloaded(database, row)).status == RunStatus.COMPLETED


async def test_the_newest_runs_leave_their_conversation_first(database: Database, user: str) -> None:
    rows = [await add(database, user, conversation_id="conv_1") for _ in range(3)]
    async with database.write() as session:
        await detach_runs(session, "conv_1", 2)
    assert [(await reloaded(database, row)).conversation_id for row in rows] == ["conv_1", None, None]


async def test_old_stateless_runs_are_forgotten_some_at_a_time(database: Database, user: str) -> None:
    old = utc_now() - timedelta(days=2)
    done = {"status": RunStatus.COMPLETED, "created_at": old}
    for values in (done, done, done, done | {"created_at": utc_now()}, done | {"conversation_id": "conv_1"}):
        await add(database, user, **values)
    await add(database, user, created_at=old)
    found = []
    for _ in range(3):
        async with database.write() as session:
            found.append(await prune_stateless(session, utc_now() - timedelta(days=1), 2))
    async with database.read() as session:
        left = (await session.exec(select(func.count()).select_from(Run))).one()
    assert (found, left) == ([2, 1, 0], 3)


async def test_runs_outlive_their_conversation_and_keys_can_be_let_go(database: Database, user: str) -> None:
    row = await add(database, user, conversation_id="conv_1", message_id="msg_1", idempotency_key="k")
    async with database.write() as session:
        await detach_runs(session, "conv_1", 10)
        await release_key(session, row.id)
    found = await reloaded(database, row)
    assert (found.conversation_id, found.message_id, found.idempotency_key) == (None, None, None)
    await add(database, user, idempotency_key="k")
