"""The stored run log. Two shapes, because an index on every event costs more than all the rest (docs/decisions.md):

- the journal: one row for each commit window of a worker, with the events of all its runs. Written up to 50 times a
  second, never searched, kept for seconds.
- segments: about once a second, what one run gained. Read when a run is followed from the database.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Column, LargeBinary, delete, func, insert
from sqlmodel import Field, SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from models.batches import batched
from models.columns import Serial
from models.frontier import Frontier
from models.run import ACTIVE, Run

Encoded = Sequence[Any]
"""One event as it is stored: its kind, then its values."""

Piece = tuple[str, int, list[Encoded]]
"""An entry on its way to the disk. A plain tuple is JSON as it is, at a tenth of a named one's cost: one is made for
each token."""


class Entry(NamedTuple):
    """Consecutive events of one run: the first has `first_seq`."""

    run_id: str
    first_seq: int
    events: list[Encoded]


NOBODY = ""
"""The worker of rows that belong to none: the end of a run, say. They go with those of dead workers."""


class JournalRow(SQLModel, table=True):
    __tablename__ = "run_journal"
    __table_args__ = {"sqlite_autoincrement": True}

    id: int | None = Field(default=None, sa_column=Column(Serial(), primary_key=True))
    worker: str
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class Segment(SQLModel, table=True):
    __tablename__ = "run_segment"
    __table_args__ = {"sqlite_with_rowid": False}

    run_id: str = Field(primary_key=True)
    first_seq: int = Field(primary_key=True)
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


def encode(entries: Sequence[Piece]) -> bytes:
    """A row's body.

    Raises:
        TypeError: something in it cannot be stored.
    """
    return orjson.dumps(entries)


def decode(body: bytes) -> list[Entry]:
    return [Entry(*item) for item in orjson.loads(body)]


async def add_journal(session: AsyncSession, entry: Piece) -> None:
    """For what must be in the log together with something else: the end of a run, say."""
    await session.exec(insert(JournalRow).values(worker=NOBODY, body=encode([entry])))


async def add_segment(session: AsyncSession, entry: Piece) -> None:
    run_id, first_seq, body = segment_row(entry)
    await session.exec(insert(Segment).values(run_id=run_id, first_seq=first_seq, body=body))


def segment_row(entry: Piece) -> tuple[str, int, bytes]:
    run_id, first_seq, events = entry
    return run_id, first_seq, orjson.dumps(events)


async def replace_segments(session: AsyncSession, run_id: str, events: Sequence[Encoded]) -> None:
    """One segment with all of a run: what a dead worker left in the journal alone does not go with it."""
    await delete_segments(session, [run_id])
    if events:
        await add_segment(session, (run_id, 0, list(events)))


class Row(NamedTuple):
    """A window as it was read. `worker` may be NOBODY."""

    id: int
    worker: str
    entries: list[Entry]


async def unread_rows(session: AsyncSession, frontier: Frontier) -> list[Row]:
    """The unread rows, in order; the frontier moves behind them."""
    columns = select(JournalRow.id, JournalRow.worker, JournalRow.body)
    query = columns.where(frontier.unread(col(JournalRow.id))).order_by(col(JournalRow.id))
    rows = [Row(found or 0, worker, decode(body)) for found, worker, body in await session.exec(query)]
    frontier.passed(row.id for row in rows)
    return rows


async def newest_journal_row(session: AsyncSession) -> int:
    """0 when there is none."""
    return (await session.exec(select(func.max(JournalRow.id)))).one() or 0


async def stored_events(session: AsyncSession, run_ids: Collection[str]) -> dict[str, list[Encoded]]:
    """All that is kept of these runs, from seq 0 on; a run of which the beginning is gone is left out."""
    found: dict[str, list[Encoded]] = {run_id: [] for run_id in run_ids}
    query = (
        select(Segment).where(col(Segment.run_id).in_(run_ids)).order_by(col(Segment.run_id), col(Segment.first_seq))
    )
    for segment in await session.exec(query):
        _extend(found, Entry(segment.run_id, segment.first_seq, orjson.loads(segment.body)))
    for body in await session.exec(select(JournalRow.body).order_by(col(JournalRow.id))):
        for entry in decode(body):
            if entry.run_id in found:
                _extend(found, entry)
    return {run_id: events for run_id, events in found.items() if events}


def _extend(found: dict[str, list[Encoded]], entry: Entry) -> None:
    """Add what is new: segments and journal overlap."""
    events = found[entry.run_id]
    skip = len(events) - entry.first_seq
    if 0 <= skip < len(entry.events):
        events.extend(entry.events[skip:])


async def delete_segments(session: AsyncSession, run_ids: Sequence[str]) -> None:
    for batch in batched(run_ids):
        await session.exec(delete(Segment).where(col(Segment.run_id).in_(batch)))


async def unread_segments(session: AsyncSession, before: datetime) -> Sequence[str]:
    """Runs that ended before this moment, or are gone, of which segments are left: of a worker that died, say."""
    kept = select(Run.id).where(
        col(Run.id) == col(Segment.run_id), col(Run.status).in_(ACTIVE) | (col(Run.finished_at) >= before)
    )
    return (await session.exec(select(Segment.run_id).where(~kept.exists()).distinct())).all()


async def trim_orphaned_journal(session: AsyncSession, live: Sequence[str], up_to: int) -> None:
    """Delete the rows of workers that are gone, and of nobody. Only when no run waits to be ended by them."""
    await session.exec(delete(JournalRow).where(col(JournalRow.worker).not_in(live), col(JournalRow.id) <= up_to))
