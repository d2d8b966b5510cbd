"""What every request passes, over real sockets: hosts, headers, gzip, heads and bodies that trickle."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

import protocols
from protocols import BoundedHttp, BoundedSocket
from tests.conftest import Account, StartServer, register_on
from tests.rest.talk import conversation, message
from tests.server import Server, free_port

SOCKET = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


async def test_a_long_answer_is_gzipped_and_a_short_one_is_not(client: httpx.AsyncClient, account: Account) -> None:
    body = conversation(messages=[message("hello " * 500)])
    await client.post("/api/conversations", json=body, headers=account.headers)
    long = await client.get("/api/conversations", headers=account.headers)
    assert long.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in long.headers["vary"]
    assert "hello hello" in long.text
    short = await client.get("/api/auth/me", headers=account.headers)
    assert "content-encoding" not in short.headers
    plain = await client.get("/api/conversations", headers={**account.headers, "Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == long.json()


async def test_a_stream_is_never_gzipped(client: httpx.AsyncClient, account: Account) -> None:
    body = {"messages": [{"role": "user", "content": "words"}], "model": "scripted:words=400", "stream": True}
    async with client.stream("POST", "/api/chat", json=body, headers=account.headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        assert len(await answer.aread()) > 1_000


async def test_browsers_are_told_to_be_careful(client: httpx.AsyncClient, account: Account) -> None:
    kept = {"/docs": "no-cache", "/graphql": "no-cache", "/graphiql/index.html": "no-cache"}
    for path in ("/", "/health", "/api/conversations", "/api/nothing", "/graphql?query={__typename}", *kept):
        accept = "text/html" if path in kept else "*/*"
        answer = await client.get(path, headers={**account.headers, "Accept": accept})
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["x-frame-options"] == "DENY", path
        assert answer.headers["referrer-policy"] == "no-referrer", path
        assert answer.headers["cache-control"] == kept.get(path, "no-store"), path
        assert "strict-transport-security" not in answer.headers, "not over plain HTTP"


async def test_a_host_that_is_not_ours_is_refused(start_server: StartServer) -> None:
    """Somebody's own name that points to us (DNS rebinding), or a link in a mail that is made from the Host."""
    server = start_server(ALLOWED_HOSTS="127.0.0.1,*.example.com")
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/", headers={"Host": "chat.example.com"})).status_code == 200
        for host in ("evil.example", "example.com.evil.example", "", "[::1", "127.0.0.1.evil.example:80"):
            assert (await client.get("/", headers={"Host": host})).status_code == 400, host
    upgrade = "GET /graphql HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    reader, writer = await raw(server, f"{upgrade}{SOCKET}\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()


HOSTS = {
    "GET /health HTTP/1.1": 400,
    "GET /health HTTP/1.1|Host: a|Host: a": 400,
    "GET /health HTTP/1.1|Host: a|host: b": 400,
    "GET /health HTTP/1.1|Host:": 400,
    "GET /health HTTP/1.1|Host: ": 400,
    "GET /health HTTP/1.1|Host: a b": 400,
    "GET /health HTTP/1.1|Host: a, b": 400,
    "GET /health HTTP/1.1|Host: a@b": 400,
    "GET /health HTTP/1.1|Host: a/b": 400,
    "GET /health HTTP/1.1|Host: [::1": 400,
    "GET /health HTTP/1.1|Host: ::1": 400,
    "GET /health HTTP/1.1|Host: a:b": 400,
    "GET /health HTTP/1.1|Host: \u00fc.example": 400,
    "GET /health HTTP/1.1|X-Forwarded-Host: a|X-Forwarded-Proto: https": 400,
    "GET /health HTTP/1.1|Host: a|Host: b|X-Forwarded-For: 192.0.2.1|X-Forwarded-Proto: https": 400,
    "GET http://a/health HTTP/1.1": 400,
    "POST /graphql HTTP/1.1|Content-Length: 2|Content-Type: application/json||{}": 400,
    "GET /health HTTP/1.0|Host: a|Host: b": 400,
    "GET /health HTTP/1.0|Host:": 400,
    "GET /health HTTP/1.0": 200,
    "GET /health HTTP/1.0|Host: a": 200,
    "GET /health HTTP/1.1|Host: A.example.:8000": 200,
    "GET /health HTTP/1.1|Host: back_end": 200,
    "GET /health HTTP/1.1|Host: [::1]:80": 200,
    "GET /health HTTP/1.1|Host: 10.0.0.1:": 200,
}


