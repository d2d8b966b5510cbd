"""A client that goes away stops the decoding: over every transport, with the real model, seen in the model's own slots.

On a processor a forgotten answer takes a slot for minutes; four of them and nobody is answered.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.conftest import Account, register_on
from tests.providers.slots import busy_slots
from tests.server import Server

IDLE_SECONDS = 3
PROMPT = "Write a very long story about a ship. Never stop."
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "model": "any", "max_tokens": 4096}
CHAT = f"messages: [{{role: USER, content: {json.dumps(PROMPT)}}}], maxTokens: 4096"
MUTATION = f"mutation {{ chat(input: {{{CHAT}}}) {{ content }} }}"
SUBSCRIPTION = f"subscription {{ chat(input: {{{CHAT}}}) {{ seq }} }}"


async def until_slots(server: Server, wanted: int, seconds: float) -> float:
    """Seconds until so many slots are busy."""
    begun = time.monotonic()
    while await busy_slots(server.data_dir) != wanted:
        assert time.monotonic() - begun < seconds, f"{await busy_slots(server.data_dir)} slots are busy, not {wanted}"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


@asynccontextmanager
async def plain_post(server: Server, account: Account, path: str, body: dict[str, Any]) -> AsyncIterator[None]:
    async with httpx.AsyncClient(base_url=server.url, headers=account.headers, timeout=60) as client:
        asking = asyncio.create_task(client.post(path, json=body))
        yield
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@asynccontextmanager
async def stream(server: Server, account: Account, path: str, body: dict[str, Any]) -> AsyncIterator[None]:
    headers = {**account.headers, "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client,
        client.stream("POST", path, json=body) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                break
        yield


@asynccontextmanager
async def legacy_socket(server: Server, account: Account) -> AsyncIterator[None]:
    async with connect(f"{server.ws}/ws/{account.id}?token={account.token}") as socket:
        await socket.send(json.dumps({"type": "chat", "content": PROMPT}))
        await socket.recv()
        yield
        abort(socket)


@asynccontextmanager
async def graphql_socket(server: Server, account: Account) -> AsyncIterator[None]:
    async with connect(f"{server.ws}/graphql", subprotocols=["graphql-transport-ws"]) as socket:  # type: ignore[list-item]
        await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": account.token}}))
        await socket.recv()
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": SUBSCRIPTION}}))
        await socket.recv()
        yield
        abort(socket)


def abort(socket: ClientConnection) -> None:
    """As when the machine of the client is gone: no goodbye."""
    socket.transport.abort()


TRANSPORTS = {
    "POST /api/chat": lambda server, account: plain_post(server, account, "/api/chat", ASKED),
    "POST /api/chat, streamed": lambda server, account: stream(server, account, "/api/chat", {**ASKED, "stream": True}),
    "GraphQL mutation": lambda server, account: plain_post(server, account, "/graphql", {"query": MUTATION}),
    "GraphQL subscription by SSE": lambda server, account: stream(server, account, "/graphql", {"query": SUBSCRIPTION}),
    "GraphQL socket": graphql_socket,
    "legacy socket": legacy_socket,
}


async def decodes(server: Server, seconds: float = 10) -> bool:
    """Whether it has begun. A small model may also have said its last word already."""
    try:
        await until_slots(server, 1, seconds)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_models_slot_is_idle_soon_after_the_client_left(model_server: Server, transport: str) -> None:
    account = register_on(model_server)
    left_in_the_middle = False
    for _ in range(4):
        await until_slots(model_server, 0, 30)
        async with TRANSPORTS[transport](model_server, account):
            left_in_the_middle = await decodes(model_server)
        if left_in_the_middle:
            break
    assert left_in_the_middle, "every answer ended by itself: that proves nothing"
    took = await until_slots(model_server, 0, IDLE_SECONDS)
    print(f"{transport}: idle after {took:.2f} s")
