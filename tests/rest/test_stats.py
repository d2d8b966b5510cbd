"""GET /api/stats: counters that never scan, the same on GraphQL."""

from __future__ import annotations

import asyncio

import httpx

from tests.conftest import Account
from tests.rest.talk import SLOW, conversation, message, question, signed, stats, tokens_appear
from tests.server import Server

PATH = "/api/conversations"


async def test_nothing_yet(client: httpx.AsyncClient, account: Account) -> None:
    assert await stats(client, account) == {
        "total_conversations": 0,
        "total_messages": 0,
        "total_tokens": 0,
        "average_messages_per_conversation": 0.0,
    }


async def test_owned_conversations_and_their_messages_with_one_decimal(
    client: httpx.AsyncClient, account: Account, other: Account
) -> None:
    for number, count in enumerate((1, 2, 2)):
        messages = [message(id=str(index)) for index in range(count)]
        await client.post(PATH, json=conversation(id=f"c{number}", messages=messages), headers=account.headers)
    figures = await stats(client, account)
    assert (figures["total_conversations"], figures["total_messages"]) == (3, 5)
    assert figures["average_messages_per_conversation"] == 1.7
    listed = (await client.get(PATH, headers=account.headers)).json()
    assert sum(len(item["messages"]) for item in listed) == figures["total_messages"]
    assert (await stats(client, other))["total_conversations"] == 0


async def test_tokens_of_every_run_the_user_caused(server: Server, client: httpx.AsyncClient, account: Account) -> None:
    """Plain, streamed, on the socket, failed and cancelled; never lowered by deleting anything."""
    total = 0

    async def grown() -> int:
        nonlocal total
        before, total = total, int((await stats(client, account))["total_tokens"])
        return total - before

    plain = await client.post("/api/chat", json=question(model="scripted:text=a,usage=7/5"), headers=account.headers)
    assert plain.json()["tokens"] == await grown() == 12
    body = question(model="scripted:text=a,usage=2/1", stream=True)
    await client.post("/api/chat", json=body, headers=account.headers)
    assert await grown() == 3
    async with signed(server, account) as socket:
        await socket.chat("hello", model="scripted:text=a,usage=3/1")
    assert await grown() == 4
    failed = question(model="scripted:text=a,fail=PROVIDER_ERROR")
    assert (await client.post("/api/chat", json=failed, headers=account.headers)).status_code == 502
    assert await grown() > 0
    await client.post(PATH, json=conversation(messages=[message()]), headers=account.headers)
    await client.delete(f"{PATH}/conv_123", headers=account.headers)
    assert await grown() == 0


async def test_a_cancelled_run_counts(client: httpx.AsyncClient, account: Account) -> None:
    asking = asyncio.create_task(client.post("/api/chat", json=question(model=SLOW), headers=account.headers))
    await asyncio.sleep(0.5)
    asking.cancel()
    assert await tokens_appear(client, account)


async def test_graphql_tells_the_same(client: httpx.AsyncClient, account: Account) -> None:
    await client.post(PATH, json=conversation(messages=[message()]), headers=account.headers)
    await client.post("/api/chat", json=question(), headers=account.headers)
    query = "{ stats { totalConversations totalMessages totalTokens averageMessagesPerConversation } }"
    answer = await client.post("/graphql", json={"query": query}, headers=account.headers)
    theirs = answer.json()["data"]["stats"]
    assert list(theirs.values()) == list((await stats(client, account)).values())
