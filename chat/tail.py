"""One run's end of the log on the writing side: what waits for its number, and what waits for its segment."""

from collections.abc import Callable
from typing import Protocol

from chat.codec import encode_event
from chat.events import RunEvent, RunReasoningDelta, RunTextDelta
from chat.log import RunLog
from models.journal import Encoded, Piece

Delta = type[RunTextDelta] | type[RunReasoningDelta]
Make = Callable[[str, int], RunEvent]

LETTERS = {RunTextDelta: "t", RunReasoningDelta: "r"}


class Writer(Protocol):
    """What a tail asks of the process's writer."""

    def mark(self, tail: "Tail", *, urgent: bool) -> None:
        """There is something to write for this run."""

    def is_busy(self, tail: "Tail") -> bool:
        """Whether a window or a segment of this run is on its way to the disk."""

    async def next_commit(self) -> None: ...


class Tail:
    """`worker` is the name under which the run is written; the process may have lost it."""

    __slots__ = (
        "_begun",
        "_doubted",
        "_kind",
        "_next",
        "_pending",
        "_segment_from",
        "_texts",
        "_unsegmented",
        "_writer",
        "log",
        "worker",
    )

    def __init__(self, log: RunLog, worker: str, writer: Writer) -> None:
        self.log = log
        self.worker = worker
        self._writer = writer
        self._pending: list[tuple[Delta, str] | Make] = []
        self._kind: Delta | None = None
        """Of the text that is being joined, behind what is pending."""
        self._texts: list[str] = []
        self._next = log.next_seq
        self._segment_from = self._next
        self._unsegmented: list[Encoded] = []
        self._begun = False
        self._doubted: Batch | None = None

    def delta(self, kind: Delta, text: str) -> None:
        """Text: joined with what else of its kind comes within the window. The first of a run goes at once."""
        if not text:
            return
        if kind is self._kind:
            self._texts.append(text)
            return
        if self._kind is not None:
            self._close_text()
        self._kind = kind
        self._texts.append(text)
        urgent, self._begun = not self._begun, True
        self._writer.mark(self, urgent=urgent)

    def _close_text(self) -> None:
        assert self._kind is not None
        self._pending.append((self._kind, self._take_text()))

    def _take_text(self) -> str:
        texts, self._kind = self._texts, None
        text = texts[0] if len(texts) == 1 else "".join(texts)
        texts.clear()
        return text

    def event(self, make: Make) -> None:
        """Any other event, built when its number is known."""
        if self._kind is not None:
            self._close_text()
        self._pending.append(make)
        self._writer.mark(self, urgent=False)

    @property
    def idle(self) -> bool:
        return self._kind is None and not self._pending

    @property
    def segmented(self) -> bool:
        return not self._unsegmented

    def number(self) -> "Batch | None":
        """Give what is pending its numbers."""
        pending, kind, run_id = self._pending, self._kind, self.log.run_id
        first = seq = self._next
        if kind is not None:
            text = self._take_text()
            if not pending:
                self._next = seq + 1
                return self, [kind(run_id, seq, text)], (run_id, seq, [(LETTERS[kind], text)])
            pending.append((kind, text))
        if not pending:
            return None
        events: list[RunEvent] = []
        encoded: list[Encoded] = []
        for item in pending:
            if isinstance(item, tuple):
                kind, text = item
                events.append(kind(run_id, seq, text))
                encoded.append((LETTERS[kind], text))
            else:
                event = item(run_id, seq)
                events.append(event)
                encoded.append(encode_event(event))
            seq += 1
        pending.clear()
        self._next = seq
        return self, events, (run_id, first, encoded)

    def drop_pending(self) -> None:
        self._kind = None
        self._texts.clear()
        self._pending.clear()

    async def acknowledged(self, after: int | None) -> None:
        """Who follows at another process may come here with a number before the writer heard that it is stored."""
        while after is not None and self.log.last_seq < after < self._next and self.log.lost is None:
            await self._writer.next_commit()

    def doubt(self, batch: "Batch") -> None:
        """Nobody said that this window is stored; it may be all the same, and others may have read it."""
        self._doubted = batch

    def believe(self) -> None:
        """Let the run's end hold what is in doubt: stored with it, it takes back nothing that anyone may have seen."""
        batch, self._doubted = self._doubted, None
        if batch is not None:
            _, events, (_, _, encoded) = batch
            self._unsegmented += encoded
            self.log.extend(events)

    def stored(self, events: list[RunEvent], encoded: list[Encoded]) -> None:
        self._unsegmented += encoded
        if self.log.lost is None:
            self.log.extend(events)

    def take_segment(self) -> Piece | None:
        """What came since the last segment."""
        if not self._unsegmented:
            return None
        entry = self.log.run_id, self._segment_from, self._unsegmented
        self._segment_from = self._next
        self._unsegmented = []
        return entry

    def put_back(self, entry: Piece) -> None:
        _, self._segment_from, events = entry
        self._unsegmented = events + self._unsegmented

    async def settled(self) -> None:
        """Until all that was written is stored, and no segment is on its way.

        Raises:
            ChatError: the log of this run was given up.
        """
        if not self.idle:
            self._writer.mark(self, urgent=True)
        while not self.idle or self._writer.is_busy(self):
            if self.log.lost is not None and not self._writer.is_busy(self):
                break
            await self._writer.next_commit()
        if self.log.lost is not None:
            raise self.log.lost


Batch = tuple[Tail, list[RunEvent], Piece]
"""What one run has in a window: numbered, and as it is stored. A plain tuple: one is made for each token."""
