"""One scenario over every transport: register, converse, stream, count. All of them serve the same product."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import NamedTuple

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.graph.client import Socket, open_socket
from tests.graph.documents import CREATE, FOLLOW, ONE, SEND
from tests.graph.http_client import Graph, Json
from tests.server import Server

REGISTER = "mutation ($input: RegisterInput!) { register(input: $input) { accessToken user { id username } } }"
STATS = "{ stats { totalConversations totalMessages totalTokens averageMessagesPerConversation } }"
SECONDS = 60


class Stats(NamedTuple):
    conversations: int
    messages: int
    tokens: int
    average: float


class Transport(ABC):
    """What a front end does with a backend, in the words of neither."""

    def __init__(self, servers: Sequence[Server], http: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self.servers = itertools.cycle(servers)
        self.http = http
        self.stack = stack
        self.token = ""

    @abstractmethod
    async def register(self, name: str) -> None: ...

    @abstractmethod
    async def me(self) -> str | None:
        """The viewer's name."""

    @abstractmethod
    async def open(self, title: str) -> str:
        """A new conversation's id."""

    @abstractmethod
    def say(self, conversation: str, content: str, most: int) -> AsyncGenerator[str, None]:
        """The pieces of the answer, of `most` tokens. At their end both messages are in the conversation."""

    @abstractmethod
    async def read(self, conversation: str) -> tuple[str, list[tuple[str, str]]]:
        """The title, then role and text of each message."""

    @abstractmethod
    async def stats(self) -> Stats: ...


class GraphQL(Transport):
    """Queries and mutations by `data`, subscriptions by `events`."""

    @abstractmethod
    async def data(self, query: str, **variables: object) -> Json: ...

    @abstractmethod
    def events(self, query: str, **variables: object) -> AsyncGenerator[Json, None]: ...

    async def register(self, name: str) -> None:
        asked = {"username": name, "email": f"{name}@example.com", "password": "password123"}
        self.token = (await self.data(REGISTER, input=asked))["register"]["accessToken"]

    async def me(self) -> str | None:
        me: Json | None = (await self.data("{ me { username } }"))["me"]
        return None if me is None else str(me["username"])

    async def open(self, title: str) -> str:
        made = await self.data(CREATE, input={"title": title})
        return str(made["createConversation"]["conversation"]["id"])

    async def say(self, conversation: str, content: str, most: int) -> AsyncGenerator[str, None]:
        asked = {"conversationId": conversation, "content": content, "maxTokens": most}
        run = (await self.data(SEND, input=asked))["sendMessage"]["run"]["id"]
        async with aclosing(self.events(FOLLOW, id=run)) as events:
            async for data in events:
                if data["runEvents"]["__typename"] == "RunTextDelta":
                    yield data["runEvents"]["text"]

    async def read(self, conversation: str) -> tuple[str, list[tuple[str, str]]]:
        found = (await self.data(ONE, id=conversation))["conversation"]
        nodes = [edge["node"] for edge in found["messages"]["edges"]]
        return found["title"], [(node["role"].lower(), node["content"]) for node in nodes]

    async def stats(self) -> Stats:
        return Stats(*(await self.data(STATS))["stats"].values())


class GraphQLOverHttp(GraphQL):
    """Subscriptions as server-sent events."""

    async def data(self, query: str, **variables: object) -> Json:
        return await Graph(self.http, self.token or None).data(query, **variables)

    def events(self, query: str, **variables: object) -> AsyncGenerator[Json, None]:
        return Graph(self.http, self.token or None).events(query, **variables)


class GraphQLOverWebSocket(GraphQL):
    """Everything over graphql-transport-ws; the socket is opened again once there is a token."""

    socket: Socket

    async def connect(self) -> None:
        self.socket = await self.stack.enter_async_context(open_socket(next(self.servers), self.token or None))

    async def register(self, name: str) -> None:
        await self.connect()
        await super().register(name)
        await self.connect()

    async def data(self, query: str, **variables: object) -> Json:
        return await self.socket.data(query, **variables)

    def events(self, query: str, **variables: object) -> AsyncGenerator[Json, None]:
        return self.socket.events(query, **variables)


