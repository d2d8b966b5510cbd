"""The disk is full under a server that streams: no file of its process may grow (RLIMIT_FSIZE), as on a volume without
a free block. The clients are those of tests/test_kill.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.conftest import register_on
from tests.graph.documents import CREATE, ONE_RUN
from tests.graph.http_client import Graph
from tests.server import Server
from tests.test_kill import Crowd, servers

HARDLY_ANYTHING = 4_096
"""Bytes: less than one page of SQLite's log with its header, so that no commit has room, not even in a log that begins
again at its start."""
GIVEN_UP_SECONDS = 10
"""The log's patience is 8 s; what was seen at its begin was some windows old."""


@contextmanager
def no_room(server: Server) -> Iterator[None]:
    """Whatever the server writes fails (EFBIG), for as long as the block lasts."""
    process = psutil.Process(server.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (HARDLY_ANYTHING, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)


async def status_of(http: httpx.AsyncClient) -> str:
    status: str = (await http.get("/health")).raise_for_status().json()["status"]
    return status


async def until_healthy(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(15):
        while await status_of(http) != "healthy":
            await asyncio.sleep(0.1)


async def test_for_longer_than_anybody_waits_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """Writes are UNAVAILABLE, never a 500; reads go on; nobody is told what is not stored, and everybody finds exactly
    what they saw when there is room again."""
    async with servers(tmp_path, 1) as (server,):
        crowd = Crowd([server], await asyncio.to_thread(register_on, server))
        await crowd.gather(server, "scripted:every=0.05,words=400")
        async with httpx.AsyncClient(base_url=server.url, headers=crowd.account.headers, timeout=30) as http:
            graph = Graph(http, crowd.account.token)
            assert crowd.mark()
            assert await status_of(http) == "healthy"
            with no_room(server):
                begun = time.monotonic()
                assert await graph.code(CREATE, input={"title": "t"}) == "UNAVAILABLE"
                assert await status_of(http) == "degraded"
                seen = [follower.text for follower in crowd.followers]
                while time.monotonic() - begun < GIVEN_UP_SECONDS:
                    assert (await http.get("/api/conversations")).status_code == 200
                    run = await graph.data(ONE_RUN, id=crowd.followers[0].run_id)
                    assert run["run"]["status"] == "RUNNING"
                    await asyncio.sleep(0.2)
                assert await status_of(http) == "degraded"
                # What was committed before the blow may have been on its way; behind that there is silence.
                assert all(len(f.text) - len(text) < 200 for f, text in zip(crowd.followers, seen, strict=True))
                assert not any(follower.finished for follower in crowd.followers)
            await crowd.end()
            await crowd.check(server, "INTERRUPTED")
            await until_healthy(http)
            await graph.data(CREATE, input={"title": "t"})
        assert "Traceback" not in server.log()


async def test_for_a_moment_costs_time_alone(tmp_path: Path) -> None:
    async with servers(tmp_path, 1) as (server,):
        crowd = Crowd([server], await asyncio.to_thread(register_on, server))
        await crowd.gather(server, "scripted:every=0.03,words=150")
        assert crowd.mark()
        with no_room(server):
            await asyncio.sleep(2)
        await crowd.end()
        await crowd.check(server, "COMPLETED")
