"""A bus that loses, doubles and turns around what it brings: nothing may depend on more than that."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from bus.base import BACKLOG, Bus


class LossyBus:
    """Of what another bus brings, this share is lost; of the rest much comes twice, or behind what came later."""

    def __init__(self, bus: Bus, lost: float) -> None:
        self._bus = bus
        self._lost = lost

    @property
    def reaches_others(self) -> bool:
        return self._bus.reaches_others

    async def publish(self, channel: str, message: bytes, *, here: bool = True) -> None:
        await self._bus.publish(channel, message, here=here)

    @asynccontextmanager
    async def subscribe(self, channel: str, backlog: int = BACKLOG) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        async with self._bus.subscribe(channel, backlog) as messages, aclosing(self._muddled(messages)) as muddled:
            yield muddled

    async def _muddled(self, messages: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        held: bytes | None = None
        async for message in messages:
            if random.random() < self._lost:
                continue
            if held is None and random.random() < 0.3:
                held = message
                continue
            yield message
            if random.random() < 0.3:
                yield message
            if held is not None:
                yield held
                held = None

    async def aclose(self) -> None:
        await self._bus.aclose()