async def test_a_request_names_one_host(server: Server) -> None:
    """RFC 9112, 3.2. Without ALLOWED_HOSTS too, and before anything else is looked at."""
    upgrade = f"GET /graphql HTTP/1.1|Upgrade: websocket|Connection: Upgrade|{SOCKET}"
    sockets = {f"{upgrade}{host}": 400 for host in ("", "Host: a|Host: b", "Host:", "Host: a@b")}
    for request, status in {**HOSTS, **sockets, f"{upgrade}Host: a": 101}.items():
        head, _, body = request.partition("||")
        sent = head.rstrip("\r\n").replace("|", "\r\n") + "\r\n\r\n" + body
        reader, writer = await raw(server, sent.encode())
        async with asyncio.timeout(5):
            assert (await reader.readline()).split()[1] == b"%d" % status, request
            if status == 400:
                assert b"Invalid host header" in await reader.readuntil(b"header"), request
        writer.close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "[::1]"])
async def test_a_slash_too_many_leads_to_the_same_host(client: httpx.AsyncClient, account: Account, host: str) -> None:
    """The Host is whatever the request says: a cache in front would keep a way to it, and give it to others."""
    for path, right in {
        "/api/conversations/?limit=1&x=%2F": "/api/conversations?limit=1&x=%2F",
        "/api/chat/": "/api/chat",
        "/graphiql": "/graphiql/",
        "/health//": "/health",
    }.items():
        answer = await client.get(path, headers={"Host": host})
        assert (answer.status_code, answer.headers["location"]) == (307, right)


async def test_whoever_writes_a_slash_too_many_is_answered(client: httpx.AsyncClient, account: Account) -> None:
    answer = await client.get("/api/auth/me/", headers=account.headers, follow_redirects=True)
    assert (answer.status_code, answer.json()["id"]) == (200, account.id)
    for path in ("//evil.example/", "//evil.example", "///api/conversations/"):
        assert (await client.get(f"{client.base_url}{path}")).status_code == 404


async def raw(server: Server, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def test_a_connection_may_be_idle_for_as_long_as_is_set(server: Server, start_server: StartServer) -> None:
    """nginx keeps its own for 60 s: where the server lets go first, a request that is under way meanwhile is a 502."""
    servers = [server, start_server(KEEP_ALIVE_SECONDS="1")]
    peers = [await raw(each, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") for each in servers]
    (long, writer), (short, other) = peers
    async with asyncio.timeout(20):
        await short.read()
    assert not long.at_eof()
    await asyncio.sleep(4)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await long.read()).count(b"HTTP/1.1 200") == 2
    writer.close()
    other.close()


async def test_a_body_that_trickles_is_cut(start_server: StartServer) -> None:
    server = start_server(BODY_SECONDS="1")
    account = await asyncio.to_thread(register_on, server)
    for path, token in (("/api/auth/login", None), ("/graphql", None), ("/api/conversations", account.token)):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        reader, writer = await raw(server, f"{head}\r\n".encode())

        async def trickle(writer: asyncio.StreamWriter = writer) -> None:
            with contextlib.suppress(OSError):
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.1)

        trickling = asyncio.create_task(trickle())
        async with asyncio.timeout(20):
            answer = await reader.readuntil(b"}")
        assert answer.startswith(b"HTTP/1.1 408"), path
        assert b"The body did not come within 1 seconds" in answer
        trickling.cancel()
        writer.close()


@contextlib.asynccontextmanager
async def bounded() -> AsyncIterator[int]:
    """A server of our connections around the smallest application; its port."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            ws = WebSocket(scope, receive, send)
            await ws.accept()
            await ws.send_bytes(b" " * 64_000_000)
            await ws.close(1013)
            return
        body = b" " * 64_000_000 if scope["path"] == "/large" else b"ok"
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=BoundedHttp, ws=BoundedSocket, lifespan="off", log_level="warning")
    )
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await task


async def test_a_head_that_trickles_or_never_comes_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.5)
    async with bounded() as port, asyncio.timeout(30):
        for begun in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            answer = await reader.read()
            assert b"408 Request Timeout" in answer, begun
            assert answer.count(b"ok") == begun.count(b"\r\n\r\n")
            writer.close()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for _ in range(2):
                assert (await client.get("/")).text == "ok"
                await asyncio.sleep(0.7)


UPGRADE = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_what_goes_on_behind_its_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is refused, or asks for little, would hold a connection for ever with a byte now and then."""
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.5)
    cases = {
        POST + b"Content-Length: 50000\r\n\r\n": b" ",
        CHUNKED: b"1\r\n \r\n",
        CHUNKED + b"0\r\n": b"X: y\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n": b"\r\n",
    }
    async with bounded() as port, asyncio.timeout(30):
        for begun, piece in cases.items():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            assert await reader.readuntil(b"ok")
            asked = asyncio.get_running_loop().time()
            with contextlib.suppress(OSError):
                while not reader.at_eof() and reader.exception() is None:
                    assert asyncio.get_running_loop().time() - asked < 5, begun
                    writer.write(piece)
                    await asyncio.sleep(0.05)
            writer.close()


