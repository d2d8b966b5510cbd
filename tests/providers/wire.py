"""A model server made of one raw socket: it reads a request and then does exactly what the test says."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from providers.base import Chunk, GenerationRequest, Patience, Role, Turn
from providers.loopback import loopback_client
from providers.openai_body import completion_body
from providers.openai_wire import stream_completion

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
REQUEST = GenerationRequest("a-model", (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "Hi")), 0.5, 9)
QUICK = Patience(connect=2, first=0.4, between=0.2)


def says(*parts: bytes, pause: float = 0.0) -> Script:
    """Sends the parts as separate packets, then closes."""

    async def script(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return script


def response(status: int, body: bytes, *headers: bytes, kind: bytes = b"application/json") -> Script:
    head = [b"HTTP/1.1 %d X" % status, b"Content-Type: " + kind, b"Content-Length: %d" % len(body), *headers]
    return says(b"\r\n".join([*head, b"Connection: close", b"", body]))


@asynccontextmanager
async def serving(
    script: Script, seen: list[bytes] | None = None, left: asyncio.Event | None = None
) -> AsyncIterator[str]:
    """The address of a server that answers every request with `script`; `seen` collects the requests' bodies.
    With `left`, the server does not close: it waits for the client to do so, and says it there."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            if seen is not None:
                seen.append(body)
            await script(writer)
            if left is not None and not await reader.read():
                left.set()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    finally:
        server.close()
        for task in tasks:
            if task is not None:
                task.cancel()


async def collect(url: str, patience: Patience = QUICK, client: httpx.AsyncClient | None = None) -> list[Chunk]:
    async with client or loopback_client() as connected:
        stream = stream_completion(connected, url, completion_body(REQUEST), {"X-Key": "k"}, patience)
        return [chunk async for chunk in stream]
