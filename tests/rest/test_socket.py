"""/ws/{user_id}, once it is open: ping, chat, and frames that are none."""

from __future__ import annotations

import asyncio
import json
import socket as sockets

import httpx
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.rest.talk import SLOW, Json, kinds, legacy, message, signed, stats, text_of, tokens_appear
from tests.server import Server

GUEST = "user_123"


async def test_ping(server: Server) -> None:
    async with legacy(server, GUEST) as socket:
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}


async def test_chat_is_chunks_of_the_models_text_and_complete(server: Server) -> None:
    """The guide's `实时响应:` was an echo's."""
    async with legacy(server, GUEST) as socket:
        frames = await socket.chat("你好，这是一条实时消息")
    assert kinds(frames)[:-1] == ["chat_chunk"] * (len(frames) - 1)
    assert all(set(frame) == {"type", "content"} for frame in frames[:-1])
    assert frames[-1] == {"type": "chat_complete"}
    assert text_of(frames) == "你好，这是一条实时消息 "


async def test_unknown_fields_are_ignored(server: Server) -> None:
    async with legacy(server, GUEST) as socket:
        frames = await socket.chat("hi", user_id="someone", conversationId=7, model="scripted:text=other")
    assert text_of(frames) == "hi "


async def test_a_run_belongs_to_the_user_whose_token_was_shown(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    async with signed(server, account) as socket:
        await socket.chat("hello there")
    assert (await stats(client, account))["total_tokens"] == 4


async def test_a_guest_under_a_users_id_reaches_nothing_of_theirs(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    async with legacy(server, account.id) as socket:
        await socket.chat("hello there")
    assert (await stats(client, account))["total_tokens"] == 0


async def test_it_remembers_its_own_exchange_until_it_closes(server: Server, account: Account) -> None:
    """The scripted model counts the prompt's words: each question, and each answer, is in the next prompt."""
    tokens = []
    async with httpx.AsyncClient(base_url=server.url) as client:
        for _ in range(2):
            async with signed(server, account) as socket:
                for _ in range(3):
                    before = (await stats(client, account))["total_tokens"]
                    await socket.chat("one two")
                    tokens.append((await stats(client, account))["total_tokens"] - before)
    assert tokens == [4, 8, 12, 4, 8, 12]


async def test_one_chat_at_a_time_four_waiting_in_order(server: Server, account: Account) -> None:
    async with signed(server, account) as socket:
        for number in range(5):
            await socket.say(type="chat", content="go", model=f"scripted:every=0.05,text=a{number},text=b{number}")
        answers = [text_of(await socket.hear_until("chat_complete")) for _ in range(5)]
    assert answers == [f"a{number}b{number}" for number in range(5)]


async def test_a_sixth_is_refused_at_once_and_completed_in_its_turn(server: Server, account: Account) -> None:
    """Every chat frame gets one `chat_complete`, in the order of the frames: a client that counts is never stuck,
    and the running chat is not ended for it."""
    slow = "scripted:every=0.3,text=a,text=b,text=c"
    async with signed(server, account) as socket:
        for _ in range(5):
            await socket.say(type="chat", content="go", model=slow)
        for _ in range(3):
            await socket.say(type="chat", content="too many")
        frames = [await socket.hear() for _ in range(3)]
        while kinds(frames).count("chat_complete") < 8:
            frames.append(await socket.hear())
        assert await socket.silent()
    errors = [index for index, kind in enumerate(kinds(frames)) if kind == "error"]
    assert [frames[index]["code"] for index in errors] == ["RATE_LIMITED"] * 3
    assert errors[-1] < kinds(frames).index("chat_complete")
    assert kinds(frames)[-4:] == ["chat_complete"] * 4
    assert kinds(frames).count("chat_chunk") == 15


async def test_pings_are_answered_while_a_chat_runs(server: Server, account: Account) -> None:
    async with signed(server, account) as socket:
        await socket.say(type="chat", content="go", model=SLOW)
        await socket.hear()
        await socket.say(type="ping")
        async with asyncio.timeout(2):
            await socket.hear_until("pong")


async def test_a_failure_is_an_error_frame_and_complete_still_follows(server: Server, account: Account) -> None:
    async with signed(server, account) as socket:
        frames = await socket.chat("go", model="scripted:text=a,fail=PROVIDER_TIMEOUT")
        assert kinds(frames) == ["chat_chunk", "error", "chat_complete"]
        assert set(frames[1]) == {"type", "code", "message"}
        assert frames[1]["code"] == "PROVIDER_TIMEOUT"
        assert text_of(await socket.chat("again")) == "again "


async def test_no_model_is_an_error_frame_inside_the_chat(start_server: StartServer) -> None:
    server = start_server(SCRIPTED_MODEL="false")
    async with legacy(server, GUEST) as socket:
        frames = await socket.chat("hi")
    assert kinds(frames) == ["error", "chat_complete"]
    assert frames[0]["code"] in {"MODEL_UNAVAILABLE", "BAD_USER_INPUT"}


@pytest.mark.parametrize("content", [None, 5, True, ["hi"], {"text": "hi"}, "", "  \n"], ids=repr)
async def test_content_that_is_no_text(server: Server, content: object) -> None:
    async with legacy(server, GUEST) as socket:
        frames = await socket.chat(content)  # type: ignore[arg-type]
        assert kinds(frames) == ["error", "chat_complete"]
        assert frames[0]["code"] == "BAD_USER_INPUT"
        assert text_of(await socket.chat("still here")) == "still here "


async def test_content_that_is_too_long_or_has_a_nul(server: Server) -> None:
    async with legacy(server, GUEST) as socket:
        for content in ("x" * 100_001, "a\u0000b"):
            frames = await socket.chat(content)
            assert (kinds(frames), frames[0]["code"]) == (["error", "chat_complete"], "BAD_USER_INPUT")
        assert text_of(await socket.chat("fine")) == "fine "


async def test_a_model_that_is_no_text_is_refused_with_a_token(server: Server, account: Account) -> None:
    async with signed(server, account) as socket:
        frames = await socket.chat("hi", model=5)
    assert (kinds(frames), frames[0]["code"]) == (["error", "chat_complete"], "BAD_USER_INPUT")


NO_FRAMES: list[str | bytes] = [
    "",
    "{",
    "nonsense",
    "5",
    "null",
    "[]",
    '"ping"',
    '["ping"]',
    "{}",
    '{"type": null}',
    '{"type": 5}',
    '{"type": ["ping"]}',
    '{"type": {"a": 1}}',
    '{"type": "PING"}',
    '{"type": "unknown"}',
    '{"type": "pong"}',
    '{"type": "ping", "a": NaN}',
    '{"type": "chat", "content": "\\ud800"}',
    '{"type": "chat", "content": ' + "[" * 5_000 + "]" * 5_000 + "}",
    b"",
    b"\x00\xff",
    b'{"type": "ping"}',
]


@pytest.mark.parametrize("frame", NO_FRAMES, ids=lambda frame: repr(frame)[:30])
async def test_a_frame_that_is_none_is_answered_and_the_socket_stays_open(server: Server, frame: str | bytes) -> None:
    async with legacy(server, GUEST) as socket:
        await socket.connection.send(frame)
        answer = await socket.hear()
        assert (answer["type"], answer["code"]) == ("error", "BAD_USER_INPUT")
        assert await socket.silent(0)


@pytest.mark.parametrize("letter", ["x", "啊"], ids=["ascii", "three bytes each"])
async def test_a_frame_over_the_limit_is_answered_and_the_socket_stays_open(server: Server, letter: str) -> None:
    """256 KiB of UTF-8, counted in bytes."""
    limit = 256 * 1024
    shell = len(json.dumps({"type": "ping", "pad": ""}))
    room = (limit - shell) // len(letter.encode())
    async with legacy(server, GUEST) as socket:
        for size, kind in ((room, "pong"), (room + 1, "error"), (3 * room, "error")):
            await socket.connection.send(json.dumps({"type": "ping", "pad": letter * size}, ensure_ascii=False))
            assert (await socket.hear())["type"] == kind


async def test_a_frame_far_over_the_limit_closes_1009(server: Server) -> None:
    """16 times the limit is not even read."""
    async with legacy(server, GUEST) as socket:
        await socket.connection.send("x" * (17 * 256 * 1024))
        assert (await socket.closed())[0] == 1009


async def test_text_that_is_not_utf8_closes_1007(server: Server) -> None:
    async with legacy(server, GUEST) as socket:
        await socket.connection.send(b"\xff\xfe", text=True)
        assert (await socket.closed())[0] == 1007
    assert "Traceback" not in server.log(), "a client's mistake"


@pytest.mark.parametrize("model", [SLOW, "scripted:text=a,wait=50"], ids=["busy", "silent"])
async def test_a_client_that_leaves_ends_its_run_at_once(
    server: Server, client: httpx.AsyncClient, account: Account, model: str
) -> None:
    async with signed(server, account) as socket:
        await socket.say(type="chat", content="go", model=model)
        await socket.hear()
    assert await tokens_appear(client, account, 2)


async def test_a_connection_that_breaks_ends_its_run(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    async with signed(server, account) as socket:
        await socket.say(type="chat", content="go", model=SLOW)
        await socket.hear()
        raw: sockets.socket = socket.connection.transport.get_extra_info("socket")
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        socket.connection.transport.abort()
    assert await tokens_appear(client, account, 2)


async def test_chats_that_wait_are_never_begun_for_a_client_that_left(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    async with signed(server, account) as socket:
        await socket.say(type="chat", content="go", model=SLOW)
        await socket.say(type="chat", content="next", model="scripted:text=a,usage=5000/5000")
        await socket.hear()
    assert await tokens_appear(client, account, 2)
    await asyncio.sleep(0.3)
    assert (await stats(client, account))["total_tokens"] < 10_000


async def test_a_log_at_debug_has_no_text(start_server: StartServer) -> None:
    server = start_server(LOG_LEVEL="debug")
    account = register_on(server)
    async with signed(server, account) as socket, legacy(server, GUEST) as guest:
        for speaker in (socket, guest):
            assert "secret-word" in text_of(await speaker.chat("a-very-secret-word"))
    log = server.log()
    assert f"收到聊天请求: user={account.id}, messages=1" in log
    assert "收到聊天请求: user=guest, messages=1" in log
    assert "secret-word" not in log


async def test_a_stop_closes_1012(start_server: StartServer) -> None:
    """graphql-ws and every careful client come back on it."""
    server = start_server()
    async with legacy(server, GUEST) as socket:
        await socket.say(type="ping")
        await socket.hear()
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        assert (await socket.closed())[0] == 1012
        await stopping


def test_message_helper_is_the_guides() -> None:
    expected: Json = {"id": "msg1", "content": "hi", "role": "user", "timestamp": 1697467200000}
    assert message("hi") == expected
