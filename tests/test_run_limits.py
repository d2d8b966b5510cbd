"""How many answers a user may have under way, and begin in a minute: counted over all processes together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import httpx
import pytest

from models.address import Address
from tests.conftest import Account, register_on
from tests.databases import Postgres, look
from tests.graph.documents import CANCEL, CHAT, DELETE, SEND, chat, create, ended, send
from tests.graph.http_client import Graph, Json
from tests.graph.people import EDIT, REGENERATE
from tests.redises import Redis
from tests.rest.talk import question, signed
from tests.server import Server, running

AT_ONCE, A_MINUTE = 8, 40
TOO_MANY, TOO_OFTEN = f"At most {AT_ONCE} answers at a time", f"At most {A_MINUTE} answers a minute"
BEGUN = "begun"
LONG, SHORT = "scripted:text=a,wait=60", "scripted:text=a"
SECONDS = 20
UNDER_WAY = "SELECT id FROM run WHERE user_id = ? AND status IN ('QUEUED', 'RUNNING')"


@dataclass(frozen=True)
class Pair:
    """Two processes on one database."""

    servers: list[Server]
    address: Address


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL", "PostgreSQL, Redis"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("limits")
    address: Address = folder / "chat.db"
    settings = {"RATE_LIMITS": "on", "RUNS_PER_USER": str(AT_ONCE), "RUNS_PER_MINUTE": str(A_MINUTE)}
    with ExitStack() as stack:
        if "PostgreSQL" in request.param:
            postgres: Postgres = request.getfixturevalue("postgres")
            address = stack.enter_context(postgres.migrated())
            settings["DATABASE_URL"] = address.dsn
        if "Redis" in request.param:
            redis: Redis = request.getfixturevalue("redis")
            settings["REDIS_URL"] = redis.url
        yield Pair([stack.enter_context(running(folder, None, **settings)) for _ in range(2)], address)


@dataclass(frozen=True)
class Asker:
    """A new user, at each of the processes."""

    pair: Pair
    account: Account
    graphs: list[Graph]

    def under_way(self) -> list[str]:
        return [run for (run,) in look(self.pair.address, UNDER_WAY, self.account.id)]

    async def places(self, count: int) -> list[str]:
        """So many new conversations."""
        return [(await create(self.graphs[0]))["id"] for _ in range(count)]

    async def begin(self, place: str, at: int, model: str = LONG) -> str:
        """What has become of a sendMessage."""
        given = {"conversationId": place, "content": "hello", "model": model}
        return told(await self.graphs[at].answer(SEND, input=given))

    async def begin_all(self, places: list[str], model: str = LONG) -> Counter[str]:
        """All at once, at the processes by turns."""
        return Counter(await asyncio.gather(*(self.begin(place, n % 2, model) for n, place in enumerate(places))))

    async def until_under_way(self, count: int) -> None:
        async with asyncio.timeout(SECONDS):
            while len(self.under_way()) != count:
                await asyncio.sleep(0.02)


def told(answer: Json) -> str:
    if "errors" not in answer:
        return BEGUN
    error = answer["errors"][0]
    assert error["extensions"]["code"] == "RATE_LIMITED", error
    assert 0 < error["extensions"]["retryAfter"] <= 120
    return str(error["message"])


@pytest.fixture
async def asker(pair: Pair) -> AsyncIterator[Asker]:
    account = register_on(pair.servers[0])
    async with AsyncExitStack() as stack:
        clients = [httpx.AsyncClient(base_url=server.url, timeout=60) for server in pair.servers]
        for client in clients:
            await stack.enter_async_context(client)
        made = Asker(pair, account, [Graph(client, account.token) for client in clients])
        yield made
        for run in made.under_way():
            await made.graphs[0].answer(CANCEL, id=run)


async def test_whoever_asks_two_processes_at_once_has_no_more_answers_at_a_time(asker: Asker) -> None:
    places = await asker.places(4 * AT_ONCE)
    assert await asker.begin_all(places) == {BEGUN: AT_ONCE, TOO_MANY: 3 * AT_ONCE}
    begun = asker.under_way()
    assert len(begun) == AT_ONCE
    for run in begun[:3]:
        await asker.graphs[1].data(CANCEL, id=run)
    assert len(asker.under_way()) == AT_ONCE - 3
    more = await asker.places(AT_ONCE)
    assert await asker.begin_all(more) == {BEGUN: 3, TOO_MANY: AT_ONCE - 3}


async def test_every_way_to_ask_counts_and_is_counted(asker: Asker) -> None:
    first, other = asker.graphs
    exchanges = []
    for place in await asker.places(3):
        sent = await send(first, place, model=SHORT)
        answer = (await ended(first, sent["run"]["id"]))["message"]["id"]
        exchanges.append((place, sent["message"]["id"], answer))
    ways: list[Callable[[Graph], Awaitable[Json]]] = [
        lambda graph: graph.answer(SEND, input={"conversationId": exchanges[0][0], "content": "x", "model": LONG}),
        lambda graph: graph.answer(EDIT, input={"messageId": exchanges[1][1], "content": "x", "model": LONG}),
        lambda graph: graph.answer(REGENERATE, input={"messageId": exchanges[2][2], "model": LONG}),
    ]
    body = question(model=LONG, stream=True)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for way in ways:
            assert told(await way(first)) == BEGUN
        stateless = group.create_task(first.answer(CHAT, input=chat(model=LONG)))
        await stack.enter_async_context(first.http.stream("POST", "/api/chat", json=body, headers=first.headers))
        socket = await stack.enter_async_context(signed(asker.pair.servers[0], asker.account))
        await socket.say(type="chat", content="hello", model=LONG)
        await asker.until_under_way(6)

        more = await asker.places(5)
        assert await asker.begin(more[0], 1) == BEGUN
        assert await asker.begin(more[1], 1) == BEGUN
        assert await asker.begin(more[2], 1) == TOO_MANY
        for run in asker.under_way():
            await other.answer(CANCEL, id=run)
        await stateless

    for place in await asker.places(AT_ONCE):
        assert await asker.begin(place, 1) == BEGUN
    for way in ways:
        assert told(await way(first)) == TOO_MANY
    assert told(await first.answer(CHAT, input=chat())) == TOO_MANY
    for stream in (False, True):
        refused = await first.http.post("/api/chat", json=body | {"stream": stream}, headers=first.headers)
        assert (refused.status_code, refused.json()["detail"], refused.headers["Retry-After"]) == (429, TOO_MANY, "2")
    async with signed(asker.pair.servers[0], asker.account) as socket:
        frame, _ = await socket.chat("hello", model=SHORT)
        assert (frame["code"], frame["message"]) == ("RATE_LIMITED", TOO_MANY)


async def test_whoever_asks_two_processes_in_turn_has_no_more_answers_a_minute(asker: Asker) -> None:
    """Neither by deleting what was asked in."""
    answers: Counter[str] = Counter()
    since = time.monotonic()
    while not answers[TOO_OFTEN]:
        places = await asker.places(6)
        answers += await asker.begin_all(places, SHORT)
        await asker.until_under_way(0)
        for place in places:
            await asker.graphs[0].data(DELETE, input={"id": place})
    # Where the clock's minute turns meanwhile, what was begun before fades by the second.
    faded = A_MINUTE * (time.monotonic() - since) / 60
    assert set(answers) == {BEGUN, TOO_OFTEN}
    assert A_MINUTE <= answers[BEGUN] <= A_MINUTE + faded
