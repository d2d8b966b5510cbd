"""Times to the first token as a histogram: small, and a median that is off by at most 10%, whatever the times are."""

import math
from collections.abc import Iterable

PER_DOUBLING = 4
"""Buckets from one time to twice as much: each is 19% wide, its middle within 10% of all that is in it."""
BUCKETS = 108
"""From a millisecond to 2^27 of them, a day and a half; what is beyond either end counts as at it."""
NO_TOKEN = -1
"""The bucket of runs that never came to a first token; no part of any median."""


def bucket_of(milliseconds: float | None) -> int:
    if milliseconds is None:
        return NO_TOKEN
    if not milliseconds > 1:
        return 0
    return int(min(PER_DOUBLING * math.log2(milliseconds), BUCKETS - 1))


def middle_of(bucket: int) -> float:
    """In milliseconds: as far from the bucket's lower end as from its upper, by factors."""
    return float(round(2.0 ** ((bucket + 0.5) / PER_DOUBLING), 1))


def median_of(histogram: Iterable[tuple[int, int]]) -> float | None:
    """Of (bucket, number of runs), the median in milliseconds; of an even number the quicker of the two in the middle.
    None: nobody came to a first token."""
    counts = sorted((bucket, count) for bucket, count in histogram if bucket != NO_TOKEN and count > 0)
    left = (sum(count for _, count in counts) + 1) // 2
    for bucket, count in counts:
        left -= count
        if left <= 0:
            return middle_of(bucket)
    return None
