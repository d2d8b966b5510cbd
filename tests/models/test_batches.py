"""Portions of what is too much for one statement."""

import pytest

from models.batches import AT_ONCE, batched


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (1, [1]), (AT_ONCE, [AT_ONCE]), (2 * AT_ONCE + 1, [AT_ONCE, AT_ONCE, 1])]
)
def test_everything_comes_once_in_its_order(count: int, sizes: list[int]) -> None:
    batches = list(batched(iter(range(count))))
    assert [len(batch) for batch in batches] == sizes
    assert [item for batch in batches for item in batch] == list(range(count))


def test_a_portion_may_be_of_another_size() -> None:
    assert list(batched({"a": 1, "b": 2, "c": 3}, 2)) == [["a", "b"], ["c"]]
