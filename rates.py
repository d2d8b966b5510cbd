"""How often something may happen in a minute, for each of many keys. In this process's memory: it costs 1 µs, where a
row in the database costs a write for each request."""

import math
import time
from collections import OrderedDict

WINDOW_SECONDS = 60.0
MAX_KEYS = 100_000
"""25 MB. Beyond it the keys that were quiet for longest are forgotten: who has so many addresses is not held by one."""


class Count:
    """Of one key: in `minute`, and in the one before. What others counted, and what of one's own they have been told,
    is shared_rates'."""

    __slots__ = ("before", "minute", "others", "others_before", "own", "sent", "sent_before")

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.own = self.before = self.others = self.others_before = self.sent = self.sent_before = 0

    def turn(self, minute: int) -> None:
        """A new minute."""
        if minute == self.minute + 1:
            self.before, self.others_before, self.sent_before = self.own, self.others, self.sent
        else:
            self.before = self.others_before = self.sent_before = 0
        self.own = self.others = self.sent = 0
        self.minute = minute


class Rates:
    """At most `per_minute` for each key in any minute; None: no limit.

    What came in the clock's minute before counts in proportion to how much of it the last 60 seconds still cover: the
    sliding window of two counters.
    """

    def __init__(self, per_minute: int | None) -> None:
        self.per_minute = per_minute
        self._counts: OrderedDict[str, Count] = OrderedDict()
        self._phase = 0.0
        """Seconds to add to time.monotonic: where minutes begin."""

    def take(self, key: str) -> int:
        """Count one more. 0: it may happen; else the whole seconds until one may, and it was not counted."""
        if self.per_minute is None:
            return 0
        minute, passed = divmod(time.monotonic() + self._phase, WINDOW_SECONDS)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = Count(int(minute))
        elif count.minute < minute:
            self._turn(key, count, int(minute))
        now, before, left = count.own + count.others, count.before + count.others_before, WINDOW_SECONDS - passed
        if now + before * left / WINDOW_SECONDS + 1 > self.per_minute:
            return max(1, math.ceil(self._wait(now, before, left)))
        count.own += 1
        self._counts.move_to_end(key)
        if len(self._counts) > MAX_KEYS:
            self._forget(self._counts.popitem(last=False)[0])
        self._counted(key, count)
        return 0

    def _turn(self, _key: str, count: Count, minute: int) -> None:
        count.turn(minute)

    def _counted(self, key: str, count: Count) -> None:
        """For whoever has to be told."""

    def _forget(self, key: str) -> None:
        """The same."""

    def _wait(self, now: int, before: int, left: float) -> float:
        assert self.per_minute is not None
        free = self.per_minute - 1 - now
        if free >= 0:
            return left - free * WINDOW_SECONDS / before
        # Not in this minute: in the next one, what was counted now fades.
        return left + WINDOW_SECONDS - (self.per_minute - 1) * WINDOW_SECONDS / now
