"""What REDIS_URL opens, seen from outside: two server processes on one database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer, register_on
from tests.databases import Postgres
from tests.graph.client import open_socket
from tests.graph.test_typing import LISTEN
from tests.rest.talk import SECONDS, signed
from tests.server import Server, free_port


def test_a_redis_that_is_not_there_is_said_and_no_reason_not_to_start(start_server: StartServer) -> None:
    """It is never the truth: an outage of it must not become one of everything when a machine restarts meanwhile."""
    server = start_server(REDIS_URL=f"redis://:hidden@127.0.0.1:{free_port()}/0")
    assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
    assert server.log().count("is away: going on without it") == 1
    assert "hidden" not in server.log()


@pytest.fixture(params=["SQLite", "PostgreSQL", "PostgreSQL with Redis"])
def pair(request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path) -> list[Server]:
    """Two server processes on one database."""
    settings: dict[str, str] = {}
    if request.param != "SQLite":
        postgres: Postgres = request.getfixturevalue("postgres")
        settings["DATABASE_URL"] = request.getfixturevalue("stack").enter_context(postgres.migrated()).dsn
    if request.param == "PostgreSQL with Redis":
        settings["REDIS_URL"] = request.getfixturevalue("redis").url
    return [start_server(tmp_path / "shared", **settings) for _ in range(2)]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_who_types_is_told_to_sockets_of_other_processes(pair: list[Server]) -> None:
    """Legacy and GraphQL alike; and /health counts the sockets of all of them."""
    here, there = pair
    account, other = register_on(here), register_on(there)
    async with signed(here, account) as typist, signed(there, other) as reader, open_socket(there, other.token) as web:
        events = web.events(LISTEN)
        hearing = asyncio.ensure_future(anext(events))
        await asyncio.sleep(1)
        await typist.say(type="typing")
        assert await reader.hear() == {"type": "user_typing", "user_id": account.id}
        heard = (await asyncio.wait_for(hearing, SECONDS))["typing"]
        assert (heard["userId"], heard["username"]) == (account.id, account.username)
        assert await typist.silent()
        assert await reader.silent(0.6)
        async with asyncio.timeout(SECONDS):
            while (counts := [connections(server) for server in pair]) != [3, 3]:
                await asyncio.sleep(0.1)
        await events.aclose()
    async with asyncio.timeout(SECONDS):
        while (counts := [connections(server) for server in pair]) != [0, 0]:
            await asyncio.sleep(0.1)
    assert counts == [0, 0]


def connections(server: Server) -> int:
    return int(httpx.get(f"{server.url}/health", timeout=30).json()["active_connections"])
