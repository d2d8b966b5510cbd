"""SQLite's online backup, and a restore that puts the new file in the old one's place by one rename."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout
from sqlalchemy.exc import DatabaseError

from models.backup import BackupError, Content, Kind, Report, check_kind, check_revision, check_same, failure
from models.migrate import sqlite_engine, upgrade
from models.new_file import new_file

PAGES = 2_000
"""Between two reports: 8 MB, some 10 ms."""
LOCK_SECONDS = 5
IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def back_up(path: Path, file: Path, report: Report, *, force: bool) -> Content:
    """Copy the database as it is at this moment, whoever writes meanwhile, and read the copy back.

    Raises:
        BackupError: one line.
    """
    if not path.is_file():
        raise BackupError(f"{path}: there is no database yet")
    try:
        with closing(_open(path, "mode=rw")) as source, new_file(file, force=force) as part:
            # One moment: without a transaction of its own the copy would begin again at each commit of others.
            source.execute("BEGIN")
            content = content_of(source, path)
            _copy(source, part, report)
            check_same(read_back(part, report), content, f"{file}, read back")
    except (OSError, sqlite3.Error) as error:
        raise failure(file if isinstance(error, OSError) else path, error) from error
    return content


def _open(path: Path, how: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, isolation_level=None, timeout=LOCK_SECONDS)


def _copy(source: sqlite3.Connection, part: Path, report: Report) -> None:
    with closing(sqlite3.connect(part, isolation_level=None)) as target:
        target.execute("PRAGMA synchronous=OFF")  # whoever made the file brings it to the disk, as a whole
        source.backup(target, pages=PAGES, progress=lambda _, left, all_: report("copying pages", all_ - left, all_))
        # One file: a copy in WAL mode would want two more beside it when it is opened.
        target.execute("PRAGMA journal_mode=DELETE")


def content_of(connection: sqlite3.Connection, place: Path) -> Content:
    """
    Raises:
        BackupError: it is not a database of ours.
    """
    names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    tables = [name for (name,) in connection.execute(f"{names} AND sql NOT LIKE 'CREATE VIRTUAL%'")]
    if "alembic_version" not in tables:
        raise BackupError(f"{place} is not a database of this server")
    revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    counts = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}  # noqa: S608
    return Content(str(revision[0]) if revision else "none", counts)


def read_back(file: Path, report: Report) -> Content:
    """Read every page of a backup.

    Raises:
        BackupError: it is not whole.
        sqlite3.Error: it is no database.
    """
    report("reading back", 0, None)
    # Nobody writes to it, and it may lie on a medium on which nothing can be written.
    with closing(_open(file, "mode=ro&immutable=1")) as connection:
        (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if said != "ok":
            raise BackupError(f"{file} is damaged: {' '.join(str(said).split())}")
        return content_of(connection, file)


def restore(path: Path, file: Path, report: Report, *, force: bool) -> Content:
    """Put the backup in the place of the database, at the newest migration.

    Raises:
        BackupError: one line. The database is as it was.
    """
    try:
        check_kind(file, Kind.SQLITE)
        content = read_back(file, report)
        check_revision(file, content.revision)
    except (OSError, sqlite3.Error) as error:
        raise failure(file, error) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A server that starts takes this lock first, and finds the new file when it has it.
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS), _alone(path, force), new_file(path, force=True) as part:
            with closing(_open(file, "mode=ro&immutable=1")) as source:
                _copy(source, part, report)
            check_same(read_back(part, report), content, f"{file}, copied")
            report("migrating", 0, None)
            _upgrade(part)
            _inherit(part, path)
    except Timeout:
        raise BackupError(f"{path}: a server is just starting on it; stop it first") from None
    except (OSError, sqlite3.Error, DatabaseError) as error:
        raise failure(path, error) from error
    return content


def _upgrade(part: Path) -> None:
    with sqlite_engine(part).connect() as connection:
        upgrade(connection)


def _inherit(part: Path, path: Path) -> None:
    """Mode and owner: whoever restores as root must not lock the server out of its own database."""
    old = (path if path.exists() else path.parent).stat()
    if path.exists():
        part.chmod(old.st_mode & 0o777)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.chown(part, old.st_uid, old.st_gid)


@contextmanager
def _alone(path: Path, force: bool) -> Iterator[None]:
    """Hold the database, if there is one, so that nobody else has it open.

    Raises:
        BackupError: somebody has, or there is something in it and not `force`.
    """
    if not path.exists():
        yield
        return
    with closing(sqlite3.connect(path, isolation_level=None, timeout=1)) as connection:
        try:
            # SQLite lets only the one connection there is leave WAL mode: a server has at least one, in any process.
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
            empty = _is_empty(connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF in IN_USE:
                raise BackupError(f"{path}: a server, or another program, has it open; stop it first") from error
            if not force:
                raise BackupError(f"{path} is damaged; --force puts the backup in its place") from error
            empty = True
            # Else SQLite would take them for the new file's.
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).unlink()
        if not empty and not force:
            raise BackupError(f"{path} has accounts in it; --force puts the backup in their place")
        yield


def _is_empty(connection: sqlite3.Connection) -> bool:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return True
    content = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "user_account" not in content:
        return False
    return bool(connection.execute("SELECT count(*) FROM user_account").fetchone()[0] == 0)
