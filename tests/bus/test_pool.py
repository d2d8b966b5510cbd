"""Who stands in line for Redis, and what they are told."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis as Client

from bus import pool
from bus.address import RedisAddress
from bus.base import Away
from bus.pool import Line
from errors import Unavailable
from tests.redises import Redis


async def ask(line: Line) -> bytes | str:
    async with line.turn():
        return await Client(connection_pool=line.pool).echo("hello")


async def test_a_long_line_is_no_sign_that_redis_is_away(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever could make it long would be counted elsewhere, from nothing."""
    line = Line(RedisAddress.parse(redis.url), 1)
    async with line.turn():
        monkeypatch.setattr(pool, "ANSWER_SECONDS", 0.02)
        waiting = asyncio.create_task(ask(line))
        await asyncio.sleep(0.1)
        monkeypatch.undo()
    assert await waiting == b"hello"
    await line.aclose()


async def test_nobody_stands_in_line_for_ever(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LINE_SECONDS", 0.05)
    line = Line(RedisAddress.parse(redis.url), 1)
    async with line.turn():
        with pytest.raises(Unavailable):
            await ask(line)
    monkeypatch.undo()
    assert await ask(line) == b"hello"
    await line.aclose()


async def test_who_gives_up_leaves_the_line(redis: Redis) -> None:
    line = Line(RedisAddress.parse(redis.url), 1)
    async with line.turn():
        gone = asyncio.create_task(ask(line))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
    assert await ask(line) == b"hello"
    await line.aclose()


async def test_when_redis_stands_still_the_whole_line_hears_of_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one behind the other, each after its own wait."""
    monkeypatch.setattr(pool, "ANSWER_SECONDS", 0.2)

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        line = Line(RedisAddress.parse(f"redis://127.0.0.1:{port}"), 2)
        begun = time.monotonic()
        answers = await asyncio.gather(*(ask(line) for _ in range(40)), return_exceptions=True)
        assert time.monotonic() - begun < 2
        assert {type(answer) for answer in answers} == {Away}
        await line.aclose()
