"""A socket or a stream lives no longer than its right: whatever takes the right away, and on whichever process, it is
closed within 5 s, with a code that says why. Two server processes on one database, and every kind of thing that can be
open, with an answer under way or without."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from auth.tokens import Tokens
from models.address import Address
from tests.conftest import Account, register_on
from tests.databases import look, url_of
from tests.graph.client import dial
from tests.graph.http_client import Graph, sse
from tests.graph.test_sessions import CHANGE, DELETE, LOGOUT, REVOKE
from tests.rest.talk import SLOW, legacy, question
from tests.server import SECRET, Server, running

pytestmark = pytest.mark.on_both

WITHIN = 5.0
SECONDS = 20
TYPING = "subscription { typing { userId } }"
CHAT = f'subscription {{ chat(input: {{messages: [{{role: USER, content: "hi"}}], model: "{SLOW}"}}) {{ seq }} }}'
LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { accessToken refreshToken } }"
REFRESH = "mutation ($token: String!) { refreshSession(input: {refreshToken: $token}) { accessToken refreshToken } }"
ENDED, EXPIRED = "Token无效", "Token已过期"
CANCELLED = "The answer was cancelled"
SOCKET_CODES = {ENDED: 4401, EXPIRED: 4403}
ERROR_CODES = {ENDED: "UNAUTHENTICATED", EXPIRED: "TOKEN_EXPIRED"}

Open = Callable[[Server, Account, asyncio.Event], Coroutine[Any, Any, str]]
"""Opens something, sets the event, and returns why it was closed once it is."""


async def graph_socket(server: Server, account: Account, opened: asyncio.Event, query: str = "") -> str:
    async with dial(server) as connection:
        await connection.send(json.dumps({"type": "connection_init", "payload": {"authorization": account.token}}))
        await connection.recv()
        if query:
            await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": query}}))
        opened.set()
        with suppress(ConnectionClosed):
            async for _ in connection:
                pass
        assert connection.close_code == SOCKET_CODES[connection.close_reason or ""]
        return connection.close_reason or ""


async def listening_socket(server: Server, account: Account, opened: asyncio.Event) -> str:
    return await graph_socket(server, account, opened, TYPING)


async def chatting_socket(server: Server, account: Account, opened: asyncio.Event) -> str:
    return await graph_socket(server, account, opened, CHAT)


async def legacy_socket(server: Server, account: Account, opened: asyncio.Event) -> str:
    async with legacy(server, account.id, f"?token={account.token}") as socket:
        await socket.say(type="ping")
        await socket.hear()
        opened.set()
        with suppress(ConnectionClosed):
            async for _ in socket.connection:
                pass
        assert socket.connection.close_code == SOCKET_CODES[socket.connection.close_reason or ""]
        return socket.connection.close_reason or ""


async def graph_stream(server: Server, account: Account, opened: asyncio.Event) -> str:
    headers = {**account.headers, "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
        client.stream("POST", "/graphql", json={"query": TYPING}, headers=headers) as response,
    ):
        opened.set()
        events = [event async for event in sse(response)]
    assert [name for name, _ in events] == ["next", "complete"]
    (error,) = json.loads(events[0][1])["errors"]
    assert error["extensions"] == {"code": ERROR_CODES[error["message"]]}
    return str(error["message"])


async def rest_stream(server: Server, account: Account, opened: asyncio.Event) -> str:
    body = question(model=SLOW, stream=True)
    frames = []
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=SECONDS) as client,
        client.stream("POST", "/api/chat", json=body, headers=account.headers) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                opened.set()
                frames.append(json.loads(line.removeprefix("data: ")))
    assert frames[-1]["type"] == "chat_complete"
    error = frames[-2]
    assert error["type"] == "error"
    assert error["message"] == CANCELLED or error["code"] == ERROR_CODES[error["message"]]
    return str(error["message"])


KINDS: tuple[Open, ...] = (
    graph_socket,
    listening_socket,
    chatting_socket,
    legacy_socket,
    graph_stream,
    rest_stream,
)


@dataclass
class Opened:
    """Everything that is open for one token, on both processes."""

    tasks: list[asyncio.Task[str]]

    async def reasons(self) -> set[str]:
        async with asyncio.timeout(SECONDS):
            return set(await asyncio.gather(*self.tasks))

    @property
    def untouched(self) -> bool:
        return not any(task.done() for task in self.tasks)


@asynccontextmanager
async def everything(servers: list[Server], account: Account) -> AsyncIterator[Opened]:
    events: list[asyncio.Event] = []
    tasks: list[asyncio.Task[str]] = []
    for server in servers:
        for kind in KINDS:
            opened = asyncio.Event()
            tasks.append(asyncio.create_task(kind(server, account, opened)))
            events.append(opened)
    try:
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(event.wait() for event in events))
        yield Opened(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def servers(address: Address, tmp_path: Path) -> Iterator[list[Server]]:
    settings = {"DATABASE_URL": url_of(address), "REFRESH_GRACE_SECONDS": "0", "RUNS_PER_USER": "100"}
    with ExitStack() as stack:
        both = [stack.enter_context(running(tmp_path / name, None, **settings)) for name in ("one", "two")]
        yield both
        assert not any("Traceback" in server.log() for server in both)


async def signed_in(client: httpx.AsyncClient, account: Account) -> tuple[Account, str]:
    """The user at another session, and its refresh token."""
    known = {"username": account.username, "password": account.password}
    payload = (await Graph(client).data(LOGIN, input=known))["login"]
    return replace(account, token=payload["accessToken"]), payload["refreshToken"]


def expiring(account: Account, seconds: int) -> Account:
    return replace(account, token=Tokens(SECRET, 30).issue(account.id, account.session_id, seconds))


async def test_whatever_is_open_ends_with_its_right(servers: list[Server], address: Address) -> None:
    first = servers[0]
    accounts = [register_on(first) for _ in range(7)]
    async with httpx.AsyncClient(base_url=first.url, timeout=SECONDS) as client:
        left, revoked, everywhere, changed, copied, disabled, deleted = accounts
        stays, _ = await signed_in(client, left)
        twice, used = await signed_in(client, copied)
        following = (await Graph(client).data(REFRESH, token=used))["refreshSession"]
        async with (
            everything(servers, stays) as bystander,
            everything(servers, left) as one,
            everything(servers, revoked) as two,
            everything(servers, everywhere) as three,
            everything(servers, changed) as four,
            everything(servers, twice) as five,
            everything(servers, disabled) as six,
            everything(servers, deleted) as seven,
        ):
            begun = time.monotonic()
            await Graph(client, left.token).data(LOGOUT)
            phone, _ = await signed_in(client, revoked)
            await Graph(client, phone.token).data(REVOKE, id=revoked.session_id)
            await Graph(client, everywhere.token).data(LOGOUT, input={"everywhere": True})
            await Graph(client, changed.token).data(CHANGE, current=changed.password, new="password124")
            assert await Graph(client).code(REFRESH, token=used) == "UNAUTHENTICATED"
            look(address, "UPDATE user_account SET disabled = true WHERE id = ?", disabled.id)
            await Graph(client, deleted.token).data(DELETE, password=deleted.password)
            asked = time.monotonic()
            for opened in (one, two, three, four, five, six):
                assert await opened.reasons() == {ENDED}
            # Its answers are stopped as well, which a stream of one may hear first.
            assert await seven.reasons() - {CANCELLED} == {ENDED}
            assert time.monotonic() - asked < WITHIN, f"it took {asked - begun:.1f} s to ask for it"
            assert bystander.untouched
        assert following


async def test_whatever_is_open_ends_with_its_token(servers: list[Server]) -> None:
    account = register_on(servers[0])
    begun = time.monotonic()
    async with everything(servers, expiring(account, 3)) as short, everything(servers, account) as long:
        assert await short.reasons() == {EXPIRED}
        assert 2 < time.monotonic() - begun < 3 + WITHIN
        assert long.untouched
