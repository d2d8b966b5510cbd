import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, select

from models.frontier import HOLE_SECONDS, MOST_HOLES, Frontier

ROWS = Table("rows", MetaData(), Column("id", Integer, primary_key=True))


@given(st.permutations(range(1, 25)), st.lists(st.integers(0, 24), max_size=6))
def test_every_row_is_read_once_whatever_the_order_of_the_commits(order: list[int], looks: list[int]) -> None:
    engine = create_engine("sqlite://")
    ROWS.create(engine)
    frontier, read = Frontier(), []
    with engine.connect() as connection:
        for count, row in enumerate(order):
            connection.execute(ROWS.insert().values(id=row))
            if count in looks or count == len(order) - 1:
                found = [row for (row,) in connection.execute(select(ROWS.c.id).where(frontier.unread(ROWS.c.id)))]
                frontier.passed(found)
                read += found
    engine.dispose()
    assert sorted(read) == sorted(order)


def test_an_id_that_never_comes_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its transaction was rolled back."""
    frontier = Frontier()
    frontier.passed([1, 5])
    assert "IN" in str(frontier.unread(ROWS.c.id))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + HOLE_SECONDS + 1)
    frontier.passed([6])
    assert "IN" not in str(frontier.unread(ROWS.c.id))
    assert frontier.position == 6


def test_a_leap_has_a_bound() -> None:
    frontier = Frontier()
    frontier.passed([10**9])
    assert len(frontier._holes) <= MOST_HOLES
