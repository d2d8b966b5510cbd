"""A socket or a stream lives no longer than its right: whatever takes the right away, and on whichever process, it is
closed within 5 s, with a code that says why. Two server processes on one database, and every kind of thing that can be
open, with an answer under way or without."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from auth.tokens import Tokens
from models.address import Address, PostgresAddress
from tests.conftest import Account, register_on
from tests.databases import look, url_of
from tests.graph.client import dial
from tests.graph.http_client import Graph, sse
from tests.graph.test_sessions import CHANGE, DELETE, LOGOUT, REVOKE
from tests.redises import Redis
from tests.rest.talk import SLOW, legacy, question
from tests.server import SECRET, Server, running

pytestmark = pytest.mark.on_both

WITHIN = 5.0
AT_ONCE = 1.0
"""Half of what the poll alone would take at worst."""
SECONDS = 20
TYPING = "subscription { typing { userId } }"
CHAT = f'subscription {{ chat(input: {{messages: [{{role: USER, content: "hi"}}], model: "{SLOW}"}}) {{ seq }} }}'
LOGIN = "mutation ($input: LoginInput!) { login(input: $input) { accessToken refreshToken } }"
CREATE_KEY = 'mutation { createApiKey(input: { name: "program" }) { key apiKey { id } } }'
REVOKE_KEY = "mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { id } }"
REFRESH = "mutation ($token: String!) { refreshSession(input: {refreshToken: $token}) { accessToken refreshToken } }"
ENDED, EXPIRED = "Token无效", "Token已过期"
CANCELLED = "The answer was cancelled"
SOCKET_CODES = {ENDED: 4401, EXPIRED: 4403}
ERROR_CODES = {ENDED: "UNAUTHENTICATED", EXPIRED: "TOKEN_EXPIRED"}

Ending = Coroutine[Any, Any, Any]
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


@contextmanager
def two_servers(address: Address, folder: Path, **more: str) -> Iterator[list[Server]]:
    settings = {"DATABASE_URL": url_of(address), "REFRESH_GRACE_SECONDS": "0", "RUNS_PER_USER": "100", **more}
    with ExitStack() as stack:
        both = [stack.enter_context(running(folder / name, None, **settings)) for name in ("one", "two")]
        yield both
        assert not any("Traceback" in server.log() for server in both)


@pytest.fixture
def servers(address: Address, tmp_path: Path) -> Iterator[list[Server]]:
    with two_servers(address, tmp_path) as both:
        yield both


@pytest.fixture
def told(postgres_address: PostgresAddress, tmp_path: Path, redis: Redis) -> Iterator[list[Server]]:
    """Servers that hear of each other by Redis."""
    with two_servers(postgres_address, tmp_path, REDIS_URL=redis.url) as both:
        yield both


async def signed_in(client: httpx.AsyncClient, account: Account) -> tuple[Account, str]:
    """The user at another session, and its refresh token."""
    known = {"username": account.username, "password": account.password}
    payload = (await Graph(client).data(LOGIN, input=known))["login"]
    return replace(account, token=payload["accessToken"]), payload["refreshToken"]


async def with_key(client: httpx.AsyncClient, account: Account) -> tuple[Account, str]:
    """The user by a new API key, and the key's id."""
    made = (await Graph(client, account.token).data(CREATE_KEY))["createApiKey"]
    return replace(account, token=made["key"]), made["apiKey"]["id"]


def expiring(account: Account, seconds: int) -> Account:
    return replace(account, token=Tokens(SECRET, 30).issue(account.id, account.session_id, seconds))


async def test_whatever_is_open_ends_with_its_right(servers: list[Server], address: Address) -> None:
    first = servers[0]
    accounts = [register_on(first) for _ in range(8)]
    async with httpx.AsyncClient(base_url=first.url, timeout=SECONDS) as client:
        left, revoked, everywhere, changed, copied, disabled, deleted, keyed = accounts
        stays, _ = await signed_in(client, left)
        twice, used = await signed_in(client, copied)
        program, key_id = await with_key(client, keyed)
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
            everything(servers, program) as eight,
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
            await Graph(client, keyed.token).data(REVOKE_KEY, id=key_id)
            asked = time.monotonic()
            for opened in (one, two, three, four, five, six, eight):
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


async def test_redis_tells_the_other_process_at_once(told: list[Server]) -> None:
    """Each way of ending a session, and a key's: three times, so that no poll that happens to be due can stand in."""
    first = told[0]
    async with httpx.AsyncClient(base_url=first.url, timeout=SECONDS) as client:

        async def log_out(account: Account) -> tuple[Account, Ending]:
            other, _ = await signed_in(client, account)
            return other, Graph(client, other.token).data(LOGOUT)

        async def revoke(account: Account) -> tuple[Account, Ending]:
            phone, _ = await signed_in(client, account)
            return account, Graph(client, phone.token).data(REVOKE, id=account.session_id)

        async def change(account: Account) -> tuple[Account, Ending]:
            changed = {"current": account.password, "new": "password124"}
            return account, Graph(client, account.token).data(CHANGE, **changed)

        async def revoke_key(account: Account) -> tuple[Account, Ending]:
            program, key_id = await with_key(client, account)
            return program, Graph(client, account.token).data(REVOKE_KEY, id=key_id)

        for way in (log_out, revoke, change, revoke_key):
            for _ in range(3):
                account, ending = await way(register_on(first))
                async with everything(told, account) as opened:
                    await ending
                    asked = time.monotonic()
                    assert await opened.reasons() == {ENDED}
                    took = time.monotonic() - asked
                    assert took < AT_ONCE, f"{way.__name__}: {took:.1f} s"
