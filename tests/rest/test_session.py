"""What bounds a legacy socket: rates, counts, and readers that do not read."""

from __future__ import annotations

import asyncio
import json
import socket as sockets
from contextlib import suppress

import httpx
from websockets.exceptions import ConnectionClosed

from tests.conftest import StartServer, register_on
from tests.rest.talk import kinds, legacy, signed, text_of
from tests.server import Server

LIMITED = {"RATE_LIMITS": "on"}
GUEST = "user_123"


async def test_frames_over_the_rate_are_refused_and_chats_among_them_completed(start_server: StartServer) -> None:
    server = start_server(**LIMITED, SOCKET_FRAMES_PER_MINUTE="3")
    async with legacy(server, GUEST) as socket:
        for _ in range(3):
            await socket.say(type="ping")
            assert await socket.hear() == {"type": "pong"}
        await socket.say(type="ping")
        refused = await socket.hear()
        assert (refused["type"], refused["code"]) == ("error", "RATE_LIMITED")
        frames = await socket.chat("hi")
        assert kinds(frames) == ["error", "chat_complete"]
        await socket.connection.send("no frame at all")
        assert (await socket.hear())["type"] == "error"
    async with legacy(server, GUEST) as another:
        await another.say(type="ping")
        assert await another.hear() == {"type": "pong"}


async def test_a_guests_chats_have_a_rate_and_a_users_have_not(start_server: StartServer) -> None:
    server = start_server(**LIMITED, GUEST_CHATS_PER_MINUTE="2")
    account = register_on(server)
    async with legacy(server, GUEST) as guest, signed(server, account) as user:
        for _ in range(2):
            assert text_of(await guest.chat("hi")) == "hi "
        frames = await guest.chat("hi")
        assert (kinds(frames), frames[0]["code"]) == (["error", "chat_complete"], "RATE_LIMITED")
        for _ in range(4):
            assert text_of(await user.chat("hi")) == "hi "


async def test_a_guests_answers_are_short_and_a_users_are_not(start_server: StartServer) -> None:
    """Sizes hold also with RATE_LIMITS=off."""
    server = start_server(GUEST_MAX_TOKENS="3")
    account = register_on(server)
    async with legacy(server, GUEST) as guest, signed(server, account) as user:
        assert text_of(await guest.chat("a b c d e")) == "a b c "
        assert text_of(await user.chat("a b c d e")) == "a b c d e "


async def test_mode_open_has_no_guests(start_server: StartServer) -> None:
    server = start_server(
        **LIMITED, LEGACY_SOCKET="open", GUEST_MAX_TOKENS="3", GUEST_CHATS_PER_MINUTE="1", GUEST_SOCKETS="1"
    )
    async with legacy(server, GUEST) as first, legacy(server, GUEST) as second:
        for socket in (first, second, first):
            assert text_of(await socket.chat("a b c d e")) == "a b c d e "


async def test_what_it_remembers_never_refuses_the_next_chat(start_server: StartServer) -> None:
    server = start_server(MAX_MESSAGE_CHARS="10", MAX_CHAT_MESSAGES="4")
    async with legacy(server, GUEST) as socket:
        for content in ["x" * 10] * 3 + ["hi"] * 6:
            assert text_of(await socket.chat(content)) == f"{content} "


async def test_too_many_sockets_are_closed_1013(start_server: StartServer) -> None:
    server = start_server(**LIMITED, SOCKETS="2", GUEST_SOCKETS="1")
    account = register_on(server)
    async with legacy(server, GUEST) as first:
        async with legacy(server, GUEST) as second:
            assert (await second.closed())[0] == 1013
        async with signed(server, account) as user, signed(server, account) as third:
            await user.say(type="ping")
            assert await user.hear() == {"type": "pong"}
            assert (await third.closed())[0] == 1013
        await first.say(type="ping")
        assert await first.hear() == {"type": "pong"}
    # The server counts a socket out when it has seen the end of it, a moment after the client has.
    async with asyncio.timeout(10):
        while not await _is_let_in(server):
            await asyncio.sleep(0.05)


async def _is_let_in(server: Server) -> bool:
    async with legacy(server, GUEST) as socket:
        try:
            await socket.say(type="ping")
            return bool(await socket.hear() == {"type": "pong"})
        except ConnectionClosed:
            return False


async def test_a_client_that_does_not_read_is_given_up(start_server: StartServer) -> None:
    """Or one silent peer would hold its tasks and its runs for as long as it likes."""
    server = start_server(SEND_TIMEOUT_SECONDS="1", GUEST_MAX_TOKENS="4096")
    silent = sockets.socket()
    silent.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    with silent:
        await asyncio.to_thread(_shake_hands, silent, server.port)
        chat = json.dumps({"type": "chat", "content": "x" * 99_000}).encode()
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await client.get("/health")).json()["active_connections"] == 1
            silent.settimeout(0.5)
            async with asyncio.timeout(30):
                while (await client.get("/health")).json()["active_connections"]:
                    # The kernel's buffers hold megabytes before the server notices.
                    with suppress(OSError):
                        await asyncio.to_thread(silent.sendall, _client_frame(chat))


def _shake_hands(raw: sockets.socket, port: int) -> None:
    raw.connect(("127.0.0.1", port))
    raw.sendall(
        f"GET /ws/{GUEST} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert raw.recv(12) == b"HTTP/1.1 101"


def _client_frame(text: bytes) -> bytes:
    """A masked text frame (RFC 6455, 5.2); the mask is zero, so that the text is its own."""
    return b"\x81\xff" + len(text).to_bytes(8, "big") + bytes(4) + text
