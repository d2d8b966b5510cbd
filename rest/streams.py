"""Answers in pieces, each of which the client has to take in time."""

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from streaming import ClientLeft, while_connected


class ReaderStuck(Exception):
    """The client is there and takes nothing."""


def in_time(send: Send, seconds: float) -> Send:
    """`send`, which raises ReaderStuck when the client has taken nothing for so long."""

    async def timed(message: Message) -> None:
        try:
            async with asyncio.timeout(seconds):
                await send(message)
        except TimeoutError:
            raise ReaderStuck from None

    return timed


class PiecesResponse(StreamingResponse):
    """JSON whose pieces are at hand. Ends at once when the client leaves, and when it does not read."""

    def __init__(self, pieces: AsyncIterator[bytes], send_timeout: float) -> None:
        super().__init__(pieces, media_type="application/json")
        self._send_timeout = send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await while_connected(receive, self.stream_response(in_time(send, self._send_timeout)))
        except (ClientLeft, ReaderStuck):
            return
