"""The SDKs' HTTP library on asyncio's own transports.

The library's network goes through anyio, which stops and starts the reading at every read and does TLS in Python. A
stream of ours can be read behind an answer's head, too: see `bodies`.
"""

import asyncio
import re
import select
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, cast

import httpcore2

MAX_UNREAD = 1 << 18
"""Bytes that wait for a slow reader; then the socket is left alone, and the server has to wait."""
LEAD = 0.25
"""Seconds that a host's address is tried before the next one is tried beside it, as RFC 8305 recommends."""

_BLANK_LINE = re.compile(rb"\n\r?\n")  # as h11 finds the end of a head
_INFORMATIONAL = re.compile(rb"HTTP/1\.\d 1\d\d")


class SocketStream(asyncio.Protocol, httpcore2.AsyncNetworkStream):
    """One connection, plain or TLS. `read` never goes past the head of an answer, so that whoever has the head may
    `receive` the body instead: `at_body`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unread: list[bytes] = []
        self._size = 0
        self._head: bytes | None = b""
        self._ended = self._paused = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.at_body = False
        """The head of an answer was read, and nothing of its body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._unread.append(data)
        self._size += len(data)
        if self._size > MAX_UNREAD and self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        self._ended = True
        _wake(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._failure = exc
        _wake(self._reader)
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def receive(self) -> bytes:
        """What has come and was not read; nothing at the end.

        Raises:
            httpcore2.ReadError: the connection broke.
        """
        if not self._unread and not self._ended:
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if not self._unread:
            if self._failure is not None:
                raise httpcore2.ReadError(str(self._failure)) from self._failure
            return b""
        data = self._unread[0] if len(self._unread) == 1 else b"".join(self._unread)
        self._unread.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """What the next read gives."""
        if data:
            self._unread.insert(0, data)
            self._size += len(data)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore's
        try:
            async with asyncio.timeout(timeout):
                data = await self.receive()
        except TimeoutError as exc:
            raise httpcore2.ReadTimeout from exc
        data, rest = data[:max_bytes], data[max_bytes:]
        self.unread(rest)
        self.at_body = False
        return data if self._head is None else self._of_head(self._head, data)

    def _of_head(self, begun: bytes, data: bytes) -> bytes:
        head = begun + data
        end = _BLANK_LINE.search(head)
        if end is None:
            self._head = head
            return data
        self._head = b"" if _INFORMATIONAL.match(head) else None
        self.at_body = self._head is None
        length = end.end() - len(begun)
        self.unread(data[length:])
        return data[:length]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # httpcore's
        if not buffer:
            return
        if self._transport is None or self._transport.is_closing():
            raise httpcore2.WriteError("The connection is closed")
        self._head, self.at_body = b"", False
        self._transport.write(buffer)
        try:
            async with asyncio.timeout(timeout):
                await self._writable.wait()
        except TimeoutError as exc:
            raise httpcore2.WriteTimeout from exc
        if self._failure is not None:
            raise httpcore2.WriteError(str(self._failure)) from self._failure

    async def aclose(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            await asyncio.sleep(0)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's
    ) -> "SocketStream":
        secured = SocketStream()
        assert self._transport is not None
        try:
            async with asyncio.timeout(timeout):
                transport = await self._loop.start_tls(
                    self._transport, secured, ssl_context, server_hostname=server_hostname
                )
        except BaseException as exc:
            await self.aclose()
            if isinstance(exc, OSError):
                raise _unconnected(exc) from exc
            raise
        if transport is None:
            raise httpcore2.ConnectError("The connection was closed during the TLS handshake")
        secured.connection_made(transport)
        return secured

    def get_extra_info(self, info: str) -> Any:
        if self._transport is None:
            return None
        if info == "is_readable":
            return bool(self._unread) or self._ended or _readable(self._transport)
        return self._transport.get_extra_info({"client_addr": "sockname", "server_addr": "peername"}.get(info, info))


class Network(httpcore2.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> SocketStream:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                stream = await _first_of(_by_turns(found), local_address)
        except (OSError, UnicodeError) as exc:
            raise _unconnected(exc) from exc
        for option in socket_options or ():
            stream.get_extra_info("socket").setsockopt(*option)
        return stream


Address = tuple[int, int, int, str, tuple[Any, ...]]


def _by_turns(found: Sequence[Address]) -> Sequence[Address]:
    """As the system orders them, but the other family, if there is one, comes second."""
    other = next((address for address in found if address[0] != found[0][0]), None)
    if other is None:
        return found
    return [found[0], other, *(address for address in found[1:] if address is not other)]


async def _first_of(addresses: Sequence[Address], local: str | None) -> SocketStream:
    """Connected to one of a host's addresses: each has LEAD before the next is tried beside it."""
    waiting: set[asyncio.Task[SocketStream]] = set()
    connected: list[SocketStream] = []
    failure: BaseException = OSError("The host has no address")
    ahead = list(addresses)
    try:
        while ahead or waiting:
            if ahead:
                waiting.add(asyncio.create_task(_connected(ahead.pop(0), local)))
            done, waiting = await asyncio.wait(
                waiting, timeout=LEAD if ahead else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                failure = task.exception() or failure
                connected += [] if task.exception() else [task.result()]
            if connected:
                return connected.pop()
        raise failure
    finally:
        for task in waiting:
            task.cancel()
        late = await asyncio.gather(*waiting, return_exceptions=True)
        for stream in [*connected, *late]:
            if isinstance(stream, SocketStream):
                await stream.aclose()


async def _connected(address: Address, local: str | None) -> SocketStream:
    family, _, proto, _, (host, port, *_) = address
    source = None if local is None else (local, 0)
    _, stream = await asyncio.get_running_loop().create_connection(
        SocketStream, host, port, family=family, proto=proto, local_addr=source
    )
    return stream


def _unconnected(error: Exception) -> httpcore2.ConnectError | httpcore2.ConnectTimeout:
    kind = httpcore2.ConnectTimeout if isinstance(error, TimeoutError) else httpcore2.ConnectError
    return kind(str(error))


def _readable(transport: asyncio.Transport) -> bool:
    """Whether something, or the end, has come that the loop has not seen yet."""
    number = transport.get_extra_info("socket").fileno()
    if number < 0 or transport.is_closing():
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
