"""SQLite in WAL mode. Reads run side by side; writes queue here and, by the file's lock, between processes."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from models.database import Database
from models.sqlite_driver import BEGIN_TO_WRITE, PRAGMAS, Connection
from models.sqlite_journal import BUSY_SECONDS, SqliteJournal
from models.vitals import Vitals
from models.write_lock import WriteLock

READERS = 8
"""Each is a thread; a read takes 0.1 to 1 ms, so 8 are far more than one event loop can ask of."""


class SqliteDatabase(Database):
    one_writer = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.vitals = Vitals(path.with_name(f"{path.name}.workers"))
        self._reader = self._engine(path, READERS, "BEGIN")
        self._writer = self._engine(path, 1, BEGIN_TO_WRITE)
        self._write_lock = WriteLock()

    @staticmethod
    def _engine(path: Path, size: int, begin: str) -> AsyncEngine:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}",
            hide_parameters=True,  # they are texts and hashes, and an error of it may be logged
            pool_size=size,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS * 2,
            async_creator=lambda: Connection(path, BUSY_SECONDS),
        )

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            for pragma in (*PRAGMAS, "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def start(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return engine

    @property
    def engines(self) -> tuple[AsyncEngine, ...]:
        return self._reader, self._writer

    def _reading(self, urgent: bool) -> AbstractAsyncContextManager[AsyncSession]:  # noqa: ARG002
        return AsyncSession(self._reader, expire_on_commit=False, autoflush=False)

    def _still(self, audience: str) -> AbstractAsyncContextManager[AsyncSession]:  # noqa: ARG002
        # Ids are given in the order of the commits: there is one writer.
        return self._reading(False)

    @asynccontextmanager
    async def _writing(self, urgent: bool) -> AsyncIterator[AsyncSession]:
        async with (
            self._write_lock.turn(urgent=urgent),
            AsyncSession(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def journal_writer(self) -> SqliteJournal:
        return SqliteJournal(self.path, self._write_lock)

    async def aclose(self) -> None:
        await self._reader.dispose()
        await self._writer.dispose()
