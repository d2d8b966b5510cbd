"""The size of bodies: 1 MiB, and 16 for /api/conversations, announced or counted as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from rest.limits import BodyLimit
from tests.conftest import Account, StartServer
from tests.rest.talk import conversation, message, question
from tests.server import Server

MIB = 1024 * 1024


async def in_pieces(size: int) -> AsyncIterator[bytes]:
    """A body whose length nobody announces."""
    for _ in range(size // 65_536 + 1):
        yield b" " * 65_536


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/api/chat", MIB),
        ("/api/auth/register", MIB),
        ("/graphql", MIB),
        ("/api/conversations", 16 * MIB),
        ("/api/conversations/conv_123", 16 * MIB),
    ],
)
@pytest.mark.parametrize("announced", [True, False])
async def test_over_the_limit_is_413(
    client: httpx.AsyncClient, account: Account, path: str, limit: int, announced: bool
) -> None:
    headers = {**account.headers, "Content-Type": "application/json"}
    content = b" " * (limit + 1) if announced else in_pieces(limit)
    method = "PUT" if path.endswith("123") else "POST"
    answer = await client.request(method, path, content=content, headers=headers)
    assert answer.status_code == 413
    assert answer.json() == {"detail": f"The body is larger than {limit} bytes"}
    assert (await client.get("/")).status_code == 200


async def test_a_neighbours_path_has_the_small_limit(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/conversationsX", content=b" " * (MIB + 1))
    assert answer.status_code == 413


async def test_a_page_may_read_the_413(client: httpx.AsyncClient, account: Account) -> None:
    """Inside CORS: a browser would hide it from its page otherwise."""
    headers = {**account.headers, "Origin": "http://localhost:3000"}
    answer = await client.post("/api/chat", content=b" " * (MIB + 1), headers=headers)
    assert answer.status_code == 413
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_up_to_the_limit_is_read(client: httpx.AsyncClient, account: Account) -> None:
    headers = {**account.headers, "Content-Type": "application/json"}
    chat = json.dumps(question("hello")).encode()
    answer = await client.post("/api/chat", content=chat + b" " * (MIB - len(chat)), headers=headers)
    assert answer.status_code == 200
    messages = [message("x" * 90_000, id=str(number)) for number in range(100)]
    stored = await client.post("/api/conversations", json=conversation(messages=messages), headers=account.headers)
    assert stored.status_code == 200
    assert len(stored.json()["messages"]) == 100


async def test_the_limits_are_settings(start_server: StartServer) -> None:
    server = start_server(MAX_BODY_BYTES="100", MAX_CONVERSATION_BYTES="200")
    async with httpx.AsyncClient(base_url=server.url) as client:
        for path, limit in (("/api/auth/login", 100), ("/api/conversations", 200)):
            assert (await client.post(path, content=b"x" * limit)).status_code in {401, 422}
            assert (await client.post(path, content=b"x" * (limit + 1))).status_code == 413


async def test_an_announced_body_is_refused_before_it_is_sent(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\nExpect: 100-continue\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    writer.close()


# What follows is the middleware alone.


async def request(app: BodyLimit, chunks: list[bytes], **headers: str) -> list[Message]:
    """What is sent back for a request with these pieces of a body."""
    sent: list[Message] = []
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive, send)
    return sent


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


async def careless(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers whatever happens to the body."""
    try:
        await echo(scope, receive, send)
    except Exception:
        await PlainTextResponse("bad request", 400)(scope, receive, send)


@pytest.mark.parametrize("app", [echo, careless])
async def test_the_limit_itself_passes_and_a_byte_more_does_not(app: object) -> None:
    limited = BodyLimit(app, limit=6, conversation_limit=9, seconds=30)  # type: ignore[arg-type]
    assert (await request(limited, [b"abc", b"def"]))[0]["status"] == 200
    for chunks in ([b"abc", b"defg"], [b"abcdefg"]):
        start, body = await request(limited, chunks)
        assert start["status"] == 413
        assert json.loads(body["body"]) == {"detail": "The body is larger than 6 bytes"}


async def test_an_answer_under_way_is_left_alone() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await careless(scope, receive, send)

    sent = await request(BodyLimit(early, limit=6, conversation_limit=9, seconds=30), [b"abcdefg"])
    assert [message["status"] for message in sent if "status" in message][:1] == [200]
    assert all(message.get("status") != 413 for message in sent)
