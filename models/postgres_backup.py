"""PostgreSQL by pg_dump, and a restore that is one transaction."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

from asyncpg.exceptions import InterfaceError, PostgresError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from errors import Unavailable
from models.address import PostgresAddress
from models.backup import BackupError, Content, Kind, Report, check_kind, check_revision, check_same, failure
from models.dump import Dump, Rows, read_through
from models.migrate import LOCK_KEY, PATIENCE_SECONDS, upgrade
from models.new_file import new_file
from models.postgres_driver import SERVER, connect
from models.postgres_tools import connection_arguments, find, output_of, run

STATEMENT_SECONDS = 86_400
"""Counting a large table, or filling it, takes its time; nobody waits for it but the operator."""
LOCK_SECONDS = 10
TROUBLE = (OSError, PostgresError, InterfaceError, DBAPIError, Unavailable)

USERS = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name")
TABLES = """SELECT quote_ident(relname), relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY relname"""
EMPTY = """
DO $$ DECLARE command text; BEGIN
    FOR command IN
        SELECT format('DROP %s IF EXISTS public.%I CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE'
            WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END, relname)
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
        UNION ALL
        SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', oid::regprocedure)
        FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
        UNION ALL
        SELECT format('DROP TYPE IF EXISTS public.%I CASCADE', typname)
        FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_type.oid AND deptype = 'e')
    LOOP EXECUTE command; END LOOP;
END $$"""
"""Everything of ours: what a newer version made would be in the way of an older backup's migrations."""


def back_up(address: PostgresAddress, file: Path, report: Report, *, force: bool) -> Content:
    """Dump the database as it is at this moment, whoever writes meanwhile, and read the dump back.

    Raises:
        BackupError: one line.
    """
    try:
        return asyncio.run(_back_up(address, file, report, force))
    except TROUBLE as error:
        raise failure(file if isinstance(error, OSError) else address, error) from error


def _session(address: PostgresAddress) -> Any:
    patient = {"lock_timeout": f"{LOCK_SECONDS}s", "idle_in_transaction_session_timeout": "0"}
    return connect(address, STATEMENT_SECONDS, PATIENCE_SECONDS, application_name="backup", **patient)


async def _back_up(address: PostgresAddress, file: Path, report: Report, force: bool) -> Content:
    connection = await _session(address)
    try:
        program = find("pg_dump", connection.get_server_version().major)
        find("pg_restore")
        with new_file(file, force=force) as part:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                # What is counted and what is dumped are one moment.
                snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
                content = await _content_of(connection, address)
                where, environment = connection_arguments(address)
                what = ["--format=custom", "--no-owner", "--no-privileges", "--no-comments", "--no-subscriptions"]
                command = [program, *what, f"--snapshot={snapshot}", f"--file={part}", *where]

                with _until_stopped(report) as watched:
                    await asyncio.to_thread(
                        run, command, environment, lambda: watched("dumping bytes", part.stat().st_size, None)
                    )
            with _until_stopped(report) as watched:
                found = await asyncio.to_thread(read_back, part, watched, content)
            check_same(found, content, f"{file}, read back")
    finally:
        await connection.close()
    return content


@contextmanager
def _until_stopped(report: Report) -> Iterator[Report]:
    """A thread cannot be cancelled: when the block is left it finds out at its next report."""
    stopped = threading.Event()

    def watched(what: str, done: int, total: int | None) -> None:
        if stopped.is_set():
            raise BackupError("stopped")
        report(what, done, total)

    try:
        yield watched
    finally:
        stopped.set()


async def _content_of(connection: Any, address: PostgresAddress) -> Content:
    tables = {name: quoted for quoted, name in await connection.fetch(TABLES)}
    if "alembic_version" not in tables:
        raise BackupError(f"{address} is not a database of this server")
    revision = await connection.fetchval("SELECT version_num FROM public.alembic_version")
    counts = {
        name: await connection.fetchval(f"SELECT count(*) FROM public.{quoted}")  # noqa: S608
        for name, quoted in tables.items()
    }
    return Content(str(revision) if revision else "none", counts)


def read_back(file: Path, report: Report, wanted: Content | None = None) -> Content:
    """Read every row of a dump.

    Raises:
        BackupError: it is not whole.
    """
    content, total = Content("none", {}), None if wanted is None else wanted.total
    with _printed(file) as stream:
        for content in read_through(stream):
            report("reading back rows", content.total, total)
    return content


def _printed(file: Path) -> AbstractContextManager[IO[bytes]]:
    """The dump as pg_restore prints it."""
    return output_of([find("pg_restore"), "--file=-", "--no-owner", "--no-privileges", str(file)])


def restore(address: PostgresAddress, file: Path, report: Report, *, force: bool) -> Content:
    """Put what the dump holds in the place of what is there, at the newest migration, in one transaction.

    Raises:
        BackupError: one line. The database is as it was.
    """
    try:
        check_kind(file, Kind.POSTGRES)
        content = read_back(file, report)
        if not content.rows or content.revision == "none":
            raise BackupError(f"{file} is not a backup of this server's database")
        check_revision(file, content.revision)
        asyncio.run(_restore(address, file, content, report, force))
    except TROUBLE as error:
        raise failure(file if isinstance(error, OSError) else address, error) from error
    return content


async def _restore(address: PostgresAddress, file: Path, content: Content, report: Report, force: bool) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: _session(address), poolclass=NullPool)
    async with engine.connect() as connection, _alone(connection, address, force) as driver:
        await driver.execute(EMPTY)
        with _printed(file) as stream:
            await _play(driver, Dump(stream), content, report)
        # The dump has its own search path, which the migrations do not expect.
        await driver.execute("RESET ALL")
        check_same(await _content_of(driver, address), content, f"{file}, restored")
        report("migrating", 0, None)
        await connection.run_sync(_upgraded)


def _upgraded(connection: Connection) -> None:
    upgrade(connection)  # commits all of it


async def _play(driver: Any, dump: Dump, content: Content, report: Report) -> None:
    done = 0
    parts = dump.parts()
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        if isinstance(part, Rows):
            source = _batches(part)
            await driver.copy_to_table(part.table, schema_name="public", columns=part.columns, source=source)
            done += part.count
            report("restoring rows", done, content.total)
        elif any(line and not line.startswith(b"--") for line in part.splitlines()):
            # Not comments alone, for which asyncpg has no answer.
            await driver.execute(part.decode())


async def _batches(rows: Rows) -> AsyncIterator[bytes]:
    batches = rows.batches()
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        yield batch


@asynccontextmanager
async def _alone(connection: AsyncConnection, address: PostgresAddress, force: bool) -> AsyncIterator[Any]:
    """The driver's connection, in a transaction of which the block is a part, while no server uses the database.

    Raises:
        BackupError: one does, or there is something in it and not `force`.
    """
    # A server that starts waits for this lock before it does anything, and until the transaction ends.
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    sessions = (await connection.execute(USERS, {"name": SERVER})).scalar_one()
    if sessions:
        raise BackupError(f"{address}: a server is using it ({sessions} connections); stop it first")
    if not force and not await connection.run_sync(_is_empty):
        raise BackupError(f"{address} has accounts in it; --force puts the backup in their place")
    yield (await connection.get_raw_connection()).driver_connection


def _is_empty(connection: Connection) -> bool:
    if not connection.dialect.has_table(connection, "user_account"):
        return True
    return bool(connection.execute(text("SELECT count(*) FROM user_account")).scalar_one() == 0)
