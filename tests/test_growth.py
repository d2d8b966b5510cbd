"""benchmarks/growth.py in small: what an operation costs does not depend on how much there is."""

from __future__ import annotations

import pytest

from benchmarks.growth import KINDS, measure_all, ratio_of

ROWS = (100, 20_000)


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_grows_with_the_tables(kind: str) -> None:
    """A scan of 20,000 rows takes ten times as long as any of these."""
    found = await measure_all(kind, ROWS, rounds=20)
    grown = {operation.name: ratio_of(costs) for operation, costs in found if ratio_of(costs) > operation.ratio * 1.5}
    assert grown == {}
