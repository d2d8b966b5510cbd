"""The run log: what a run produced, numbered, and followed from any number. This is its live copy in a process."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress

from chat.events import RunEvent, RunFinished, RunReasoningDelta, RunSnapshot, RunTextDelta, merge
from errors import BadUserInput, ChatError


class RunLog:
    """The events of one run. Followers share the one list and hold a number each, so a slow one costs nothing."""

    __slots__ = (
        "_events",
        "_finished",
        "_reasonings",
        "_shown",
        "_texts",
        "_waiters",
        "followers",
        "lost",
        "on_left",
        "on_lost",
        "run_id",
    )

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.followers = 0
        self.lost: ChatError | None = None
        self.on_left: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._events: list[RunEvent] = []
        self._shown = self._events
        """What followers read: the same, until the log is lost."""
        self._texts: list[str] = []
        self._reasonings: list[str] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._finished: RunFinished | None = None

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
        return self._finished

    def append(self, event: RunEvent) -> None:
        """Add the next event and wake whoever waits for it. A gap, or anything behind RunFinished, is a bug of ours."""
        self.extend((event,))

    def extend(self, events: Sequence[RunEvent]) -> None:
        """Add the next events, waking whoever waits once."""
        if self._finished is not None and events:
            raise ValueError(f"event {events[0].seq} does not follow {self.last_seq}, the end")
        kept = self._events
        for event in events:
            if event.seq != len(kept):
                raise ValueError(f"event {event.seq} does not follow {self.last_seq}")
            kept.append(event)
            if isinstance(event, RunTextDelta):
                self._texts.append(event.text)
            elif isinstance(event, RunReasoningDelta):
                self._reasonings.append(event.text)
            elif isinstance(event, RunFinished):
                self._finished = event
        self._wake()

    def lose(self, error: ChatError) -> None:
        """The log goes on elsewhere or not at all: followers get what there is, then the error. What is added behind
        it is for the run's end, which tells it when it is stored."""
        if self.lost is None and self.finished is None:
            self.lost = error
            self._events = list(self._shown)
            self._wake()
            if self.on_lost is not None:
                self.on_lost()

    def _wake(self) -> None:
        waiters = self._waiters
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        waiters.clear()

    def read(self, after: int | None = None) -> list[RunEvent]:
        """What there is behind `after`; from the start when it is None."""
        return self._events[0 if after is None else after + 1 :]

    async def follow(self, after: int | None = None) -> AsyncGenerator[RunEvent, None]:
        """What is behind `after`, then what comes; ends behind RunFinished.

        Raises:
            BadUserInput: `after` is below 0 or beyond the last event.
            ChatError: the log was lost.
        """
        kept, position = self._shown, 0 if after is None else after + 1
        if self.lost is not None and position > len(kept):
            raise self.lost
        check_after(after, len(kept) - 1)
        self.followers += 1
        loop = asyncio.get_running_loop()
        try:
            while True:
                for event in merge(kept[position:]):
                    position = event.seq + 1
                    yield event
                if position != len(kept):
                    # A reader that never waits would otherwise keep the loop to itself while it catches up.
                    await asyncio.sleep(0)
                elif self._finished is not None:
                    return
                elif self.lost is not None:
                    raise self.lost
                else:
                    # Not in a coroutine of its own: this is met once for each event of each follower.
                    waiter = loop.create_future()
                    self._waiters.append(waiter)
                    try:
                        await waiter
                    except asyncio.CancelledError:
                        # One that left while nothing came would stay for as long as nothing comes.
                        with suppress(ValueError):
                            self._waiters.remove(waiter)
                        raise
        finally:
            self.followers -= 1
            self.leave()

    def leave(self) -> None:
        """Someone who followed, or was about to, is gone."""
        if self.followers == 0 and self.on_left is not None:
            self.on_left()


def check_after(after: int | None, last_seq: int) -> None:
    if after is not None and not 0 <= after <= last_seq:
        place = f"from 0 to {last_seq}, the last seq so far" if last_seq >= 0 else "left out: there is no event yet"
        raise BadUserInput(f"after must be {place}", field="after")


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
