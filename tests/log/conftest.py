"""The set-ups in which the log has to keep its promises.

`reader` is the engine through which followers come; where the writer is differs. `look` reads what is stored through a
connection that neither of them has.
"""

import asyncio
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

import orjson
import pytest

from chat.chats import StatelessChat
from chat.codec import decode_event
from chat.events import RunEvent
from models.address import Address, PostgresAddress
from models.ids import new_id
from models.run import Run
from providers.base import Role, Turn
from tests.chat.conftest import Core
from tests.databases import KINDS, look, url_of
from tests.log import child
from tests.log.child import limit_pages, open_worker, patched
from tests.redises import Redis

SECONDS = 20
"""No test waits longer for anything that has to come."""


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.log.child"])
"""Each worker is a process of its own, forked from one that has imported everything, which takes 1.5 s of CPU."""


@dataclass
class Worker:
    """A process that writes runs."""

    process: BaseProcess
    name: str
    answers: asyncio.StreamReader
    orders: asyncio.StreamWriter

    async def ask(self, **order: Any) -> Any:
        self.orders.write(json.dumps({"user": None, **order}).encode() + b"\n")
        async with asyncio.timeout(SECONDS):
            answer = json.loads(await self.answers.readline())
        assert "error" not in answer, answer
        return answer["result"]

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    async def kill(self) -> None:
        self.process.kill()
        await asyncio.to_thread(self.process.join)


@asynccontextmanager
async def worker(address: Address, constants: dict[str, float] | None = None, **options: Any) -> AsyncIterator[Worker]:
    """A worker in a process of its own, stopped at the end of the block if it is still there."""
    ours, its = socket.socketpair()
    with its:
        process = _processes.Process(target=child.main, args=(its, url_of(address), constants or {}, options))
        await asyncio.to_thread(process.start)
    answers, orders = await asyncio.open_connection(sock=ours)
    started = Worker(process, "", answers, orders)
    try:
        async with asyncio.timeout(SECONDS):
            started.name = json.loads(await answers.readline())["ready"]
        yield started
    finally:
        orders.close()
        if process.is_alive():
            started.signal(signal.SIGCONT)
            await asyncio.to_thread(process.join, SECONDS)
            if process.is_alive():
                await started.kill()
        process.close()


@dataclass
class Setup:
    """Followers come through `reader`; runs are written by `writer`, or by `reader` itself."""

    reader: Core
    address: Address
    writer: Worker | None = None
    user: str = ""
    _streams: set["asyncio.Task[None]"] = field(default_factory=set)

    async def send(self, script: str) -> Run:
        """A run in a conversation of its own."""
        if self.writer is None:
            return await self.reader.send(self.user, script)
        return await self.reader.row(await self.writer.ask(do="send", user=self.user, script=script))

    async def chat(self, script: str, key: str | None = None) -> Run:
        """A stateless run that someone follows at its writer's."""
        if self.writer is not None:
            return await self.reader.row(await self.writer.ask(do="chat", user=self.user, script=script, key=key))
        turns = [Turn(Role.USER, "hello")]
        chat = StatelessChat(turns, model=f"scripted:{script}", idempotency_key=key)
        stream = self.reader.chats.chat(self.user, chat)
        run_id = (await anext(stream)).run_id

        async def drain() -> None:
            async for _ in stream:
                pass

        self._streams.add(asyncio.create_task(drain()))
        return await self.reader.row(run_id)

    async def limit(self, full: bool) -> None:
        """Let the writer's disk be full, or not."""
        if self.writer is None:
            await limit_pages(self.reader, full)
        else:
            await self.writer.ask(do="limit", full=full)

    async def follow(self, run: Run, after: int | None = None) -> AsyncGenerator[RunEvent, None]:
        async with asyncio.timeout(SECONDS):
            async for event in self.reader.chats.follow(self.user, run.id, after):
                yield event

    async def events(self, run: Run, after: int | None = None) -> list[RunEvent]:
        return [event async for event in self.follow(run, after)]

    def look(self, sql: str, *values: object) -> list[Any]:
        """What a connection of its own finds at this moment."""
        return look(self.address, sql, *values)

    def stored(self, run_id: str) -> list[RunEvent]:
        """The run's events, put together from segments and journal without the code under test."""
        found: list[Any] = []
        pieces = [
            (first, orjson.loads(body))
            for first, body in self.look("SELECT first_seq, body FROM run_segment WHERE run_id = ? ORDER BY 1", run_id)
        ]
        for (body,) in self.look("SELECT body FROM run_journal ORDER BY id"):
            pieces += [(first, events) for key, first, events in orjson.loads(body) if key == run_id]
        for first, events in pieces:
            if 0 <= len(found) - first < len(events):
                found.extend(events[len(found) - first :])
        return [decode_event(run_id, seq, code) for seq, code in enumerate(found)]

    def trim_what_is_in_segments(self, run_id: str) -> None:
        """Take the journal's rows away as early as it may ever happen."""
        segments = self.look("SELECT first_seq, body FROM run_segment WHERE run_id = ?", run_id)
        safe = max((first + len(orjson.loads(body)) for first, body in segments), default=0)
        for row, body in self.look("SELECT id, body FROM run_journal"):
            if all(first + len(events) <= safe for _, first, events in orjson.loads(body)):
                self.look("DELETE FROM run_journal WHERE id = ?", row)

    def windows(self) -> int:
        """Transactions of the journal so far."""
        if isinstance(self.address, PostgresAddress):
            return int(self.look("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM run_journal_id_seq")[0][0])
        return int(self.look("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'run_journal'")[0][0])

    def leftovers(self, run_id: str) -> tuple[int, int]:
        """Segments, and rows of the journal that name this run."""
        segments = self.look("SELECT count(*) FROM run_segment WHERE run_id = ?", run_id)[0][0]
        rows = self.look("SELECT body FROM run_journal")
        return segments, sum(run_id.encode() in body for (body,) in rows)


OpenSetup = Callable[..., AbstractAsyncContextManager[Setup]]


@asynccontextmanager
async def one_process(
    address: Address, constants: dict[str, float] | None = None, **options: Any
) -> AsyncIterator[Setup]:
    with patched(constants or {}):
        async with open_worker(address, options) as core:
            yield Setup(core, address, user=await core.user())


@asynccontextmanager
async def several_processes(
    address: Address, constants: dict[str, float] | None = None, **options: Any
) -> AsyncIterator[Setup]:
    async with worker(address, constants, **options) as writer:
        with patched(constants or {}):
            async with open_worker(address, options) as core:
                yield Setup(core, address, writer, await core.user())


SETUPS = {"one process": one_process, "several processes": several_processes}
LOST = {"with Redis": 0.0, "with half of its hints": 0.5, "with none of its hints": 1.0}


@pytest.fixture(params=[*SETUPS, *LOST], ids=lambda name: name.replace(" ", "_"))
def opened(request: pytest.FixtureRequest, address: Address) -> OpenSetup:
    """Opens the set-up on an empty database: `async with opened(keep=1) as setup`."""
    if request.param in SETUPS:
        return lambda *arguments, **options: SETUPS[request.param](address, *arguments, **options)
    redis: Redis = request.getfixturevalue("redis")
    heard: dict[str, Any] = {"redis": redis.url, "namespace": new_id("test"), "lost": LOST[request.param]}
    return lambda constants=None, **options: several_processes(address, constants, **heard, **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes that have Redis have PostgreSQL."""
    items[:] = [item for item in items if not _is_odd(item)]


def _is_odd(item: pytest.Item) -> bool:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return params.get("kind") == KINDS[0] and params.get("opened") in LOST
