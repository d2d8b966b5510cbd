"""The writer on a journal whose failures can be chosen: what followers have seen is always stored somewhere."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chat.writer
from chat.events import RunEvent, RunQueued, RunReasoningDelta, RunStarted, RunTextDelta
from chat.log import RunLog
from chat.tail import Delta, Tail
from chat.writer import LogWriter, MovedElsewhere
from errors import Unavailable
from models.journal import Entry, Piece, decode, encode
from models.journal_writer import Fenced, JournalWriter
from tests.waiting import until

RUN = "run_1"
WINDOW = 0.03
KINDS: list[Delta] = [RunTextDelta, RunReasoningDelta]
DELTAS = st.lists(st.tuples(st.sampled_from("tr"), st.text(min_size=1, max_size=3)), max_size=30)


class FakeJournal(JournalWriter):
    """Rows and segments in memory. `failures` are raised in turn; None lets a transaction pass."""

    def __init__(self) -> None:
        self.rows: dict[int, tuple[str, list[Entry]]] = {}
        self.segments: dict[tuple[str, int], list[Any]] = {}
        self.live = {"me"}
        self.failures: list[Exception | None] = []
        self.appends = 0
        self.may_write = asyncio.Event()
        self.may_write.set()

    async def _turn(self, worker: str) -> None:
        await asyncio.sleep(0)
        await self.may_write.wait()
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        if worker not in self.live:
            raise Fenced

    async def append(self, worker: str, body: bytes) -> int:
        await self._turn(worker)
        self.appends += 1
        self.rows[self.appends] = worker, decode(body)
        return self.appends

    async def checkpoint(self, worker: str, segments: Sequence[Piece], up_to: int) -> None:
        await self._turn(worker)
        for run_id, first, events in decode(encode(segments)):
            self.segments[run_id, first] = events
        self.rows = {row: kept for row, kept in self.rows.items() if row > up_to}

    async def aclose(self) -> None:
        return None

    def stored(self, run_id: str) -> list[Any]:
        """What can be read back, as models.journal does it."""
        pieces = [(first, events) for (key, first), events in sorted(self.segments.items()) if key == run_id]
        for _, entries in self.rows.values():
            pieces += [(entry.first_seq, entry.events) for entry in entries if entry.run_id == run_id]
        found: list[Any] = []
        for first, events in pieces:
            if 0 <= len(found) - first < len(events):
                found.extend(events[len(found) - first :])
        return found


class Desk:
    """A writer that runs, and the tails opened on it."""

    def __init__(self, window: float = WINDOW) -> None:
        self.journal = FakeJournal()
        self.writer = LogWriter(self.journal, window)

    async def __aenter__(self) -> "Desk":
        self.writer.start("me")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.writer.aclose()

    def open(self, run_id: str = RUN) -> tuple[Tail, RunLog]:
        log = RunLog(run_id)
        return self.writer.open(log, "me"), log


def deltas(log: RunLog) -> list[tuple[type[RunEvent], str]]:
    return [(type(event), event.text) for event in log.read() if isinstance(event, RunTextDelta | RunReasoningDelta)]


def started(run_id: str, seq: int) -> RunStarted:
    return RunStarted(run_id, seq, "scripted", "scripted", "scripted", None)


class TestCoalescing:
    async def test_the_first_text_goes_at_once_then_one_event_a_window(self) -> None:
        """The first word is what people wait for; after it 20 ms are nothing, and cost a fiftieth."""
        async with Desk(window=0.2) as desk:
            desk.writer._last_begin = asyncio.get_running_loop().time()
            tail, log = desk.open()
            tail.event(started)
            begun = asyncio.get_running_loop().time()
            tail.delta(RunTextDelta, "a")
            await until(lambda: log.text == "a")
            assert asyncio.get_running_loop().time() - begun < 0.15
            for letter in "bcde":
                tail.delta(RunTextDelta, letter)
            await asyncio.sleep(0.02)
            assert log.text == "a"
            await until(lambda: log.text == "abcde")
            assert deltas(log) == [(RunTextDelta, "a"), (RunTextDelta, "bcde")]

    async def test_kinds_are_never_joined_and_keep_their_order(self) -> None:
        """A reader shows reasoning and answer in two places: one event cannot be both."""
        async with Desk() as desk:
            tail, log = desk.open()
            for kind, text in ("r1", "r2", "t3", "t4", "r5"):
                tail.delta(KINDS["tr".index(kind)], text)
            await tail.settled()
            told = [(RunReasoningDelta, "12"), (RunTextDelta, "34"), (RunReasoningDelta, "5")]
            assert deltas(log) == told

    async def test_nothing_is_no_event(self) -> None:
        async with Desk() as desk:
            tail, log = desk.open()
            tail.delta(RunTextDelta, "")
            await tail.settled()
            assert (log.last_seq, desk.journal.appends) == (-1, 0)

    async def test_all_the_runs_of_a_window_are_one_transaction(self) -> None:
        """Group commit: 200 runs that stream cost as many transactions as one does."""
        async with Desk() as desk:
            opened = [desk.open(f"run_{number}") for number in range(200)]
            for tail, _ in opened:
                tail.delta(RunTextDelta, "a")
            await opened[0][0].settled()
            for tail, _ in opened:
                tail.delta(RunTextDelta, "b")
            for tail, log in opened:
                await tail.settled()
                assert log.text == "ab"
            assert desk.journal.appends <= 6

    @given(DELTAS, st.sets(st.integers(0, 30)), st.sampled_from([0, 0.005]))
    def test_no_letter_is_lost(self, script: list[tuple[str, str]], flushes: set[int], window: float) -> None:
        async def play() -> tuple[RunLog, FakeJournal]:
            async with Desk(window) as desk:
                tail, log = desk.open()
                for number, (kind, text) in enumerate(script):
                    tail.delta(KINDS["tr".index(kind)], text)
                    if number in flushes:
                        await tail.settled()
                await tail.settled()
                return log, desk.journal

        log, journal = asyncio.run(play())
        assert log.text == "".join(text for kind, text in script if kind == "t")
        assert (log.reasoning or "") == "".join(text for kind, text in script if kind == "r")
        assert [code[1] for code in journal.stored(RUN)] == [text for _, text in deltas(log)]


class TestFailures:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chat.writer, "SEGMENT_SECONDS", 0.02)
        monkeypatch.setattr(chat.writer, "JOURNAL_SECONDS", 0.05)
        monkeypatch.setattr(chat.writer, "PATIENCE_SECONDS", 0.05)

    async def test_nothing_is_told_before_it_is_stored(self) -> None:
        """Seen means kept: while the disk has not answered, followers see nothing."""
        async with Desk() as desk:
            desk.journal.may_write.clear()
            tail, log = desk.open()
            tail.delta(RunTextDelta, "a")
            await asyncio.sleep(WINDOW * 3)
            assert log.last_seq == -1
            desk.journal.may_write.set()
            await until(lambda: log.text == "a")

    async def test_a_lock_that_passes_costs_time_alone(self) -> None:
        async with Desk() as desk:
            desk.journal.failures = [Unavailable(), None]
            tail, log = desk.open()
            tail.delta(RunTextDelta, "a")
            await tail.settled()
            assert (log.text, log.lost) == ("a", None)

    async def test_a_disk_that_stays_full_gives_the_run_up_and_keeps_what_was_seen(self) -> None:
        """And the rows of the journal that hold it are not trimmed before it is in a segment."""
        async with Desk() as desk:
            tail, log = desk.open()
            tail.delta(RunTextDelta, "a")
            await tail.settled()
            desk.journal.failures = [Unavailable()] * 100
            tail.delta(RunTextDelta, "b")
            with pytest.raises(Unavailable):
                await tail.settled()
            assert log.text == "a"
            desk.writer.close(tail)
            desk.journal.failures = []
            other, _ = desk.open("run_2")
            for _ in range(10):
                other.delta(RunTextDelta, "x")
                await asyncio.sleep(0.02)
            await until(lambda: 1 not in desk.journal.rows)
            assert desk.journal.stored(RUN) == [["t", "a"]]
            assert tail not in desk.writer._tails

    async def test_an_event_that_cannot_be_stored_costs_its_own_run_alone(self) -> None:
        async with Desk() as desk:
            bad, bad_log = desk.open("run_bad")
            good, good_log = desk.open("run_good")
            bad.delta(RunTextDelta, "\ud800")
            good.delta(RunTextDelta, "a")
            await good.settled()
            with pytest.raises(Unavailable):
                await bad.settled()
            assert (good_log.text, bad_log.last_seq) == ("a", -1)

    async def test_who_was_fenced_off_writes_nothing_more(self) -> None:
        """Another worker has ended these runs: one row more would be text behind the end."""
        async with Desk() as desk:
            fenced = asyncio.Event()
            desk.writer.on_fenced = fenced.set
            tail, log = desk.open()
            tail.delta(RunTextDelta, "a")
            await tail.settled()
            desk.journal.live = {"me again"}
            tail.delta(RunTextDelta, "b")
            await fenced.wait()
            rows = dict(desk.journal.rows)
            desk.writer.rename("me again")
            tail.delta(RunTextDelta, "c")
            await asyncio.sleep(WINDOW * 3)
            assert isinstance(log.lost, MovedElsewhere)
            assert log.text == "a"
            assert desk.journal.stored(RUN) == [["t", "a"]]
            assert rows.items() >= desk.journal.rows.items()

    async def test_a_window_under_way_is_not_written_under_the_new_name(self) -> None:
        """The race: fenced off between two tries of one window, with a new name by the second."""
        async with Desk() as desk:
            tail, log = desk.open()
            desk.journal.may_write.clear()
            desk.journal.failures = [Unavailable()]
            tail.delta(RunTextDelta, "a")
            await until(lambda: desk.writer.is_busy(tail))
            desk.journal.live = {"me again"}
            desk.writer.rename("me again")
            desk.journal.may_write.set()
            with pytest.raises(MovedElsewhere):
                await tail.settled()
            assert (desk.journal.rows, log.last_seq) == ({}, -1)
            desk.writer.close(tail)
            await until(lambda: tail not in desk.writer._tails)

    async def test_a_run_claimed_under_a_lost_name_writes_nothing(self) -> None:
        async with Desk() as desk:
            desk.writer.rename("me again")
            desk.journal.live = {"me again"}
            tail, log = desk.open()
            tail.delta(RunTextDelta, "a")
            with pytest.raises(MovedElsewhere):
                await tail.settled()
            assert (desk.journal.rows, log.last_seq) == ({}, -1)

    async def test_the_end_s_segment_never_crosses_the_second_s(self) -> None:
        """The race: the end takes what has no segment while one is on its way, which then fails and is put back."""
        async with Desk() as desk:
            desk.writer._last_segments = time.monotonic()
            tail, _ = desk.open()
            tail.delta(RunTextDelta, "a")
            await tail.settled()
            desk.journal.may_write.clear()
            desk.journal.failures = [Unavailable()]
            await until(lambda: desk.writer.is_busy(tail))  # the segment
            settling = asyncio.create_task(tail.settled())
            await asyncio.sleep(0.01)
            assert not settling.done()
            desk.journal.may_write.set()
            await settling
            rest = tail.take_segment()
            assert rest is not None
            assert rest == (RUN, 0, [("t", "a")])

    async def test_the_journal_is_emptied_while_nothing_streams(self) -> None:
        """What is said in a stateless chat is not left on the disk until the next one comes."""
        async with Desk() as desk:
            tail, _ = desk.open()
            tail.delta(RunTextDelta, "a")
            await tail.settled()
            desk.writer.drop(tail)
            await until(lambda: not desk.journal.rows)

    async def test_rows_whose_deletion_failed_go_later(self) -> None:
        async with Desk() as desk:
            tail, _ = desk.open()
            tail.delta(RunTextDelta, "a")
            await tail.settled()
            desk.writer.drop(tail)
            desk.journal.failures = [Unavailable()] * 5
            await until(lambda: not desk.journal.rows)

    async def test_behind_a_slow_disk_windows_widen_and_are_bounded(self) -> None:
        """A process that is behind writes more at a time, not more often."""
        async with Desk(0.005) as desk:
            tail, log = desk.open()
            tail.event(lambda run_id, seq: RunQueued(run_id, seq, 1))
            for _ in range(5):
                desk.journal.may_write.clear()
                tail.delta(RunTextDelta, "x")
                await asyncio.sleep(0.05)
                desk.journal.may_write.set()
                await tail.settled()
            assert 0.05 < desk.writer.window <= chat.writer.WIDEST_SECONDS
            assert log.text == "xxxxx"

    async def test_a_full_process_joins_more_into_an_event(self) -> None:
        """Each event costs the same, whatever is in it: its number a second is what is bounded."""
        async with Desk(0.005) as desk:
            opened = [desk.open(f"run_{number}") for number in range(300)]
            for letter in "ab":
                for tail, _ in opened:
                    tail.delta(RunTextDelta, letter)
                await opened[-1][0].settled()
            assert desk.writer.window >= 300 * chat.writer.EVENT_SECONDS
            for letter in "cde":
                opened[0][0].delta(RunTextDelta, letter)
                await opened[0][0].settled()
            assert desk.writer.window < 300 * chat.writer.EVENT_SECONDS
            assert opened[0][1].text == "abcde"


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["ok", "ok", "ok", "fail"]), max_size=30))
def test_whatever_fails_what_was_seen_can_be_read_back(seed: int, fates: list[str]) -> None:
    """Invariant 1 against every order of windows, segments, trims, ends and failures: after every step, each run's
    stored events begin with all that its log has told."""
    chance = random.Random(seed)

    async def play() -> None:
        async with Desk(0.001) as desk:
            desk.journal.failures = [Unavailable() if fate == "fail" else None for fate in fates]
            opened = [desk.open(f"run_{number}") for number in range(3)]
            for _ in range(40):
                tail, log = chance.choice(opened)
                if log.lost is None and tail in desk.writer._tails:
                    tail.delta(chance.choice(KINDS), chance.choice("abc"))
                    if chance.random() < 0.03:
                        desk.writer.close(tail)
                await asyncio.sleep(chance.choice([0, 0, 0.0005, 0.002]))
                for _, each in opened:
                    told = [text for _, text in deltas(each)]
                    assert [code[1] for code in desk.journal.stored(each.run_id)][: len(told)] == told

    patched = {"SEGMENT_SECONDS": 0.004, "JOURNAL_SECONDS": 0.008, "PATIENCE_SECONDS": 0.03}
    before = {name: getattr(chat.writer, name) for name in patched}
    try:
        vars(chat.writer).update(patched)
        asyncio.run(play())
    finally:
        vars(chat.writer).update(before)
