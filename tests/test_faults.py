"""PostgreSQL under servers that stream: workers killed and stopped, the database restarted, cut and away. The clients
are those of tests/test_kill.py: fifty of them, half dropping and resuming at random."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from functools import partial
from pathlib import Path

import httpx
import pytest

from models.address import PostgresAddress
from tests.conftest import Account, register_on
from tests.databases import OwnServer, Postgres, execute
from tests.graph.documents import CREATE
from tests.server import Server
from tests.test_kill import LEASE, LONG, Crowd, in_time, kill_one_of_two, servers

SEVEN_SECONDS = "scripted:every=0.03,words=240"


@pytest.fixture
def own(postgres: Postgres) -> OwnServer:
    """The server, to be stopped, and started by the main thread: it ends with the thread that started it."""
    if postgres.own is None:
        pytest.skip("the server that TEST_DATABASE_URL names is not ours to stop")
    return postgres.own


async def crowd_on(started: list[Server], model: str) -> Crowd:
    crowd = Crowd(list(started), await asyncio.to_thread(register_on, started[0]))
    await crowd.gather(started[0], model)
    return crowd


async def ask(server: Server, account: Account) -> set[int]:
    """The status of what a client may ask for."""
    async with httpx.AsyncClient(base_url=server.url, headers=account.headers, timeout=30) as http:
        document = {"query": CREATE, "variables": {"input": {"title": "t"}}}
        answers = await asyncio.gather(
            http.get("/api/conversations"),
            http.get("/api/stats"),
            http.get("/health"),
            http.post("/api/auth/login", json={"username": account.username, "password": account.password}),
            http.post("/graphql", json=document, headers={"Accept": "application/graphql-response+json"}),
        )
    assert not any("Traceback" in answer.text for answer in answers)
    return {answer.status_code for answer in answers}


class TestWorkers:
    async def test_one_that_is_killed_is_noticed_within_a_lease_and_a_second(
        self, tmp_path: Path, postgres_address: PostgresAddress
    ) -> None:
        kill = partial(kill_one_of_two, DATABASE_URL=postgres_address.dsn)
        assert await in_time(LEASE + 1, kill, tmp_path)

    async def test_one_that_stands_still_for_longer_than_its_lease_writes_nothing_more(
        self, tmp_path: Path, postgres_address: PostgresAddress
    ) -> None:
        """Fencing decides: its runs are ended by the other; what it wakes up with is told to nobody."""
        async with servers(tmp_path, 2, DATABASE_URL=postgres_address.dsn) as started:
            victim, other = started
            crowd = await crowd_on(started, LONG)
            assert crowd.mark()
            # Its own followers hang with it: they come back to the other, as a load balancer would have it.
            crowd.servers.remove(victim)
            victim.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(LEASE + 1)
            victim.process.send_signal(signal.SIGCONT)
            await crowd.end()
            await crowd.check(other, "INTERRUPTED")
            assert await execute(postgres_address.dsn, "SELECT count(*) FROM run WHERE status = 'RUNNING'") == [(0,)]


class TestTheDatabase:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "as in a crash"])
    async def test_restarted_costs_time_alone(
        self, tmp_path: Path, postgres_address: PostgresAddress, own: OwnServer, how: signal.Signals
    ) -> None:
        """The answers go on where they were: the log holds back what is not stored, for as long as its patience."""
        async with servers(tmp_path, 2, DATABASE_URL=postgres_address.dsn) as started:
            crowd = await crowd_on(started, SEVEN_SECONDS)
            assert crowd.mark()
            await asyncio.to_thread(own.stop, how)
            await asyncio.sleep(random.uniform(0, 1))
            own.start()
            await crowd.end()
            await crowd.check(started[1], "COMPLETED")
            assert await ask(started[0], crowd.account) == {200}

    async def test_that_cuts_its_connections_costs_nothing(
        self, tmp_path: Path, postgres_address: PostgresAddress
    ) -> None:
        async with servers(tmp_path, 2, DATABASE_URL=postgres_address.dsn) as started:
            crowd = await crowd_on(started, SEVEN_SECONDS)
            cut = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()"""
            for _ in range(4):
                assert crowd.mark()
                assert (await execute(postgres_address.dsn, cut))[0][0] > 4
                await asyncio.sleep(0.7)
            await crowd.end()
            await crowd.check(started[1], "COMPLETED")

    async def test_away_for_longer_than_anybody_waits_is_said_and_loses_nothing(
        self, tmp_path: Path, postgres_address: PostgresAddress, own: OwnServer
    ) -> None:
        """Nobody is told what is not stored; clients are told to come back, never a 500, and find exactly what they
        saw once there is a database again."""
        async with servers(tmp_path, 2, DATABASE_URL=postgres_address.dsn) as started:
            crowd = await crowd_on(started, "scripted:every=0.05,words=350")
            assert crowd.mark()
            await asyncio.to_thread(own.stop)
            statuses: set[int] = set()
            begun = time.monotonic()
            while time.monotonic() - begun < 12:
                statuses |= await ask(started[0], crowd.account)
            assert statuses <= {200, 503}
            assert 503 in statuses
            own.start()
            await crowd.end()
            # Those whose first window that was not taken is 8 s old were given up; the others go on.
            await crowd.check(started[1], "INTERRUPTED", "COMPLETED")
            given_up = {f.run_id for f in crowd.followers if f.finished and f.finished["status"] == "INTERRUPTED"}
            assert given_up
            assert await ask(started[0], crowd.account) == {200}
