"""Damaged frames on both socket endpoints: thousands of them, made from good ones by chance, at a real server.

Whatever comes, the socket goes on, answers with an error of ours, or closes with a code that says why; the log has no
traceback, other clients are served, and nothing grows. The seed is fixed: a failure happens again.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.server import Server

SOCKETS = 25
"""At the same time."""
PER_SOCKET = {"/graphql": 3, "/ws/fuzz": 50}
"""The first closes at nearly every fault, and what comes behind meets a socket that closes; the second goes on."""
BROKEN = {"/graphql": 12, "/ws/fuzz": 400}
"""One in so many frames is none at all."""
CODES = {
    "/graphql": {1000, 1001, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4408, 4409, 4429},
    "/ws/fuzz": {1000, 1001, 1002, 1003, 1007, 1009},
}
"""What a socket may be closed with: WebSocket's own codes for broken frames, and the protocol's. Not 1006 nor 1011."""
PATIENCE = 0.05
"""Seconds in which the server may find a fault before the client closes."""
GROWTH_MIB = 25
CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"
INIT = '{"type": "connection_init", "payload": {}}'
GOOD: dict[str, list[str]] = {
    "/graphql": [
        INIT,
        '{"type": "ping"}',
        '{"type": "pong", "payload": {"a": 1}}',
        '{"id": "1", "type": "subscribe", "payload": {"query": "{ models { id } }"}}',
        '{"id": "2", "type": "subscribe", "payload": {"query": "subscription { viewerEvents { __typename } }"}}',
        '{"id": "3", "type": "subscribe", "payload": {"query": "query A($x: ID!) { node(id: $x) { id } }",'
        ' "variables": {"x": "conv_1"}, "operationName": "A", "extensions": {}}}',
        '{"id": "1", "type": "complete"}',
    ],
    "/ws/fuzz": [
        '{"type": "ping"}',
        '{"type": "typing"}',
        '{"type": "chat", "content": ""}',
        '{"type": "chat", "content": "one", "model": "scripted:words=1"}',
    ],
}
VALUES: list[Any] = [
    None, True, 0, -1, 1e308, 10**30, "", "\x00", "\ud800", "é" * 50, [], [[]], {}, {"a": {}}, "x" * 5_000, "__proto__",
]  # fmt: skip


def damaged(chance: random.Random, text: str) -> bytes | str:
    """The frame with one thing wrong, or several."""
    match chance.randrange(9):
        case 0:
            cut = chance.randrange(len(text))
            return text[:cut]
        case 1:
            place = chance.randrange(len(text))
            return text[:place] + chr(chance.choice([0, 34, 92, 123, 125, 0x2028, 0x1F600])) + text[place + 1 :]
        case 2:
            return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 60)))
        case 3:
            return text.encode()
        case 4:
            return "[" * chance.randrange(1, 3_000)
        case 5:
            return json.dumps(chance.choice(VALUES))
        case 6:
            return text * 2
        case _:
            frame = json.loads(text)
            for _ in range(chance.randrange(1, 3)):
                _spoil(chance, frame)
            return json.dumps(frame)


def _spoil(chance: random.Random, frame: dict[str, Any]) -> None:
    name = chance.choice([*frame, "extra"])
    below = frame.get(name)
    if isinstance(below, dict) and below and chance.random() < 0.7:
        _spoil(chance, below)
    elif name in frame and chance.random() < 0.3:
        del frame[name]
    else:
        frame[name] = deepcopy(chance.choice(VALUES))


def on_the_wire(chance: random.Random, payload: bytes | str, broken: int = -1) -> bytes:
    """A masked WebSocket frame. `broken` from 0 to 6: a reserved bit, a reserved opcode, a piece without an end, a ping
    that is too long, a false length, no mask, no UTF-8."""
    data = payload.encode(errors="surrogatepass") if isinstance(payload, str) else payload
    opcode = 1 if isinstance(payload, str) else 2
    if broken == 6:
        opcode, data = 1, b"\xff\xfe" + data
    first = {0: 0xC0 | opcode, 1: 0x80 | chance.choice([3, 7, 11, 15]), 2: opcode, 3: 0x89}.get(broken, 0x80 | opcode)
    length = len(data)
    if broken == 4:
        return bytes([first, 0xFF]) + b"\xff" * 8
    size = bytes([0x80 | length]) if length < 126 else bytes([0xFE]) + struct.pack(">H", length & 0xFFFF)
    if length > 0xFFFF:
        size = bytes([0xFF]) + struct.pack(">Q", length)
    if broken == 5:
        return bytes([first, size[0] & 0x7F]) + size[1:] + data
    mask = chance.randbytes(4)
    return bytes([first]) + size + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))


class Peer:
    """A WebSocket client that can write anything."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.code: int | None = None
        """What the server closed with; 1006: it went without a word; None: who knows."""

    async def listen(self) -> None:
        try:
            while self.code is None:
                first, second = await self.reader.readexactly(2)
                length = second & 0x7F
                if length >= 126:
                    wide = 2 if length == 126 else 8
                    length = int.from_bytes(await self.reader.readexactly(wide), "big")
                data = await self.reader.readexactly(length)
                if first & 0x0F == 8:
                    self.code = struct.unpack(">H", data[:2])[0] if data else 1005
        except asyncio.IncompleteReadError:
            self.code = 1006
        except ConnectionError:
            pass  # a reset, since we wrote behind the end, takes the close frame with it


