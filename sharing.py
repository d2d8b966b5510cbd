"""Limits that hold over all processes together: the exchange of what each of them counts.

Redis adds up and is never the truth: a process counts for itself what happens in it, and is told about once a second
what the others have counted. While Redis is away it counts alone, and nobody waits.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from bus.base import Away, Greeting, Seat, Tallies
from rates import Rates
from seats import Seats
from shared_rates import SharedRates

logger = logging.getLogger(__name__)

EXCHANGE_SECONDS = 1.0
"""One of 1,000 keys costs 4 ms of a core, of 10,000 keys 30 ms, in portions of 500."""
SOONEST_SECONDS = 0.05
"""Between two exchanges, if there is a hurry."""
AT_ONCE = 500
MOST_TALLIES = 10_000
"""Of one limit in one exchange; the rest comes with the next."""
RENEWED_AT_ONCE = 100
"""Places of a process that are told again each time, in turn: 10,000 sockets' within four minutes of the hour after
which Redis forgets them."""
SKEW_SECONDS = 0.5
"""By which the processes' minutes may differ."""

Asked = tuple[Seat, asyncio.Future[int]]


class Sharing:
    """`tallies` None: this process is alone."""

    def __init__(self, tallies: Tallies | None = None) -> None:
        self._tallies = tallies
        self._rates: dict[str, SharedRates] = {}
        self._seats: dict[str, Seats] = {}
        self._hurry = asyncio.Event()
        self._away = True
        self._memory: str | None = None
        self._ahead: float | None = None
        self._waiting: deque[Asked] = deque()
        self._asking: asyncio.Task[None] | None = None
        self._placing = asyncio.Lock()
        """What is told of a key's places is told in the order in which it was so."""
        self._exchanging: asyncio.Task[None] | None = None

    def rates(self, name: str, per_minute: int | None) -> Rates:
        if self._tallies is None:
            return Rates(per_minute)
        made = self._rates[name] = SharedRates(per_minute, self._soon)
        return made

    def seats(self, name: str, most: int | None) -> Seats:
        made = self._seats[name] = Seats(most, partial(self._others, name))
        return made

    async def start(self) -> None:
        """The first exchange is done; those that follow come by themselves."""
        if self._tallies is not None:
            self._away = False
            await self._exchange(self._tallies)
            self._exchanging = asyncio.create_task(self._run(self._tallies), name="sharing")

    async def aclose(self) -> None:
        """Give back what this process held."""
        for task in (self._exchanging, self._asking):
            # Again and again: a cancel that comes as redis-py's work is done may be swallowed.
            while task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
        tallies, self._tallies = self._tallies, None
        _answer(self._waiting, [0] * len(self._waiting))
        if tallies is not None:
            if not self._away:
                with suppress(Away):
                    await tallies.leave()
            await tallies.aclose()

    async def _run(self, tallies: Tallies) -> None:
        while True:
            await asyncio.sleep(SOONEST_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_SECONDS - SOONEST_SECONDS):
                    await self._hurry.wait()
            await self._exchange(tallies)

    async def _exchange(self, tallies: Tallies) -> None:
        self._hurry.clear()
        try:
            begun = time.monotonic()
            self._meet(await tallies.greet(anew=self._away), begun)
            for name, rates in self._rates.items():
                await _exchange_rates(tallies, name, rates)
            for name, seats in self._seats.items():
                await self._exchange_seats(tallies, name, seats)
        except Away as error:
            self._lose(error)
        except Exception as error:
            logger.exception("what other processes count could not be read")
            self._lose(error)

    def _meet(self, greeting: Greeting, begun: float) -> None:
        """Nothing was taken out before this answer came: while nobody answers nothing is lost but by time."""
        ended = time.monotonic()
        ahead = greeting.now - (begun + ended) / 2
        if self._ahead is None or abs(ahead - self._ahead) > SKEW_SECONDS + (ended - begun) / 2:
            self._ahead = ahead
            for rates in self._rates.values():
                rates.set_clock(ahead)
        if greeting.memory != self._memory:
            for rates in self._rates.values():
                rates.tell_again()
        if greeting.memory != self._memory or self._away or not greeting.known:
            for seats in self._seats.values():
                seats.tell_again()
        self._memory = greeting.memory
        if self._away:
            self._away = False
            logger.warning("Redis is back: limits are counted over all processes again")

    async def _others(self, name: str, key: str, own: int, most: int) -> int:
        """How many places others hold; 0 where nobody knows."""
        if self._tallies is None or self._away:
            return 0
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((Seat(f"{name} {key}", own, most), answer))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(self._tallies), name="sharing.places")
        return await answer

    async def _ask(self, tallies: Tallies) -> None:
        """All that wait at once: a thousand clients that come back together take two round trips, not a thousand."""
        while self._waiting:
            async with self._placing:
                await self._ask_some(tallies)

    async def _ask_some(self, tallies: Tallies) -> None:
        asked = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
        # Who has left gave the place back, and an exchange that stood in front may have told so already.
        asked = [(seat, answer) for seat, answer in asked if not answer.done()]
        others = [0] * len(asked)
        try:
            if asked and not self._away:
                others = await tallies.place([seat for seat, _ in asked])
        except Away as error:
            self._lose(error)
        except Exception as error:
            logger.exception("what other processes hold could not be read")
            self._lose(error)
        finally:
            _answer(asked, others)

    async def _exchange_seats(self, tallies: Tallies, name: str, seats: Seats) -> None:
        left, renewed = MOST_TALLIES, RENEWED_AT_ONCE
        while True:
            async with self._placing:
                held = seats.some(renewed) + seats.changed(min(AT_ONCE, left))
                if not held:
                    return
                await tallies.place([Seat(f"{name} {key}", own) for key, own in held])
            left, renewed = left - len(held), 0

    def _soon(self) -> None:
        if not self._away:
            self._hurry.set()

    def _lose(self, error: Exception) -> None:
        """Until somebody answers each process counts for itself."""
        for seats in self._seats.values():
            seats.forget_changes()
        if not self._away:
            self._away = True
            self._hurry.set()
            logger.warning("Redis is away: each process counts its own limits (%s)", error)


def _answer(asked: Iterable[Asked], others: Iterable[int]) -> None:
    for (_, answer), count in zip(asked, others, strict=True):
        if not answer.done():
            answer.set_result(count)


async def _exchange_rates(tallies: Tallies, name: str, rates: SharedRates) -> None:
    left = MOST_TALLIES
    while told := rates.take_out(min(AT_ONCE, left)):
        left -= len(told)
        totals = await tallies.add([tally._replace(key=f"{name} {tally.key}") for tally in told])
        for tally, (total, before) in zip(told, totals, strict=True):
            rates.learn(tally, total, before)
