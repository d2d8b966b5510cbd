"""The journal's own way into the database: one connection, no ORM between a token and the disk."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from models.journal import Piece


class Fenced(Exception):
    """This worker was declared dead: it writes no more."""


class JournalWriter(ABC):
    """Appends windows and segments. Every method is one transaction, in which the worker's name is asked for.

    Raises (all methods):
        Fenced: the worker has no lease any more.
        Unavailable: the disk is full, the file is locked, the server is away. What was to be written may be written all
            the same: twice is as good as once.
    """

    @abstractmethod
    async def append(self, worker: str, body: bytes) -> int:
        """Store one window, as `encode` makes it; the id of its row."""

    @abstractmethod
    async def checkpoint(self, worker: str, segments: Sequence[Piece], up_to: int) -> None:
        """Store segments, and delete the worker's journal rows up to this id."""

    @abstractmethod
    async def aclose(self) -> None: ...
