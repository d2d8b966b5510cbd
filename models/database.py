"""The database, whichever it is: sessions for reading, and transactions that write."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel.ext.asyncio.session import AsyncSession

from models.change import store_changes
from models.failures import translated
from models.journal_writer import JournalWriter
from models.locks import WRITING
from models.vitals import Vitals

REVOKED = "revoked"


def mark_revoked(session: AsyncSession, conversation_id: str, user_id: str) -> None:
    """When this transaction is committed, `Database.on_revoked` is called: the user has no part in it any more."""
    session.info.setdefault(REVOKED, []).append((conversation_id, user_id))


class Database(ABC):
    """`on_changed` is called behind a commit that told of changes, with whom they concern; `on_revoked` behind one that
    took rights away. `one_writer`: whoever writes keeps all others from it."""

    one_writer = False

    def __init__(self) -> None:
        self.on_changed: Callable[[AbstractSet[str]], Awaitable[None]] | None = None
        self.on_revoked: Callable[[str, str], None] | None = None
        self.vitals = Vitals()
        self.refused_at = float("-inf")
        """When it last refused to write, by time.monotonic."""

    @asynccontextmanager
    async def read(self, *, urgent: bool = False) -> AsyncIterator[AsyncSession]:
        """A session for one read: all its statements see the same moment. `urgent`: as in `write`.

        Raises:
            Unavailable: the database cannot be read now.
        """
        with translated():
            async with self._reading(urgent) as session:
                yield session

    @asynccontextmanager
    async def still(self, audience: str) -> AsyncIterator[AsyncSession]:
        """A session for one read, during which nothing is committed that this audience is told of: the newest change's
        id is then a cursor behind which nothing of theirs is missing.

        Raises:
            Unavailable: the database cannot be read now.
        """
        with translated():
            async with self._still(audience) as session:
                yield session

    @asynccontextmanager
    async def write(self, *, urgent: bool = False) -> AsyncIterator[AsyncSession]:
        """A transaction, committed at the end of the block and rolled back when it raises. `urgent`: for leases, which
        must not wait for a crowd, and are to be told at once that the database is away.

        Raises:
            Unavailable: the disk is full, the server is away, or another process holds what is wanted.
        """
        with translated(self._refused):
            async with self._writing(urgent) as session:
                session.info[WRITING] = True
                yield session
                # Last: until the commit nobody else can tell the same audiences anything.
                told = await store_changes(session)
        if self.on_revoked is not None:
            for conversation_id, user_id in session.info.get(REVOKED, ()):
                self.on_revoked(conversation_id, user_id)
        if told and self.on_changed is not None:
            await self.on_changed(told)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around one of very many transactions: others have as long for theirs. Where there is one writer, other
        processes ask again and again, and would seldom meet the moment between two."""
        begun = time.monotonic()
        yield
        if self.one_writer:
            await asyncio.sleep(time.monotonic() - begun)

    def _refused(self) -> None:
        self.refused_at = time.monotonic()

    @property
    @abstractmethod
    def engines(self) -> Sequence[AsyncEngine]:
        """Through which all but the journal goes: for those who count statements."""

    @abstractmethod
    def _reading(self, urgent: bool) -> AbstractAsyncContextManager[AsyncSession]: ...

    @abstractmethod
    def _still(self, audience: str) -> AbstractAsyncContextManager[AsyncSession]: ...

    @abstractmethod
    def _writing(self, urgent: bool) -> AbstractAsyncContextManager[AsyncSession]: ...

    @abstractmethod
    def journal_writer(self) -> JournalWriter:
        """The run log's own way in."""

    @abstractmethod
    async def aclose(self) -> None: ...
