"""What pg_restore prints of a dump: statements, and between them the rows of one table after the other. It is played
through our own connection, not by psql, so that a restore with its checks and migrations is one transaction (and a
dump that somebody tampered with cannot have psql run a program)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from models.backup import BackupError, Content

COPY = re.compile(rb'^COPY (?:"?public"?)\.(\w+|"(?:[^"]|"")+") \((.*)\) FROM stdin;\n$')
NAME = re.compile(r'"((?:[^"]|"")+)"|(\w+)')
SKIPPED = (b"\\restrict ", b"\\unrestrict ", b"SET transaction_timeout = ")
"""psql's own, and what an older server does not know."""
END = b"\\.\n"
BATCH_BYTES = 1 << 20
MIGRATIONS = "alembic_version"


@dataclass
class Rows:
    """The rows of one table, as COPY's text; to be read before what follows."""

    table: str
    columns: list[str]
    stream: IO[bytes] = field(repr=False)
    count: int = 0
    first: bytes = b""

    def batches(self) -> Iterator[bytes]:
        """
        Raises:
            BackupError: they stop in the middle.
        """
        batch: list[bytes] = []
        size = 0
        for line in self.stream:
            if line == END:
                if batch:
                    yield b"".join(batch)
                return
            self.first = self.first or line
            self.count += 1
            batch.append(line)
            size += len(line)
            if size >= BATCH_BYTES:
                yield b"".join(batch)
                batch, size = [], 0
        raise BackupError(f"it ends in the middle of {self.table}")


@dataclass
class Dump:
    """`content` is filled while the parts are read."""

    stream: IO[bytes]
    revision: str = "none"
    rows: dict[str, int] = field(default_factory=dict)

    def parts(self) -> Iterator[bytes | Rows]:
        """Statements, as one script up to the next rows, and rows."""
        script: list[bytes] = []
        for line in self.stream:
            if (match := COPY.match(line)) is None:
                if not line.startswith(SKIPPED):
                    script.append(line)
                continue
            yield b"".join(script)
            script = []
            rows = Rows(_names(match[1])[0], _names(match[2]), self.stream)
            yield rows
            self.rows[rows.table] = rows.count
            if rows.table == MIGRATIONS:
                self.revision = rows.first.decode().strip() or "none"
        yield b"".join(script)

    @property
    def content(self) -> Content:
        return Content(self.revision, self.rows)


def _names(text: bytes) -> list[str]:
    return [(quoted or plain).replace('""', '"') for quoted, plain in NAME.findall(text.decode())]


def read_through(stream: IO[bytes]) -> Iterator[Content]:
    """Read all of it; what has been seen so far, after each batch."""
    dump = Dump(stream)
    for part in dump.parts():
        if isinstance(part, Rows):
            for _ in part.batches():
                yield Content(dump.revision, dump.rows | {part.table: part.count})
    yield dump.content
