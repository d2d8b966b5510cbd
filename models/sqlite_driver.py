"""SQLite connections that wait for their turn to write fairly, and that a cancelled task does not leave half-way."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

T = TypeVar("T")

FETCHED_AT_ONCE = 64
BEGIN_TO_WRITE = "BEGIN IMMEDIATE"
"""A transaction that reads first and writes later would fail with "database is locked", unretried."""
TURN_SECONDS = 0.001
"""Between two tries for the write lock. SQLite's own waiting sleeps ever longer, up to 0.1 s, and whoever came later
passes: with four processes that write all the time, 3 ms each, one of them waited up to 1.2 s (p99 430 ms), this way
58 ms (p99 23), and a quarter more was written. A lease of 2 s is renewed through this lock."""
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON")
"""Of every connection that writes. What is deleted (stateless chats, rows of the journal) is overwritten: 90 µs for a
window of 12 KB, 0.3 µs a token at full load. FAST is free and leaves whole pages, of which the journal is made."""


class File(sqlite3.Connection):
    """`busy_seconds`: how long a statement waits for another process, and a transaction for its turn to write."""

    def __init__(self, path: Path, busy_seconds: float) -> None:
        super().__init__(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        self._busy_seconds = busy_seconds

    def begin_to_write(self) -> None:
        """OperationalError: another process kept the lock for all of `busy_seconds`."""
        give_up = time.monotonic() + self._busy_seconds
        self.execute("PRAGMA busy_timeout = 0")
        try:
            while not self._has_begun(time.monotonic() >= give_up):
                time.sleep(TURN_SECONDS)
        finally:
            self.execute(f"PRAGMA busy_timeout = {round(self._busy_seconds * 1000)}")

    def _has_begun(self, last: bool) -> bool:
        try:
            self.execute(BEGIN_TO_WRITE)
        except sqlite3.OperationalError as error:
            if last or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def cursor(self, *_: Any) -> sqlite3.Cursor:  # type: ignore[override]
        return super().cursor(Cursor)


class Cursor(sqlite3.Cursor):
    """What SQLAlchemy executes: its event for the beginning of a transaction knows no other way to the connection."""

    connection: File

    def execute(self, sql: str, parameters: Any = (), /) -> "Cursor":
        if sql == BEGIN_TO_WRITE:
            self.connection.begin_to_write()
            return self
        return super().execute(sql, parameters)


class Connection(aiosqlite.Connection):
    """Finishes every statement that it has begun, and its end. A task that is cancelled meanwhile gets its
    CancelledError at the next await that is not the database's: behind the commit, where there is one.

    Otherwise the statement runs on in the connection's thread while SQLAlchemy 2.1.9 throws the connection away: now
    and then the old one still held SQLite's only write lock, and everyone's writes failed for the 5 seconds of the busy
    timeout, because one client had left at the wrong moment. And of a pool that was being closed the rest stayed open.
    """

    def __init__(self, path: Path, busy_seconds: float) -> None:
        super().__init__(partial(File, path, busy_seconds), FETCHED_AT_ONCE)
        self._path = path
        # As SQLAlchemy does where it makes the connection itself: a thread that is left must not keep the process.
        self._thread.daemon = True

    def __repr__(self) -> str:
        return f"<Connection to {self._path}>"

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        execute: Callable[..., Coroutine[Any, Any, Any]] = super()._execute
        return await finished(execute(fn, *args, **kwargs))

    async def close(self) -> None:
        await finished(super().close())


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, though the task that waits for it is cancelled: that it is comes up at its next await."""
    working = asyncio.ensure_future(work)
    cancelled = False
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError:
            cancelled = True
    task = asyncio.current_task()
    if cancelled and task is not None:
        task.uncancel()
        task.cancel()
    return working.result()