async def connected(server: Server, path: str) -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    protocol = "Sec-WebSocket-Protocol: graphql-transport-ws\r\n" if path == "/graphql" else ""
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{protocol}"
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    writer.write((head + key).encode())
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in answer, answer
    return Peer(reader, writer)


async def one_socket(server: Server, path: str, seed: int) -> int | None:
    """Damaged frames, then a close, or none; what the server closed with."""
    chance = random.Random(seed)
    peer = await connected(server, path)
    listening = asyncio.create_task(peer.listen())
    with suppress(ConnectionError):
        if path == "/graphql" and chance.random() < 0.9:
            peer.writer.write(on_the_wire(chance, INIT))
        for _ in range(PER_SOCKET[path]):
            frame = damaged(chance, chance.choice(GOOD[path]))
            peer.writer.write(on_the_wire(chance, frame, chance.randrange(7 * BROKEN[path])))
            await peer.writer.drain()
        if chance.random() < 0.9:
            await asyncio.wait({listening}, timeout=PATIENCE)
        if chance.random() < 0.9:  # the others leave without a word
            peer.writer.write(CLOSE)
            await asyncio.wait({listening}, timeout=10)
    peer.writer.close()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return peer.code


async def storm(server: Server, path: str, sockets: int, seed: int) -> Counter[int | None]:
    codes: Counter[int | None] = Counter()
    for begun in range(0, sockets, SOCKETS):
        crowd = [one_socket(server, path, seed + number) for number in range(begun, min(begun + SOCKETS, sockets))]
        codes.update(await asyncio.gather(*crowd))
    return codes


def memory(server: Server) -> float:
    """MiB."""
    return float(psutil.Process(server.process.pid).memory_info().rss) / 2**20


async def settled(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client, asyncio.timeout(30):
        while (await client.get("/health")).json()["active_connections"]:
            await asyncio.sleep(0.1)


async def shaken(server: Server, frames: int) -> None:
    """So many frames, half of them on each endpoint."""
    for path in GOOD:
        await storm(server, path, frames // 10 // PER_SOCKET[path], seed=10**9)
    await settled(server)
    before = memory(server)
    for path in GOOD:
        sockets = frames // 2 // PER_SOCKET[path]
        codes = await storm(server, path, sockets, seed=0)
        assert set(codes) - {None} <= CODES[path], codes
        assert codes[None] < sockets / 2, codes
        assert len(codes) > 2, codes
    await settled(server)
    log = server.log()
    assert "Traceback" not in log, log[log.index("Traceback") - 200 :][:6_000]
    assert "Exception" not in log, log[log.index("Exception") - 200 :][:6_000]
    assert memory(server) - before < GROWTH_MIB


async def still_served(server: Server, account: Account) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers=account.headers) as client:
        body = {"messages": [{"role": "user", "content": "one two"}], "model": "scripted"}
        assert (await client.post("/api/chat", json=body)).json()["content"].strip() == "one two"


@pytest.mark.parametrize(
    "frames", [pytest.param(10_000, id="10,000"), pytest.param(100_000, id="100,000", marks=pytest.mark.soak)]
)
async def test_damaged_frames_break_nothing(start_server: StartServer, frames: int) -> None:
    server = start_server(LOG_LEVEL="warning")
    account = register_on(server)
    await shaken(server, frames)
    await still_served(server, account)


@pytest.mark.parametrize("path", GOOD)
async def test_a_message_in_endless_pieces_is_closed(server: Server, path: str) -> None:
    """Empty ones add up to no size, and uvicorn keeps each of them."""
    peer = await connected(server, path)
    chance = random.Random(2)
    peer.writer.write(on_the_wire(chance, "", 2))
    piece = b"\x00\x80" + chance.randbytes(4)
    with suppress(ConnectionError):
        peer.writer.write(piece * 2_000)
        await peer.writer.drain()
    async with asyncio.timeout(10):
        await peer.listen()
    assert peer.code in {1009, None}
    peer.writer.close()


async def test_pings_whose_answers_nobody_reads_end_the_socket(server: Server) -> None:
    """Each is answered with as many bytes, which the server would have to keep."""
    peer = await connected(server, "/graphql")
    ping = b"\x89\xfd" + b"\x00" * 4 + b"x" * 125

    async def flood() -> None:
        for _ in range(2_000):  # 256 MB
            peer.writer.write(ping * 1_000)
            async with asyncio.timeout(20):
                await peer.writer.drain()

    with pytest.raises(ConnectionError):
        await flood()
    peer.writer.close()
