"""The counting itself; who is counted, and what for, is in test_traffic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rates
from rates import Rates


class Clock:
    now = 600.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rates, "time", made)
    return made


def test_so_many_a_minute_and_each_key_its_own(clock: Clock) -> None:
    counted = Rates(3)
    assert [counted.take("a") for _ in range(3)] == [0, 0, 0]
    assert counted.take("a") > 0
    assert counted.take("b") == 0


def test_whoever_waits_as_told_may_go_on(clock: Clock) -> None:
    counted = Rates(10)
    for _ in range(200):
        while (wait := counted.take("a")) == 0:
            clock.now += 0.37
        assert 1 <= wait <= 120
        clock.now += wait
        assert counted.take("a") == 0


def test_the_turn_of_the_clock_s_minute_gives_no_second_helping(clock: Clock) -> None:
    counted = Rates(60)
    clock.now = 659.0
    assert sum(counted.take("a") == 0 for _ in range(100)) == 60
    clock.now = 661.0
    assert sum(counted.take("a") == 0 for _ in range(100)) <= 1


@given(st.lists(st.floats(0, 30), max_size=200))
def test_no_more_than_twice_as_many_pass_in_any_minute_and_no_more_than_so_many_in_the_long_run(
    pauses: list[float],
) -> None:
    """Two counters are an estimate: what came at the end of a minute counts as if it had been spread over it."""
    clock, counted = Clock(), Rates(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "time", clock)
        passed = []
        for pause in pauses:
            clock.now += pause
            if not counted.take("a"):
                passed.append(clock.now)
    for moment in passed:
        assert sum(moment <= other < moment + 60 for other in passed) <= 10


def test_a_key_that_was_quiet_for_a_minute_is_fresh(clock: Clock) -> None:
    counted = Rates(2)
    assert [counted.take("a") for _ in range(2)] == [0, 0]
    clock.now += 120
    assert [counted.take("a") for _ in range(2)] == [0, 0]


def test_no_limit_counts_nothing(clock: Clock) -> None:
    counted = Rates(None)
    assert not any(counted.take("a") for _ in range(1_000))


def test_keys_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MAX_KEYS", 10)
    counted = Rates(1)
    assert not any(counted.take(str(number)) for number in range(50))
    assert counted.take("49") > 0
    assert counted.take("0") == 0, "forgotten"
