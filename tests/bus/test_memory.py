"""The bus of one process."""

import asyncio

import pytest

from bus.base import Bus
from bus.memory import MemoryBus
from tests.bus.conformance import BusConformance, is_quiet


class TestMemoryBus(BusConformance):
    @pytest.fixture
    def bus(self) -> Bus:
        return MemoryBus()

    async def test_a_channel_is_there_only_while_someone_listens(self) -> None:
        bus = MemoryBus()
        async with bus.subscribe("a"):
            async with bus.subscribe("a"), bus.subscribe("b"):
                assert set(bus._channels) == {"a", "b"}
            assert set(bus._channels) == {"a"}
        assert bus._channels == {}

    async def test_what_is_for_others_is_heard_by_nobody_here(self) -> None:
        bus = MemoryBus()
        async with bus.subscribe("a") as messages:
            await bus.publish("a", b"1", here=False)
            assert await is_quiet(messages)
        assert not bus.reaches_others

    async def test_listeners_that_change_during_a_publish_do_no_harm(self) -> None:
        bus = MemoryBus()
        for _ in range(50):
            async with asyncio.TaskGroup() as group:
                group.create_task(_come_and_go(bus))
                group.create_task(bus.publish("a", b"1"))
                group.create_task(_come_and_go(bus))
        assert bus._channels == {}


async def _come_and_go(bus: MemoryBus) -> None:
    async with bus.subscribe("a"):
        await asyncio.sleep(0)
