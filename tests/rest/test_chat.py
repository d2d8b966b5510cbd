"""POST /api/chat, answered whole."""

from __future__ import annotations

import asyncio
import socket
import sqlite3

import httpx
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.rest.talk import SLOW, message, question, tokens_appear
from tests.server import Server

SECONDS = 15

PATH = "/api/chat"


async def test_an_answer_has_the_guides_three_fields(client: httpx.AsyncClient, account: Account) -> None:
    body = question("你好，请介绍一下React", model="scripted", temperature=0.7, max_tokens=2048, stream=False)
    answer = await client.post(PATH, json=body, headers=account.headers)
    assert answer.status_code == 200
    assert answer.json() == {"content": "你好，请介绍一下React ", "tokens": 2, "model": "scripted"}


async def test_tokens_are_the_runs_total(client: httpx.AsyncClient, account: Account) -> None:
    answer = await client.post(PATH, json=question(model="scripted:text=a,usage=7/5"), headers=account.headers)
    assert answer.json()["tokens"] == 12


async def test_model_is_who_really_answered(client: httpx.AsyncClient, account: Account) -> None:
    """The guide's own model has no provider here: the default one answers, and says so."""
    answer = await client.post(PATH, json=question("hello", model="gpt-3.5-turbo"), headers=account.headers)
    assert answer.json()["model"] == "scripted"
    unnamed = await client.post(PATH, json={"messages": [message("hello")]}, headers=account.headers)
    assert unnamed.json()["model"] == "scripted"


async def test_without_a_fallback_an_unknown_model_is_503(start_server: StartServer) -> None:
    server = start_server(MODEL_FALLBACK="none")
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url) as client:
        for stream in (False, True):
            body = question(model="gpt-3.5-turbo", stream=stream)
            answer = await client.post(PATH, json=body, headers=account.headers)
            assert answer.status_code == 503
            assert isinstance(answer.json()["detail"], str)


async def test_the_whole_history_is_sent_in_its_roles(client: httpx.AsyncClient, account: Account) -> None:
    messages = [
        message("be brief", role="system"),
        message("one two"),
        message("three", role="assistant"),
        message("four five six"),
    ]
    answer = await client.post(PATH, json={"messages": messages}, headers=account.headers)
    assert answer.json() == {"content": "four five six ", "tokens": 11, "model": "scripted"}


async def test_max_tokens_bounds_the_answer(client: httpx.AsyncClient, account: Account) -> None:
    body = question(model="scripted:words=50", max_tokens=3)
    answer = await client.post(PATH, json=body, headers=account.headers)
    assert answer.json()["content"] == "w0 w1 w2 "


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("PROVIDER_ERROR", 502),
        ("PROVIDER_AUTH", 502),
        ("PROVIDER_RATE_LIMITED", 429),
        ("PROVIDER_TIMEOUT", 504),
        ("MODEL_UNAVAILABLE", 503),
        ("CONTENT_FILTERED", 422),
        ("CONTEXT_TOO_LONG", 422),
    ],
)
async def test_what_a_model_fails_with(client: httpx.AsyncClient, account: Account, code: str, status: int) -> None:
    """After a first word, so that no other model steps in."""
    answer = await client.post(PATH, json=question(model=f"scripted:text=a,fail={code}"), headers=account.headers)
    assert answer.status_code == status
    detail = answer.json()["detail"]
    if status == 422:
        assert [item["type"] for item in detail] == [code.lower()]
    else:
        assert isinstance(detail, str)
    assert ("Retry-After" in answer.headers) == (status == 429)


async def test_a_failure_before_the_first_word_is_answered_by_the_fallback(
    client: httpx.AsyncClient, account: Account
) -> None:
    body = question("hello", model="scripted:fail=PROVIDER_TIMEOUT")
    answer = await client.post(PATH, json=body, headers=account.headers)
    assert (answer.status_code, answer.json()["model"]) == (200, "scripted")


async def test_a_provider_that_wants_to_be_left_alone_says_for_how_long(start_server: StartServer) -> None:
    """Nobody waits for it, and nobody stands in: the client is told when to come back."""
    server = start_server(MODEL_FALLBACK="none")
    body = question(model="scripted:fail=PROVIDER_RATE_LIMITED/77")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answer = await client.post(PATH, json=body, headers=register_on(server).headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "77")


