"""The model's file, asked for by who needs it: checked, fetched if need be, waited for if that failed."""

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from providers.fetch import FetchError, fetch
from providers.progress import progress
from providers.weights import HUB, EmbeddedWeights, WeightsError, WeightsMissing, check

FETCH_AGAIN, LONGEST_FETCH_AGAIN = 60.0, 600.0  # seconds
LOOK = 1.0  # seconds between two looks at the file


class WeightsStore:
    def __init__(self, weights: EmbeddedWeights, models_dir: Path, *, fetch: bool, hub: str = HUB) -> None:
        self._weights = weights
        self._models_dir = models_dir
        self._may_fetch = fetch and bool(weights.sources)
        self._hub = hub
        self._failures = 0

    async def get(self, tell: Callable[[int], None]) -> Path:
        """A whole file, fetched if it is missing; `tell` hears each percent, in the event loop. Raises WeightsError."""
        try:
            return await asyncio.to_thread(check, self._weights, self._models_dir)
        except WeightsMissing:
            if not self._may_fetch:
                raise
        await self._fetch(tell)
        return await asyncio.to_thread(check, self._weights, self._models_dir)

    async def new_chance(self, error: WeightsError) -> None:
        """Returns when the file has changed and come to rest or, after a failed fetch, after a while."""
        pause = float("inf")
        if isinstance(error, FetchError):
            pause = min(FETCH_AGAIN * 2 ** min(self._failures, 10), LONGEST_FETCH_AGAIN)
            self._failures += 1
        deadline = time.monotonic() + pause
        before = now = self._signature()
        while time.monotonic() < deadline:
            await asyncio.sleep(LOOK)
            now, last = self._signature(), now
            if now != before and now == last:
                return

    def _signature(self) -> tuple[int, int] | None:
        try:
            found = self._weights.path(self._models_dir).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    async def _fetch(self, tell: Callable[[int], None]) -> None:
        """Raises FetchError. Cancelled, it returns when pip is gone and nothing is left behind."""
        loop, stop, last = asyncio.get_running_loop(), threading.Event(), -1

        def report(done: int, total: int) -> None:
            nonlocal last
            show(done, total)
            if (percent := 100 * done // total) != last:
                last = percent
                loop.call_soon_threadsafe(tell, percent)

        with progress(self._weights.name) as show:
            task = partial(fetch, self._weights, self._models_dir, report, stop, hub=self._hub)
            work = asyncio.ensure_future(asyncio.to_thread(task))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.gather(work, return_exceptions=True)
                raise
        self._failures = 0
