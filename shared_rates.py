"""Rates over all processes together: each counts for itself, and hears about once a second what the others counted."""

import time
from collections import OrderedDict
from collections.abc import Callable

from bus.base import Tally
from rates import WINDOW_SECONDS, Count, Rates

EAGER_SHARE = 16
"""Whoever takes a 16th of a limit between two exchanges has the next one brought forward: four processes that are
asked every 5 ms each let pass 190 of a limit of 160; with a 4th 280, and without it 640."""


class SharedRates(Rates):
    """A take decides by what this process counted and what it was told of the others: it waits for nobody. `hurry` is
    called when the next exchange should come soon."""

    def __init__(self, per_minute: int | None, hurry: Callable[[], None]) -> None:
        super().__init__(per_minute)
        self._hurry = hurry
        self._eager = max(1, (per_minute or 0) // EAGER_SHARE)
        self._base = 0
        """The number of the minute, in all processes, that is 0 here."""
        self._touched: OrderedDict[str, Count] = OrderedDict()
        self._late: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Of a minute that is over: which, and how many of it nobody was told."""

    def set_clock(self, ahead: float) -> None:
        """Minutes are those of a clock that is so many seconds in front of time.monotonic."""
        base, self._phase = divmod(ahead, WINDOW_SECONDS)
        self._base = int(base)

    def take_out(self, most: int) -> list[Tally]:
        """What the others have not been told, of this minute and the one before: they are told it now, or never."""
        now = self._minute()
        tallies: list[Tally] = []
        while self._late and len(tallies) < most:
            key, (minute, own) = self._late.popitem(last=False)
            if minute >= now - 1:
                tallies.append(Tally(key, minute + self._base, own))
                if (count := self._counts.get(key)) is not None and count.minute == minute + 1:
                    count.sent_before += own
        while self._touched and len(tallies) < most:
            key, count = self._touched.popitem(last=False)
            if count.minute >= now - 1 and count.own > count.sent:
                tallies.append(Tally(key, count.minute + self._base, count.own - count.sent))
                count.sent = count.own
        return tallies

    def learn(self, told: Tally, total: int, before: int) -> None:
        """What all processes together have counted of this key, in that minute and in the one before it."""
        count = self._counts.get(told.key)
        if count is None:
            return
        minute = told.minute - self._base
        if count.minute == minute:
            count.others = max(0, total - count.sent)
            count.others_before = max(0, before - count.sent_before)
        elif count.minute == minute + 1:
            count.others_before = max(0, total - count.sent_before)

    def tell_again(self) -> None:
        """Whoever adds up has forgotten everything."""
        now = self._minute()
        for key, count in self._counts.items():
            count.sent = count.sent_before = 0
            if count.own and count.minute >= now - 1:
                self._touched[key] = count
            if count.before and count.minute >= now:
                self._late[key] = count.minute - 1, count.before

    def _minute(self) -> int:
        return int((time.monotonic() + self._phase) // WINDOW_SECONDS)

    def _turn(self, key: str, count: Count, minute: int) -> None:
        if count.own > count.sent:
            self._late[key] = count.minute, count.own - count.sent
        count.turn(minute)

    def _counted(self, key: str, count: Count) -> None:
        self._touched[key] = count
        if count.own - count.sent >= self._eager:
            self._hurry()

    def _forget(self, key: str) -> None:
        self._touched.pop(key, None)
        self._late.pop(key, None)
