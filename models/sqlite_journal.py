"""The journal's way into SQLite: one connection in one thread."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from errors import Unavailable
from models.journal import Piece, segment_row
from models.journal_writer import Fenced, JournalWriter
from models.sqlite_driver import PRAGMAS, File
from models.write_lock import WriteLock

T = TypeVar("T")

BUSY_SECONDS = 5


class SqliteJournal(JournalWriter):
    def __init__(self, path: Path, lock: WriteLock) -> None:
        self._path = path
        # Shared with the database: the file's lock knows no order, and the log goes before others.
        self._lock = lock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._connection: File | None = None
        self._closed = False

    async def append(self, worker: str, body: bytes) -> int:
        return await self._run(partial(self._append, worker, body))

    async def checkpoint(self, worker: str, segments: Sequence[Piece], up_to: int) -> None:
        await self._run(partial(self._checkpoint, worker, [segment_row(entry) for entry in segments], up_to))

    async def _run(self, work: Callable[[], T]) -> T:
        async with self._lock.turn(urgent=True):
            try:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except sqlite3.Error as error:
                raise Unavailable("The log cannot be written now; try again", retry_after=1) from error

    def _open(self) -> File:
        if self._connection is None:
            connection = File(self._path, BUSY_SECONDS)
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._connection = connection
        return self._connection

    def _append(self, worker: str, body: bytes) -> int:
        connection = self._open()
        connection.begin_to_write()
        try:
            self._check(connection, worker)
            cursor = connection.execute("INSERT INTO run_journal (worker, body) VALUES (?, ?)", (worker, body))
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise
        return cursor.lastrowid or 0

    def _checkpoint(self, worker: str, rows: list[tuple[str, int, bytes]], up_to: int) -> None:
        connection = self._open()
        connection.begin_to_write()
        try:
            self._check(connection, worker)
            connection.executemany(
                "INSERT OR REPLACE INTO run_segment (run_id, first_seq, body) VALUES (?, ?, ?)", rows
            )
            connection.execute("DELETE FROM run_journal WHERE worker = ? AND id <= ?", (worker, up_to))
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    @staticmethod
    def _check(connection: sqlite3.Connection, worker: str) -> None:
        if connection.execute("SELECT 1 FROM worker WHERE id = ?", (worker,)).fetchone() is None:
            raise Fenced

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True

        def close() -> None:
            if self._connection is not None:
                self._connection.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown(wait=False)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
