"""Several sources as one stream, with a bound."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any

BACKLOG = 32
"""Things that wait for a slow reader; behind them the sources wait."""


class Gathering:
    """Sources put, one reader takes. The first source that fails ends it, behind what was put before."""

    def __init__(self) -> None:
        self._things: deque[object] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    async def __aenter__(self) -> "Gathering":
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, source: Coroutine[Any, Any, None]) -> None:
        """Run a source, which puts what it has."""
        task = asyncio.create_task(source)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failure = self._failure or error
            self._arrived.set()

    async def put(self, what: object) -> None:
        """Hand over one thing, when there is room for it."""
        while len(self._things) >= BACKLOG:
            self._room.clear()
            await self._room.wait()
        self._things.append(what)
        self._arrived.set()

    async def next(self) -> object:
        """The next thing.

        Raises:
            BaseException: what a source failed with.
        """
        while not self._things:
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            await self._arrived.wait()
        self._room.set()
        return self._things.popleft()