class Rest(Transport):
    """The documented routes; the client keeps the conversation and stores it whole, as the guide's front end does."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def _ask(self, method: str, path: str, body: object = None) -> Json:
        answer = await self.http.request(method, path, json=body, headers=self.headers if self.token else {})
        assert answer.status_code == 200, answer.text
        content: Json = answer.json()
        return content

    async def register(self, name: str) -> None:
        asked = {"username": name, "email": f"{name}@example.com", "password": "password123"}
        self.token = (await self._ask("POST", "/api/auth/register", asked))["access_token"]

    async def me(self) -> str | None:
        return str((await self._ask("GET", "/api/auth/me"))["username"])

    async def open(self, title: str) -> str:
        now = int(time.time() * 1000)
        body = {"id": uuid.uuid4().hex, "title": title, "messages": [], "createdAt": now, "updatedAt": now}
        return str((await self._ask("POST", "/api/conversations", body))["id"])

    async def say(self, conversation: str, content: str, most: int) -> AsyncGenerator[str, None]:
        stored = await self._ask("GET", f"/api/conversations/{conversation}")
        stored["messages"].append({"id": uuid.uuid4().hex, "role": "user", "content": content})
        text = ""
        async with aclosing(self.pieces(stored["messages"], most)) as pieces:
            async for piece in pieces:
                text += piece
                yield piece
        stored["messages"].append({"id": uuid.uuid4().hex, "role": "assistant", "content": text})
        await self._ask("PUT", f"/api/conversations/{conversation}", stored)

    @abstractmethod
    def pieces(self, messages: list[Json], most: int) -> AsyncGenerator[str, None]: ...

    async def read(self, conversation: str) -> tuple[str, list[tuple[str, str]]]:
        found = await self._ask("GET", f"/api/conversations/{conversation}")
        return found["title"], [(message["role"], message["content"]) for message in found["messages"]]

    async def stats(self) -> Stats:
        return Stats(*(await self._ask("GET", "/api/stats")).values())


class RestStream(Rest):
    async def pieces(self, messages: list[Json], most: int) -> AsyncGenerator[str, None]:
        body = {"messages": messages, "stream": True, "max_tokens": most}
        async with self.http.stream("POST", "/api/chat", json=body, headers=self.headers) as answer:
            async for line in answer.aiter_lines():
                frame = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                assert frame.get("type") != "error", frame
                if frame.get("type") == "chat_chunk":
                    yield frame["content"]


class LegacySocket(Rest):
    """Chats over /ws/{user_id}, which remembers the exchange by itself."""

    legacy: ClientConnection | None = None

    async def pieces(self, messages: list[Json], most: int) -> AsyncGenerator[str, None]:  # noqa: ARG002
        if self.legacy is None:
            me = (await self._ask("GET", "/api/auth/me"))["id"]
            dialled = connect(f"{next(self.servers).ws}/ws/{me}?token={self.token}", proxy=None)
            self.legacy = await self.stack.enter_async_context(dialled)
        await self.legacy.send(json.dumps({"type": "chat", "content": messages[-1]["content"]}))
        while (frame := json.loads(await self.legacy.recv()))["type"] != "chat_complete":
            assert frame["type"] == "chat_chunk", frame
            yield frame["content"]


TRANSPORTS = [GraphQLOverHttp, GraphQLOverWebSocket, RestStream, LegacySocket]


class Spread(httpx.AsyncHTTPTransport):
    """Each request goes to the next server, by a connection of its own."""

    def __init__(self, servers: Sequence[Server]) -> None:
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0), verify=False)
        self._servers = itertools.cycle(servers)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(port=next(self._servers).port)
        return await super().handle_async_request(request)


@asynccontextmanager
async def opened(kind: type[Transport], *servers: Server) -> AsyncIterator[Transport]:
    """A newly registered user, who meets another of the servers each time."""
    async with AsyncExitStack() as stack:
        client = httpx.AsyncClient(base_url=servers[0].url, timeout=SECONDS, transport=Spread(servers))
        transport = kind(servers, await stack.enter_async_context(client), stack)
        await transport.register(f"u{uuid.uuid4().hex[:12]}")
        yield transport


async def play(kind: type[Transport], *servers: Server) -> None:
    async with opened(kind, *servers) as user:
        assert (await user.me() or "").startswith("u")
        assert await user.stats() == Stats(0, 0, 0, 0.0)

        conversation = await user.open("a talk")
        assert await user.read(conversation) == ("a talk", [])

        assert "".join([piece async for piece in user.say(conversation, "one two three", 100)]) == "one two three "
        assert "".join([piece async for piece in user.say(conversation, "four five", 100)]) == "four five "

        assert await user.read(conversation) == (
            "a talk",
            [
                ("user", "one two three"),
                ("assistant", "one two three "),
                ("user", "four five"),
                ("assistant", "four five "),
            ],
        )
        # 3 asked and 3 answered; then 3 + 3 + 2 asked, since the model is told what was said, and 2 answered.
        assert await user.stats() == Stats(1, 4, 16, 4.0)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_register_converse_stream_and_count(server: Server, kind: type[Transport]) -> None:
    await play(kind, server)


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_the_real_model_answers_piece_by_piece_and_to_the_point(
    model_server: Server, kind: type[Transport]
) -> None:
    """Text arrives while it is written, not in one lump at its end; and it is an answer, not an echo."""
    async with opened(kind, model_server) as user:
        conversation = await user.open("a talk")
        answers: list[str] = []
        gaps: list[float] = []
        for prompt in ("Write one sentence about the sea.", "List five kinds of bread."):
            moments = []
            text = ""
            async for piece in user.say(conversation, prompt, 48):
                moments.append(time.monotonic())
                text += piece
            gaps += [later - earlier for earlier, later in itertools.pairwise(moments)]
            assert text.strip()
            assert prompt not in text
            answers.append(text)
        assert answers[0] != answers[1]
        # Of both: now and then a model this small has said all with three words.
        assert len([gap for gap in gaps if gap > 0.005]) >= 3, gaps
        assert (await user.stats()).tokens > 10
