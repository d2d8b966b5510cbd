"""Reading a table by its ids where writers commit at the same time."""

import time
from collections.abc import Iterable

from sqlalchemy import ColumnElement
from sqlalchemy.sql.elements import SQLCoreOperations

HOLE_SECONDS = 30.0
"""An id that has not come by then never will: its transaction was rolled back, or the row is deleted."""
MOST_HOLES = 5_000


class Frontier:
    """Up to where the rows have been read. PostgreSQL gives ids in the order in which they are asked for, and shows
    rows in the order in which they are committed: an id that was passed over is looked for again."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self._holes: dict[int, float] = {}

    def unread(self, column: SQLCoreOperations[int | None]) -> ColumnElement[bool]:
        """That a row has not been read."""
        if not self._holes:
            return column > self.position
        holes = list(self._holes)
        # Padded: each number of parameters would be a statement of its own, prepared anew.
        holes += holes[:1] * ((1 << (len(holes) - 1).bit_length()) - len(holes))
        return (column > self.position) | column.in_(holes)

    def passed(self, ids: Iterable[int]) -> None:
        """These rows have been read."""
        now = time.monotonic()
        for found in sorted(ids):
            if found <= self.position:
                self._holes.pop(found, None)
                continue
            for missing in range(max(self.position + 1, found - MOST_HOLES), found):
                self._holes[missing] = now
            self.position = found
        if self._holes:
            fresh = list(self._holes.items())[-MOST_HOLES:]
            self._holes = {missing: since for missing, since in fresh if now - since < HOLE_SECONDS}
