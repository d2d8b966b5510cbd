"""How often something may happen on one connection."""

import time

WINDOW_SECONDS = 60.0


class Rate:
    """At most `per_minute` in each minute, counted from the first; None: no limit."""

    def __init__(self, per_minute: int | None) -> None:
        self._limit = per_minute
        self._count = 0
        self._begun_at = time.monotonic()

    def take(self) -> bool:
        """Whether it may happen now."""
        now = time.monotonic()
        if now - self._begun_at >= WINDOW_SECONDS:
            self._begun_at, self._count = now, 0
        self._count += 1
        return self._limit is None or self._count <= self._limit
