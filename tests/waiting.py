"""Waiting for what has to come, instead of for a time."""

import asyncio
from collections.abc import Callable

SECONDS = 20


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Let the loop run until this is so.

    Raises:
        TimeoutError
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
