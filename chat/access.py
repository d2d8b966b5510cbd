"""Who may do what in a conversation. What one has no part in does not exist; a role too low is told so."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from sqlmodel.ext.asyncio.session import AsyncSession

from chat.feed import Feed
from errors import Forbidden, NotFound, Unavailable
from models.conversation import Conversation, kept_conversation
from models.database import Database
from models.member import MemberRole, audience_of, readable_conversation, role_in

T = TypeVar("T")

RANK = {MemberRole.VIEWER: 0, MemberRole.EDITOR: 1, MemberRole.OWNER: 2}
RETRY_SECONDS = 0.5


async def allowed(session: AsyncSession, user_id: str, key: str, least: MemberRole) -> Conversation:
    """By its own id, else by the id that the user's client gave to one that the user owns.

    Raises:
        NotFound: the user has no part in it.
        Forbidden: the user's role is below `least`.
    """
    conversation = await readable_conversation(session, user_id, key)
    role = None if conversation is None else await role_in(session, user_id, conversation)
    if conversation is None or role is None:
        raise NotFound("对话不存在")
    if RANK[role] < RANK[least]:
        raise Forbidden(f"This takes the role {least}")
    return conversation


class Guard:
    """One follower's right to a conversation. It may be taken away while the follower waits."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self._lost = False
        self._waiting: asyncio.Timeout | None = None

    def lose(self) -> None:
        if not self._lost and self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())
        self._lost = True

    def check(self) -> None:
        """
        Raises:
            NotFound: it is gone.
        """
        if self._lost:
            raise NotFound("对话不存在")

    async def each(self, events: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The events, for as long as the right lasts.

        Raises:
            NotFound: it is gone; nothing is handed out behind that moment, and an idle follower does not wait on.
        """
        while True:
            self.check()
            try:
                # Around the wait alone: a generator may not be cancelled while its reader has the word.
                async with asyncio.timeout(None) as self._waiting:
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                self.check()
                raise
            finally:
                self._waiting = None
            self.check()
            yield event


class Rights:
    """The rights of all followers of this process. What this process takes from somebody ends at once; what another one
    does, as soon as the feed tells of a change in the conversation."""

    def __init__(self, database: Database, feed: Feed) -> None:
        self._database = database
        self._feed = feed
        self._guards: dict[str, set[Guard]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        database.on_revoked = self._revoked

    @asynccontextmanager
    async def guard(self, user_id: str, key: str) -> AsyncIterator[tuple[Guard, Conversation]]:
        """The user's right to a conversation, watched for as long as the block lasts.

        Raises:
            NotFound: the user has no part in it.
        """
        conversation_id = (await self._find(user_id, key)).id
        guard = Guard(user_id)
        guards = self._guards.setdefault(conversation_id, set())
        guards.add(guard)
        try:
            if conversation_id not in self._watchers:
                watch = asyncio.create_task(self._watch(conversation_id), name=f"rights {conversation_id}")
                self._watchers[conversation_id] = watch
            # Again, now that nothing is missed: it may have gone between the two.
            yield guard, await self._find(user_id, conversation_id)
        finally:
            guards.discard(guard)
            if not guards:
                del self._guards[conversation_id]
                self._watchers.pop(conversation_id).cancel()

    async def _find(self, user_id: str, key: str) -> Conversation:
        async with self._database.read() as session:
            conversation = await readable_conversation(session, user_id, key)
        if conversation is None:
            raise NotFound("对话不存在", field="conversationId")
        return conversation

    def _revoked(self, conversation_id: str, user_id: str) -> None:
        for guard in self._guards.get(conversation_id, ()):
            if guard.user_id == user_id:
                guard.lose()

    async def _watch(self, conversation_id: str) -> None:
        while True:
            with suppress(Unavailable):
                async with self._feed.arrivals(conversation_id) as arrived:
                    while True:
                        await self._look(conversation_id)
                        await arrived.wait()
                        arrived.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _look(self, conversation_id: str) -> None:
        async with self._database.read() as session:
            conversation = await kept_conversation(session, conversation_id)
            if conversation is None:
                # Deleted: its followers had the right to its end, and are told of it.
                return
            audience = set(await audience_of(session, conversation))
        for guard in self._guards.get(conversation_id, ()):
            if guard.user_id not in audience:
                guard.lose()

    async def aclose(self) -> None:
        for watcher in list(self._watchers.values()):
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
