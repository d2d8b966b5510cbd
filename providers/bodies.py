"""The body of an answer, read with as little as it takes.

Behind the head, a chunked body is taken from the connection itself and parsed in C: the way of the library, through
h11 and five layers of generators, costs as much as all the rest of a chunk. The end is handed back to the library,
which then keeps the connection for the next request.
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import httpcore2
import httptools
import httpx2

from providers.network import SocketStream

MAX_ERROR_BODY = 1 << 16  # bytes
MAX_IDLE = 1 << 20
"""Bytes of chunks' heads and of trailers without a byte of the body."""

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
"""For the parser: whatever follows on the end is an error to it, not another answer."""
_END = b"0\r\n\r\n"


class Response(Protocol):
    """What is read of an HTTP response whose body has not been: httpx's, or httpx2's, which the SDKs use."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def extensions(self) -> Mapping[str, Any]: ...
    def aiter_bytes(self) -> AsyncIterator[bytes]: ...
    def aiter_raw(self) -> AsyncIterator[bytes]: ...


class Body(Protocol):
    async def read(self) -> bytes | None:
        """What has come; None at the end. Raises the errors of the response's library."""
        ...


async def beginning_of(response: Response, most: int) -> bytes:
    """The whole body if it has no more than `most` bytes; else more than that of it, and the rest is not waited for."""
    body = b""
    async for data in response.aiter_bytes():
        body += data
        if len(body) > most:
            break
    return body


def body_of(response: Response) -> Body:
    """The body of a response of which nothing but the head was read."""
    stream = response.extensions.get("network_stream")
    framing = response.headers.get("transfer-encoding", "").strip().lower()
    coding = response.headers.get("content-encoding", "").strip().lower()
    if isinstance(stream, SocketStream) and stream.at_body and framing == "chunked" and coding in ("", "identity"):
        return ChunkedBody(response, stream)
    return AnyBody(response)


class AnyBody:
    def __init__(self, response: Response) -> None:
        self._parts = response.aiter_bytes()

    async def read(self) -> bytes | None:
        return await anext(self._parts, None)


class ChunkedBody:
    def __init__(self, response: Response, stream: SocketStream) -> None:
        self._response = response
        self._stream = stream
        self._parts: list[bytes] = []
        self._whole = False
        self._failure: httptools.HttpParserError | None = None
        self._idle = 0
        self._parser = httptools.HttpResponseParser(self)
        # As h11: some servers fill the sizes of chunks up with spaces.
        self._parser.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        self._parser.feed_data(_HEAD)

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        self._whole = True

    async def read(self) -> bytes | None:
        while not self._parts:
            if self._whole or self._failure is not None:
                await self._end()
                return None
            try:
                data = await self._stream.receive()
            except httpcore2.ReadError as exc:
                raise httpx2.ReadError(str(exc)) from exc
            if not data:
                raise httpx2.RemoteProtocolError("The connection was closed in the middle of the body")
            self._parse(data)
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return data

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._failure = exc
        self._idle = 0 if self._parts else self._idle + len(data)
        if self._idle > MAX_IDLE:
            raise httpx2.RemoteProtocolError("The body is nothing but heads of chunks")

    async def _end(self) -> None:
        """Behind the end nothing may come: only a connection that said no more is used again."""
        if not self._whole:
            raise httpx2.RemoteProtocolError(str(self._failure)) from self._failure
        if self._failure is None:
            self._stream.unread(_END)
            async for _ in self._response.aiter_raw():
                pass
