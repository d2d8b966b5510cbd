"""Password hashing with argon2id, off the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from passlib.context import CryptContext

P = ParamSpec("P")
T = TypeVar("T")

MIN_CHARS, MAX_CHARS = 8, 128
THREADS = 2
"""A hash takes 64 MiB and a core for about 50 ms: two at a time keep a flood of log-ins from taking the machine."""


class Passwords:
    def __init__(self) -> None:
        self._context = CryptContext(schemes=["argon2"], deprecated="auto")
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="passwords")
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        return await self._run(self._context.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password is the stored one. With nothing stored (no such user) it takes as long and is False."""
        if stored is None:
            if self._decoy is None:
                # A hash costs what a check does: made and checked, the first log-in after a start would take twice.
                self._decoy = await self.hash("no user has this password")
            else:
                await self._run(self._context.verify, password, self._decoy)
            return False
        return await self._run(self._context.verify, password, stored)

    async def _run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments, **named))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
