"""What the REST tests say to a server: bodies, and a legacy socket that speaks objects."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from jose import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.conftest import Account
from tests.server import SECRET, Server

Json = dict[str, Any]
SECONDS = 10.0
SLOW = "scripted:every=0.05,words=1000"
"""A model whose answer takes 50 s."""


def forged(account: Account, seconds: float = 60, secret: str = SECRET, **claims: object) -> str:
    """A token like ours, with other claims."""
    now = int(time.time())
    body = {"sub": account.id, "sid": account.session_id, "typ": "access", "iat": now, "nbf": now, "exp": now + seconds}
    return jwt.encode({**body, **claims}, secret, algorithm="HS256")


def message(content: Any = "hello", **fields: Any) -> Json:
    return {"id": "msg1", "content": content, "role": "user", "timestamp": 1697467200000, **fields}


def conversation(**fields: Any) -> Json:
    """The guide's body for POST /api/conversations."""
    body: Json = {
        "id": "conv_123",
        "title": "新对话",
        "messages": [],
        "createdAt": 1697467200000,
        "updatedAt": 1697467200000,
        "model": "gpt-3.5-turbo",
        "userId": "user_1",
    }
    return body | fields


def question(content: Any = "hello there", model: Any = "scripted", **fields: Any) -> Json:
    """A body for POST /api/chat."""
    return {"messages": [message(content)], "model": model, **fields}


async def stats(client: httpx.AsyncClient, account: Account) -> Json:
    answer = await client.get("/api/stats", headers=account.headers)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def tokens_appear(client: httpx.AsyncClient, account: Account, seconds: float = 5.0) -> bool:
    """Whether a run of the user, which had none before, ends within so long: its tokens are counted at its end."""
    async with asyncio.timeout(seconds):
        while (await stats(client, account))["total_tokens"] == 0:
            await asyncio.sleep(0.02)
    return True


class Legacy:
    """A client of /ws/{user_id}."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def hear(self, seconds: float = SECONDS) -> Json:
        """The next frame."""
        async with asyncio.timeout(seconds):
            text = await self.connection.recv()
        assert isinstance(text, str)
        frame: Json = json.loads(text)
        return frame

    async def hear_until(self, kind: str) -> list[Json]:
        """Frames up to the next one of this type."""
        frames = [await self.hear()]
        while frames[-1]["type"] != kind:
            frames.append(await self.hear())
        return frames

    async def chat(self, content: str, **fields: Any) -> list[Json]:
        await self.say(type="chat", content=content, **fields)
        return await self.hear_until("chat_complete")

    async def silent(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes: a ping is answered, and nothing before it for so long."""
        await asyncio.sleep(seconds)
        await self.say(type="ping")
        return await self.hear() == {"type": "pong"}

    async def closed(self) -> tuple[int, str]:
        """The code and the reason that the server closes with."""
        async with asyncio.timeout(SECONDS):
            with suppress(ConnectionClosed):
                async for _ in self.connection:
                    pass
        return self.connection.close_code or 0, self.connection.close_reason or ""


@asynccontextmanager
async def legacy(server: Server, user_id: str, query: str = "", **options: Any) -> AsyncIterator[Legacy]:
    async with connect(f"{server.ws}/ws/{user_id}{query}", max_size=None, proxy=None, **options) as connection:
        yield Legacy(connection)


@asynccontextmanager
async def signed(server: Server, account: Account) -> AsyncIterator[Legacy]:
    """The socket of a user who shows a token."""
    async with legacy(server, account.id, f"?token={account.token}") as socket:
        yield socket


def text_of(frames: list[Json]) -> str:
    return "".join(frame["content"] for frame in frames if frame["type"] == "chat_chunk")


def kinds(frames: list[Json]) -> list[str]:
    return [frame["type"] for frame in frames]
