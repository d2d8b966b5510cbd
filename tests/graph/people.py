"""The operations of conversations that are trees and have members, and a reader of their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from tests.graph.client import open_socket
from tests.graph.documents import EVENT, RUN
from tests.graph.http_client import SECONDS, Graph, Json
from tests.server import Server

MESSAGE = "id role content status siblings { id } parent { id }"
EDIT = f"""mutation ($input: EditMessageInput!) {{
    editMessage(input: $input) {{ message {{ {MESSAGE} }} run {{ {RUN} }} }} }}"""
REGENERATE = f"mutation ($input: RegenerateInput!) {{ regenerate(input: $input) {{ run {{ {RUN} }} }} }}"
ADD = """mutation ($input: AddMemberInput!) { addMember(input: $input) { conversation {
    id viewerRole members { role user { id username email } } } } }"""
REMOVE = """mutation ($input: RemoveMemberInput!) { removeMember(input: $input) { conversation {
    id members { role user { id } } } } }"""
TYPE = "mutation ($id: ID) { setTyping(input: { conversationId: $id }) { delivered } }"
TYPING = "subscription ($id: ID) { typing(conversationId: $id) { userId username conversationId } }"
BRANCH = f"""query ($id: ID!) {{ conversation(id: $id) {{ id externalId messageCount viewerRole head {{ id }}
    activeRun {{ id }} messages(first: 100) {{ edges {{ node {{ {MESSAGE} }} }} }} }} }}"""
EVENTS = f"""subscription ($id: ID!, $after: String) {{ conversationEvents(conversationId: $id, after: $after) {{
    __typename conversationId cursor
    ... on MessageAdded {{ message {{ {MESSAGE} }} }}
    ... on MessageRemoved {{ id }}
    ... on ConversationChanged {{ conversation {{ title messageCount }} }}
    ... on ConversationTyping {{ userId username }}
    ... on ConversationRunEvent {{ event {{ {EVENT} }} }} }} }}"""
VIEWER = """subscription ($after: String) { viewerEvents(after: $after) { __typename
    ... on ConversationUpserted { cursor conversation { id title viewerRole } }
    ... on ConversationDeleted { cursor conversationId }
    ... on ViewerRunChanged { cursor run { id status conversation { id } } }
    ... on ViewerResync { cursor } } }"""


@dataclass
class Reader:
    """Reads a subscription in the background and keeps what it saw."""

    events: AsyncGenerator[Json, None]
    name: str
    seen: list[Json] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def read(self) -> None:
        try:
            async for data in self.events:
                self.seen.append(data[self.name])
                self.news.set()
        finally:
            self.news.set()

    async def until(self, condition: Callable[[Json], bool]) -> Json:
        """The first event that is so, seen or to come."""
        looked = 0
        async with asyncio.timeout(SECONDS):
            while True:
                for event in self.seen[looked:]:
                    if condition(event):
                        return event
                looked = len(self.seen)
                self.news.clear()
                assert self.task is not None
                assert not self.task.done(), (self.task, self.seen)
                await self.news.wait()

    async def kind(self, name: str) -> Json:
        return await self.until(lambda event: event["__typename"] == name)

    async def finished(self, run_id: str) -> Json:
        return await self.until(lambda event: is_run(event, run_id, "RunFinished"))

    async def end(self) -> None:
        """Wait for the stream's own end; raises what it ended with."""
        assert self.task is not None
        await asyncio.wait_for(asyncio.shield(self.task), SECONDS)


def is_run(event: Json, run_id: str, kind: str) -> bool:
    inner = event.get("event", {})
    return (inner.get("runId"), inner.get("__typename")) == (run_id, kind)


def texts(events: list[Json]) -> dict[str, str]:
    """What a reader of these has on the screen of each run."""
    found: dict[str, str] = {}
    for event in (item["event"] for item in events if "event" in item):
        key = event["runId"]
        if event["__typename"] == "RunSnapshot":
            found[key] = event["text"]
        elif event["__typename"] == "RunTextDelta":
            found[key] = found.get(key, "") + event["text"]
    return found


@asynccontextmanager
async def reading(
    server: Server, token: str | None, query: str, name: str, **variables: object
) -> AsyncIterator[Reader]:
    """A reader on a socket of its own."""
    async with open_socket(server, token) as socket:
        reader = Reader(socket.events(query, **variables), name)
        reader.task = asyncio.create_task(reader.read())
        try:
            yield reader
        finally:
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)


async def settled(reader: Reader, graph: Graph, conversation: str) -> str:
    """Make something happen until the reader is told of it: it is there from then on. The cursor."""
    rename = "mutation ($id: ID!) { updateConversation(input: { id: $id, pinned: true }) { conversation { id } } }"
    async with asyncio.timeout(SECONDS):
        while not any(event["__typename"] == "ConversationChanged" for event in reader.seen):
            assert reader.task is not None
            assert not reader.task.done(), (reader.task, reader.seen)
            await graph.data(rename, id=conversation)
            reader.news.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.news.wait(), 0.3)
    return str(reader.seen[-1]["cursor"])
