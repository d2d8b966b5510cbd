"""A day's limits over every transport, and over two server processes on one database."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from tests.conftest import Account, StartServer, register_on
from tests.graph.documents import CHAT, SEND, chat, create, ended, send
from tests.graph.http_client import Graph, Json, Refused
from tests.rest.talk import question, signed
from tests.server import Server, running

LIMIT = 1_000
SETTINGS = {"TOKENS_PER_DAY": str(LIMIT), "COST_PER_DAY_USD": "0.5", "RUNS_PER_USER": "100", "LEASE_SECONDS": "1"}
QUOTA = "{ stats { quota { tokensPerDay tokensLeft costPerDayUsd costLeftUsd resetsAt } } }"
SPEND = "scripted:text=a,usage=800/150"
SECONDS = 20


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("budgets")
    with ExitStack() as stack:
        one, other = [stack.enter_context(running(folder, None, **SETTINGS)) for _ in range(2)]
        yield one, other


@pytest.fixture
def spender(pair: tuple[Server, Server]) -> Account:
    return register_on(pair[0])


async def spend(graph: Graph) -> None:
    await graph.data(CHAT, input=chat(model=SPEND, maxTokens=100))


def midnight() -> datetime:
    return datetime.combine(datetime.now(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)


def graph_of(stack: list[httpx.AsyncClient], server: Server, account: Account) -> Graph:
    stack.append(httpx.AsyncClient(base_url=server.url, timeout=30))
    return Graph(stack[-1], account.token)


async def quota(graph: Graph) -> Json:
    found: Json = (await graph.data(QUOTA))["stats"]["quota"]
    return found


async def test_graphql_says_when_it_resets(pair: tuple[Server, Server], spender: Account) -> None:
    async with httpx.AsyncClient(base_url=pair[0].url, timeout=30) as client:
        graph = Graph(client, spender.token)
        place = (await create(graph))["id"]
        await spend(graph)
        reset = midnight()
        send_input = {"conversationId": place, "content": "hello", "maxTokens": 100}
        for answer in (
            await graph.answer(CHAT, input=chat(maxTokens=100)),
            await graph.answer(SEND, input=send_input),
        ):
            error = answer["errors"][0]
            assert error["extensions"]["code"] == "QUOTA_EXCEEDED"
            assert datetime.fromisoformat(error["extensions"]["resetsAt"]) == reset
            assert 0 < error["extensions"]["retryAfter"] <= 86_400
            assert f"{reset:%Y-%m-%d %H:%M} UTC" in error["message"]
        with pytest.raises(Refused) as refused:
            async for _ in graph.events(
                "subscription ($input: ChatInput!) { chat(input: $input) { seq } }", input=chat(maxTokens=100)
            ):
                pass
        assert refused.value.code == "QUOTA_EXCEEDED"
        left = await quota(graph)
        assert (left["tokensPerDay"], left["tokensLeft"]) == (LIMIT, LIMIT - 950)
        assert (left["costPerDayUsd"], left["costLeftUsd"]) == (0.5, 0.5)
        assert datetime.fromisoformat(left["resetsAt"]) == reset
        await graph.data(CHAT, input=chat("x", maxTokens=10))


@pytest.mark.parametrize("stream", [False, True])
async def test_rest_says_when_it_resets(pair: tuple[Server, Server], spender: Account, stream: bool) -> None:
    async with httpx.AsyncClient(base_url=pair[0].url, timeout=30, headers=spender.headers) as client:
        body = question(model=SPEND, max_tokens=100)
        assert (await client.post("/api/chat", json=body)).json()["tokens"] == 950
        refused = await client.post("/api/chat", json=body | {"stream": stream})
        assert refused.status_code == 429
        assert 0 < int(refused.headers["Retry-After"]) <= 86_400
        told = refused.json()
        assert isinstance(told["detail"], str)
        assert datetime.fromisoformat(told["resets_at"]) == midnight()
        assert (await client.get("/api/stats")).json()["total_tokens"] == 950


async def test_the_legacy_socket_says_when_it_resets(pair: tuple[Server, Server], spender: Account) -> None:
    async with signed(pair[0], spender) as socket:
        await socket.chat("hello", model="scripted:text=a,usage=999/1")
        frame, complete = await socket.chat("hello", model="scripted")
        assert (frame["type"], frame["code"], complete["type"]) == ("error", "QUOTA_EXCEEDED", "chat_complete")
        assert datetime.fromisoformat(frame["resets_at"]) == midnight()
        assert frame["retry_after"] > 0


async def test_nobody_overspends_by_asking_two_processes_at_once(pair: tuple[Server, Server], spender: Account) -> None:
    """Check-then-spend lets all of them through (LibreChat #6451, litellm #34732)."""
    clients: list[httpx.AsyncClient] = []
    graphs = [graph_of(clients, server, spender) for server in pair]
    places = [(await create(graphs[0]))["id"] for _ in range(12)]

    async def attempt(number: int, place: str) -> str:
        model, answer = "scripted:text=a,wait=0.7,usage=60/180", 200
        graph = graphs[number % 2]
        if number % 3:
            asked = {"conversationId": place, "content": "hello", "model": model, "maxTokens": answer}
            told = await graph.answer(SEND, input=asked)
            if "errors" in told:
                return str(told["errors"][0]["extensions"]["code"])
            return str((await ended(graph, told["data"]["sendMessage"]["run"]["id"]))["status"])
        body = question(model=model, max_tokens=answer)
        response = await graph.http.post("/api/chat", json=body, headers=graph.headers)
        return {200: "COMPLETED", 429: "QUOTA_EXCEEDED"}.get(response.status_code, response.text)

    results = await asyncio.gather(*(attempt(number, place) for number, place in enumerate(places)))
    assert results.count("COMPLETED") == 4, results
    assert results.count("QUOTA_EXCEEDED") == 8
    left = [await quota(graph) for graph in graphs]
    assert [each["tokensLeft"] for each in left] == [LIMIT - 4 * 240] * 2
    for client in clients:
        await client.aclose()


async def test_what_a_killed_process_held_comes_back(start_server: StartServer) -> None:
    one = start_server(**SETTINGS, RESTART_INTERRUPTED="off")
    account = register_on(one)
    async with httpx.AsyncClient(base_url=one.url, timeout=30) as client:
        graph = Graph(client, account.token)
        place = (await create(graph))["id"]
        run = (await send(graph, place, "hello", model="scripted:text=abcdef,wait=60", maxTokens=900))["run"]
        assert (await quota(graph))["tokensLeft"] < 100
        assert await graph.code(CHAT, input=chat(maxTokens=100)) == "QUOTA_EXCEEDED"
    one.stop(signal.SIGKILL)
    other = start_server(data_dir=one.data_dir, **SETTINGS)
    async with httpx.AsyncClient(base_url=other.url, timeout=30) as client:
        graph = Graph(client, account.token)
        over = await ended(graph, run["id"])
        assert over["status"] == "INTERRUPTED"
        used = 0 if over["usage"] is None else over["usage"]["totalTokens"]
        assert (await quota(graph))["tokensLeft"] == LIMIT - used > 900
        await graph.data(CHAT, input=chat(maxTokens=100))


async def test_without_limits_there_is_no_quota(server: Server, client: httpx.AsyncClient, account: Account) -> None:
    assert await quota(Graph(client, account.token)) is None
    assert await Graph(client).code(QUOTA) == "UNAUTHENTICATED"
