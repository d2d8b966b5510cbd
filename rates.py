"""How often something may happen in a minute, for each of many keys. In this process's memory: it costs 1 µs, where a
row in the database costs a write for each request."""

import math
import time
from collections import OrderedDict

WINDOW_SECONDS = 60.0
MAX_KEYS = 100_000
"""20 MB. Beyond it the keys that were quiet for longest are forgotten: who has so many addresses is not held by one."""


class Rates:
    """At most `per_minute` for each key in any minute; None: no limit.

    What came in the clock's minute before counts in proportion to how much of it the last 60 seconds still cover: the
    sliding window of two counters.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self._counts: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        """The minute, how many in it, and how many in the one before."""

    def take(self, key: str) -> int:
        """Count one more. 0: it may happen; else the whole seconds until one may, and it was not counted."""
        if self.per_minute is None:
            return 0
        minute, passed = divmod(time.monotonic(), WINDOW_SECONDS)
        now, before = self._of(key, int(minute))
        left = WINDOW_SECONDS - passed
        if now + before * left / WINDOW_SECONDS + 1 > self.per_minute:
            return max(1, math.ceil(self._wait(now, before, left)))
        self._counts[key] = (int(minute), now + 1, before)
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_KEYS:
            self._counts.popitem(last=False)
        return 0

    def _of(self, key: str, minute: int) -> tuple[int, int]:
        at, now, before = self._counts.get(key, (minute, 0, 0))
        if at == minute:
            return now, before
        return 0, now if at == minute - 1 else 0

    def _wait(self, now: int, before: int, left: float) -> float:
        assert self.per_minute is not None
        free = self.per_minute - 1 - now
        if free >= 0:
            return left - free * WINDOW_SECONDS / before
        # Not in this minute: in the next one, what was counted now fades.
        return left + WINDOW_SECONDS - (self.per_minute - 1) * WINDOW_SECONDS / now
