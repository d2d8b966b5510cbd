"""The network of the SDKs' HTTP library, on real sockets, plain and TLS, on both event loops."""

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpcore2
import pytest

from providers.network import LEAD, MAX_UNREAD, Network, SocketStream, _by_turns, _first_of
from tests.providers.peer import Ends, Peer, listening, server_context

SOON = 5.0  # seconds; what was measured is a millisecond
HEAD = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"
Connect = Callable[[], Coroutine[Any, Any, tuple[SocketStream, Ends]]]


@pytest.fixture(params=["plain", "tls"])
async def connect(request: pytest.FixtureRequest, pem: Path) -> AsyncIterator[Connect]:
    """Opens a connection: our stream and the peer's end."""
    tls = request.param == "tls"
    streams: list[SocketStream] = []
    async with listening(server_context(pem) if tls else None) as peer:

        async def connected() -> tuple[SocketStream, Ends]:
            stream = await Network().connect_tcp("127.0.0.1", peer.port, timeout=SOON)
            if tls:
                stream = await stream.start_tls(ssl.create_default_context(cafile=pem), "localhost", timeout=SOON)
            streams.append(stream)
            return stream, await peer.next()

        yield connected
        for stream in streams:
            await stream.aclose()


async def told(stream: SocketStream, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += await asyncio.wait_for(stream.receive(), SOON)
    return data


async def test_bytes_go_both_ways(connect: Connect) -> None:
    stream, (reader, writer) = await connect()
    await stream.write(b"a question")
    assert await reader.readexactly(10) == b"a question"
    for word in (b"an", b"answer"):
        writer.write(word)
        assert await stream.read(100) == word
    assert stream.get_extra_info("server_addr")[0] == "127.0.0.1"


async def test_a_read_gives_no_more_than_was_asked_for(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    writer.write(b"abcdef")
    assert [await stream.read(4), await stream.read(4)] == [b"abcd", b"ef"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("head", [HEAD, HEAD.replace(b"\r", b""), HEAD.replace(b"\n\r\n", b"\n\n")])
async def test_a_read_stops_behind_the_head(connect: Connect, size: int, head: bytes) -> None:
    """Cut anywhere; and a body that looks like another end of a head is left alone."""
    stream, (reader, writer) = await connect()
    before = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    body = b"5\r\nhello\r\n0\r\n\r\n"
    for _ in range(2):
        await stream.write(b"?")
        await reader.readexactly(1)
        sent = before + head + body
        for at in range(0, len(sent), size):
            writer.write(sent[at : at + size])
            await writer.drain()
            await asyncio.sleep(0.001)
        got = b""
        while not stream.at_body:
            got += await asyncio.wait_for(stream.read(1 << 16), SOON)
        assert got == before + head
        assert await told(stream, len(body)) == body


async def test_whoever_reads_on_is_not_at_the_body_any_more(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    await stream.write(b"?")
    writer.write(HEAD + b"a\n\nb")
    assert await stream.read(100) == HEAD
    assert stream.at_body
    assert await stream.read(100) == b"a\n\nb"
    assert not stream.at_body


async def test_what_is_given_back_is_read_next(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    writer.write(b"bc")
    await told(stream, 2)
    stream.unread(b"a")
    assert await stream.read(100) == b"a"


async def test_nothing_of_what_came_before_the_end_is_lost(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    writer.write(b"x" * 1_000_000)
    await writer.drain()
    writer.close()
    assert len(await told(stream, 1_000_000)) == 1_000_000
    assert await asyncio.wait_for(stream.receive(), SOON) == b""
    assert await stream.read(1) == b""


async def test_a_peer_that_says_no_more_may_still_have_answered(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    writer.write(b"no")
    writer.close()
    await asyncio.sleep(0.1)
    with pytest.raises(httpcore2.WriteError):
        await stream.write(b"x" * 100)
    assert await stream.read(100) == b"no"


async def test_a_broken_connection_is_an_error(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    reading = asyncio.create_task(stream.receive())
    await asyncio.sleep(0.05)
    ends = writer.get_extra_info("socket")
    ends.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    with pytest.raises(httpcore2.ReadError):
        await asyncio.wait_for(reading, SOON)
    with pytest.raises(httpcore2.WriteError):
        await stream.write(b"x")


async def test_silence_ends_a_read_that_has_a_limit(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    with pytest.raises(httpcore2.ReadTimeout):
        await stream.read(1, timeout=0.05)
    writer.write(b"late")
    assert await stream.read(100) == b"late", "and nothing is lost"


async def test_a_slow_reader_makes_the_server_wait(connect: Connect) -> None:
    stream, (_, writer) = await connect()
    part, sent = b"x" * 65536, 0

    async def flood() -> None:
        nonlocal sent
        while sent < 64 << 20:
            writer.write(part)
            await writer.drain()
            sent += len(part)

    flooding = asyncio.create_task(flood())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
    assert sent < 32 << 20, "what the sockets' buffers hold"
    assert stream._size <= MAX_UNREAD + (1 << 18), "and one read more"
    assert len(await told(stream, 64 << 20)) == 64 << 20
    await flooding


async def test_a_peer_that_reads_nothing_holds_the_writer_up(connect: Connect) -> None:
    stream, (reader, _) = await connect()
    part, sent = b"x" * (1 << 20), 0

    async def flood() -> None:
        nonlocal sent
        while sent < 64 << 20:
            sent += len(part)
            await stream.write(part, timeout=0.2)

    with pytest.raises(httpcore2.WriteTimeout):
        await flood()
    writing = asyncio.create_task(stream.write(b"y"))
    await asyncio.sleep(0.1)
    assert not writing.done()
    assert await asyncio.wait_for(reader.readexactly(sent), 30) == b"x" * sent
    await asyncio.wait_for(writing, SOON)


async def test_leaving_in_the_middle_of_a_read_closes_at_once(connect: Connect) -> None:
    stream, (reader, _) = await connect()
    reading = asyncio.create_task(stream.receive())
    await asyncio.sleep(0.05)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    await stream.aclose()
    await stream.aclose()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), SOON)
    with pytest.raises(httpcore2.WriteError):
        await stream.write(b"x")


@pytest.mark.parametrize("what", ["more", "the end"])
async def test_an_idle_connection_shows_what_has_come(connect: Connect, what: str) -> None:
    """Also what the loop has not seen yet: a request on it would be lost."""
    stream, (_, writer) = await connect()
    await asyncio.sleep(0.05)
    assert not stream.get_extra_info("is_readable")
    if what == "more":
        writer.write(b"x")
    else:
        writer.close()
    await asyncio.sleep(0.05)
    assert stream.get_extra_info("is_readable")


async def test_what_the_loop_has_not_seen_shows_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await Network().connect_tcp("127.0.0.1", listener.getsockname()[1])
        accepted, _ = listener.accept()
        assert not stream.get_extra_info("is_readable")
        accepted.close()
        assert stream.get_extra_info("is_readable")
        await stream.aclose()


class TestTLS:
    @pytest.fixture
    async def peer(self, pem: Path) -> AsyncIterator[Peer]:
        async with listening(server_context(pem)) as peer:
            yield peer

    @pytest.mark.parametrize(("trusted", "name"), [(False, "localhost"), (True, "example.org")])
    async def test_a_certificate_that_is_not_the_hosts_is_refused(
        self, peer: Peer, pem: Path, trusted: bool, name: str
    ) -> None:
        stream = await Network().connect_tcp("127.0.0.1", peer.port)
        context = ssl.create_default_context(cafile=pem if trusted else None)
        with pytest.raises(httpcore2.ConnectError):
            await stream.start_tls(context, name, timeout=SOON)

    async def test_a_peer_that_does_not_speak_it(self, pem: Path) -> None:
        async with listening() as plain:
            stream = await Network().connect_tcp("127.0.0.1", plain.port)
            _, writer = await plain.next()
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(httpcore2.ConnectError):
                await stream.start_tls(ssl.create_default_context(cafile=pem), "localhost", timeout=SOON)

    @pytest.mark.parametrize("closes", [True, False])
    async def test_a_peer_that_says_nothing(self, pem: Path, closes: bool) -> None:
        async with listening() as plain:
            stream = await Network().connect_tcp("127.0.0.1", plain.port)
            reader, writer = await plain.next()
            if closes:
                writer.close()
            with pytest.raises(httpcore2.ConnectError if closes else httpcore2.ConnectTimeout):
                await stream.start_tls(ssl.create_default_context(cafile=pem), "localhost", timeout=0.2)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1000), SOON)


@contextmanager
def deaf() -> Iterator[int]:
    """A port where nobody takes a connection, nor refuses it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.append(one)
        time.sleep(0.05)
        yield address[1]
        for one in waiting:
            one.close()


def at(port: int, family: int = socket.AF_INET) -> Any:
    return (family, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))


class TestConnecting:
    async def test_nobody_listens(self) -> None:
        with pytest.raises(httpcore2.ConnectError):
            await Network().connect_tcp("127.0.0.1", 9, timeout=SOON)
        with pytest.raises(httpcore2.ConnectError):
            await Network().connect_tcp("nobody.invalid", 80, timeout=SOON)

    async def test_a_name_that_no_host_can_have(self) -> None:
        """A redirection may lead to one."""
        with pytest.raises(httpcore2.ConnectError):
            await Network().connect_tcp("x" * 64 + ".invalid", 80, timeout=SOON)

    async def test_nobody_answers(self) -> None:
        with deaf() as port, pytest.raises(httpcore2.ConnectTimeout):
            await Network().connect_tcp("127.0.0.1", port, timeout=0.2)

    async def test_options_of_the_socket(self) -> None:
        async with listening() as peer:
            options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
            stream = await Network().connect_tcp("localhost", peer.port, socket_options=options)
            assert stream.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            await stream.aclose()

    async def test_an_address_that_does_not_answer_does_not_hold_up_the_next(self) -> None:
        async with listening() as peer:
            with deaf() as port:
                begun = time.monotonic()
                stream = await _first_of([at(port), at(peer.port)], None)
                assert LEAD * 0.8 < time.monotonic() - begun < SOON
            assert stream.get_extra_info("server_addr")[1] == peer.port
            await stream.aclose()

    async def test_one_that_refuses_does_not_either(self) -> None:
        async with listening() as peer:
            begun = time.monotonic()
            stream = await _first_of([at(9), at(9), at(peer.port)], None)
            assert time.monotonic() - begun < LEAD
            await stream.aclose()

    async def test_all_refuse(self) -> None:
        with pytest.raises(ConnectionRefusedError):
            await _first_of([at(9), at(9)], None)

    async def test_leaving_leaves_nothing_open(self) -> None:
        with deaf() as port:
            connecting = asyncio.create_task(_first_of([at(port), at(port)], None))
            await asyncio.sleep(LEAD * 1.5)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
        assert len(asyncio.all_tasks()) == 1

    def test_the_families_take_turns(self) -> None:
        six, four = socket.AF_INET6, socket.AF_INET
        found = [at(1, six), at(2, six), at(3, four), at(4, four)]
        assert [address[4][1] for address in _by_turns(found)] == [1, 3, 2, 4]
        assert _by_turns(found[:2]) == found[:2]
        assert _by_turns([]) == []