async def test_a_handshake_with_a_body_is_refused() -> None:
    async with bounded() as port, asyncio.timeout(30):
        for more in ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "X: y\r\n" * 200):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{UPGRADE}{SOCKET}{more}\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 400"), more
            writer.close()


@pytest.mark.parametrize(
    ("begun", "piece"),
    [
        (CHUNKED + b"2\r\nxx\r\n0\r\n", b"X: y\r\n" * 1_000),
        (CHUNKED + b"2\r\nxx\r\n0\r\nX: ", b"y" * 8_000),
        (CHUNKED + b"2;x=", b"y" * 8_000),
        (b"", b"GET / HTTP/1.1\r\n\r\n" * 500),
    ],
    ids=["trailers", "a trailer", "an extension", "requests"],
)
async def test_what_stands_beside_bodies_has_a_bound(begun: bytes, piece: bytes) -> None:
    """Two gigabytes of trailers were kept, of whoever sent them, in ten seconds."""
    async with bounded() as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        reading = asyncio.create_task(reader.read())
        sent = 0
        with contextlib.suppress(OSError):
            writer.write(begun)
            while not reading.done():
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
                assert sent < 20_000_000
        await asyncio.gather(reading, return_exceptions=True)
        writer.close()


async def test_small_chunks_trailers_and_a_few_requests_at_once_pass() -> None:
    async with bounded() as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\nX: y\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 40)
        for _ in range(41):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()


async def _taken_late(port: int, request: bytes, seconds: float) -> int:
    """How many bytes a peer gets that reads nothing for so long, then all there is."""
    loop, taken = asyncio.get_running_loop(), 0
    with socket.socket() as peer:
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", port))
        await loop.sock_sendall(peer, request)
        await asyncio.sleep(seconds)
        with contextlib.suppress(ConnectionResetError):
            while data := await loop.sock_recv(peer, 1 << 20):
                taken += len(data)
    return taken


async def test_an_answer_that_nobody_reads_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_SECONDS", 0.2)
    async with bounded() as port, asyncio.timeout(30):
        taken = await _taken_late(port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", 1.5)
        assert taken < 64_000_000
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            assert len((await client.get("/large")).content) == 64_000_000, "whoever reads gets it all"


async def test_a_head_without_end_is_cut() -> None:
    async with bounded() as port, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for number in range(40):
            writer.write(b"X-%d: %b\r\n" % (number, b"x" * 2_000))
        with contextlib.suppress(ConnectionResetError):
            assert b"431 Request Header Fields Too Large" in await reader.read()
        assert reader.at_eof() or reader.exception() is not None
        writer.close()


async def test_a_peer_that_does_not_read_is_cut_off_behind_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "CLOSE_SECONDS", 0.3)
    async with bounded() as port, asyncio.timeout(30):
        taken = await _taken_late(port, f"{UPGRADE}{SOCKET}\r\n".encode(), 2)
        assert taken < 64_000_000, "the rest of its buffer was let go"
