"""Who waits for SQLite's write lock gets it, others or not; who is cancelled leaves nothing open."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path
from threading import Event, Thread
from threading import enumerate as enumerate_threads

import pytest

from models.sqlite import SqliteDatabase
from models.sqlite_driver import Connection, File
from models.user import count_users

BUSY_SECONDS = 5.0
ROUNDS, HELD, FREE = 20, 0.02, 0.005


def hold_nearly_always(path: Path, began: Event, got: Event) -> int:
    """How often somebody else could write before the lock was taken again, and somebody waited for it all the same."""
    with closing(File(path, BUSY_SECONDS)) as file:
        file.begin_to_write()
        began.set()
        # By now SQLite itself would sleep 0.1 s at a time.
        time.sleep(0.37)
        for passed in range(ROUNDS):
            file.execute("COMMIT")
            time.sleep(FREE)
            if got.is_set():
                return passed
            file.begin_to_write()
            time.sleep(HELD)
        file.execute("COMMIT")
    return ROUNDS


async def test_who_waits_is_not_passed_by_who_comes_later(tmp_path: Path) -> None:
    """With the waiting of SQLite's own a process was kept from renewing its lease, and its runs were ended."""
    path = tmp_path / "chat.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode=WAL")
    began, got = Event(), Event()
    holding = asyncio.create_task(asyncio.to_thread(hold_nearly_always, path, began, got))
    await asyncio.to_thread(began.wait)
    connection = await Connection(path, BUSY_SECONDS)
    cursor = await connection.cursor()
    await cursor.execute("BEGIN IMMEDIATE")
    got.set()
    assert connection.in_transaction
    await connection.rollback()
    await connection.close()
    assert await holding <= ROUNDS // 4


def test_a_lock_that_is_never_let_go_is_an_error(tmp_path: Path) -> None:
    with closing(File(tmp_path / "chat.db", 0.05)) as one, closing(File(tmp_path / "chat.db", 0.05)) as two:
        one.begin_to_write()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            two.begin_to_write()
        one.execute("COMMIT")
        two.begin_to_write()
        assert two.execute("PRAGMA busy_timeout").fetchone() == (50,), "for what else may have to wait"


async def test_a_pool_whose_end_is_cancelled_is_closed_all_the_same(path: Path) -> None:
    """The first connection's end was the last: the others were left to be found open some day."""
    others = connections()
    for steps in range(1, 25):
        database = SqliteDatabase(path)
        async with AsyncExitStack() as stack:
            for _ in range(3):
                session = await stack.enter_async_context(database.read())
                await count_users(session)
        mine = connections() - others
        assert len(mine) == 3
        closing = asyncio.create_task(database.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        for thread in mine:
            await asyncio.to_thread(thread.join, 5)
        assert connections() <= others


def connections() -> set[Thread]:
    return {thread for thread in enumerate_threads() if "_connection_worker_thread" in thread.name}
