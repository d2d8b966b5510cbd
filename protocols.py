"""uvicorn's connections with the bounds that it leaves open. `python app.py` has them; `uvicorn app:app` needs a proxy.

The head of a request has no clock and no size in uvicorn 0.54, and a socket whose peer does not read keeps its memory
behind the close.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.protocol import State

HEAD_SECONDS = 30.0
HEAD_BYTES = 64 * 1024
"""Four times what nginx reads by default; the guide's frontend sends 1 KB."""
BESIDE = 8
"""Bytes that a chunked body may have beside each of its own: one to a chunk has five."""
MAX_PIPELINED = 64
"""Requests that wait for the first one's answer. No browser sends any; a packet holds ten thousand, 3 KB each here."""
READ_BYTES = 64 * 1024
"""Of an answer that waits for its reader, in each HEAD_SECONDS."""
CLOSE_SECONDS = 10.0
"""How long the last frame of a socket may wait for its peer to read."""
MAX_PIECES = 1_024
"""Of one message. Browsers send each in one; a quarter of a MiB in pieces of 256 bytes."""
MAX_UNREAD_PONGS = 4 * 1024 * 1024
"""Bytes that wait for a peer: answers to what it sends, which it does not read."""
REFUSAL = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class TooMany(Exception):
    """More requests than anybody sends at once."""


class BoundedHttp(HttpToolsProtocol):
    """A request whose head takes over HEAD_SECONDS, or HEAD_BYTES, is its connection's last. So is one that is answered
    and whose body goes on for longer, one with more beside its body than in it, and one whose answer is not read.
    Trailers are dropped: they come when everybody has seen the headers."""

    _clock: asyncio.TimerHandle | None = None
    _head: int | None = None
    _body: bool = False
    """Whether a request's head is there and its end is not."""
    _begun: bool = False
    """Whether it is so since the packet that is being read."""
    _beside: int = 0
    """Bytes of its later packets that are none of the body: sizes and extensions of chunks, trailers."""
    _reading: asyncio.TimerHandle | None = None
    _upgraded: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.abort()
            raise TooMany
        self._body = self._begun = True
        if not self._upgrades:
            self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._begun:
            self._beside -= BESIDE * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._body = False
        super().on_message_complete()
        if self._answered:
            self._stop_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body and not self.transport.is_closing():
            # Nobody waits for the rest.
            self._wait(self.transport.close)
        if self._reading is None:
            self._see_whether_it_is_read(self.transport.get_write_buffer_size())

    def _see_whether_it_is_read(self, most: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left > most:
            self.transport.abort()
        elif left:
            most = left - min(left, READ_BYTES)
            self._reading = self.loop.call_later(HEAD_SECONDS, self._see_whether_it_is_read, most)
        else:
            self._reading = None

    def handle_websocket_upgrade(self) -> None:
        self._stop_clock()
        self._upgraded = True
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        self._begun = False
        super().data_received(data)
        if self._upgraded or self.transport.is_closing():
            return
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self._refuse(b"431 Request Header Fields Too Large")
        elif self._begun:
            self._beside = 0
        elif self._body:
            self._beside = max(0, self._beside + len(data))
            if self._beside > HEAD_BYTES:
                self._stop_clock()
                self.transport.abort()
        elif self._answered and self._clock is None and self.timeout_keep_alive_task is None:
            # Empty lines, which are in front of no request yet, and have ended the pause that a connection may make.
            self._wait_for_head()

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _upgrades(self) -> bool:
        return bool(self.parser.should_upgrade()) and self._should_upgrade()

    def _wait_for_head(self) -> None:
        if self._clock is None:
            self._head = 0
            self._wait(self._refuse, b"408 Request Timeout")

    def _wait(self, then: Callable[..., object], *given: object) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(HEAD_SECONDS, then, *given)

    def _stop_clock(self) -> None:
        self._head = None
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, status: bytes) -> None:
        self._stop_clock()
        if not self.transport.is_closing():
            # Nothing may stand in front of it: the answers of pipelined requests would.
            if self._answered:
                self.transport.write(REFUSAL % status)
            self.transport.close()
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)


class BoundedSocket(WebSocketsSansIOProtocol):
    """A peer that reads nothing, not even the close, is cut off, and a message comes in so many pieces. A socket that
    uvicorn closed for a broken frame is a client's that left, not a fault of the application's that still answers."""

    _ended = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.transport.is_closing():
            # It has a body, or more lines than the library reads: uvicorn would leave it open without a word.
            self.transport.write(REFUSAL % b"400 Bad Request")
            self.transport.close()

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
