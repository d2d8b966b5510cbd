"""The port for hints between whoever changes something and whoever shows it. Never the truth: anything may be lost."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

BACKLOG = 64
"""Messages kept for a subscriber that is behind. They are hints about the present: 64 old ones tell no more than 1."""


class Bus(Protocol):
    """Publish and subscribe by channel name. A subscriber that is too slow loses its oldest messages. No method raises
    because of what is behind the bus: with that gone, messages are lost."""

    @property
    def reaches_others(self) -> bool:
        """Whether what other processes publish to the channels that are subscribed here arrives at the moment."""
        ...

    async def publish(self, channel: str, message: bytes, *, here: bool = True) -> None:
        """Tell whoever subscribes; not `here`: in other processes alone. Waits for nothing."""
        ...

    def subscribe(
        self, channel: str, backlog: int = BACKLOG
    ) -> AbstractAsyncContextManager[AsyncGenerator[bytes, None]]:
        """Messages published after the block was entered, until it is left."""
        ...

    async def aclose(self) -> None: ...


class Away(Exception):
    """What is behind the bus does not answer."""


class Counters(Protocol):
    """Counts what may happen so often, for all processes together."""

    async def count(self, key: str, most: int, seconds: int) -> float:
        """Count one more, unless there were `most` within the last `seconds`. 0: it is counted; else the seconds until
        the next one would be.

        Raises:
            Away
        """
        ...

    async def aclose(self) -> None: ...
