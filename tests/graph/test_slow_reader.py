"""A reader that does not read would otherwise pin its socket, its operations and what they follow, for ever."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection

from tests.conftest import Account, register_on
from tests.graph.client import dial
from tests.graph.documents import CHAT_STREAM, FOLLOW, chat, follow, start
from tests.graph.http_client import Graph, open_sockets
from tests.server import Server, running
from tests.waiting import until

LARGE = ("x" * 999 + " ") * 4_000
"""Echoed, 4 MB: two of them are more than the kernel takes for a reader that does not read."""
ENDLESS = "scripted:every=0.02,words=2000"
FOLLOWERS = 4
SECONDS = 20
TIMEOUT = 1.0
PATIENCE = 15.0
"""On a busy machine the kernel takes long to be full, too. The answer that is followed lasts for 40 s."""
STRICT = {
    "LOG_LEVEL": "debug",
    "SEND_TIMEOUT_SECONDS": str(TIMEOUT),
    "MAX_MESSAGE_CHARS": "5000000",
    "MAX_BODY_BYTES": "6000000",
    "RUN_CHARS": "5000000",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("slow"), None, **STRICT) as strict:
        yield strict
    assert "Traceback" not in strict.log()


@pytest.fixture(scope="module")
def account(server: Server) -> Account:
    return register_on(server)


@pytest.fixture
async def large(server: Server, account: Account) -> str:
    """The id of a finished run with a long answer."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        graph = Graph(http, account.token)
        run_id: str = (await start(graph, "scripted:", LARGE, maxTokens=4096))["id"]
        await follow(graph, run_id)
        return run_id


def _narrow(server: Server) -> socket.socket:
    """A connection that takes little before it is read."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", server.port))
    narrow.setblocking(False)
    return narrow


@asynccontextmanager
async def _stuffed(server: Server, account: Account, large: str, model: str) -> AsyncIterator[ClientConnection]:
    """A socket that has asked for more than it reads, behind the first text of an answer of this model."""
    async with dial(server, sock=_narrow(server), max_queue=1, max_size=None, close_timeout=0.1) as connection:
        init = {"type": "connection_init", "payload": {"authorization": account.token}}
        await connection.send(json.dumps(init))
        await connection.recv()
        payload = {"query": CHAT_STREAM, "variables": {"input": chat(model=model)}}
        await connection.send(json.dumps({"id": "endless", "type": "subscribe", "payload": payload}))
        while json.loads(await connection.recv())["payload"]["data"]["chat"]["__typename"] != "RunTextDelta":
            pass
        payload = {"query": FOLLOW, "variables": {"id": large}}
        for number in range(FOLLOWERS):
            await connection.send(json.dumps({"id": str(number), "type": "subscribe", "payload": payload}))
        yield connection


async def test_it_is_closed_and_lets_go_of_what_it_followed(server: Server, account: Account, large: str) -> None:
    before = len(server.log())
    async with _stuffed(server, account, large, ENDLESS):
        begun = time.monotonic()
        await until(lambda: re.search(r"run run_\w+ CANCELLED", server.log()[before:]))
        assert TIMEOUT / 2 < time.monotonic() - begun < PATIENCE
        while await open_sockets(server):
            await asyncio.sleep(0.05)


async def test_a_broken_message_from_it_closes_it_without_a_failure_of_ours(
    server: Server, account: Account, large: str
) -> None:
    """The close frame waits behind what is not read; an operation that has its next event meanwhile would fail."""
    before = len(server.log())
    async with _stuffed(server, account, large, "scripted:text=a,wait=0.9,text=b,wait=60") as connection:
        await asyncio.sleep(0.3)  # until the kernel takes no more, which nobody tells
        await connection.send("{")
        await until(lambda: re.search(r"run run_\w+ CANCELLED", server.log()[before:]))
    assert "Traceback" not in server.log()


async def test_a_stream_of_events_is_closed_too(server: Server, account: Account, large: str) -> None:
    """It ends where the reader stopped to read, without the chunk that says that it is whole."""
    reader, writer = await asyncio.open_connection(sock=_narrow(server), limit=1024)
    body = json.dumps({"query": FOLLOW, "variables": {"id": large}}).encode()
    head = (
        "POST /graphql HTTP/1.1\r\nHost: studio\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {account.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(TIMEOUT + 1)
    async with asyncio.timeout(SECONDS):
        read = await reader.read()
    assert b"event: next" in read
    assert not read.endswith(b"0\r\n\r\n")
    writer.transport.abort()
