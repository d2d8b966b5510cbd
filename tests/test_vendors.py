"""A whole session against a real server whose models are the vendors': what its user sees, and its log does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import orjson
import pytest
import pytest_asyncio

from tests.conftest import register_on
from tests.graph.client import open_socket
from tests.graph.documents import FOLLOW, create, send
from tests.graph.http_client import Graph, Json
from tests.graph.people import EVENTS, reading
from tests.providers.fakes.anthropic import AnthropicFake
from tests.providers.fakes.base import Fake
from tests.providers.fakes.google import GoogleFake
from tests.providers.fakes.openai import OpenAIFake
from tests.providers.fakes.steps import Cut, Failure, Figures, Finish, Page, Refuse, Say, Step, Think
from tests.server import Server, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

GPT, CLAUDE, GEMINI = "gpt-4o", "claude-sonnet-5-5", "gemini-3.8-flash"
ANSWER = (Think("They greet."), Say("Good "), Say("morning"), Finish(), Figures(7, 3))
SECRET_WORD = "xylophone"
STATS = "{ stats { totalTokens daily(days: 1) { messages tokens } byModel { model provider runs tokens } } }"
MODELS = "{ models { id provider available unavailableReason } }"
RUN = "query ($id: ID!) { run(id: $id) { attempts { model provider error { code } } usage { totalTokens costUsd } } }"


class Session:
    """One user of one server, and the vendors behind it."""

    def __init__(self, server: Server, graph: Graph, token: str, fakes: dict[str, Fake]) -> None:
        self.server = server
        self.graph = graph
        self.token = token
        self.fakes = fakes

    async def ask(self, model: str, conversation: str | None = None) -> list[Json]:
        """The events of a run that is asked of this model."""
        place = conversation or (await create(self.graph, title="Named", model=model))["id"]
        run = (await send(self.graph, place, f"Hello, {SECRET_WORD}", model=model))["run"]["id"]
        async with open_socket(self.server, self.token) as socket:
            return [data["runEvents"] async for data in socket.events(FOLLOW, id=run)]

    def play(self, vendor: str, *steps: Step) -> None:
        self.fakes[vendor].play(*steps)


@dataclass
class Behind:
    """The server and its vendors, which all these tests share: it starts for seconds."""

    server: Server
    fakes: dict[str, Fake]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Behind]:
    fakes: dict[str, Fake] = {"openai": OpenAIFake(), "anthropic": AnthropicFake(), "google": GoogleFake()}
    settings = {"MODEL_FALLBACK": CLAUDE, "RETRIES": "0", "TITLE_MODEL": "", "LOG_LEVEL": "debug"}
    async with AsyncExitStack() as stack:
        for name, fake in fakes.items():
            await stack.enter_async_context(fake.serving())
            settings[f"{name.upper()}_API_KEY"] = fake.key
            settings[f"{name.upper()}_BASE_URL"] = fake.address + ("/v1" if name == "openai" else "")
        starting = running(tmp_path_factory.mktemp("vendors"), None, **settings)
        # In a thread: the server asks the vendors for their models as it starts, and they are in this loop.
        server = await asyncio.to_thread(starting.__enter__)
        yield Behind(server, fakes)
        await asyncio.to_thread(starting.__exit__, None, None, None)


@pytest_asyncio.fixture(loop_scope="module")
async def session(behind: Behind) -> AsyncIterator[Session]:
    for fake in behind.fakes.values():
        fake.play(*ANSWER)
    account = await asyncio.to_thread(register_on, behind.server)
    async with httpx.AsyncClient(base_url=behind.server.url, timeout=30) as http:
        yield Session(behind.server, Graph(http, account.token), account.token, behind.fakes)


def texts(events: list[Json], kind: str = "RunTextDelta") -> str:
    return "".join(event["text"] for event in events if event["__typename"] == kind)


def names(events: list[Json]) -> list[str]:
    return [event["__typename"] for event in events]


async def attempts(session: Session, events: list[Json]) -> list[tuple[str, str | None]]:
    run = (await session.graph.data(RUN, id=events[0]["runId"]))["run"]
    return [(tried["model"], (tried["error"] or {}).get("code")) for tried in run["attempts"]]


async def test_three_keys_are_three_vendors(session: Session) -> None:
    """Asked, shown, counted and paid for by name; and nothing of it in the log, not even when it says everything."""
    models = (await session.graph.data(MODELS))["models"]
    assert {model["provider"] for model in models} >= {"openai", "anthropic", "google"}
    assert all(model["available"] for model in models if model["provider"] in session.fakes)
    for model, vendor in ((GPT, "openai"), (CLAUDE, "anthropic"), (GEMINI, "google")):
        events = await session.ask(model)
        finished = events[-1]
        assert (texts(events), texts(events, "RunReasoningDelta")) == ("Good morning", "They greet.")
        assert (finished["status"], finished["finishReason"]) == ("COMPLETED", "STOP")
        assert finished["usage"] == {"promptTokens": 7, "completionTokens": 3, "totalTokens": 10, "estimated": False}
        started = next(event for event in events if event["__typename"] == "RunStarted")
        assert (started["requestedModel"], started["model"], started["provider"]) == (model, model, vendor)
    stats = (await session.graph.data(STATS))["stats"]
    assert stats["totalTokens"] == 30
    assert stats["daily"] == [{"messages": 3, "tokens": 30}]
    assert {(used["model"], used["provider"], used["runs"], used["tokens"]) for used in stats["byModel"]} == {
        (GPT, "openai", 1, 10),
        (CLAUDE, "anthropic", 1, 10),
        (GEMINI, "google", 1, 10),
    }
    log = session.server.log()
    assert "COMPLETED" in log, "it does say what it does"
    for hidden in (SECRET_WORD, "Good morning", *(fake.key for fake in session.fakes.values())):
        assert hidden not in log


async def test_who_fails_before_the_first_word_is_stood_in_for(session: Session) -> None:
    for failure, code in ((Failure.OVERLOADED, "PROVIDER_ERROR"), (Failure.RATE_LIMIT, "PROVIDER_RATE_LIMITED")):
        session.play("openai", Refuse(failure))
        events = await session.ask(GPT)
        assert (texts(events), events[-1]["status"]) == ("Good morning", "COMPLETED")
        failed = next(event for event in events if event["__typename"] == "RunAttemptFailed")
        assert (failed["model"], failed["provider"], failed["failure"]["code"]) == (GPT, "openai", code)
        assert await attempts(session, events) == [(GPT, code), (CLAUDE, None)]


async def test_who_breaks_off_in_the_middle_is_not(session: Session) -> None:
    """Two answers are never glued together: the text is kept, and the user may ask again."""
    for model, vendor in ((GPT, "openai"), (CLAUDE, "anthropic"), (GEMINI, "google")):
        session.play(vendor, Say("Good "), Cut())
        events = await session.ask(model)
        finished = events[-1]
        assert (texts(events), finished["status"]) == ("Good ", "FAILED")
        assert (finished["error"]["code"], finished["error"]["retryable"]) == ("PROVIDER_ERROR", True)
        assert (finished["message"]["content"], finished["message"]["status"]) == ("Good ", "FAILED")
        assert "RunAttemptFailed" not in names(events)
        assert await attempts(session, events) == [(model, "PROVIDER_ERROR")]
        assert finished["usage"]["estimated"], "what was written is paid for, and nobody said how much"


async def test_a_vendor_that_repeats_the_key_tells_nobody(session: Session) -> None:
    """Some put it into the words of their errors."""
    key = session.fakes["anthropic"].key
    words = f"invalid x-api-key: {key} at http://10.0.0.7/internal"
    body = orjson.dumps({"type": "error", "error": {"type": "authentication_error", "message": words}})
    session.play("anthropic", Page(401, body, "application/json"))
    finished = (await session.ask(CLAUDE))[-1]
    assert (finished["status"], finished["error"]["code"]) == ("FAILED", "PROVIDER_AUTH")
    assert not finished["error"]["retryable"]
    for told in (str(finished), session.server.log()):
        assert key not in told
        assert "10.0.0.7" not in told


async def test_a_new_conversation_gets_its_title_from_the_model(session: Session) -> None:
    place = (await create(session.graph, model=GEMINI))["id"]
    async with reading(session.server, session.token, EVENTS, "conversationEvents", id=place) as reader:
        await session.ask(GEMINI, place)
        changed = await reader.until(lambda event: event.get("conversation", {}).get("title") == "Good morning")
    assert changed["__typename"] == "ConversationChanged"
    stats = (await session.graph.data(STATS))["stats"]
    assert (stats["totalTokens"], stats["daily"][0]["messages"]) == (20, 1)
