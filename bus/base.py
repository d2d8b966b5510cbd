"""The port for hints between whoever changes something and whoever shows it. Never the truth: anything may be lost."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

Message = dict[str, str]


class Bus(Protocol):
    """Publish and subscribe by channel name. A subscriber that is too slow loses its oldest messages."""

    async def publish(self, channel: str, message: Message) -> None: ...

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncGenerator[Message, None]]:
        """Messages published after the block was entered, until it is left."""
        ...

    async def aclose(self) -> None: ...
