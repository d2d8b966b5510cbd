"""The bus of one process."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from bus.base import BACKLOG


class _Mailbox:
    def __init__(self, backlog: int) -> None:
        self.messages: deque[bytes] = deque(maxlen=backlog)
        self.arrived = asyncio.Event()

    async def read(self) -> AsyncGenerator[bytes, None]:
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            while self.messages:
                yield self.messages.popleft()


class MemoryBus:
    """Channels exist only while someone listens."""

    reaches_others = False

    def __init__(self) -> None:
        self._channels: dict[str, set[_Mailbox]] = {}

    async def publish(self, channel: str, message: bytes, *, here: bool = True) -> None:
        if here:
            self.deliver(channel, message)

    def deliver(self, channel: str, message: bytes) -> None:
        for mailbox in self._channels.get(channel, ()):
            mailbox.messages.append(message)
            mailbox.arrived.set()

    @asynccontextmanager
    async def subscribe(self, channel: str, backlog: int = BACKLOG) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        mailbox = _Mailbox(backlog)
        listeners = self._channels.setdefault(channel, set())
        listeners.add(mailbox)
        messages = mailbox.read()
        try:
            yield messages
        finally:
            await messages.aclose()
            listeners.discard(mailbox)
            if not listeners and self._channels.get(channel) is listeners:
                del self._channels[channel]

    async def aclose(self) -> None:
        self._channels.clear()
