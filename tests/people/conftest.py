"""Conversations that several people share, without a transport: a real database, the real engine, and a provider
that says what the test tells it to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from bus.memory import MemoryBus
from chat.access import Rights
from chat.chats import Chats
from chat.conversations import Conversations
from chat.drafts import ConversationDraft
from chat.engine import Engine
from chat.feed import Feed
from chat.happenings import Happening, Happenings
from chat.members import Members
from chat.sending import Asking, Sendings
from chat.typing import Typing
from models.address import Address
from models.conversation import Conversation
from models.database import Database
from models.member import MemberRole
from models.message import Message, active_branch
from models.opening import open_database
from models.run import Run
from providers.base import Chunk, FinishChunk, FinishReason, GenerationRequest, ModelInfo, TextChunk
from providers.catalog import Catalog
from providers.scripted import ScriptedProvider
from tests.chat.conftest import INPUTS, LIMITS, SECONDS
from tests.conftest import add_user

KEEP = 3_600.0


class HeldProvider:
    """`held:KEY` says what is put under KEY, and ends at None. It remembers what it was asked."""

    name = "held"

    def __init__(self) -> None:
        self.words: defaultdict[str, asyncio.Queue[str | None]] = defaultdict(asyncio.Queue)
        self.asked: list[GenerationRequest] = []

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("held", self.name, None)]

    def find(self, model: str) -> ModelInfo | None:
        return ModelInfo(model, self.name, None) if model.partition(":")[0] == "held" else None

    def say(self, key: str, *words: str | None) -> None:
        for word in words:
            self.words[key].put_nowait(word)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self.asked.append(request)
        words = self.words[request.model.partition(":")[2]]
        while (word := await words.get()) is not None:
            yield TextChunk(word)
        yield FinishChunk(FinishReason.STOP)

    async def aclose(self) -> None:
        return None


@dataclass(frozen=True)
class Studio:
    """What assembly.py builds, without the transports."""

    database: Database
    engine: Engine
    held: HeldProvider
    conversations: Conversations
    members: Members
    chats: Chats
    sendings: Sendings
    feed: Feed
    rights: Rights
    typing: Typing
    happenings: Happenings

    async def user(self) -> str:
        """A new user's id, which is the name too; nobody here logs in."""
        return await add_user(self.database)

    async def conversation(self, user_id: str, *members: str, role: MemberRole = MemberRole.EDITOR, **more: Any) -> str:
        """A new conversation's id."""
        made, _ = await self.conversations.create(user_id, ConversationDraft(model="scripted:text=ok", **more))
        for member in members:
            await self.members.add(user_id, made.id, member, role)
        return made.id

    async def send(
        self, user_id: str, conversation_id: str, content: str = "hello", parent_id: str | None = None, **asking: Any
    ) -> tuple[Message, Run]:
        return await self.sendings.send(user_id, conversation_id, content, Asking(**asking), parent_id)

    async def exchange(
        self, user_id: str, conversation_id: str, content: str = "hello", **more: Any
    ) -> tuple[str, str]:
        """Send and wait for the answer: the ids of both messages."""
        question, run = await self.send(user_id, conversation_id, content, **more)
        await self.ended(run)
        assert run.message_id is not None
        return question.id, run.message_id

    async def ended(self, run: Run) -> Run:
        async with asyncio.timeout(SECONDS):
            return await self.engine.wait_for_end(run)

    async def row(self, conversation_id: str) -> Conversation:
        async with self.database.read() as session:
            row = await session.get(Conversation, conversation_id)
        assert row is not None
        return row

    async def branch(self, conversation_id: str) -> list[Message]:
        async with self.database.read() as session:
            return list(await active_branch(session, conversation_id))

    async def told(self, events: AsyncGenerator[Happening, None], count: int) -> list[Happening]:
        """The next so many."""
        async with asyncio.timeout(SECONDS):
            return [await anext(events) for _ in range(count)]

    async def until_quiet(self, user_id: str, key: str, after: str | None, last: str) -> list[Happening]:
        """What is told behind `after`, up to the cursor `last`."""
        found: list[Happening] = []
        async with asyncio.timeout(SECONDS), aclosing(self.happenings.of_conversation(user_id, key, after)) as events:
            async for happening in events:
                found.append(happening)
                if happening.cursor == last:
                    break
        return found


@asynccontextmanager
async def open_studio(address: Address, *, keep_changes: float = KEEP, **limits: Any) -> AsyncIterator[Studio]:
    """A studio on this database, closed at the end of the block. `limits` replace those of the engine."""
    async with AsyncExitStack() as stack:
        database = open_database(address)
        stack.push_async_callback(database.aclose)
        bus = MemoryBus()
        held = HeldProvider()
        scripted = ScriptedProvider()
        catalog = Catalog([scripted, held], ())
        engine = Engine(database, bus, replace(LIMITS, per_user=40, per_process=40, queue=100, **limits))
        stack.push_async_callback(engine.aclose)
        conversations = Conversations(database, engine, catalog, INPUTS)
        chats, sendings = Chats(database, engine, catalog, INPUTS), Sendings(database, engine, catalog, INPUTS)
        engine.keeper.restart = sendings.restart
        typing = Typing(bus, conversations)
        feed = Feed(database, bus, keep_changes)
        stack.push_async_callback(feed.aclose)
        rights = Rights(database, feed)
        stack.push_async_callback(rights.aclose)
        await engine.start()
        happenings = Happenings(database, feed, rights, chats, typing)
        members = Members(database)
        yield Studio(database, engine, held, conversations, members, chats, sendings, feed, rights, typing, happenings)
        await engine.aclose()
        assert scripted.active == 0, "a stream was left open"
        assert not rights._guards, "a follower's right was left behind"
        async with asyncio.timeout(SECONDS):
            # One that was cancelled may still be giving its connection back.
            while feed._waiters:
                await asyncio.sleep(0.01)


@pytest.fixture
async def studio(address: Address) -> AsyncIterator[Studio]:
    async with open_studio(address) as opened:
        yield opened
