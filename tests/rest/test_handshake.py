"""Who may open /ws/{user_id}: the three modes, tokens, ids and origins."""

from __future__ import annotations

import asyncio

import pytest
from websockets.exceptions import InvalidStatus

from tests.conftest import Account, StartServer, register_on
from tests.rest.talk import forged, legacy
from tests.server import Server


async def test_any_id_opens_without_a_token(server: Server, account: Account) -> None:
    """The default, LEGACY_SOCKET=guests: the guide's own client. Also under a registered user's id."""
    for user_id in ("user_123", "小明", "a%20b", account.id, "x" * 200):
        async with legacy(server, user_id) as socket:
            await socket.say(type="ping")
            assert await socket.hear() == {"type": "pong"}


@pytest.mark.parametrize("how", ["query", "subprotocol"])
async def test_a_token_in_the_query_or_behind_the_subprotocol_bearer(
    server: Server, account: Account, how: str
) -> None:
    if how == "query":
        opened = legacy(server, account.id, f"?token={account.token}")
    else:
        opened = legacy(server, account.id, subprotocols=["bearer", account.token])
    async with opened as socket:
        # A browser gives up when none of the subprotocols that it offered is chosen.
        assert socket.connection.subprotocol == (None if how == "query" else "bearer")
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}


@pytest.mark.parametrize("how", ["query", "subprotocol"])
async def test_what_a_bad_token_is_closed_with(server: Server, account: Account, other: Account, how: str) -> None:
    cases = [
        ("nonsense", 4401, "Token无效"),
        (forged(account, typ="refresh"), 4401, "Token无效"),
        (forged(account, -60, iat=1, nbf=1), 4403, "Token已过期"),
        (other.token, 4403, "Not allowed"),
    ]
    for bad, code, reason in cases:
        options = {"subprotocols": ["bearer", bad]} if how == "subprotocol" else {"query": f"?token={bad}"}
        async with legacy(server, account.id, **options) as socket:
            assert await socket.closed() == (code, reason)


async def test_mode_token_closes_4401_without_one(start_server: StartServer) -> None:
    server = start_server(LEGACY_SOCKET="token")
    account = register_on(server)
    for query in ("", "?token="):
        async with legacy(server, account.id, query) as socket:
            assert await socket.closed() == (4401, "未授权")
    async with legacy(server, account.id, f"?token={account.token}") as socket:
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}


async def test_mode_open_is_the_guides_and_warned_about(start_server: StartServer) -> None:
    """Anyone may type under any id; a bad token is still refused."""
    server = start_server(LEGACY_SOCKET="open")
    account = register_on(server)
    assert "LEGACY_SOCKET=open" in server.log()
    async with legacy(server, account.id) as socket, legacy(server, "someone") as watching:
        await socket.say(type="typing")
        assert await watching.hear() == {"type": "user_typing", "user_id": account.id}
    async with legacy(server, account.id, "?token=nonsense") as socket:
        assert (await socket.closed())[0] == 4401


async def test_a_socket_does_not_outlive_its_token(server: Server, account: Account) -> None:
    async with legacy(server, account.id, f"?token={forged(account, 2)}") as socket:
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}
        assert await socket.closed() == (4403, "Token已过期")


async def test_a_newer_token_renews_the_right_in_place(server: Server, account: Account) -> None:
    async with legacy(server, account.id, f"?token={forged(account, 2)}") as socket:
        await socket.say(type="auth", token=account.token)
        assert await socket.hear() == {"type": "authenticated"}
        await asyncio.sleep(2.5)
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}
        await socket.say(type="auth", token=f"Bearer {forged(account, 1)}")
        assert await socket.hear() == {"type": "authenticated"}
        assert await socket.closed() == (4403, "Token已过期")


async def test_a_token_that_is_no_good_closes_the_socket(server: Server, account: Account, other: Account) -> None:
    for shown, code, reason in [
        ("nonsense", 4401, "Token无效"),
        ("", 4401, "Token无效"),
        (forged(account, -60, iat=1, nbf=1), 4403, "Token已过期"),
        (other.token, 4403, "Not allowed"),
    ]:
        async with legacy(server, account.id, f"?token={account.token}") as socket:
            await socket.say(type="auth", token=shown)
            assert await socket.closed() == (code, reason)


async def test_a_guest_s_socket_stays_a_guest_s(server: Server, account: Account) -> None:
    """Its limits are a guest's; whoever has a token opens one with it."""
    async with legacy(server, account.id) as socket:
        await socket.say(type="auth", token=account.token)
        assert (await socket.hear())["code"] == "FORBIDDEN"
        await socket.say(type="auth", token=5)
        assert (await socket.hear())["code"] == "BAD_USER_INPUT"
        await socket.say(type="ping")
        assert await socket.hear() == {"type": "pong"}


@pytest.mark.parametrize("user_id", ["x" * 201, "a%00b", "a%0Ab", "%FF", "%20"])
async def test_an_id_that_is_too_long_or_no_text_is_closed_4400(server: Server, user_id: str) -> None:
    async with legacy(server, user_id) as socket:
        assert (await socket.closed())[0] == 4400


async def test_without_an_id_there_is_no_socket(server: Server) -> None:
    for path in ("", "a/b"):
        with pytest.raises(InvalidStatus) as refused:
            async with legacy(server, path):
                pass
        assert refused.value.response.status_code in {403, 404}


async def test_origins_that_are_welcome(server: Server) -> None:
    """None at all (no browser), the request's own, and those in ALLOWED_ORIGINS."""
    for origin in (None, server.url, server.url.upper(), "http://localhost:3000", "HTTP://LOCALHOST:3000"):
        async with legacy(server, "user_123", origin=origin) as socket:
            await socket.say(type="ping")
            assert await socket.hear() == {"type": "pong"}


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3001",
        "https://localhost:3000",
        "http://localhost:3000.evil.example",
        "http://127.0.0.1",
    ],
)
async def test_origins_that_are_not(server: Server, account: Account, origin: str) -> None:
    """Whatever else is shown: the page would speak for a user who only visits it."""
    for query in ("", f"?token={account.token}"):
        with pytest.raises(InvalidStatus) as refused:
            async with legacy(server, account.id, query, origin=origin):
                pass
        assert refused.value.response.status_code == 403


async def test_a_token_in_the_address_is_not_logged(start_server: StartServer) -> None:
    server = start_server(LOG_LEVEL="debug")
    account = register_on(server)
    async with legacy(server, account.id, f"?token={account.token}") as socket:
        await socket.say(type="ping")
        await socket.hear()
    async with legacy(server, account.id, subprotocols=["bearer", account.token]) as socket:
        await socket.say(type="ping")
        await socket.hear()
    assert account.token not in server.log()
