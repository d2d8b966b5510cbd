"""The writing end of one run by itself: what gets which number, and what is in which segment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.codec import decode_event
from chat.events import RunEvent, RunQueued, RunReasoningDelta, RunTextDelta
from chat.log import RunLog
from chat.tail import Tail
from errors import Unavailable
from models.journal import decode, encode

RUN = "run_1"


class Marks:
    """Writes down who asked for a window."""

    def __init__(self) -> None:
        self.urgent: list[bool] = []

    def mark(self, tail: Tail, *, urgent: bool) -> None:  # noqa: ARG002
        self.urgent.append(urgent)

    def is_busy(self, tail: Tail) -> bool:  # noqa: ARG002
        return False

    async def next_commit(self) -> None:
        raise AssertionError("nothing is under way")


def store(tail: Tail) -> list[RunEvent]:
    """One window that the disk takes."""
    batch = tail.number()
    assert batch is not None
    _, events, (_, _, encoded) = batch
    tail.stored(events, encoded)
    return events


def test_a_window_is_asked_for_once_and_at_once_for_the_first_text_alone() -> None:
    marks = Marks()
    tail = Tail(RunLog(RUN), "me", marks)
    for letter in "abc":
        tail.delta(RunTextDelta, letter)
    assert marks.urgent == [True]
    assert store(tail) == [RunTextDelta(RUN, 0, "abc")]
    tail.delta(RunTextDelta, "d")
    tail.delta(RunReasoningDelta, "e")
    assert marks.urgent == [True, False, False]
    assert store(tail) == [RunTextDelta(RUN, 1, "d"), RunReasoningDelta(RUN, 2, "e")]
    assert tail.number() is None


@given(st.lists(st.sampled_from("trqwsd"), max_size=60))
def test_segments_hold_every_stored_event_once_and_in_order(steps: str) -> None:
    """Whatever is taken, put back or in doubt between: what the segments hold is what the log has."""
    log = RunLog(RUN)
    tail = Tail(log, "me", Marks())
    segments: dict[int, list[RunEvent]] = {}
    for step in steps:
        if step in "tr":
            tail.delta(RunTextDelta if step == "t" else RunReasoningDelta, step)
        elif step == "q":
            tail.event(lambda run_id, seq: RunQueued(run_id, seq, 1))
        elif step in "wd" and (batch := tail.number()) is not None:
            tail.doubt(batch)
            tail.believe()
        elif (entry := tail.take_segment()) is not None:
            tail.put_back(entry)
            assert tail.take_segment() == entry
            ((run_id, first, encoded),) = decode(encode([entry]))
            segments[first] = [decode_event(run_id, first + place, event) for place, event in enumerate(encoded)]
    assert tail.idle == (tail.number() is None)
    rest = tail.take_segment()
    stored = [event for _, events in sorted(segments.items()) for event in events]
    assert [event.seq for event in log.read()] == list(range(log.next_seq))
    assert stored == log.read()[: len(stored)]
    assert len(log.read()) == len(stored) + (0 if rest is None else len(rest[2]))


async def test_a_log_that_was_given_up_is_not_waited_for() -> None:
    log = RunLog(RUN)
    tail = Tail(log, "me", Marks())
    tail.delta(RunTextDelta, "a")
    log.lose(Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        await tail.settled()
    tail.drop_pending()
    assert tail.idle
