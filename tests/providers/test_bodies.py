"""Bodies read from the connection itself, through the library's own client, on real sockets and both event loops."""

import asyncio
import gzip
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from providers.bodies import MAX_IDLE, AnyBody, Body, ChunkedBody, body_of
from providers.sdk import Client
from tests.providers.peer import Ends, Peer, head_of, listening, pipe, server_context

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WORDS = [b"h\xc3", b"\xa9", b"\n\n" * 3, b"data: x\r\n\r\n" * 9000]
SOON = 5.0
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_DIR")

Answer = Callable[[Ends], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def trusting(pem: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side of a certificate that our clients trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    return server_context(pem)


def chunked(*words: bytes, end: bytes = b"0\r\n\r\n", size: bytes = b"%x") -> bytes:
    return b"".join(size % len(word) + b"\r\n" + word + b"\r\n" for word in words) + end


def sends(sent: bytes, at_once: int = 1 << 30, *, then: str = "wait") -> Answer:
    async def answer(ends: Ends) -> None:
        writer = ends[1]
        for at in range(0, len(sent), at_once):
            writer.write(sent[at : at + at_once])
            await writer.drain()
            await asyncio.sleep(0)
        if then == "close":
            writer.close()
        if then == "reset":
            await asyncio.sleep(0.05)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    return answer


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Answers every request on every connection."""
    async with listening(tls) as peer:

        async def serve(ends: Ends) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await head_of(ends[0])
                    await answer(ends)

        async def accept() -> None:
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(serve(await peer.accepted.get()))

        accepting = asyncio.create_task(accept())
        try:
            yield peer
        finally:
            accepting.cancel()
            await asyncio.wait([accepting])


@asynccontextmanager
async def asked(client: Client, url: str) -> AsyncIterator[Body]:
    async with client.stream("POST", url, content=b"?" * 100) as response:
        assert response.status_code == 200
        yield body_of(response)


async def whole(body: Body) -> bytes:
    data = b""
    async with asyncio.timeout(SOON):
        while (part := await body.read()) is not None:
            data += part
    return data


async def got(url: str, kind: type[Body] = ChunkedBody) -> bytes:
    async with Client(timeout=SOON) as client, asked(client, url) as body:
        assert type(body) is kind
        return await whole(body)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_is_used_again(trusting: ssl.SSLContext, tls: bool) -> None:
    async with serving(sends(CHUNKED + chunked(*WORDS)), trusting if tls else None) as peer, Client() as client:
        for _ in range(3):
            async with asked(client, f"http{'s' if tls else ''}://localhost:{peer.port}") as body:
                assert type(body) is ChunkedBody
                assert await whole(body) == b"".join(WORDS)
        assert peer.count == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
async def test_cut_anywhere_it_reads_the_same(size: int) -> None:
    sent = b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED + chunked(*WORDS[:3])
    async with serving(sends(sent, size)) as peer, Client() as client:
        for _ in range(2):
            async with asked(client, f"http://localhost:{peer.port}") as body:
                assert await whole(body) == b"".join(WORDS[:3])
        assert peer.count == 1


@pytest.mark.parametrize(
    "sent",
    [
        chunked(*WORDS, size=b"%x;a=b"),
        chunked(*WORDS, size=b"%X"),
        chunked(*WORDS, size=b"%08x"),
        chunked(*WORDS, size=b"%x   "),
        chunked(*WORDS, end=b"0\r\nX-Figures: 7\r\n\r\n"),
        chunked(b"".join(WORDS) * 50),
    ],
    ids=["extension", "capitals", "zeros", "spaces", "trailer", "long"],
)
async def test_dialects(sent: bytes) -> None:
    async with serving(sends(CHUNKED + sent)) as peer:
        assert (await got(f"http://localhost:{peer.port}")).removeprefix(b"".join(WORDS) * 49) == b"".join(WORDS)


BODY = b"".join(WORDS)
PACKED = gzip.compress(BODY)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("sent", "then"),
    [
        (OK + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY, "wait"),
        (OK + b"Connection: close\r\n\r\n" + BODY, "close"),
        (CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + chunked(PACKED[:9], PACKED[9:]), "wait"),
    ],
    ids=["length", "until it closes", "gzip"],
)
async def test_what_is_not_plain_chunks_is_read_by_the_library(sent: bytes, then: str) -> None:
    async with serving(sends(sent, then=then)) as peer:
        assert await got(f"http://localhost:{peer.port}", AnyBody) == BODY


async def test_on_the_librarys_own_network_it_reads() -> None:
    """What is left should its private parts move."""
    async with (
        serving(sends(CHUNKED + chunked(*WORDS))) as peer,
        httpx2.AsyncClient() as client,
        client.stream("POST", f"http://localhost:{peer.port}") as response,
    ):
        body = body_of(response)
        assert type(body) is AnyBody
        assert await whole(body) == BODY


async def test_what_the_library_has_begun_it_reads_to_the_end() -> None:
    async with (
        serving(sends(CHUNKED + chunked(b"a", b"b"))) as peer,
        Client() as client,
        client.stream("POST", f"http://localhost:{peer.port}") as response,
    ):
        assert await anext(response.aiter_raw()) == b"a"
        assert type(body_of(response)) is AnyBody


BROKEN: dict[str, tuple[bytes, str, type[Exception]]] = {
    "garbled": (chunked(b"a", end=b"") + b"nonsense\r\n", "wait", httpx2.RemoteProtocolError),
    "a wrong size": (b"1\r\nabc\r\n", "wait", httpx2.RemoteProtocolError),
    "a size without end": (chunked(b"a", end=b"") + b"f" * 100, "wait", httpx2.RemoteProtocolError),
    "a negative size": (chunked(b"a", end=b"") + b"-1\r\n", "wait", httpx2.RemoteProtocolError),
    "cut": (chunked(b"a", end=b"") + b"9\r\n", "close", httpx2.RemoteProtocolError),
    "cut before the end": (chunked(b"a", end=b""), "close", httpx2.RemoteProtocolError),
    "reset": (chunked(b"a", end=b""), "reset", httpx2.ReadError),
    "endless extension": (chunked(b"a", end=b"") + b"1;" + b"x" * (2 * MAX_IDLE), "wait", httpx2.RemoteProtocolError),
    "endless trailer": (chunked(b"a", end=b"0\r\nX: ") + b"x" * (2 * MAX_IDLE), "wait", httpx2.RemoteProtocolError),
}


@pytest.mark.parametrize(("sent", "then", "kind"), BROKEN.values(), ids=BROKEN.keys())
async def test_what_breaks_is_an_error_behind_what_came(sent: bytes, then: str, kind: type[Exception]) -> None:
    async with serving(sends(CHUNKED + sent, then=then)) as peer, Client() as client:
        for _ in range(2):
            async with asked(client, f"http://localhost:{peer.port}") as body:
                assert await body.read() == b"a"
                with pytest.raises(kind):
                    await asyncio.wait_for(body.read(), SOON)
        assert peer.count == 2, "such a connection is not used again"


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"nonsense"])
@pytest.mark.parametrize("apart", [False, True])
async def test_what_nobody_asked_for_answers_no_other_request(more: bytes, apart: bool) -> None:
    async def answer(ends: Ends) -> None:
        ends[1].write(CHUNKED + chunked(b"a") + (b"" if apart else more))
        if apart:
            await asyncio.sleep(0.05)
            ends[1].write(more)

    async with serving(answer) as peer, Client() as client:
        for count in range(1, 4):
            async with asked(client, f"http://localhost:{peer.port}") as body:
                assert await whole(body) == b"a"
            await asyncio.sleep(0.1)
            assert peer.count == count


@pytest.mark.parametrize("tls", [False, True])
async def test_leaving_in_the_middle_closes_at_once(trusting: ssl.SSLContext, tls: bool) -> None:
    async with listening(trusting if tls else None) as peer, Client() as client:

        async def read() -> None:
            async with asked(client, f"http{'s' if tls else ''}://localhost:{peer.port}") as body:
                await whole(body)

        reading = asyncio.create_task(read())
        reader, writer = await peer.next()
        await head_of(reader)
        writer.write(CHUNKED + chunked(b"a", end=b""))
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), SOON)
        with suppress(asyncio.CancelledError):
            await reading


async def test_a_slow_reader_makes_the_server_wait() -> None:
    sent = 0

    async def answer(ends: Ends) -> None:
        nonlocal sent
        ends[1].write(CHUNKED)
        for _ in range(1024):
            ends[1].write(chunked(b"x" * 65536, end=b""))
            await ends[1].drain()
            sent += 65536
        ends[1].write(b"0\r\n\r\n")

    async with (
        serving(answer) as peer,
        Client() as client,
        asked(client, f"http://localhost:{peer.port}") as body,
    ):
        assert await body.read()
        await asyncio.sleep(0.5)
        assert sent < 32 << 20, "what the sockets' buffers hold"
        async with asyncio.timeout(30):
            while await body.read() is not None:
                pass
        assert sent == 64 << 20


class TestProxies:
    """As the library finds them in the environment."""

    @pytest.fixture(params=["http", "https"])
    async def proxy(
        self, request: pytest.FixtureRequest, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[list[bytes]]:
        """What was asked of it."""
        requests: list[bytes] = []

        async def answer(ends: Ends) -> None:
            head = await head_of(ends[0])
            requests.append(head)
            target = head.split(b" ")[1].decode().removeprefix("http://").partition("/")[0]
            other = await asyncio.open_connection("127.0.0.1", int(target.rpartition(":")[2]))
            if head.startswith(b"CONNECT"):
                ends[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                other[1].write(head)
            await pipe(ends, other)

        async def accept(peer: Peer) -> None:
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(answer(await peer.accepted.get()))

        async with listening(trusting if request.param == "https" else None) as peer:
            for name in ("HTTP_PROXY", "HTTPS_PROXY"):
                monkeypatch.setenv(name, f"{request.param}://localhost:{peer.port}")
            accepting = asyncio.create_task(accept(peer))
            yield requests
            accepting.cancel()
            await asyncio.wait([accepting])

    @pytest.mark.parametrize("tls", [False, True])
    async def test_a_body_comes_through_it(self, proxy: list[bytes], trusting: ssl.SSLContext, tls: bool) -> None:
        async with serving(sends(CHUNKED + chunked(*WORDS), 1000), trusting if tls else None) as peer:
            async with Client(timeout=SOON) as client:
                for _ in range(2):
                    async with client.stream("GET", f"http{'s' if tls else ''}://localhost:{peer.port}/x") as response:
                        body = body_of(response)
                        assert type(body) is ChunkedBody
                        assert await whole(body) == b"".join(WORDS)
            assert peer.count == 1
        assert len(proxy) == 1
        assert proxy[0].startswith(b"CONNECT localhost:" if tls else b"GET http://localhost:")

    async def test_it_may_refuse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with serving(sends(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")) as peer:
            monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{peer.port}")
            async with Client() as client:
                with pytest.raises(httpx2.ProxyError):
                    await client.get("https://localhost:1/")
