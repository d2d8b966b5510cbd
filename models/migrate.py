"""Brings the database's schema to the newest migration. One process does it, the others wait."""

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import URL, create_engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from errors import StartError

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"
WAIT_SECONDS = 60


def migrate(path: Path) -> None:
    """Create the SQLite file if there is none, and run the migrations that it has not seen.

    Raises:
        StartError: it cannot be opened or written, or is not a database of ours.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=WAIT_SECONDS):
            if _revision(path) != _head():
                _upgrade(path)
    except (OSError, sqlite3.Error, DatabaseError, CommandError) as error:
        reason = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
        raise StartError(f"DATABASE_URL: cannot use {path} as the database ({reason})") from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _head() -> str | None:
    return ScriptDirectory.from_config(_config()).get_current_head()


def _revision(path: Path) -> str | None:
    if not path.exists():
        return None
    connection = sqlite3.connect(path)
    try:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if known else None
    finally:
        connection.close()
    return row[0] if row else None


def _upgrade(path: Path) -> None:
    # Not as text: `?` and `%` in the path would mean something, and the data would go elsewhere.
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool)
    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
