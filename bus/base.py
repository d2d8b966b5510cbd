"""The port for hints between whoever changes something and whoever shows it. Never the truth: anything may be lost."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

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
            Unavailable: too many ask at once.
        """
        ...

    async def aclose(self) -> None: ...


class Tally(NamedTuple):
    """So many more of a key, in the minute of that number."""

    key: str
    minute: int
    added: int


class Seat(NamedTuple):
    """This process holds `own` places of a key, or would, if that is not more than `most` with those of the others.
    None: it does in any case."""

    key: str
    own: int
    most: int | None = None


class Greeting(NamedTuple):
    """`now`: the time that all processes count by, in seconds. `known`: whether they thought this one alive. `memory`
    is another one when what had been added up was lost."""

    now: float
    known: bool
    memory: str


class Tallies(Protocol):
    """What each process counts, added up over all processes that live."""

    async def greet(self, *, anew: bool = False) -> Greeting:
        """Live on, for some seconds; `anew` without any places.

        Raises:
            Away
        """
        ...

    async def add(self, tallies: Sequence[Tally]) -> list[tuple[int, int]]:
        """For each: how many there are now in that minute, and in the one before it.

        Raises:
            Away: they may have been added.
        """
        ...

    async def place(self, seats: Sequence[Seat]) -> list[int]:
        """For each: how many places others hold. What would be too many is not held.

        Raises:
            Away: they may be held.
        """
        ...

    async def leave(self) -> None:
        """Give back all places."""
        ...

    async def aclose(self) -> None: ...
