"""Workers on PostgreSQL and Redis under clients that stream: killed in turn, told to stop, cut off, with clocks an hour
apart. The clients are those of tests/test_kill.py. Each recovery's time is printed (`-s`): what is promised is a lease
and a second; what is asserted leaves room for a machine that does other work."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from models.address import PostgresAddress
from tests.conftest import Account, register_on
from tests.databases import execute
from tests.graph.documents import FOLLOW, create, send
from tests.graph.http_client import Graph
from tests.proxy import Proxy
from tests.redises import OwnRedis
from tests.server import Server
from tests.test_faults import SEVEN_SECONDS, crowd_on
from tests.test_fleet import until_ready, workers_of
from tests.test_kill import LEASE, SECONDS, Crowd, Follower, servers

WITHOUT_END = "scripted:every=0.05,words=5000"
"""Four minutes: no answer ends by itself before the last blow."""
PATIENCE = LEASE + 8
"""Seconds that a recovery may take here."""
FAKETIME = list(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
Settings = dict[str, str]


@pytest.fixture
def settings(postgres_address: PostgresAddress, own_redis: OwnRedis) -> Settings:
    """Where the servers find PostgreSQL and Redis."""
    return {"DATABASE_URL": postgres_address.dsn, "REDIS_URL": own_redis.url}


@asynccontextmanager
async def workers(folder: Path, count: int, **settings: str) -> AsyncIterator[Server]:
    """One `WORKERS=… python app.py`, all of them ready."""
    async with servers(folder, 1, grace="30", WORKERS=str(count), **settings) as (server,):
        await asyncio.to_thread(until_ready, server, count)
        yield server


async def until(what: str, true: Callable[[], bool], seconds: float = SECONDS) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"after {seconds} s {what} is not so")


async def names(dsn: str) -> set[str]:
    """The workers that the database knows."""
    return {str(name) for (name,) in await execute(dsn, "SELECT id FROM worker")}


async def running_at(dsn: str, worker: str) -> list[str]:
    found = await execute(dsn, f"SELECT id FROM run WHERE status = 'RUNNING' AND worker = '{worker}' ORDER BY id")
    return [str(run) for (run,) in found]


async def one_fenced(dsn: str, before: set[str]) -> str:
    """The name that is gone from among these."""
    async with asyncio.timeout(SECONDS):
        while not (gone := before - await names(dsn)):
            await asyncio.sleep(0.05)
    (name,) = gone
    return name


async def none_running(dsn: str) -> None:
    async with asyncio.timeout(SECONDS):
        while await execute(dsn, "SELECT 1 FROM run WHERE status = 'RUNNING' LIMIT 1"):
            await asyncio.sleep(0.05)


class TestKilled:
    @pytest.mark.soak
    @pytest.mark.parametrize("_round", range(5))
    async def test_in_turn_under_load_they_lose_nothing(self, tmp_path: Path, settings: Settings, _round: int) -> None:
        """Each of the three once, while all stream; their parent replaces them. What anybody saw is how the end
        begins; those whose answer another worker writes notice nothing but a new connection."""
        dsn = settings["DATABASE_URL"]
        async with workers(tmp_path, 3, **settings) as server:
            crowd = Crowd([server], await asyncio.to_thread(register_on, server))
            await crowd.gather(server, WITHOUT_END, 15)
            alive = await names(dsn)
            owners = {name: await running_at(dsn, name) for name in alive}
            assert sum(map(len, owners.values())) == 15
            for number, victim in enumerate(workers_of(server)):
                if number == 2:
                    await asyncio.to_thread(until_ready, server, 4)  # or nobody would be left
                for follower in crowd.followers:
                    follower.at_kill = follower.text
                victim.kill()
                killed = time.monotonic()
                dead = await one_fenced(dsn, alive)
                alive.discard(dead)
                theirs = [follower for follower in crowd.followers if follower.run_id in owners[dead]]
                await _told(theirs, killed, f"worker {number + 1} of 3 killed, {len(owners[dead])} answers")
                for name in alive:
                    assert await running_at(dsn, name) == owners[name]
            assert not alive
            await crowd.end()
            await crowd.check(server, "INTERRUPTED")
            assert await _answer(server, crowd.account) == "again"


async def _told(followers: list[Follower], since: float, what: str) -> None:
    """These have all been told the end in time."""
    await until("everybody was told the end", lambda: all(follower.finished for follower in followers))
    late = max((follower.finished_at for follower in followers), default=since) - since
    print(f"\n{what}: the last of {len(followers)} followers had its end {late:.2f} s later")
    assert late < PATIENCE


async def _answer(server: Server, account: Account) -> str:
    """What a new run there says."""
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        graph = Graph(http, account.token)
        run = (await send(graph, (await create(graph))["id"], "hello", model="scripted:text=again"))["run"]
        events = [data["runEvents"] async for data in graph.events(FOLLOW, id=run["id"])]
        return "".join(event.get("text", "") for event in events)


class TestToldToStop:
    async def test_sockets_are_told_1012_and_go_on_at_another_worker(self, tmp_path: Path, settings: Settings) -> None:
        """A deploy that replaces one worker: its answers are finished, and its clients follow them elsewhere, from
        where they were."""
        async with workers(tmp_path, 2, **settings) as server:
            crowd = await crowd_on([server], SEVEN_SECONDS)
            assert crowd.mark()
            first = workers_of(server)[0]
            first.send_signal(signal.SIGTERM)
            await crowd.end()
            await crowd.check(server, "COMPLETED")
            codes = [code for follower in crowd.followers for code in follower.closed]
            print(f"\na worker told to stop: {len(codes)} sockets closed, by {set(codes)}")
            assert set(codes) == {1012}
            await asyncio.to_thread(psutil.wait_procs, [first], SECONDS)
            assert not first.is_running()
            assert "Traceback" not in server.log()


class TestCutOff:
    @pytest.mark.parametrize("seconds", [LEASE + 2, pytest.param(15.0, marks=pytest.mark.soak)])
    async def test_for_longer_than_its_lease_one_writes_nothing_more(
        self, tmp_path: Path, settings: Settings, seconds: float
    ) -> None:
        """No packet comes through, neither from PostgreSQL nor from Redis, and no connection is closed: fencing
        decides. What the victim had sent arrives when the way is open again, behind its death. Its followers cannot be
        told anything, and come back to the other, as a load balancer would have it."""
        async with AsyncExitStack() as stack:
            ways, through = [], {}
            for name, url in settings.items():
                port = urlsplit(url).port or 0
                ways.append(stack.enter_context(Proxy(port)))
                through[name] = url.replace(f":{port}", f":{ways[-1].port}")
            (victim,) = await stack.enter_async_context(servers(tmp_path, 1, **through))
            (other,) = await stack.enter_async_context(servers(tmp_path, 1, **settings))
            crowd = await crowd_on([victim, other], WITHOUT_END)
            assert crowd.mark()
            crowd.servers.remove(victim)
            for way in ways:
                way.cut()
            cut = time.monotonic()
            await none_running(settings["DATABASE_URL"])
            late = time.monotonic() - cut
            print(f"\na worker cut off: its answers were ended {late:.2f} s later")
            assert late < PATIENCE
            await asyncio.sleep(max(0, cut + seconds - time.monotonic()))
            for way in ways:
                way.mend()
            mended = time.monotonic()
            await crowd.end()
            print(f"the way open again: the last follower had its end {time.monotonic() - mended:.2f} s later")
            await crowd.check(other, "INTERRUPTED")
            assert await _answer(victim, crowd.account) == "again"
            assert "Traceback" not in victim.log() + other.log()


def _clock(server: Server) -> datetime:
    return parsedate_to_datetime(httpx.get(server.url).headers["date"])


class TestClocks:
    @pytest.mark.skipif(not FAKETIME, reason="Debian's faketime is not installed")
    @pytest.mark.parametrize("home", ["ahead", pytest.param("behind", marks=pytest.mark.soak)])
    async def test_an_hour_apart_they_are_one_server(self, tmp_path: Path, settings: Settings, home: str) -> None:
        """Leases are judged by the database's clock: neither is taken for dead, both tell one text, and a token that
        will be made in an hour is good."""
        dsn = settings["DATABASE_URL"]
        lasting = {**settings, "ACCESS_TOKEN_EXPIRE_MINUTES": "300"}
        fake = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": "+1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        async with AsyncExitStack() as stack:
            (right,) = await stack.enter_async_context(servers(tmp_path / "right", 1, **lasting))
            (wrong,) = await stack.enter_async_context(servers(tmp_path / "wrong", 1, **lasting, **fake))
            apart = await asyncio.to_thread(_clock, wrong) - await asyncio.to_thread(_clock, right)
            assert abs(apart.total_seconds() - 3_600) < 60
            before = await names(dsn)
            assert len(before) == 2
            crowd = await crowd_on([wrong, right] if home == "ahead" else [right, wrong], SEVEN_SECONDS)
            assert crowd.mark()
            await crowd.end()
            for server in (right, wrong):
                await crowd.check(server, "COMPLETED")
                assert await _answer(server, crowd.account) == "again"
            assert await names(dsn) == before