@pytest.mark.parametrize("script", ["words=x", "wait=nan", "nothing"])
async def test_a_model_that_is_no_script_is_not_found_and_no_fault_of_the_server(
    start_server: StartServer, script: str
) -> None:
    server = start_server(MODEL_FALLBACK="none")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        body = question(model=f"scripted:{script}")
        answer = await client.post(PATH, json=body, headers=register_on(server).headers)
    assert answer.status_code == 503
    assert "Traceback" not in server.log()


async def test_too_many_at_a_time_is_429_and_says_when_to_come_back(start_server: StartServer) -> None:
    server = start_server(RATE_LIMITS="on", RUNS_PER_USER="1")
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        first = asyncio.create_task(client.post(PATH, json=question(model=SLOW), headers=account.headers))
        await _is(server, account, "RUNNING")
        for stream in (False, True):
            answer = await client.post(PATH, json=question(stream=stream), headers=account.headers)
            assert answer.status_code == 429
            assert int(answer.headers["Retry-After"]) >= 1
        first.cancel()


async def test_a_client_that_leaves_ends_the_run(server: Server, client: httpx.AsyncClient, account: Account) -> None:
    asking = asyncio.create_task(client.post(PATH, json=question(model=SLOW), headers=account.headers))
    await _is(server, account, "RUNNING")
    asking.cancel()
    assert await tokens_appear(client, account, SECONDS)


async def test_a_client_that_leaves_before_the_first_word_ends_the_run(
    server: Server, client: httpx.AsyncClient, account: Account
) -> None:
    body = question(model="scripted:wait=50,text=late")
    asking = asyncio.create_task(client.post(PATH, json=body, headers=account.headers))
    await _is(server, account, "RUNNING")
    asking.cancel()
    await _is(server, account, "CANCELLED")


async def _is(server: Server, account: Account, status: str) -> None:
    """Wait until that is the state of the user's only run."""
    async with asyncio.timeout(SECONDS):
        while _statuses(server, account) != [status]:
            await asyncio.sleep(0.05)


def _statuses(server: Server, account: Account) -> list[str]:
    database = sqlite3.connect(server.data_dir / "chat.db", timeout=10)
    try:
        return [row[0] for row in database.execute("SELECT status FROM run WHERE user_id = ?", [account.id])]
    finally:
        database.close()


async def test_a_connection_that_breaks_ends_the_run(server: Server, account: Account) -> None:
    """Reset, not closed: as when a laptop's lid is shut behind a proxy."""
    raw = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", server.port))
    body = httpx.Request("POST", f"{server.url}{PATH}", json=question(model=SLOW)).read()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {account.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    raw.sendall(head.encode() + body)
    await _is(server, account, "RUNNING")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    raw.close()
    await _is(server, account, "CANCELLED")


@pytest.mark.parametrize("grace", ["0", "5"])
async def test_a_stop_lets_answers_end_within_the_grace_and_tells_the_others_503(
    start_server: StartServer, grace: str
) -> None:
    server = start_server(SHUTDOWN_GRACE_SECONDS=grace)
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        body = question(model="scripted:text=a,wait=1.5,text=b")
        asking = asyncio.create_task(client.post(PATH, json=body, headers=account.headers))
        await _is(server, account, "RUNNING")
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        answer = await asking
        await stopping
    if grace == "0":
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
    else:
        assert (answer.status_code, answer.json()["content"]) == (200, "ab")


async def test_a_debug_line_tells_user_and_number_of_messages_never_text(start_server: StartServer) -> None:
    server = start_server(LOG_LEVEL="debug")
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url) as client:
        body = {"messages": [message("a-very-secret-word"), message("another-secret-word")]}
        for stream in (False, True):
            answer = await client.post(PATH, json=body | {"stream": stream}, headers=account.headers)
            assert "another-secret-word" in answer.text
    log = server.log()
    assert log.count(f"收到聊天请求: user={account.id}, messages=2") == 2
    assert "secret-word" not in log
    assert account.token not in log
