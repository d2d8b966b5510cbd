"""The journal's way into PostgreSQL: a connection of its own, and one statement for each transaction, so that nothing
is left half-way, or locked, by a process that stands still."""

import asyncio
from collections.abc import Sequence
from typing import Any

from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError

from errors import Unavailable
from models.address import PostgresAddress
from models.failures import failure_of
from models.journal import Piece, segment_row
from models.journal_writer import Fenced, JournalWriter
from models.postgres_driver import connect, is_away

MINE = "WITH mine AS (SELECT id FROM worker WHERE id = $1 FOR KEY SHARE)"
"""Whoever takes this worker for dead deletes its row, and waits for a window that is being stored; one that comes
later finds no row. Renewing the lease waits for neither."""

APPEND = f"{MINE} INSERT INTO run_journal (worker, body) SELECT id, $2 FROM mine RETURNING id"  # noqa: S608

CHECKPOINT = f"""{MINE},
stored AS (
    INSERT INTO run_segment (run_id, first_seq, body)
    SELECT entry.* FROM mine, unnest($2::text[], $3::int[], $4::bytea[]) AS entry (run_id, first_seq, body)
    ON CONFLICT (run_id, first_seq) DO UPDATE SET body = excluded.body
),
trimmed AS (DELETE FROM run_journal USING mine WHERE run_journal.worker = mine.id AND run_journal.id <= $5)
SELECT count(*) FROM mine"""  # noqa: S608


class PostgresJournal(JournalWriter):
    def __init__(self, address: PostgresAddress, seconds: float) -> None:
        self._address = address
        self._seconds = seconds
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def append(self, worker: str, body: bytes) -> int:
        row: int | None = await self._fetch(APPEND, worker, body)
        if row is None:
            raise Fenced
        return row

    async def checkpoint(self, worker: str, segments: Sequence[Piece], up_to: int) -> None:
        rows = [segment_row(entry) for entry in segments]
        columns = [[row[place] for row in rows] for place in range(3)]
        if not await self._fetch(CHECKPOINT, worker, *columns, up_to):
            raise Fenced

    async def _fetch(self, statement: str, *values: object) -> Any:
        async with self._turn:
            try:
                if self._connection is None or self._connection.is_closed():
                    # Whoever writes has a patience of their own.
                    self._connection = await connect(self._address, self._seconds, 0)
                return await self._connection.fetchval(statement, *values)
            except (OSError, TimeoutError, PostgresError, InterfaceError, InternalClientError) as error:
                self._drop()
                if is_away(error) or failure_of(error) is not None:
                    raise Unavailable("The log cannot be written now; try again", retry_after=1) from error
                raise
            except asyncio.CancelledError:
                self._drop()
                raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def aclose(self) -> None:
        async with self._turn:
            self._drop()
