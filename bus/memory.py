"""The bus of one process."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from bus.base import Message

BACKLOG = 64
"""Messages kept for a subscriber that is behind. They are hints about the present: 64 old ones tell no more than 1."""


class _Mailbox:
    def __init__(self) -> None:
        self.messages: deque[Message] = deque(maxlen=BACKLOG)
        self.arrived = asyncio.Event()

    async def read(self) -> AsyncGenerator[Message, None]:
        while True:
            await self.arrived.wait()
            self.arrived.clear()
            while self.messages:
                yield self.messages.popleft()


class MemoryBus:
    """Channels exist only while someone listens."""

    def __init__(self) -> None:
        self._channels: dict[str, set[_Mailbox]] = {}

    async def publish(self, channel: str, message: Message) -> None:
        for mailbox in self._channels.get(channel, ()):
            mailbox.messages.append(message)
            mailbox.arrived.set()

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncGenerator[Message, None]]:
        mailbox = _Mailbox()
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
