"""A vendor's server on a real socket: HTTP/1.1 by hand, so that it can stall, cut and babble where it likes."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from errors import ErrorCode
from providers.base import FinishReason, GenerationRequest, Patience, Provider, Usage
from tests.providers.fakes.steps import Failure, Figures, Hang, Noise, Page, Refuse, Sent, Step, Wait


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(slots=True)
class Told:
    """What a client made of an answer: ours or the vendor's SDK."""

    text: str = ""
    reasoning: str = ""
    finish: FinishReason | None = None
    usage: Usage | None = None
    error: ErrorCode | None = None
    retry_after: float | None = field(default=None, compare=False)


class Fake(ABC):
    """One vendor's server. `play` says what it answers to the next requests; it serves while `serving` is open."""

    key = "sk-a-key-that-is-right"
    model = "a-model"

    def __init__(self) -> None:
        self.steps: tuple[Step, ...] = ()
        self.seen: list[Seen] = []
        self.left = asyncio.Event()
        self.open = 0
        """Requests that are being answered."""
        self.connections = 0
        """That were ever opened."""
        self._address = ""

    @abstractmethod
    def provider(self, key: str, patience: Patience) -> Provider:
        """Our adapter, led to this server."""

    @abstractmethod
    async def sdk(self, request: GenerationRequest, key: str) -> Told:
        """The same by the vendor's unmodified SDK, as its users stream; its exceptions as `Told.error`."""

    @abstractmethod
    def authorised(self, request: Seen) -> bool:
        """Whether the request carries `key` where the vendor expects it."""

    @abstractmethod
    def refusal(self, failure: Failure) -> tuple[int, object] | None:
        """Status and JSON body; None if this vendor says so inside a stream only."""

    @abstractmethod
    def wire(self, steps: Sequence[Step], request: Seen) -> Iterator[Sent]:
        """The body of a streamed answer."""

    def page(self, request: Seen) -> Page | None:  # noqa: ARG002  # a vendor's fake may use it
        """What is answered to a request that is not for an answer: the list of models."""
        return None

    def usage(self, figures: Figures) -> Usage:
        """What an adapter can know of sane figures: a vendor that leaves one out says so here."""
        return Usage(*(getattr(figures, name) for name in ("prompt", "completion", "cached", "reasoning")))

    def play(self, *steps: Step) -> None:
        self.steps = steps
        self.left.clear()

    @property
    def address(self) -> str:
        """`http://host:port`, without any path."""
        return self._address

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    begun: bytes | None = b""
                    while begun is not None:
                        begun = await self._answer(reader, writer, begun)
            finally:
                writer.close()
                tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begun: bytes) -> bytes | None:
        """One request, of which `begun` was read already. What was read of the next, None if none may follow."""
        request = await _read(reader, begun)
        self.seen.append(request)
        self.open += 1
        playing = asyncio.ensure_future(self._play(request, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait([playing, leaving], return_when=asyncio.FIRST_COMPLETED)
            if playing.done() and playing.exception() is None:
                return (leaving.result() if leaving.done() else b"") if playing.result() else None
            self.left.set()
            return None
        finally:
            self.open -= 1
            for task in (playing, leaving):
                task.cancel()
            await asyncio.gather(playing, leaving, return_exceptions=True)

    async def _play(self, request: Seen, writer: asyncio.StreamWriter) -> bool:
        first = self.steps[0] if self.steps else None
        if not self.authorised(request):
            first = Refuse(Failure.AUTH)
        elif (page := self.page(request)) is not None:
            first = page
        if isinstance(first, Refuse) and (refusal := self.refusal(first.failure)) is not None:
            status, body = refusal
            _whole(writer, Page(status, orjson.dumps(body), "application/json"), first.retry_after)
        elif isinstance(first, Page):
            _whole(writer, first)
        else:
            if self.steps == (Hang(),):
                await asyncio.Event().wait()
            return await _stream(writer, self.wire(self.steps, request))
        await writer.drain()
        return True


async def _read(reader: asyncio.StreamReader, begun: bytes) -> Seen:
    head = (begun + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body)


def _whole(writer: asyncio.StreamWriter, page: Page, retry_after: str | None = None) -> None:
    retry = f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
    writer.write(
        f"HTTP/1.1 {page.status} X\r\nContent-Type: {page.content_type}\r\n{retry}"
        f"Content-Length: {len(page.body)}\r\n\r\n".encode()
    )
    writer.write(page.body)


async def _stream(writer: asyncio.StreamWriter, parts: Iterator[Sent]) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for part in parts:
        if isinstance(part, bytes):
            _chunk(writer, part)
        elif isinstance(part, Wait):
            await asyncio.sleep(part.seconds)
        elif isinstance(part, Hang):
            await asyncio.Event().wait()
        elif isinstance(part, Noise):
            while True:
                _chunk(writer, part.data)
                await writer.drain()
                await asyncio.sleep(0)
        else:
            # What was written before has to arrive: an abort drops what the kernel has not sent.
            await asyncio.sleep(0.05)
            writer.transport.abort()
            return False
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
