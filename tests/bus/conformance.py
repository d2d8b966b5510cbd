"""What every bus promises."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest

from bus.base import BACKLOG, Bus

SECONDS = 5


async def take(messages: AsyncGenerator[bytes, None], count: int) -> list[str]:
    async with asyncio.timeout(SECONDS):
        return [(await anext(messages)).decode() for _ in range(count)]


async def is_quiet(messages: AsyncGenerator[bytes, None]) -> bool:
    """Nothing comes for a moment. The generator is spent afterwards."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(messages)
            return False
    return True


class BusConformance(ABC):
    """A subclass gives the bus; every implementation passes all of these."""

    @pytest.fixture
    @abstractmethod
    def bus(self) -> Bus: ...

    async def test_every_listener_gets_every_message_in_order(self, bus: Bus) -> None:
        async with bus.subscribe("a") as first, bus.subscribe("a") as second:
            for number in range(10):
                await bus.publish("a", str(number).encode())
            expected = [str(number) for number in range(10)]
            assert await take(first, 10) == expected
            assert await take(second, 10) == expected
        await bus.aclose()

    async def test_a_message_that_was_published_behind_the_entry_is_not_missed(self, bus: Bus) -> None:
        """Nobody waits for it yet: it must be there when they do."""
        async with bus.subscribe("a") as messages:
            await bus.publish("a", b"1")
            await asyncio.sleep(0.01)
            assert await take(messages, 1) == ["1"]
        await bus.aclose()

    async def test_a_waiting_listener_is_woken(self, bus: Bus) -> None:
        async with bus.subscribe("a") as messages:
            waiting = asyncio.create_task(take(messages, 2))
            await asyncio.sleep(0.01)
            for number in "12":
                await bus.publish("a", number.encode())
            assert await waiting == ["1", "2"]
        await bus.aclose()

    async def test_channels_are_apart(self, bus: Bus) -> None:
        async with bus.subscribe("a") as messages:
            await bus.publish("b", b"1")
            assert await is_quiet(messages)
        await bus.aclose()

    async def test_what_came_before_and_what_nobody_hears_is_gone(self, bus: Bus) -> None:
        await bus.publish("a", b"1")
        async with bus.subscribe("a") as messages:
            assert await is_quiet(messages)
        await bus.publish("a", b"2")
        async with bus.subscribe("a") as messages:
            await bus.publish("a", b"3")
            assert await take(messages, 1) == ["3"]
        await bus.aclose()

    async def test_a_slow_listener_loses_its_oldest_and_holds_up_nobody(self, bus: Bus) -> None:
        async with bus.subscribe("a") as slow, bus.subscribe("a") as quick:
            heard = []
            for number in range(BACKLOG * 3):
                async with asyncio.timeout(SECONDS):
                    await bus.publish("a", str(number).encode())
                heard += await take(quick, 1)
            assert heard == [str(number) for number in range(BACKLOG * 3)]
            late = await take(slow, BACKLOG)
            assert late == heard[-BACKLOG:]
        await bus.aclose()

    async def test_one_that_leaves_in_the_middle_of_waiting_disturbs_nobody(self, bus: Bus) -> None:
        async def listen() -> None:
            async with bus.subscribe("a") as messages:
                await anext(messages)

        leaving = asyncio.create_task(listen())
        async with bus.subscribe("a") as messages:
            await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.wait([leaving])
            await bus.publish("a", b"1")
            assert await take(messages, 1) == ["1"]
        await bus.aclose()
