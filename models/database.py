"""The database: one engine, sessions for reading, and one writer at a time for SQLite."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from errors import Unavailable
from models.driver import connect
from models.journal_writer import BUSY_SECONDS, JournalWriter
from models.write_lock import WriteLock

READERS = 8
"""Each is a thread; a read takes 0.1 to 1 ms, so 8 are far more than one event loop can ask of."""


CHANGED, REVOKED = "changed", "revoked"


def mark_changed(session: AsyncSession) -> None:
    """When this transaction is committed, `Database.on_changed` is called."""
    session.info[CHANGED] = True


def mark_revoked(session: AsyncSession, conversation_id: str, user_id: str) -> None:
    """When this transaction is committed, `Database.on_revoked` is called: the user has no part in it any more."""
    session.info.setdefault(REVOKED, []).append((conversation_id, user_id))


class Database:
    """SQLite in WAL mode. Reads run side by side; writes queue here and, by the file's lock, between processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = self._engine(path, READERS, "BEGIN")
        # IMMEDIATE: a transaction that reads first and writes later would fail with "database is locked" unretried.
        self._writer = self._engine(path, 1, "BEGIN IMMEDIATE")
        self._write_lock = WriteLock()
        self.on_changed: Callable[[], None] | None = None
        self.on_revoked: Callable[[str, str], None] | None = None

    @staticmethod
    def _engine(path: Path, size: int, begin: str) -> AsyncEngine:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}",
            pool_size=size,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS * 2,
            async_creator=lambda: connect(path, BUSY_SECONDS),
        )

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def start(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return engine

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session for one read.

        Raises:
            Unavailable: the database cannot be read now.
        """
        with translated():
            async with AsyncSession(self._reader, expire_on_commit=False, autoflush=False) as session:
                yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A transaction, committed at the end of the block and rolled back when it raises.

        Raises:
            Unavailable: the disk is full, or another process holds the database.
        """
        with translated():
            async with (
                self._write_lock.turn(),
                AsyncSession(self._writer, expire_on_commit=False) as session,
                session.begin(),
            ):
                yield session
        if self.on_revoked is not None:
            for conversation_id, user_id in session.info.get(REVOKED, ()):
                self.on_revoked(conversation_id, user_id)
        if session.info.get(CHANGED) and self.on_changed is not None:
            self.on_changed()

    def journal_writer(self) -> JournalWriter:
        """The run log's own way in; it shares the lock of `write`."""
        return JournalWriter(self.path, self._write_lock)

    async def aclose(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()


class translated:  # noqa: N801
    """Turns what a database says when it cannot work (full disk, lock, lost connection) into `Unavailable`."""

    MARKS = ("database is locked", "disk is full", "disk i/o error", "readonly database", "unable to open")

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, DBAPIError) and any(mark in str(error.orig).lower() for mark in self.MARKS):
            raise Unavailable("The database cannot do this now; try again", retry_after=1) from error
        if isinstance(error, PoolTimeout):
            raise Unavailable("The database is busy; try again", retry_after=1) from error
