"""Clients that go away. A stateless answer has no one else to serve and stops; a conversation's answer goes on."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing

import httpx
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.graph.client import open_socket
from tests.graph.documents import CHAT, CHAT_STREAM, CREATE, FOLLOW, SEND, SLOW, chat, create, ended, start, text_of
from tests.graph.http_client import Graph, Json, open_sockets
from tests.server import Server, running

SECONDS = 15
"""The provider's stream is closed within this time, on a busy machine too; what is left alone is COMPLETED then."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that says in its log how each run ended."""
    with running(tmp_path_factory.mktemp("disconnect"), LOG_LEVEL="debug") as noisy:
        yield noisy
    assert "Traceback" not in noisy.log()


@pytest.fixture(scope="module")
def account(server: Server) -> Account:
    return register_on(server)


@pytest.fixture
async def graph(server: Server, account: Account) -> AsyncIterator[Graph]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        yield Graph(http, account.token)


Events = AsyncGenerator[Json, None]


class Follower:
    """A way to follow a subscription, and to stop doing so without a word or with one."""

    def __init__(self, server: Server, token: str) -> None:
        self.server = server
        self.token = token

    def follow(self, query: str, **variables: object) -> AbstractAsyncContextManager[Events]:
        raise NotImplementedError


class BySse(Follower):
    """Closes the response, and with it the connection."""

    @asynccontextmanager
    async def follow(self, query: str, **variables: object) -> AsyncIterator[Events]:
        async with httpx.AsyncClient(base_url=self.server.url, timeout=30) as http:
            events = Graph(http, self.token).events(query, **variables)
            yield events
            await events.aclose()


class ByComplete(Follower):
    """Sends `complete`; the socket stays open until the server has been seen to react."""

    @asynccontextmanager
    async def follow(self, query: str, **variables: object) -> AsyncIterator[Events]:
        async with open_socket(self.server, self.token) as socket:
            events = socket.events(query, **variables)
            yield events
            await events.aclose()
            # The server takes frames in order: what answers this has read the `complete`.
            assert await socket.data("{ __typename }")


class ByAbort(Follower):
    """The connection breaks: no close frame, a reset."""

    @asynccontextmanager
    async def follow(self, query: str, **variables: object) -> AsyncIterator[Events]:
        async with open_socket(self.server, self.token) as socket:
            yield socket.events(query, **variables)
            socket.connection.transport.abort()


@pytest.fixture(params=[BySse, ByComplete, ByAbort])
def follower(request: pytest.FixtureRequest, server: Server, account: Account) -> Follower:
    made: Follower = request.param(server, account.token)
    return made


async def _until_text(events: Events, field: str) -> str:
    """Follow to the first text; the run's id."""
    async for data in events:
        if data[field]["__typename"] == "RunTextDelta":
            return str(data[field]["runId"])
    raise AssertionError("no text")


async def test_a_stateless_answer_stops_when_its_reader_leaves(graph: Graph, follower: Follower) -> None:
    async with follower.follow(CHAT_STREAM, input=chat(model=SLOW)) as events:
        run_id = await _until_text(events, "chat")
    run = await ended(graph, run_id, SECONDS)
    assert run["status"] == "CANCELLED"
    assert run["usage"]["estimated"]
    assert 0 < run["usage"]["completionTokens"] < 400


async def test_a_stateless_answer_goes_on_while_one_reader_is_left(graph: Graph, follower: Follower) -> None:
    async with follower.follow(CHAT_STREAM, input=chat(model="scripted:every=0.02,words=40")) as events:
        run_id = await _until_text(events, "chat")
        other = graph.events(FOLLOW, id=run_id)
        seen = [(await anext(other))["runEvents"]]
    seen += [data["runEvents"] async for data in other]
    assert text_of(seen) == "".join(f"w{number} " for number in range(40))
    assert (await ended(graph, run_id))["status"] == "COMPLETED"


async def test_a_conversations_answer_goes_on_when_its_reader_leaves(graph: Graph, follower: Follower) -> None:
    """Disconnecting is not cancelling: whoever comes back finds the whole answer."""
    run = await start(graph, "scripted:every=0.02,words=50")
    async with follower.follow(FOLLOW, id=run["id"]) as events:
        await _until_text(events, "runEvents")
    after = await ended(graph, run["id"])
    assert after["status"] == "COMPLETED"
    assert after["message"]["content"] == "".join(f"w{number} " for number in range(50))


