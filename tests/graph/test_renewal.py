"""A socket's right to go on, renewed in place; and what whoever ends it is told."""

from __future__ import annotations

import asyncio

from tests.conftest import Account, register_on
from tests.graph.client import dial
from tests.graph.test_websocket import ACK, INIT, ME, acknowledged, answer_to, closed, heard, say, token_for
from tests.server import Server


async def test_a_ping_with_a_newer_token_renews_the_right(server: Server, viewer_account: Account) -> None:
    """In place: what is open stays open. A client need not break off its streams each half hour."""
    async with acknowledged(server, {"authorization": token_for(viewer_account, 2)}) as connection:
        listen = {"query": "subscription { typing { userId } }"}
        await say(connection, {"id": "1", "type": "subscribe", "payload": listen})
        await say(connection, {"type": "ping", "payload": {"authorization": f"Bearer {viewer_account.token}"}})
        assert await heard(connection) == {"type": "pong"}
        await asyncio.sleep(2.5)
        assert (await answer_to(connection, "2", {"query": ME}))[0]["payload"]["data"]["me"]["id"] == viewer_account.id
        await say(connection, {"type": "ping", "payload": {"authorization": token_for(viewer_account, 1)}})
        assert await heard(connection) == {"type": "pong"}
        assert await closed(connection) == (4403, "Token已过期"), "the newest token counts, not the longest"


async def test_a_ping_may_sign_an_anonymous_socket_in(server: Server, viewer_account: Account) -> None:
    async with acknowledged(server) as connection:
        await say(connection, {"type": "ping", "payload": {"Authorization": viewer_account.token}})
        assert await heard(connection) == {"type": "pong"}
        assert (await answer_to(connection, "1", {"query": ME}))[0]["payload"]["data"]["me"]["id"] == viewer_account.id


async def test_a_ping_with_a_token_that_is_no_good_closes(
    server: Server, viewer_account: Account, stranger_account: Account
) -> None:
    """With another user's 4403: what is open is not theirs, and a client that comes back comes as who it is now."""
    cases: list[tuple[object, tuple[int, str]]] = [
        ("nonsense", (4401, "Token无效")),
        (token_for(viewer_account, -1), (4403, "Token已过期")),
        (stranger_account.token, (4403, "The token is another user's")),
        (5, (4400, "authorization must be text")),
    ]
    for token, code in cases:
        async with acknowledged(server, {"authorization": viewer_account.token}) as connection:
            await say(connection, {"type": "ping", "payload": {"authorization": token}})
            assert await closed(connection) == code


async def test_a_ping_before_init_renews_nothing(server: Server, viewer_account: Account) -> None:
    async with dial(server) as connection:
        await say(connection, {"type": "ping", "payload": {"authorization": "nonsense"}})
        assert await heard(connection) == {"type": "pong"}
        await say(connection, INIT)
        assert await heard(connection) == ACK
        assert (await answer_to(connection, "1", {"query": ME}))[0]["payload"]["data"]["me"] is None


async def test_whoever_logs_out_over_the_socket_is_told_then_closed(server: Server) -> None:
    account = register_on(server)
    async with acknowledged(server, {"authorization": account.token}) as connection:
        logout = {"query": "mutation { logout { sessionsEnded } }"}
        answer = {"id": "1", "type": "next", "payload": {"data": {"logout": {"sessionsEnded": 1}}}}
        assert await answer_to(connection, "1", logout) == [answer, {"id": "1", "type": "complete"}]
        assert await closed(connection) == (4401, "Token无效")
