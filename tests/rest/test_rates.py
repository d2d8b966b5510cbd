from __future__ import annotations

import pytest

from rest import rates
from rest.rates import Rate


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(rates, "time", made)
    return made


def test_so_many_a_minute(clock: Clock) -> None:
    rate = Rate(3)
    assert [rate.take() for _ in range(5)] == [True, True, True, False, False]
    clock.now += 59.9
    assert not rate.take()
    clock.now += 0.2
    assert [rate.take() for _ in range(4)] == [True, True, True, False]


def test_no_limit(clock: Clock) -> None:
    rate = Rate(None)
    assert all(rate.take() for _ in range(10_000))
