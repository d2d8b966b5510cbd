"""PostgreSQL through asyncpg. Writers go side by side: each takes what it decides by (models/locks.py)."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from errors import Unavailable
from models.address import PostgresAddress
from models.database import Database
from models.locks import hold
from models.postgres_driver import NO_CONNECTION_LEFT, connect, is_away
from models.postgres_journal import PostgresJournal

logger = logging.getLogger(__name__)

RECYCLE_SECONDS = 1_800
"""A connection's server process keeps what it has learnt of every table: it is renewed now and then."""
SILENT_SECONDS = 60.0
"""Between two warnings that the server has no connection left: every request meets it."""
ONE_MOMENT: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
URGENT_CONNECTIONS = 2
"""For leases: a crowd that has all the others must not make a worker look dead. They do not wait for a server that is
away, either: who has waited cannot tell whether the others have been able to renew theirs."""
OWN_CONNECTIONS = URGENT_CONNECTIONS + 1
"""Of a process, besides the pool's: the log has one."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Connections of one process; `seconds` bounds a statement, and the wait for a connection."""

    size: int = 20
    overflow: int = 40
    seconds: float = 10.0


class PostgresDatabase(Database):
    def __init__(self, address: PostgresAddress, limits: PoolLimits | None = None) -> None:
        super().__init__()
        self.address = address
        self._limits = limits or PoolLimits()
        self._silent_until = float("-inf")
        self._writer = self._engine(self._limits.size, self._limits.overflow)
        self._urgent = self._engine(1, URGENT_CONNECTIONS - 1, patience=0)
        # The same connections; a read of several statements sees one moment.
        self._reader = self._writer.execution_options(**ONE_MOMENT)
        self._urgent_reader = self._urgent.execution_options(**ONE_MOMENT)

    def _engine(self, size: int, overflow: int, patience: float | None = None) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            hide_parameters=True,  # they are texts and hashes, and an error of it may be logged
            pool_size=size,
            max_overflow=overflow,
            pool_timeout=self._limits.seconds,
            pool_recycle=RECYCLE_SECONDS,
            async_creator=lambda: self._connect(patience),
        )

        @event.listens_for(engine.sync_engine, "checkout")
        def check(connection: Any, _record: Any, _proxy: Any) -> None:
            # What asyncpg has noticed already, without asking the server: a restart costs what was under way, no more.
            if connection.driver_connection.is_closed():
                raise DisconnectionError

        @event.listens_for(engine.sync_engine, "handle_error")
        def translate(context: ExceptionContext) -> BaseException | None:
            error = context.original_exception.__cause__ or context.original_exception
            if is_away(error):
                # Or a statement that was given up would be waited for when the connection is next used.
                context.is_disconnect = True
                context.invalidate_pool_on_disconnect = False
                if context.sqlalchemy_exception is None:
                    # No answer at all: the driver's TimeoutError is none of DBAPI's errors, and would pass for a bug.
                    return OperationalError(context.statement, None, error, hide_parameters=True)
            return None

        return engine

    async def _connect(self, patience: float | None) -> Any:
        try:
            return await connect(self.address, self._limits.seconds, patience)
        except Unavailable as error:
            if getattr(error.__cause__, "sqlstate", None) == NO_CONNECTION_LEFT:
                self._say_full(error.__cause__)
            raise

    def _say_full(self, error: BaseException | None) -> None:
        """Nobody else does: the leases have their connections, and go on."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + SILENT_SECONDS
            logger.warning("PostgreSQL has no connection left for us: raise its max_connections (%s)", error)

    @property
    def engines(self) -> tuple[AsyncEngine, ...]:
        return self._writer, self._urgent

    def _reading(self, urgent: bool) -> AbstractAsyncContextManager[AsyncSession]:
        engine = self._urgent_reader if urgent else self._reader
        return AsyncSession(engine, expire_on_commit=False, autoflush=False)

    @asynccontextmanager
    async def _still(self, audience: str) -> AsyncIterator[AsyncSession]:
        # Each statement sees what is committed when it begins: the wait for the audience comes first.
        async with AsyncSession(self._writer, expire_on_commit=False, autoflush=False) as session:
            await hold(session, audience, shared=True)
            yield session

    @asynccontextmanager
    async def _writing(self, urgent: bool) -> AsyncIterator[AsyncSession]:
        engine = self._urgent if urgent else self._writer
        async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def journal_writer(self) -> PostgresJournal:
        return PostgresJournal(self.address, self._limits.seconds)

    async def aclose(self) -> None:
        await self._writer.dispose()
        await self._urgent.dispose()
