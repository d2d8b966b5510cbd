import asyncio
import sqlite3
import subprocess
import sys
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlmodel import select

import models.sqlite_journal
from errors import BadUserInput, Unavailable
from models.database import Database
from models.failures import translated
from models.journal import delete_segments, encode
from models.sqlite import READERS, SqliteDatabase
from models.user import User, count_users
from models.worker import register_worker
from tests.conftest import add_user

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


both = pytest.mark.on_both


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.sqlite_journal.BUSY_SECONDS", 0.2)


def someone(name: str) -> User:
    return User(username=name, username_key=name, email=name, email_key=name, password_hash="-")


@both
async def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    async def fail() -> None:
        async with database.write() as session:
            session.add(someone("ann"))
            await session.flush()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    async with database.read() as session:
        assert await count_users(session) == 0


@both
async def test_a_failed_statement_leaves_the_writer_usable(database: Database) -> None:
    await add_user(database)
    for _ in range(3):
        with pytest.raises(IntegrityError):
            async with database.write() as session:
                session.add_all([someone("ann"), someone("ann")])
    async with database.write() as session:
        session.add(someone("ann"))
    async with database.read() as session:
        assert await count_users(session) == 2


async def test_writers_take_turns_and_readers_do_not_wait(database: Database) -> None:
    async with database.write() as session:
        session.add(someone("ann"))
        await session.flush()
        other = asyncio.create_task(add_user(database))
        async with asyncio.timeout(5), database.read() as reading:
            assert await count_users(reading) == 0, "not committed yet"
        assert not other.done()
    await other
    async with database.read() as session:
        assert await count_users(session) == 2


@both
async def test_a_read_sees_one_moment(database: Database) -> None:
    """The list and its messages are two statements: what is written between them is in neither."""
    async with database.read() as session:
        assert await count_users(session) == 0
        await add_user(database)
        assert await count_users(session) == 0
    async with database.read() as session:
        assert await count_users(session) == 1


async def test_a_file_that_another_process_holds_is_unavailable_and_then_is_not(path: Path) -> None:
    database = SqliteDatabase(path)
    await add_user(database)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), "BEGIN IMMEDIATE"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        assert holder.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                await add_user(database)
            assert caught.value.retry_after
            assert "locked" not in caught.value.message
        async with database.read() as session:
            assert await count_users(session) == 1, "reads go on"
        holder.stdin.close()
        holder.wait(10)
    await add_user(database)
    await database.aclose()


async def test_a_full_disk_is_unavailable(database: Database) -> None:
    await add_user(database)
    async with database.write() as session:
        connection = await session.connection()
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar_one()
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable):
        async with database.write() as session:
            session.add(someone("x" * 100_000))
    async with database.read() as session:
        assert await count_users(session) == 1


async def test_more_readers_than_there_are_is_unavailable(path: Path) -> None:
    """SQLAlchemy's own TimeoutError, which is not Python's."""
    database = SqliteDatabase(path)
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            session = await stack.enter_async_context(database.read())
            await count_users(session)
        with pytest.raises(Unavailable) as caught:
            async with database.read() as session:
                await count_users(session)
        assert caught.value.retry_after
    async with database.read() as session:
        await count_users(session)
    await database.aclose()


@both
@pytest.mark.parametrize("error", [TimeoutError(), asyncio.CancelledError(), KeyError(), Unavailable()])
async def test_errors_of_the_block_pass_as_they_are(database: Database, error: BaseException) -> None:
    for block in (database.read, database.write):
        with pytest.raises(type(error)) as caught:
            async with block():
                raise error
        assert caught.value is error


@pytest.mark.parametrize("message", ["database is locked", "database or disk is full", "disk I/O error"])
def test_what_may_pass_is_unavailable(message: str) -> None:
    with pytest.raises(Unavailable), translated():
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError(message))


def test_what_is_a_bug_stays_a_bug() -> None:
    with pytest.raises(OperationalError), translated():
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("no such table: x"))


@both
async def test_what_utf_8_does_not_write_is_the_client_s_mistake(database: Database) -> None:
    """As on PostgreSQL."""
    async with database.read() as session:
        query = select(User).where(User.username == "a\ud800")
        with pytest.raises(BadUserInput), translated():
            await session.exec(query)


@both
async def test_a_task_cancelled_at_any_moment_leaves_no_lock(database: Database) -> None:
    """A client that leaves: its half-done transaction must not hold SQLite's only write lock for the others."""

    async def write(name: str) -> None:
        async with database.write() as session:
            session.add(someone(name))
            await session.flush()
            await count_users(session)

    await write("first")
    for number in range(150):
        task = asyncio.create_task(write(f"cancelled{number}"))
        await asyncio.sleep(number % 50 * 0.0002)
        task.cancel()
        await asyncio.wait([task])
        begun = time.perf_counter()
        await write(f"after{number}")
        assert time.perf_counter() - begun < models.sqlite_journal.BUSY_SECONDS
    async with database.read() as session:
        names = set((await session.exec(select(User.username))).all())
    assert {f"after{number}" for number in range(150)} < names


async def test_pragmas_are_set_on_every_connection(database: Database) -> None:
    for block in (database.read, database.write):
        async with block() as session:
            connection = await session.connection()
            values = [
                (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
            ]
        assert values == ["wal", 1, 1, 1]


async def test_what_is_deleted_is_not_in_the_file_any_more(path: Path) -> None:
    """Of a stateless chat nothing stays, not even in pages that wait to be used again. A window of many answers is some
    pages long, so it is those that are freed whole which matter."""
    database = SqliteDatabase(path)
    journal = database.journal_writer()
    secret = "nobody else's business "
    async with database.write() as session:
        await register_worker(session, "me", 60)
    row = await journal.append("me", encode([("run_1", 0, [["t", secret * 1_000]])]))
    await journal.checkpoint("me", [("run_1", 0, [["t", secret * 500]])], 0)
    assert secret.encode() in on_disk(path)
    await journal.checkpoint("me", [], row)
    async with database.write() as session:
        await delete_segments(session, ["run_1"])
    assert secret.encode() not in on_disk(path)
    await journal.aclose()
    await database.aclose()


def on_disk(path: Path) -> bytes:
    """What the file has behind a checkpoint."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes()
