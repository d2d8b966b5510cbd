"""Server-sent events and disconnects, for both HTTP transports: what Starlette's own streaming leaves open.

A reader that goes away is noticed at once, one that does not read is given up, and a server that stops ends the stream.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from auth.visits import Visit
from errors import ChatError

T = TypeVar("T")

HEARTBEAT_SECONDS = 15.0
"""Proxies close a connection that is silent for 30 to 60 s."""
HEARTBEAT = b":\n\n"
FAREWELL_SECONDS = 1.0
"""How long the last frame of a stream that has lost its right may wait for the reader."""


class ClientLeft(Exception):
    """The client closed the connection before its answer was ready."""


async def until_left(receive: Receive) -> None:
    """Return when the client has gone; what it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client goes away. The request's body must have been read.

    Raises:
        ClientLeft: nobody is there to be answered.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(until_left(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        await _cancel(task, watch)


class EventStream(Response):
    """`text/event-stream` from a generator of whole frames, which is closed when the client leaves, when it has taken
    nothing for `send_timeout` seconds, or `grace` seconds after `closing` was set. When the visit is over, which is
    entered with the stream, `farewell` makes the last frames of why."""

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        *,
        visit: AbstractContextManager[Visit],
        farewell: Callable[[ChatError], bytes],
        closing: asyncio.Event,
        grace: float,
        send_timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", **(headers or {})}
        )
        del self.headers["content-length"]
        self._frames = frames
        self._closing = closing
        self._grace = grace
        self._send_timeout = send_timeout
        self._begun = False
        self._visit = visit
        self._farewell = farewell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with self._visit as visit:
            await self._serve(visit, receive, send)

    async def _serve(self, visit: Visit, receive: Receive, send: Send) -> None:
        async def write(message: Message) -> None:
            async with asyncio.timeout(self._send_timeout):
                await send(message)

        pump = asyncio.create_task(self._pump(write))
        others = [
            asyncio.create_task(until_left(receive)),
            asyncio.create_task(self._beat(write)),
            asyncio.create_task(self._stopped()),
        ]
        waiting: set[asyncio.Future[Any]] = {pump, visit.over, *others}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if visit.over.done() and not pump.done():
                await _cancel(pump)
                await self._say_farewell(visit.over.result(), write)
            # A reader that left or stalled is no failure of ours, and there is no one to tell.
            elif pump.done() and not isinstance(pump.exception(), OSError):
                pump.result()
        finally:
            await _cancel(pump, *others)
            await self._frames.aclose()

    async def _say_farewell(self, reason: ChatError, write: Send) -> None:
        with suppress(OSError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                if not self._begun:
                    await self._begin(write)
                await write({"type": "http.response.body", "body": self._farewell(reason), "more_body": True})
                await write({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, write: Send) -> None:
        self._begun = True
        await write({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _pump(self, write: Send) -> None:
        await self._begin(write)
        async for frame in self._frames:
            await write({"type": "http.response.body", "body": frame, "more_body": True})
        await write({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, write: Send) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await write({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})

    async def _stopped(self) -> None:
        await self._closing.wait()
        await asyncio.sleep(self._grace)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