async def test_the_chat_mutation_stops_when_its_caller_hangs_up(server: Server, graph: Graph, account: Account) -> None:
    """An aborted plain request does not cancel its handler by itself: the answer would be paid for to the end."""
    before = len(server.log())
    body = {"query": CHAT, "variables": {"input": chat(model=SLOW)}}
    hang_up = await _post(server, account, body)
    await asyncio.sleep(0.3)
    hang_up()
    deadline = time.monotonic() + SECONDS
    while not re.search(r"run run_\w+ CANCELLED", server.log()[before:]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_keyed_answer_waits_for_its_reader_to_come_back(graph: Graph, follower: Follower) -> None:
    asked = chat(model="scripted:every=0.02,words=30", idempotencyKey=str(random.random()))
    async with follower.follow(CHAT_STREAM, input=asked) as events:
        run_id = await _until_text(events, "chat")
    async with follower.follow(CHAT_STREAM, input=asked) as events:
        again = [data["chat"] async for data in events]
    assert {event["runId"] for event in again} == {run_id}
    assert text_of(again) == "".join(f"w{number} " for number in range(30))
    assert again[-1]["status"] == "COMPLETED"


async def test_a_keyed_answer_does_not_wait_for_ever(start_server: StartServer) -> None:
    impatient = start_server(CHAT_GRACE_SECONDS="0.2")
    token = register_on(impatient).token
    async with open_socket(impatient, token) as socket:
        events = socket.events(CHAT_STREAM, input=chat(model=SLOW, idempotencyKey="k"))
        run_id = await _until_text(events, "chat")
        await events.aclose()
        async with httpx.AsyncClient(base_url=impatient.url) as http:
            assert (await ended(Graph(http, token), run_id, SECONDS))["status"] == "CANCELLED"


async def test_leaving_inside_a_transaction_harms_nobody(server: Server, graph: Graph, account: Account) -> None:
    """Cancelling a handler there now and then left SQLite locked, and everyone's writes failing, for five seconds."""
    chance = random.Random(0)
    messages = [{"role": "USER", "content": "x"}] * 20
    body = {"query": CREATE, "variables": {"input": {"messages": messages}}}
    before = len(server.log())
    for _ in range(60):
        hang_up = await _post(server, account, body)
        await asyncio.sleep(chance.uniform(0, 0.02))
        hang_up()
        begun = time.monotonic()
        await create(graph)
        assert time.monotonic() - begun < 2
    assert not re.search("ERROR|WARNING", server.log()[before:])


async def test_leaving_at_any_moment_of_send_message_harms_nobody(
    server: Server, graph: Graph, account: Account
) -> None:
    """Once the message is stored its answer is written. Cancelling the handler between the two left a run that nobody
    worked on."""
    conversations = []
    chance = random.Random(0)
    for _ in range(40):
        conversation = (await create(graph))["id"]
        conversations.append(conversation)
        body = {"query": SEND, "variables": {"input": {"conversationId": conversation, "content": "one two"}}}
        hang_up = await _post(server, account, body)
        await asyncio.sleep(chance.uniform(0, 0.02))
        hang_up()
    stored = 0
    for conversation in conversations:
        query = "query ($id: ID!) { conversation(id: $id) { head { run { id } } } }"
        head = (await graph.data(query, id=conversation))["conversation"]["head"]
        if head is not None:
            stored += 1
            assert (await ended(graph, head["run"]["id"]))["status"] == "COMPLETED"
    assert stored


async def test_leaving_at_any_moment_of_chat_leaves_no_run_behind(server: Server, account: Account) -> None:
    """Also between its being stored and its first follower: it would be written, and paid for, for nobody."""
    chance = random.Random(0)
    body = {"query": CHAT, "variables": {"input": chat(model=SLOW)}}
    for _ in range(40):
        hang_up = await _post(server, account, body)
        await asyncio.sleep(chance.uniform(0, 0.02))
        hang_up()
    deadline = time.monotonic() + SECONDS
    while statuses := _statuses(server) - {"CANCELLED", "COMPLETED"}:
        assert time.monotonic() < deadline, statuses
        await asyncio.sleep(0.05)


def _statuses(server: Server) -> set[str]:
    """Of all the runs that the server has stored."""
    with closing(sqlite3.connect(server.data_dir / "chat.db")) as database:
        return {status for (status,) in database.execute("SELECT DISTINCT status FROM run")}


async def test_sockets_that_broke_are_not_counted(server: Server) -> None:
    async with open_socket(server) as socket:
        assert await open_sockets(server) == 1
        socket.connection.transport.abort()
        deadline = time.monotonic() + SECONDS
        while await open_sockets(server) != 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


class _HangUp:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def __call__(self) -> None:
        self._writer.transport.abort()


async def _post(server: Server, account: Account, body: Json) -> _HangUp:
    """A request whose sender will not wait for the answer."""
    content = json.dumps(body).encode()
    headers = {
        "Host": "studio",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **account.headers,
    }
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"POST /graphql HTTP/1.1\r\n{head}\r\n".encode() + content)
    await writer.drain()
    return _HangUp(writer)
