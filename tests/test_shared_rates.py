"""Rates of two processes, told to each other by hand; over a real Redis they are in test_sharing."""

from __future__ import annotations

from collections import Counter

import pytest

import rates
import shared_rates
from shared_rates import SharedRates
from tests.test_rates import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (rates, shared_rates):
        monkeypatch.setattr(module, "time", made)
    return made


class Sum:
    """What is told is added up, as bus/tallies does it."""

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, int]] = Counter()

    def exchange(self, *processes: SharedRates) -> int:
        """How much was told."""
        told = 0
        for process in processes:
            for tally in process.take_out(1_000):
                told += 1
                self.totals[tally.key, tally.minute] += tally.added
                now, before = (self.totals[tally.key, tally.minute - ago] for ago in (0, 1))
                process.learn(tally, now, before)
        return told


def made(per_minute: int) -> SharedRates:
    return SharedRates(per_minute, lambda: None)


def takes(process: SharedRates, count: int, key: str = "a") -> int:
    """How many of so many may happen."""
    return sum(process.take(key) == 0 for _ in range(count))


def test_what_others_count_is_counted_from_the_exchange_on(clock: Clock) -> None:
    here, there, sums = made(10), made(10), Sum()
    assert (takes(here, 4), takes(there, 3)) == (4, 3)
    sums.exchange(here, there, here)
    assert takes(there, 10) == 3
    sums.exchange(there)
    assert takes(here, 10, "b") == 10, "another key"
    assert takes(here, 10) == 6, "it has not heard since: what comes between two exchanges is not held"
    sums.exchange(here)
    assert here.take("a") > 60
    clock.now += 60
    assert here.take("a") > 0, "more came than might: the time is paid back"


def test_alone_it_is_as_ever(clock: Clock) -> None:
    """Nobody answers: each process counts for itself."""
    here = made(3)
    assert takes(here, 5) == 3
    here.take_out(1_000)
    assert takes(here, 5) == 0
    clock.now += 120
    assert takes(here, 5) == 3


def test_what_the_minute_s_end_overtakes_is_told_as_of_its_minute(clock: Clock) -> None:
    here, there, sums = made(10), made(10), Sum()
    clock.now = 659.5
    assert takes(here, 8) == 8
    clock.now = 661
    assert takes(here, 1) == 1
    assert sums.exchange(here) == 2
    assert sums.totals == {("a", 10): 8, ("a", 11): 1}
    assert takes(there, 1) == 1
    sums.exchange(there)
    assert takes(there, 10) == 0
    clock.now = 690
    assert takes(there, 10) == 4, "half of eight, and two"


def test_an_answer_that_the_minute_s_end_overtakes_is_of_the_minute_before(clock: Clock) -> None:
    here = made(10)
    clock.now = 659.5
    takes(here, 1)
    (told,) = here.take_out(10)
    clock.now = 660
    takes(here, 1)
    here.learn(told, 9, 0)
    assert takes(here, 10) == 0


def test_what_is_too_old_is_told_to_nobody(clock: Clock) -> None:
    here = made(10)
    takes(here, 3)
    clock.now += 60
    takes(here, 1)
    clock.now += 120
    assert here.take_out(1_000) == []
    assert takes(here, 10) == 10


def test_who_forgot_all_is_told_again(clock: Clock) -> None:
    here, there, sums = made(10), made(10), Sum()
    takes(here, 6)
    takes(there, 2)
    sums.exchange(here, there)
    clock.now += 30
    sums = Sum()
    assert takes(here, 1) == 1
    here.tell_again()
    there.tell_again()
    sums.exchange(here, there)
    assert sums.totals == {("a", 10): 9}
    assert takes(there, 10) == 1
    clock.now += 40
    takes(here, 1)
    sums = Sum()
    here.tell_again()
    sums.exchange(here)
    assert sums.totals == {("a", 10): 7, ("a", 11): 1}


def test_minutes_are_those_of_the_clock_that_all_count_by(clock: Clock) -> None:
    here = made(10)
    here.set_clock(1_000_030.0)
    takes(here, 1)
    assert [tally.minute for tally in here.take_out(10)] == [1_000_630 // 60]
    clock.now += 1_000_680 - 1_000_630
    takes(here, 1)
    assert [tally.minute for tally in here.take_out(10)] == [1_000_680 // 60]


def test_a_hurry_is_said_when_much_was_taken_since(clock: Clock) -> None:
    said: list[bool] = []
    here, sums = SharedRates(64, lambda: said.append(True)), Sum()
    takes(here, 3)
    assert not said
    takes(here, 1)
    assert said
    sums.exchange(here)
    said.clear()
    takes(here, 3)
    assert not said


def test_what_waits_to_be_told_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_KEYS", 10)
    here = made(1)
    for minute in range(5):
        clock.now = 600.0 + 60 * minute
        for number in range(30):
            takes(here, 1, f"{minute} {number}")
        takes(here, 1, "again")
    assert len(here.take_out(7)) == 7, "and taken in portions"
    assert len(here.take_out(1_000)) <= 13
    assert here.take_out(1_000) == []
