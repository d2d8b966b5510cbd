"""What a transaction takes for itself, where others write at the same time. SQLite has one writer: nothing to take.

Whoever takes several things takes them in this order, or two transactions wait for each other: names held by `hold`,
conversations, what users have begun (`run_rate`), runs, messages, users, their counters of usage, and last the
audiences of changes.
"""

from hashlib import blake2b
from typing import Any, TypeVar

from sqlalchemy import text
from sqlmodel.ext.asyncio.session import AsyncSession
from sqlmodel.sql.expression import SelectOfScalar

WRITING = "writing"
"""In the info of sessions that write."""

S = TypeVar("S", bound=SelectOfScalar[Any])

EXCLUSIVE = text("SELECT pg_advisory_xact_lock(key) FROM unnest(CAST(:keys AS bigint[])) AS key")
SHARED = text("SELECT pg_advisory_xact_lock_shared(key) FROM unnest(CAST(:keys AS bigint[])) AS key")


async def hold(session: AsyncSession, *names: str, shared: bool = False) -> None:
    """Until this transaction ends nobody else holds these names; `shared`: but for others who share."""
    if names and _is_postgres(session):
        # In order, so that two who hold several do not wait for each other.
        keys = sorted({key_of(name) for name in names})
        await (await session.connection()).execute(SHARED if shared else EXCLUSIVE, {"keys": keys})


def taken(session: AsyncSession, query: S) -> S:
    """The query; in a transaction that writes, its rows are the transaction's until it ends, and as they are now."""
    if session.info.get(WRITING) and _is_postgres(session):
        return query.with_for_update(key_share=True).execution_options(populate_existing=True)
    return query


def _is_postgres(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def key_of(name: str) -> int:
    """The number under which PostgreSQL knows this name."""
    return int.from_bytes(blake2b(name.encode(errors="replace"), digest_size=8).digest(), signed=True)
