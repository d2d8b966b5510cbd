"""SQLite connections that a cancelled task does not leave half-way."""

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import aiosqlite

FETCHED_AT_ONCE = 64
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON")
"""Of every connection that writes. What is deleted (stateless chats, rows of the journal) is overwritten: 90 µs for a
window of 12 KB, 0.3 µs a token at full load. FAST is free and leaves whole pages, of which the journal is made."""


class Connection(aiosqlite.Connection):
    """Finishes every statement that it has begun. A task that is cancelled meanwhile gets its CancelledError at the
    next await that is not the database's: behind the commit, where there is one.

    Otherwise the statement runs on in the connection's thread while SQLAlchemy 2.1.9 throws the connection away: now
    and then the old one still held SQLite's only write lock, and everyone's writes failed for the 5 seconds of the busy
    timeout, because one client had left at the wrong moment.
    """

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        execute: Callable[..., Coroutine[Any, Any, Any]] = super()._execute
        work = asyncio.ensure_future(execute(fn, *args, **kwargs))
        cancelled = False
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError:
                cancelled = True
        task = asyncio.current_task()
        if cancelled and task is not None:
            task.uncancel()
            task.cancel()
        return work.result()


def connect(path: Path, busy_seconds: float) -> Connection:
    """A connection to be awaited."""

    def open_file() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=busy_seconds, check_same_thread=False)

    connection = Connection(open_file, FETCHED_AT_ONCE)
    # As SQLAlchemy does where it makes the connection itself: a thread that is left must not keep the process.
    connection._thread.daemon = True
    return connection
