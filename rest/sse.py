"""A run as server-sent events, in the legacy socket's words."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chat.events import RunEvent, RunFinished
from errors import ChatError
from rest.disconnect import ClientGone, while_connected
from rest.errors import error_response, masked
from rest.frames import CHAT_COMPLETE, Frame, complete_frame, error_frame, frame_of
from rest.streams import ReaderStuck, in_time

HEARTBEAT_SECONDS = 15.0
HEARTBEAT = b": still here\n\n"
STATUS_SECONDS = 1.0
"""How long the status line waits for the first event. What is refused is refused within milliseconds; a model may take
minutes to its first word, and proxies and clients want to see headers before."""


class EventStream(Response):
    """One `data:` line for each frame, a comment where there is none for 15 s.

    What is refused before it begins is answered as plain JSON with its status. The events are closed at once, and with
    them the run, when the client leaves or takes nothing for `send_timeout` seconds.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[RunEvent, None], send_timeout: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._answer(scope, receive, in_time(send, self._send_timeout)))
        except (ClientGone, ReaderStuck):
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events), aclosing(_Steps(self._events)) as steps:
            try:
                await steps.wait(STATUS_SECONDS)
            except ChatError as error:
                await error_response(error)(scope, receive, send)
                return
            except Exception as error:
                await error_response(masked(error, "a streamed chat"))(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._tell(steps, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, steps: "_Steps", send: Send) -> None:
        async def data(frame: Frame) -> None:
            body = b"data: " + orjson.dumps(frame) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        try:
            while True:
                if not await steps.wait(HEARTBEAT_SECONDS):
                    await send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
                    continue
                event = steps.take()
                if (frame := frame_of(event)) is not None:
                    await data(frame)
                if isinstance(event, RunFinished):
                    await data(complete_frame(event))
                    return
        except ReaderStuck:
            raise
        except Exception as error:
            await data(error_frame(error if isinstance(error, ChatError) else masked(error, "a streamed chat")))
            await data(CHAT_COMPLETE)


class _Steps:
    """The events of a generator, waited for with a limit that does not stop it."""

    def __init__(self, events: AsyncGenerator[RunEvent, None]) -> None:
        self._events = events
        self._step: asyncio.Future[RunEvent] | None = None

    async def wait(self, seconds: float) -> bool:
        """Whether the next event has come.

        Raises:
            Exception: what the generator raised in its place.
        """
        if self._step is None:
            self._step = asyncio.ensure_future(anext(self._events))
        await asyncio.wait({self._step}, timeout=seconds)
        if not self._step.done():
            return False
        self._step.result()
        return True

    def take(self) -> RunEvent:
        """The event that `wait` has seen."""
        assert self._step is not None
        event = self._step.result()
        self._step = None
        return event

    async def aclose(self) -> None:
        if self._step is not None:
            self._step.cancel()
            await asyncio.gather(self._step, return_exceptions=True)
