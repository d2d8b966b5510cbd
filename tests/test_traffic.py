"""Floods: operations of one user and of one address, open sockets of both, messages on one socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from auth.device import Device
from errors import RateLimited, Unavailable
from tests.conftest import Account, StartServer, register_on
from tests.graph.client import dial, open_socket
from tests.graph.http_client import Graph, Refused
from tests.rest.talk import legacy
from tests.server import Server
from traffic import Operations, Presence, TrafficLimits

HERE, THERE = Device("192.0.2.1"), Device("192.0.2.2")
ME = "{ me { id } }"


def limits(**changes: int) -> TrafficLimits:
    every = dict.fromkeys(TrafficLimits.__dataclass_fields__, None)
    return TrafficLimits(**{**every, **changes})


async def test_sockets_are_counted_by_address_and_by_user_and_given_back() -> None:
    presence = Presence(limits(address_sockets=1, user_sockets=1))
    with await presence.socket(HERE), await presence.user("a"):
        with pytest.raises(Unavailable):
            await presence.socket(HERE)
        with pytest.raises(Unavailable):
            await presence.user("a")
        with await presence.socket(THERE), await presence.user("b"):
            assert presence.open == 2
    assert presence.open == 0
    with await presence.socket(HERE), await presence.user("a"):
        pass


def test_a_site_of_ipv6_is_one_address() -> None:
    """A subscriber has 2⁶⁴ of them."""
    operations = Operations(limits(address_operations=2))
    for number in (1, 2):
        operations.of_address(Device(f"2001:db8::{number}"))
    with pytest.raises(RateLimited):
        operations.of_address(Device("2001:db8::3"))
    operations.of_address(Device("2001:db8:0:1::1"))


async def get(server: Server, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url) as client:
        return await client.get(path, headers=headers)


async def post(server: Server, path: str, headers: dict[str, str], **body: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url) as client:
        return await client.post(path, json=body, headers=headers)


async def graph_code(server: Server, account: Account | None = None) -> str:
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await Graph(client, None if account is None else account.token).answer(ME)
    return "OK" if "errors" not in answer else str(answer["errors"][0]["extensions"]["code"])


async def socket_code(server: Server, account: Account) -> str:
    async with open_socket(server, account.token) as socket:
        try:
            await socket.data(ME)
        except Refused as refused:
            return refused.code
    return "OK"


async def test_a_user_s_operations_are_counted_over_all_ways_in(start_server: StartServer) -> None:
    server = start_server(RATE_LIMITS="on", OPERATIONS_PER_MINUTE="9")
    account, other = register_on(server), register_on(server)
    for _ in range(3):  # nine in all
        assert (await get(server, "/api/stats", account.headers)).status_code == 200
        assert await graph_code(server, account) == "OK"
        assert await socket_code(server, account) == "OK"

    refused = await get(server, "/api/stats", account.headers)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 120
    assert await graph_code(server, account) == "RATE_LIMITED"
    assert await socket_code(server, account) == "RATE_LIMITED"
    async with legacy(server, account.id, f"?token={account.token}") as socket:
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}, "staying connected costs nothing"
        assert (await socket.chat("hello"))[0]["code"] == "RATE_LIMITED"
    headers = {**account.headers, "Accept": "application/graphql-response+json"}
    answer = await post(server, "/graphql", headers, query=ME)
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
    assert await graph_code(server, other) == "OK"


async def test_an_address_s_operations_are_counted_before_anybody_looks_at_a_token(start_server: StartServer) -> None:
    """Otherwise a flood of forged tokens costs a look into the database each."""
    server = start_server(RATE_LIMITS="on", ADDRESS_OPERATIONS_PER_MINUTE="20", TRUSTED_PROXIES="127.0.0.1")
    forged = {"Authorization": "Bearer x.y.z"}
    for way in ("/api/stats", "/graphql?query={__typename}"):
        for _ in range(12):
            await get(server, way, forged)
    assert (await get(server, "/api/stats")).status_code == 429
    assert await graph_code(server) == "RATE_LIMITED"
    async with dial(server) as connection:
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
    async with legacy(server, "guest") as socket:
        assert (await socket.closed())[0] == 1013
    elsewhere = {"X-Forwarded-For": "2001:db8::7"}
    assert (await get(server, "/health", elsewhere)).status_code == 200


async def test_sockets_of_a_user_and_of_an_address(start_server: StartServer) -> None:
    server = start_server(RATE_LIMITS="on", USER_SOCKETS="2", ADDRESS_SOCKETS="4")
    account, other = register_on(server), register_on(server)

    async def code(user: Account) -> int:
        """What one more GraphQL socket of the user is closed with."""
        async with dial(server) as connection:
            try:
                await connection.send(json.dumps({"type": "connection_init", "payload": {"authorization": user.token}}))
                await connection.recv()
            except ConnectionClosed as closed:
                return 0 if closed.rcvd is None else int(closed.rcvd.code)
        return 0

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_socket(server, account.token))
        await stack.enter_async_context(legacy(server, account.id, f"?token={account.token}"))
        assert await code(account) == 1013
        async with legacy(server, account.id, f"?token={account.token}") as socket:
            assert (await socket.closed())[0] == 1013
        assert await code(other) == 0
        for _ in range(2):
            await stack.enter_async_context(open_socket(server, other.token))
        assert await code(register_on(server)) == 1013
    async with asyncio.timeout(5):
        while await code(account):
            await asyncio.sleep(0.05)


async def test_messages_on_one_graphql_socket(start_server: StartServer) -> None:
    server = start_server(RATE_LIMITS="on", GRAPHQL_FRAMES_PER_MINUTE="5")
    async with open_socket(server) as socket:
        for _ in range(5):
            await socket.connection.send('{"type": "ping"}')
        await socket.connection.wait_closed()
        assert socket.connection.close_code == 4429


async def test_answers_in_a_minute(start_server: StartServer) -> None:
    """Eight at a time would still be thousands of an answer of one word."""
    server = start_server(RATE_LIMITS="on", RUNS_PER_MINUTE="3")
    account = register_on(server)
    body = {"messages": [{"role": "user", "content": "one"}], "model": "scripted"}
    status = [(await post(server, "/api/chat", account.headers, **body)).status_code for _ in range(4)]
    assert status == [200, 200, 200, 429]
    async with legacy(server, account.id, f"?token={account.token}") as socket:
        assert (await socket.chat("hello"))[0]["code"] == "RATE_LIMITED"


async def test_guests_of_one_address_share_their_chats(start_server: StartServer) -> None:
    """A socket costs them nothing: one for each chat would be a model for free."""
    server = start_server(RATE_LIMITS="on", GUEST_CHATS_PER_MINUTE="2")
    codes = []
    for number in range(3):
        async with legacy(server, f"guest{number}") as socket:
            codes.append((await socket.chat("hello"))[0].get("code"))
    assert codes == [None, None, "RATE_LIMITED"]
