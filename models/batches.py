"""Ids in portions: SQLite takes 32,766 parameters, and no statement should be a long one."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 500


def batched(items: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """`itertools.batched` of Python 3.12: lists of up to `size` items, in order."""
    waiting = iter(items)
    while batch := list(islice(waiting, size)):
        yield batch
