import statistics

from hypothesis import given
from hypothesis import strategies as st

from chat.latency import BUCKETS, NO_TOKEN, bucket_of, median_of, middle_of

TIMES = st.lists(st.floats(1, 86_400_000), min_size=1, max_size=60)


@given(TIMES)
def test_the_median_is_off_by_a_tenth_at_most(times: list[float]) -> None:
    median = median_of((bucket_of(time), 1) for time in times)
    assert median is not None
    assert 0.9 <= median / statistics.median_low(times) <= 1.1


@given(st.floats(0, 1e12), st.floats(0, 1e12))
def test_a_longer_time_is_in_no_lower_bucket(one: float, other: float) -> None:
    lower, higher = sorted((one, other))
    assert 0 <= bucket_of(lower) <= bucket_of(higher) < BUCKETS


def test_runs_that_never_came_to_a_token_have_no_part_in_it() -> None:
    assert bucket_of(None) == NO_TOKEN
    assert median_of([(NO_TOKEN, 100), (bucket_of(200.0), 1)]) == middle_of(bucket_of(200.0))
    assert median_of([(NO_TOKEN, 100)]) is None
    assert median_of([]) is None


def test_counts_count() -> None:
    assert median_of([(4, 1), (8, 5)]) == middle_of(8)
    assert median_of([(4, 5), (8, 5)]) == middle_of(4)
