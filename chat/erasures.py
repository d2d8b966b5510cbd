"""Deleting what is too much for one transaction, an account or a big conversation: in portions, to the end, also when
the process that began it dies."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from sqlalchemy.exc import IntegrityError
from sqlmodel.ext.asyncio.session import AsyncSession

from chat.conversations import Conversations
from chat.engine import Engine
from chat.members import Members
from errors import NotFound, Unavailable
from models.columns import utc_now
from models.database import Database
from models.erasure import (
    active_runs_of_user,
    erase_conversation,
    erase_some,
    erase_user,
    joined_ids,
    keep_stage,
    open_erasures,
    owned_ids,
)

logger = logging.getLogger(__name__)

AT_ONCE = 200
"""Rows of one transaction: 5 ms, so that nobody else's write waits for it to be noticed."""
LOOK_SECONDS = 60.0
ABANDONED = timedelta(minutes=1)
TRIES = 5
"""A request that was under way when the account was closed may still add something."""


class Erasures:
    def __init__(self, database: Database, engine: Engine, conversations: Conversations, members: Members) -> None:
        self._database = database
        self._engine = engine
        self._conversations = conversations
        self._members = members
        self._running: dict[str, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._next = asyncio.Lock()

    def start(self) -> None:
        """Go on with what a process that is gone has left, and with what is set aside in this one."""
        self._conversations.on_set_aside = self._begin
        self._watch = asyncio.create_task(self._resume(), name="erasures")

    async def erase(self, user_id: str) -> None:
        """Erase a user whose account was closed; returns when nothing is left. Goes on if nobody waits for it.

        Raises:
            Unavailable: the database is away; it is gone on with later.
        """
        await asyncio.shield(self._begin(user_id))

    def _begin(self, user_id: str) -> asyncio.Task[None]:
        task = self._running.get(user_id)
        if task is None:
            task = self._running[user_id] = asyncio.create_task(self._erase(user_id), name=f"erasure {user_id}")
            task.add_done_callback(lambda done: self._done(user_id, done))
        return task

    def _done(self, user_id: str, task: asyncio.Task[None]) -> None:
        self._running.pop(user_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("what was deleted is not erased yet (%s); it will be gone on with", type(error).__name__)

    async def _erase(self, user_id: str) -> None:
        for last in range(TRIES - 1, -1, -1):
            await self._stop_runs(user_id)
            await self._leave_conversations(user_id)
            await self._stop_runs(user_id)
            more = True
            while more:
                async with self._portion() as session:
                    more = await erase_some(session, user_id, AT_ONCE)
            try:
                async with self._database.write() as session:
                    await erase_user(session, user_id)
                return
            except IntegrityError:
                if not last:
                    raise

    async def _stop_runs(self, user_id: str) -> None:
        async with self._database.read() as session:
            active = await active_runs_of_user(session, user_id)
        await asyncio.gather(*(self._engine.cancel(run) for run in active))

    async def _leave_conversations(self, user_id: str) -> None:
        """The user's own go, with all that is in them, and their members are told; others' go on without the user."""
        while True:
            async with self._database.read() as session:
                owned = await owned_ids(session, user_id, AT_ONCE)
                joined = await joined_ids(session, user_id, AT_ONCE)
            if not owned and not joined:
                return
            for conversation_id in owned:
                gone = True
                async with self._database.turn():
                    with suppress(NotFound):
                        gone = await self._conversations.close(user_id, conversation_id)
                while not gone:
                    async with self._portion() as session:
                        await keep_stage(session, user_id)
                        gone = await erase_conversation(session, conversation_id)
            for conversation_id in joined:
                async with self._database.turn():
                    with suppress(NotFound):
                        await self._members.remove(user_id, conversation_id, user_id)

    @asynccontextmanager
    async def _portion(self) -> AsyncIterator[AsyncSession]:
        # One at a time, however many are deleted at once: each leaves to others only as long as it took itself.
        async with self._next, self._database.turn(), self._database.write() as session:
            yield session

    async def _resume(self) -> None:
        while True:
            with suppress(Unavailable, IntegrityError):
                async with self._database.read() as session:
                    left = await open_erasures(session, utc_now() - ABANDONED, AT_ONCE)
                for user_id in left:
                    await self.erase(user_id)
            await asyncio.sleep(LOOK_SECONDS)

    async def aclose(self) -> None:
        self._conversations.on_set_aside = None
        tasks = [*self._running.values(), *([] if self._watch is None else [self._watch])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
