"""uvicorn's connections with the bounds that it leaves open. `python app.py` has them; `uvicorn app:app` needs a proxy.

The head of a request has no clock and no size in uvicorn 0.54, and a socket whose peer does not read keeps its memory
behind the close.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

HEAD_SECONDS = 30.0
HEAD_BYTES = 64 * 1024
"""Four times what nginx reads by default; the guide's frontend sends 1 KB."""
CLOSE_SECONDS = 10.0
"""How long the last frame of a socket may wait for its peer to read."""
MAX_PIECES = 1_024
"""Of one message. Browsers send each in one; a quarter of a MiB in pieces of 256 bytes."""
MAX_UNREAD_PONGS = 4 * 1024 * 1024
"""Bytes that wait for a peer: answers to what it sends, which it does not read."""


class BoundedHttp(HttpToolsProtocol):
    """A request whose head takes over HEAD_SECONDS, or HEAD_BYTES, is its connection's last."""

    _clock: asyncio.TimerHandle | None = None
    _head: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")

    def _wait_for_head(self) -> None:
        if self._clock is None:
            self._head = 0
            self._clock = self.loop.call_later(HEAD_SECONDS, self._refuse, b"408 Request Timeout")

    def _head_is_there(self) -> None:
        self._head = None
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, status: bytes) -> None:
        self._head_is_there()
        if not self.transport.is_closing():
            # Nothing may stand in front of it: the answers of pipelined requests would.
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status)
            self.transport.close()
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class BoundedSocket(WebSocketsSansIOProtocol):
    """A peer that reads nothing, not even the close, is cut off, and a message comes in so many pieces. A socket that
    uvicorn closed for a broken frame is a client's that left, not a fault of the application's that still answers."""

    _ended = False

    async def send(self, message: Any) -> None:
        if self.close_sent and self.handshake_complete and not self._ended:
            raise ClientDisconnected
        if message["type"] == "websocket.close":
            self._ended = True
            # Before it is sent: it waits until what stands in front of it has been read.
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)
        await super().send(message)

    def send_receive_event_to_app(self) -> None:
        if self.conn.state is not State.OPEN and self.curr_msg_data_type == "text" and not _is_text(self.frames):
            # Closed already, in the same packet: uvicorn would close again for it, which raises.
            self.frames = []
            return
        super().send_receive_event_to_app()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_PIECES:
            # Empty ones have no size that would add up.
            self.conn.fail(CloseCode.MESSAGE_TOO_BIG, "Too many pieces")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.transport.get_write_buffer_size() > MAX_UNREAD_PONGS:
            self.transport.abort()
            return
        super().handle_ping()


def _is_text(pieces: list[bytes]) -> bool:
    try:
        b"".join(pieces).decode()
    except UnicodeDecodeError:
        return False
    return True
