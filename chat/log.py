"""The run log: what a run produced, numbered, and followed from any number. It lives in the process that writes it."""

import asyncio
from collections.abc import AsyncGenerator, Callable

from chat.events import RunEvent, RunFinished, RunReasoningDelta, RunSnapshot, RunTextDelta, merge
from errors import BadUserInput


class RunLog:
    """The events of one run. Followers share the one list and hold a number each, so a slow one costs nothing."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.followers = 0
        self.on_left: Callable[[], None] | None = None
        self._events: list[RunEvent] = []
        self._texts: list[str] = []
        self._reasonings: list[str] = []
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def last_seq(self) -> int:
        return len(self._events) - 1

    @property
    def next_seq(self) -> int:
        return len(self._events)

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def reasoning(self) -> str | None:
        return "".join(self._reasonings) or None

    @property
    def finished(self) -> RunFinished | None:
        last = self._events[-1] if self._events else None
        return last if isinstance(last, RunFinished) else None

    def append(self, event: RunEvent) -> None:
        """Add the next event and wake whoever waits for it. A gap, or anything behind RunFinished, is a bug of ours."""
        if event.seq != self.next_seq or self.finished is not None:
            raise ValueError(f"event {event.seq} does not follow {self.last_seq}")
        self._events.append(event)
        if isinstance(event, RunTextDelta):
            self._texts.append(event.text)
        elif isinstance(event, RunReasoningDelta):
            self._reasonings.append(event.text)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def read(self, after: int | None = None) -> list[RunEvent]:
        """What there is behind `after`; from the start when it is None."""
        return self._events[0 if after is None else after + 1 :]

    async def follow(self, after: int | None = None) -> AsyncGenerator[RunEvent, None]:
        """What is behind `after`, then what comes; ends behind RunFinished.

        Raises:
            BadUserInput: `after` is below 0 or beyond the last event.
        """
        check_after(after, self.last_seq)
        position = -1 if after is None else after
        self.followers += 1
        try:
            while True:
                for event in merge(self.read(position)):
                    position = event.seq
                    yield event
                # A reader that never waits would otherwise keep the loop to itself while it catches up.
                await asyncio.sleep(0)
                if position == self.last_seq:
                    if self.finished is not None:
                        return
                    await self._next()
        finally:
            self.followers -= 1
            self.leave()

    def leave(self) -> None:
        """Someone who followed, or was about to, is gone."""
        if self.followers == 0 and self.on_left is not None:
            self.on_left()

    async def _next(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


def check_after(after: int | None, last_seq: int) -> None:
    if after is not None and not 0 <= after <= last_seq:
        raise BadUserInput(f"after must be from 0 to {last_seq}", field="after")


def ended_events(finished: RunFinished, after: int | None, text: str | None, reasoning: str | None) -> list[RunEvent]:
    """What a follower of an ended run gets when its events are gone: the whole text at once (if kept), the end.

    Raises:
        BadUserInput: `after` is below 0 or beyond the last event.
    """
    check_after(after, finished.seq)
    if after == finished.seq:
        return []
    if text is None or finished.seq == 0 or after == finished.seq - 1:
        return [finished]
    return [RunSnapshot(finished.run_id, finished.seq - 1, text, reasoning), finished]


class DeltaWriter:
    """Coalesces deltas before they get a number: a run's first text at once, then one event per window and kind."""

    def __init__(self, log: RunLog, window: float) -> None:
        self._log = log
        self._window = window
        self._kind: type[RunTextDelta] | type[RunReasoningDelta] = RunTextDelta
        self._parts: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False

    def write(self, kind: type[RunTextDelta] | type[RunReasoningDelta], text: str) -> None:
        if not text:
            return
        if kind is not self._kind:
            self.flush()
            self._kind = kind
        self._parts.append(text)
        if not self._begun or self._window == 0:
            self._begun = True
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._window, self.flush)

    def flush(self) -> None:
        """Number what has been gathered. Called before any other event is appended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._parts:
            text = "".join(self._parts)
            self._parts.clear()
            self._log.append(self._kind(self._log.run_id, self._log.next_seq, text))
