"""A copy of the whole database in one file, made while it is written to, and the way back.

Of SQLite it is a SQLite file, of PostgreSQL what `pg_dump --format=custom` writes: both can be read without us.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from alembic.script import ScriptDirectory

from errors import StartError
from models.migrate import configuration, reason_of

Report = Callable[[str, int, int | None], None]
"""Called with (what is being done, how much of it is done, of how much in all); None: nobody knows."""


class BackupError(StartError):
    """One line for the operator; what was there before is still there."""


class Kind(StrEnum):
    SQLITE = "SQLite"
    POSTGRES = "PostgreSQL"


NOT_SQLITE = "file is not a database"
MAGIC = {b"SQLite format 3\x00": Kind.SQLITE, b"PGDMP": Kind.POSTGRES}


@dataclass(frozen=True, slots=True)
class Content:
    """What is compared when a backup is read back: its migration, and the number of rows of each table."""

    revision: str
    rows: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.rows.values())


def check_kind(file: Path, wanted: Kind) -> None:
    """
    Raises:
        BackupError: the file is not a backup, or is one of the other database.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        begin = opened.read(max(map(len, MAGIC)))
    for magic, kind in MAGIC.items():
        if begin.startswith(magic):
            if kind is not wanted:
                raise BackupError(f"{file} is a backup of {kind}; to move to {wanted} use `export` and `import`")
            return
    raise BackupError(f"{file} is not a backup" + ("" if begin else ": it is empty"))


def check_revision(file: Path, revision: str) -> None:
    """
    Raises:
        BackupError: the backup is at a migration that we do not have.
    """
    known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
    if revision not in known:
        raise BackupError(f"{file} was made by a newer version (its migration is {revision}); upgrade first")


def check_same(found: Content, wanted: Content, what: str) -> None:
    """
    Raises:
        BackupError: names the first difference.
    """
    if found.revision != wanted.revision:
        raise BackupError(f"{what}: the migration is {found.revision}, not {wanted.revision}")
    for table in sorted(wanted.rows.keys() | found.rows.keys()):
        if found.rows.get(table) != wanted.rows.get(table):
            had, has = wanted.rows.get(table), found.rows.get(table)
            raise BackupError(f"{what}: {table} has {has} rows, not {had}")


def failure(place: object, error: BaseException) -> BackupError:
    """What a library or the system said, in one line."""
    if isinstance(error, BackupError):
        return error
    said = reason_of(error)
    return BackupError(f"{place}: {'it is damaged, or no database' if said == NOT_SQLITE else said}")
