"""The core without a transport: a real database, the scripted provider, the real engine."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import settings

import chat.attempts
from bus.base import Bus
from bus.memory import MemoryBus
from chat.attempts import RetryLimits
from chat.chats import Chats
from chat.conversations import Conversations
from chat.drafts import ConversationDraft, MessageDraft
from chat.engine import Engine
from chat.events import RunEvent, RunFinished
from chat.generation import GenerationLimits
from chat.inputs import InputLimits
from chat.jobs import EngineLimits
from chat.sending import Asking, Sendings
from models.address import Address
from models.conversation import Conversation
from models.database import Database
from models.opening import open_database
from models.run import Run
from models.usage import UNLIMITED, Limits
from providers.base import Chunk, FinishChunk, FinishReason, GenerationRequest, ModelInfo, Provider, Role, TextChunk
from providers.catalog import Catalog
from providers.scripted import ScriptedProvider
from tests.conftest import add_user

# A shared machine is slow now and then: how long one example takes says nothing here.
settings.register_profile("unhurried", deadline=None, max_examples=100, stateful_step_count=30)
settings.load_profile("unhurried")

SECONDS = 20
"""No test waits longer for anything that has to come."""
LONG_AGO = -100_000
"""Seconds until the end of a lease that nobody is patient with any more."""

GENERATION = GenerationLimits(
    first_token=120, next_token=120, whole=300, chars=100_000, coalesce=0.005, retry=RetryLimits(0, 10)
)
LIMITS = EngineLimits(
    per_minute=None,
    generation=GENERATION,
    per_process=8,
    per_user=8,
    queue=20,
    keep=30,
    chat_grace=0.1,
    chat_key=60,
    lease=1,
    shutdown_grace=0.1,
)
INPUTS = InputLimits(
    message=2_000, system_prompt=500, title=100, conversation_messages=50, chat_messages=20, conversations=200
)


@dataclass(frozen=True)
class Core:
    """What assembly.py builds, without the transports."""

    database: Database
    engine: Engine
    provider: ScriptedProvider
    catalog: Catalog
    conversations: Conversations
    chats: Chats
    sendings: Sendings

    async def user(self) -> str:
        """A new user's id; nobody here logs in."""
        return await add_user(self.database)

    async def conversation(self, user_id: str, model: str = "scripted") -> Conversation:
        made, _ = await self.conversations.create(user_id, ConversationDraft(model=model))
        return made

    async def send(self, user_id: str, script: str, conversation: Conversation | None = None, **more: Any) -> Run:
        """A run in a conversation (a new one by default) that plays the script."""
        place = conversation or await self.conversation(user_id)
        return await self.ask(user_id, place, f"scripted:{script}", **more)

    async def ask(self, user_id: str, place: Conversation, model: str, text: str = "hello", **more: Any) -> Run:
        """A run that answers a message in this conversation."""
        _, run = await self.sendings.send(user_id, place.id, text, Asking(model=model, **more))
        return run

    async def events(self, user_id: str, run: Run, after: int | None = None) -> list[RunEvent]:
        """All events of a run, to its end."""
        async with asyncio.timeout(SECONDS):
            return [event async for event in self.chats.follow(user_id, run.id, after)]

    async def row(self, run_id: str) -> Run:
        """The run as it is stored."""
        async with self.database.read() as session:
            run = await session.get(Run, run_id)
        assert run is not None
        return run


class OddProvider:
    """Plays chunks that no script can say, raises what stands among them, and waits where there is an event."""

    name = "odd"

    def __init__(self, *steps: Chunk | Exception | asyncio.Event | str, window: int | None = None) -> None:
        self.steps = steps
        self.window = window
        self.asked: list[GenerationRequest] = []

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo("odd", self.name, self.window)]

    def find(self, model: str) -> ModelInfo | None:
        return self.models()[0] if model == "odd" else None

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self.asked.append(request)
        for step in self.steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield TextChunk(step) if isinstance(step, str) else step
        yield FinishChunk(FinishReason.STOP)

    async def aclose(self) -> None:
        return None


@asynccontextmanager
async def open_core(
    address: Address,
    *,
    inputs: InputLimits = INPUTS,
    fallback: Sequence[str] = (),
    providers: Sequence[Provider] = (),
    generation: GenerationLimits = GENERATION,
    budget: Limits = UNLIMITED,
    restart: bool = False,
    bus: Bus | None = None,
    **limits: Any,
) -> AsyncIterator[Core]:
    """A core on this database, closed at the end of the block. `limits` replace those of the engine; `restart`: runs of
    a dead worker that had not come to a word are begun again here."""
    database = open_database(address)
    bus = bus or MemoryBus()
    provider = ScriptedProvider()
    catalog = Catalog([provider, *providers], fallback)
    engine = Engine(database, bus, replace(LIMITS, generation=generation, **limits))
    try:
        await engine.start()
        conversations = Conversations(database, engine, catalog, inputs)
        chats = Chats(database, engine, catalog, inputs, budget)
        sendings = Sendings(database, engine, catalog, inputs, budget)
        engine.keeper.price_of = catalog.price
        if restart:
            engine.keeper.restart = sendings.restart
        yield Core(database, engine, provider, catalog, conversations, chats, sendings)
        await engine.aclose()
        assert provider.active == 0, "a stream was left open"
        assert not engine.places.taken, "a place was not given back"
    finally:
        await engine.aclose()
        await bus.aclose()
        await database.aclose()


@pytest.fixture
async def core(address: Address) -> AsyncIterator[Core]:
    async with open_core(address) as opened:
        yield opened


@pytest.fixture
async def user(core: Core) -> str:
    return await core.user()


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked again is asked at once."""
    monkeypatch.setattr(chat.attempts, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(chat.attempts, "JITTER", 0.001)


def said(text: str, key: str | None = None, role: Role = Role.USER) -> MessageDraft:
    return MessageDraft(role, text, key)


def end_of(events: Sequence[RunEvent]) -> RunFinished:
    last = events[-1]
    assert isinstance(last, RunFinished)
    return last
