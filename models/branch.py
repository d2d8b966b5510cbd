"""Whole branches, as plain rows in portions: 10,000 messages as objects of the ORM held the event loop for 1.2 s
at once, these for some 60 ms, most of it for the JSON."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import bindparam, insert, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from models.batches import batched
from models.message import Message, MessageStatus
from models.search import AT_ONCE, index_messages

PORTION = 500
"""Rows between two turns of the event loop: 5 ms."""


@dataclass(slots=True)
class BranchRow:
    """A message without what its run left."""

    id: str
    conversation_id: str
    external_id: str | None
    parent_id: str | None
    depth: int
    active: bool
    role: str
    content: str
    created_at: datetime
    author_id: str | None


def place_of(row: BranchRow) -> tuple[object, ...]:
    """What `move_branch_rows` stores."""
    return row.parent_id, row.depth, row.active, row.created_at


_COLUMNS = [getattr(Message, name) for name in BranchRow.__slots__]


async def branch_rows(session: AsyncSession, conversation_id: str, *, active: bool = False) -> list[BranchRow]:
    """Every message of the tree (or of its active branch alone), by depth."""
    query = select(*_COLUMNS).where(col(Message.conversation_id) == conversation_id)
    if active:
        query = query.where(col(Message.active))
    query = query.order_by(col(Message.depth), col(Message.id))
    result = await session.stream(query, execution_options={"yield_per": PORTION})
    return [BranchRow(*row) async for part in result.partitions() for row in part]


async def add_branch_rows(session: AsyncSession, rows: Sequence[BranchRow]) -> None:
    """Store new messages, parents first."""
    connection = await session.connection()
    for batch in batched(rows, PORTION):
        values = [asdict(row) | {"status": MessageStatus.COMPLETE} for row in batch]
        await connection.execute(insert(Message), values)
    for batch in batched(rows, AT_ONCE):
        await index_messages(session, [(row.id, row.content) for row in batch])
        await asyncio.sleep(0)


async def move_branch_rows(session: AsyncSession, rows: Sequence[BranchRow]) -> None:
    """Store where messages stand now, and since when; the rest of them stays."""
    connection = await session.connection()
    where = update(Message).where(col(Message.id) == bindparam("row"))
    moved = where.values(
        parent_id=bindparam("parent"), depth=bindparam("place"), active=True, created_at=bindparam("moment")
    )
    for batch in batched(rows, PORTION):
        values = [
            {"row": row.id, "parent": row.parent_id, "place": row.depth, "moment": row.created_at} for row in batch
        ]
        await connection.execute(moved, values)
