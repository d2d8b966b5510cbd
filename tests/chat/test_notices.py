"""Notices through the database: two processes' buses on one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bus.memory import MemoryBus
from chat.notices import FLUSH_SECONDS, POLL_SECONDS, TOLD_AT_ONCE, NoticeBus
from models.address import Address
from models.database import Database
from models.opening import open_database
from models.worker import register_worker, retire_worker
from tests.bus.conformance import is_quiet, take
from tests.databases import locked, look

pytestmark = pytest.mark.on_both

SECONDS = 15
SOON = FLUSH_SECONDS + POLL_SECONDS


@pytest.fixture
async def two(address: Address, database: Database) -> AsyncIterator[tuple[NoticeBus, NoticeBus]]:
    """The buses of two workers."""
    other = open_database(address)
    buses = NoticeBus(database, MemoryBus()), NoticeBus(other, MemoryBus())
    async with database.write() as session:
        for name in ("first", "second"):
            await register_worker(session, name, 3_600)
    yield buses
    for bus in buses:
        await bus.aclose()
    await other.aclose()


async def told(address: Address, rows: int) -> None:
    """Wait until so many are written down."""
    async with asyncio.timeout(SECONDS):
        while look(address, "SELECT count(*) FROM notice") != [(rows,)]:
            await asyncio.sleep(0.02)


async def test_each_is_heard_once_in_both_processes(two: tuple[NoticeBus, NoticeBus]) -> None:
    here, there = two
    async with here.subscribe("a") as mine, there.subscribe("a") as theirs, there.subscribe("b") as others:
        for number in "123":
            await here.publish("a", number.encode())
        assert await take(mine, 3) == ["1", "2", "3"]
        assert await take(theirs, 3) == ["1", "2", "3"]
        await asyncio.sleep(SOON)
        assert await is_quiet(mine)
        assert await is_quiet(theirs)
        assert await is_quiet(others)


async def test_what_came_before_is_not_heard(two: tuple[NoticeBus, NoticeBus], address: Address) -> None:
    """Who typed a minute ago types no more."""
    here, there = two
    await here.publish("a", b"1")
    await told(address, 1)
    async with there.subscribe("a") as messages:
        await here.publish("a", b"2")
        assert await take(messages, 1) == ["2"]


async def test_a_process_that_is_alone_writes_nothing(
    two: tuple[NoticeBus, NoticeBus], database: Database, address: Address
) -> None:
    async with database.write() as session:
        await retire_worker(session, "second")
    async with two[0].subscribe("a") as messages:
        await two[0].publish("a", b"1")
        assert await take(messages, 1) == ["1"]
        flusher = two[0]._flusher
        assert flusher is not None
        await asyncio.wait_for(asyncio.shield(flusher), SECONDS)
    assert look(address, "SELECT count(*) FROM notice") == [(0,)]


async def test_a_crowd_costs_one_transaction_and_the_table_stays_small(
    two: tuple[NoticeBus, NoticeBus], address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.notices.KEEP_SECONDS", 0.2)
    for number in range(1_000):
        await two[0].publish("a", str(number).encode())
    await told(address, TOLD_AT_ONCE)
    await asyncio.sleep(0.2)  # until they are too old
    await two[0].publish("a", b"later")
    await told(address, 1)


async def test_a_database_that_is_held_loses_notices_and_nothing_else(
    two: tuple[NoticeBus, NoticeBus], address: Address
) -> None:
    here, there = two
    async with here.subscribe("a") as mine, there.subscribe("a") as theirs:
        async with locked(address):
            await here.publish("a", b"1")
            assert await take(mine, 1) == ["1"]
        heard = asyncio.create_task(take(theirs, 1))
        while not heard.done():
            await here.publish("a", b"2")
            await asyncio.wait([heard], timeout=0.3)
        assert heard.result()[0] in {"1", "2"}
