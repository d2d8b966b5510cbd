"""Brings the database's schema to the newest migration. One process does it, the others wait."""

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from asyncpg.exceptions import InterfaceError, PostgresError
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, text
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from errors import StartError, Unavailable
from models.address import Address, PostgresAddress
from models.postgres_driver import connect

logger = logging.getLogger(__name__)

SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"
WAIT_SECONDS = 60
STATEMENT_SECONDS = 3_600
"""A migration of a large table takes its time."""
PATIENCE_SECONDS = 10.0
"""A server that was started together with this one may need so long to take connections."""
TROUBLE = (OSError, sqlite3.Error, DatabaseError, CommandError, PostgresError, InterfaceError, Unavailable)
LOCK_KEY = 5_064_103_874
"""Of the advisory lock under which PostgreSQL is migrated."""


def migrate(address: Address) -> None:
    """Create the SQLite file if there is none, and run the migrations that the database has not seen.

    Raises:
        StartError: it cannot be opened or written, or is not a database of ours.
    """
    try:
        if isinstance(address, PostgresAddress):
            asyncio.run(_migrate_postgres(address))
        else:
            _migrate_sqlite(address)
    except TROUBLE as error:
        raise unusable(address, error) from error


def seen(address: Address) -> str | None:
    """The newest migration that the database has seen; changes nothing. None: there is none yet.

    Raises:
        StartError: it cannot be read.
    """
    try:
        if isinstance(address, PostgresAddress):
            return asyncio.run(_seen_on_postgres(address))
        if not address.exists():
            return None
        with sqlite_engine(address).connect() as connection:
            return revision_of(connection)
    except TROUBLE as error:
        raise unusable(address, error) from error


async def _seen_on_postgres(address: PostgresAddress) -> str | None:
    def connected() -> Any:
        return connect(address, WAIT_SECONDS, application_name="looking")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=NullPool)
    async with engine.connect() as connection:
        return await connection.run_sync(revision_of)


def check_migrated(address: Address) -> None:
    """
    Raises:
        StartError: it is not at our newest migration.
    """
    if (found := seen(address)) != head() and not is_a_step_ahead(found):
        state = "there is no database yet" if found is None else f"it is at migration {found}, not {head()}"
        raise StartError(f"{address}: {state}; run `python cli.py migrate`")


def unusable(address: Address, error: BaseException) -> StartError:
    """One line for the operator."""
    return StartError(f"DATABASE_URL: cannot use {address} as the database ({reason_of(error)})")


def reason_of(error: BaseException) -> str:
    """What the driver or the system said, in one line."""
    if isinstance(error, Unavailable) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _migrate_sqlite(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=WAIT_SECONDS), sqlite_engine(path).connect() as connection:
        upgrade(connection)


def sqlite_engine(path: Path) -> Engine:
    """A connection of its own each time, for what is not served meanwhile."""
    # Not as text: `?` and `%` in the path would mean something, and the data would go elsewhere.
    return create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, hide_parameters=True)


async def _migrate_postgres(address: PostgresAddress) -> None:
    def connected() -> Any:
        wait = f"{WAIT_SECONDS}s"
        return connect(address, STATEMENT_SECONDS, PATIENCE_SECONDS, lock_timeout=wait, application_name="migration")

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connected, poolclass=NullPool, hide_parameters=True
    )
    async with engine.connect() as connection:
        # The transaction's own: a process that dies in it leaves neither a half nor a lock.
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
        await connection.run_sync(upgrade)


def upgrade(connection: Connection) -> None:
    """Run what the database has not seen; commits. One that is a step ahead is left as it is: while a new version is
    rolled out, old and new processes serve together, and may be restarted."""
    found = revision_of(connection)
    if is_a_step_ahead(found):
        logger.warning("the database is at migration %s, a step ahead of this version: going on with it", found)
    elif found != head():
        config = configuration()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    connection.commit()


def configuration() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def head() -> str | None:
    return ScriptDirectory.from_config(configuration()).get_current_head()


def is_a_step_ahead(found: str | None) -> bool:
    """Whether the database has seen one migration that this version does not know. Each of ours only adds
    (CONTRIBUTING.md), so that the version before it can go on."""
    newest = head()
    if found is None or newest is None or not (found.isdigit() and newest.isdigit()):
        return False
    return int(found) == int(newest) + 1


def revision_of(connection: Connection) -> str | None:
    """The database's newest migration; None when it has seen none."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return None if row is None else str(row[0])
