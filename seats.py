"""How much of something may be held at a time, for each of many keys."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

Others = Callable[[str, int, int], Awaitable[int]]
"""Of a key: how many places other processes hold, when this one would hold so many and so many are the most."""


class Full(Exception):
    """There is no place left."""


class Seats:
    """At most `most` places of each key, here and with `others`; None: no limit."""

    def __init__(self, most: int | None, others: Others) -> None:
        self._most = most
        self._others = others
        self._held: Counter[str] = Counter()
        self._changed: dict[str, None] = {}
        """Keys of which others have been told something else."""
        self._round: Iterator[str] = iter(())

    async def take(self, key: str) -> ExitStack:
        """A place, held until the stack is closed.

        Raises:
            Full
        """
        with ExitStack() as place:
            if self._most is not None:
                own = place.enter_context(self._one_more(key))
                if own > self._most or own + await self._others(key, own, self._most) > self._most:
                    raise Full
            return place.pop_all()

    @contextmanager
    def _one_more(self, key: str) -> Iterator[int]:
        self._held[key] += 1
        try:
            yield self._held[key]
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
            self._changed[key] = None

    def changed(self, most: int) -> list[tuple[str, int]]:
        """Of how many keys, at most, the others are to be told how many places are held here."""
        keys = list(islice(self._changed, most))
        for key in keys:
            del self._changed[key]
        return [(key, self._held[key]) for key in keys]

    def some(self, most: int) -> list[tuple[str, int]]:
        """The next ones, going round, of all that are held."""
        keys = list(islice(self._round, most))
        if len(keys) < most:
            self._round = iter(list(self._held))
        return [(key, self._held[key]) for key in keys]

    def tell_again(self) -> None:
        """The others do not know of any place."""
        self._changed.update(dict.fromkeys(self._held))

    def forget_changes(self) -> None:
        """Nobody is there to be told, and who comes back is told everything."""
        self._changed.clear()
