"""A worker in a process of its own, told what to do by lines of JSON."""

import asyncio
import importlib
import json
import socket
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from typing import Any

from bus.address import RedisAddress
from bus.redis import RedisBus
from chat.chats import StatelessChat
from models.address import Address, parse_address
from models.postgres import PostgresDatabase
from models.sqlite_journal import SqliteJournal
from providers.base import Role, Turn
from tests.bus.lossy import LossyBus
from tests.chat.conftest import GENERATION, Core, open_core
from tests.databases import fill_disk


@contextmanager
def patched(constants: dict[str, float]) -> Iterator[None]:
    """Module constants such as `chat.keeper.SWEEP_SECONDS`, set for as long as the block lasts."""
    before = {}
    for path, value in constants.items():
        module, _, name = path.rpartition(".")
        before[path] = getattr(importlib.import_module(module), name)
        setattr(importlib.import_module(module), name, value)
    try:
        yield
    finally:
        for path, value in before.items():
            module, _, name = path.rpartition(".")
            setattr(importlib.import_module(module), name, value)


def open_worker(address: Address, options: dict[str, Any]) -> AbstractAsyncContextManager[Core]:
    """A core; of the generation's limits, `coalesce` can be chosen. `redis`: its address, `lost`: what share of the
    hints does not arrive."""
    limits = dict(options)
    if url := limits.pop("redis", None):
        limits["bus"] = LossyBus(RedisBus(RedisAddress.parse(url), limits.pop("namespace")), limits.pop("lost"))
    generation = replace(GENERATION, coalesce=limits.pop("coalesce", GENERATION.coalesce))
    return open_core(address, generation=generation, **limits)


async def obey(core: Core, order: dict[str, Any], streams: set[asyncio.Task[None]]) -> object:
    user = order["user"]
    if order["do"] == "send":
        return (await core.send(user, order["script"])).id
    if order["do"] == "limit":
        await limit_pages(core, order["full"])
        return None
    turns = [Turn(Role.USER, "hello")]
    stream = core.chats.chat(
        user, StatelessChat(turns, model=f"scripted:{order['script']}", idempotency_key=order["key"])
    )
    run_id = (await anext(stream)).run_id

    async def drain() -> None:
        async for _ in stream:
            pass

    streams.add(asyncio.create_task(drain()))
    return run_id


async def limit_pages(core: Core, full: bool) -> None:
    """Let the disk be full, or not: for SQLite a limit that each connection has for itself."""
    if isinstance(core.database, PostgresDatabase):
        await fill_disk(core.database.address.dsn, full)
        return
    pages = 1_000_000
    async with core.database.write() as session:
        connection = await session.connection()
        if full:
            pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    journal = core.engine.writer._journal
    assert isinstance(journal, SqliteJournal)
    await journal._run(lambda: journal._open().execute(f"PRAGMA max_page_count = {pages}"))


def main(orders: socket.socket, url: str, constants: dict[str, float], options: dict[str, Any]) -> None:
    """Obey until no order can come any more."""
    asyncio.run(_main(orders, parse_address(url), constants, options))


async def _main(orders: socket.socket, address: Address, constants: dict[str, float], options: dict[str, Any]) -> None:
    lines, answers = await asyncio.open_connection(sock=orders)
    streams: set[asyncio.Task[None]] = set()
    with patched(constants):
        async with open_worker(address, options) as core:
            answers.write(json.dumps({"ready": core.engine.keeper.worker}).encode() + b"\n")
            while line := await lines.readline():
                try:
                    answer = {"result": await obey(core, json.loads(line), streams)}
                except Exception as error:
                    answer = {"error": type(error).__name__}
                answers.write(json.dumps(answer).encode() + b"\n")
            await core.engine.aclose()
            await asyncio.gather(*streams, return_exceptions=True)
