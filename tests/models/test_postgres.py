"""What is PostgreSQL's own: writers side by side, and a server that may be away."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from errors import BadUserInput, Unavailable
from models.address import PostgresAddress
from models.conversation import Conversation
from models.locks import hold
from models.postgres import PoolLimits, PostgresDatabase
from models.user import User, count_users
from tests.conftest import add_user
from tests.databases import Postgres, execute
from tests.proxy import Proxy
from tests.server import free_port

IMPATIENT = PoolLimits(size=2, overflow=1, seconds=0.5)


@pytest.fixture
def address(postgres: Postgres) -> Iterator[PostgresAddress]:
    with postgres.migrated() as made:
        yield made


@pytest.fixture
async def database(address: PostgresAddress) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(address, IMPATIENT)
    yield database
    await database.aclose()


async def run_sql(database: PostgresDatabase, sql: str) -> None:
    async with database.write() as session:
        await (await session.connection()).execute(text(sql))


async def test_a_server_that_answers_no_more_is_away(address: PostgresAddress) -> None:
    """No packet comes back and no connection is closed, as when a switch breaks. The driver's TimeoutError is none of
    DBAPI's errors, and passed for a bug of ours: clients were told a 500, for which nobody comes back."""
    port = urlsplit(address.dsn).port or 0
    with Proxy(port) as way:
        through = PostgresAddress(address.dsn.replace(f":{port}", f":{way.port}"))
        database = PostgresDatabase(through, IMPATIENT)
        async with database.read() as session:
            await count_users(session)
        way.cut()
        for urgent in (False, True):
            with pytest.raises(Unavailable):
                async with database.read(urgent=urgent) as session:
                    await count_users(session)
        with pytest.raises(Unavailable):
            await add_user(database)
        way.mend()
        await add_user(database)
        async with database.read() as session:
            assert await count_users(session) == 1
        await database.aclose()


async def test_writers_go_side_by_side(database: PostgresDatabase) -> None:
    async with database.write() as session:
        session.add(User(username="a", username_key="a", email="a", email_key="a", password_hash="-"))
        await session.flush()
        await add_user(database)
        async with database.read() as reading:
            assert await count_users(reading) == 1, "not committed yet"
    async with database.read() as session:
        assert await count_users(session) == 2


async def test_every_connection_has_its_bounds(database: PostgresDatabase) -> None:
    for block in (database.read, database.write):
        async with block() as session:
            rows = await (await session.connection()).execute(text("SELECT name, setting FROM pg_settings"))
            settings = {row[0]: row[1] for row in rows}
        assert settings["synchronous_commit"] == "on"
        assert settings["statement_timeout"] == settings["lock_timeout"] == "500"
        assert settings["idle_in_transaction_session_timeout"] == "5000"
        assert settings["client_connection_check_interval"] == "1000"
        assert settings["transaction_read_only"] == ("on" if block == database.read else "off")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT pg_sleep(30)",
        "LOCK TABLE worker IN ACCESS EXCLUSIVE MODE",
        "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'disk_full'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = 'serialization_failure'; END $$",
        "SELECT pg_terminate_backend(pg_backend_pid())",
    ],
)
async def test_what_may_pass_is_unavailable_and_then_is_not(database: PostgresDatabase, sql: str) -> None:
    async with database.read() as session:
        await (await session.connection()).execute(text("SELECT * FROM worker"))
        with pytest.raises(Unavailable) as caught:
            await run_sql(database, sql)
        assert caught.value.retry_after
    await add_user(database)
    async with database.read() as session:
        assert await count_users(session) == 1


async def test_what_violates_a_constraint_stays_what_it_is(database: PostgresDatabase) -> None:
    with pytest.raises(IntegrityError):
        await run_sql(database, "INSERT INTO member VALUES ('x', 'y', 'OWNER', 0)")


async def test_what_no_column_holds_is_the_client_s_mistake(database: PostgresDatabase) -> None:
    """SQLite would just find nothing."""

    async def find(query: Any) -> None:
        async with database.read() as session:
            await session.exec(query)

    for name in ("a\x00b", "a\ud800"):
        with pytest.raises(BadUserInput):
            await find(select(User).where(User.username == name))
    with pytest.raises(BadUserInput):
        await find(select(Conversation).where(Conversation.version == 2**40))
    await add_user(database)


async def test_a_pool_that_is_empty_is_unavailable_but_leases_go_on(database: PostgresDatabase) -> None:
    """A crowd that waits for one row must not make this worker look dead."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            session = await stack.enter_async_context(database.read())
            await count_users(session)
        with pytest.raises(Unavailable):
            await add_user(database)
        async with database.write(urgent=True) as session:
            await count_users(session)
    await add_user(database)


async def test_connections_that_the_server_cut_are_not_handed_out(
    database: PostgresDatabase, address: PostgresAddress, postgres: Postgres
) -> None:
    """A restart costs what was under way: nobody who comes later is handed a dead connection."""
    for _ in range(3):
        await asyncio.gather(add_user(database), add_user(database))
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
        assert await execute(postgres.url, cut, address.dsn.rpartition("/")[2].partition("?")[0])
        await asyncio.sleep(0.1)
    async with database.read() as session:
        assert await count_users(session) == 6


async def test_a_server_that_is_not_there_is_unavailable_within_seconds() -> None:
    database = PostgresDatabase(PostgresAddress.parse(f"postgresql://u:p@127.0.0.1:{free_port()}/x"), IMPATIENT)
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        await add_user(database)
    assert time.monotonic() - begun < 10
    await database.aclose()


async def test_a_server_that_takes_no_more_connections_is_unavailable(
    address: PostgresAddress, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, whatever the number of requests. Leases go on, so that nobody else says it."""
    name = address.dsn.rpartition("/")[2].partition("?")[0]
    monkeypatch.setattr("models.postgres_driver.PATIENCE_SECONDS", 0.2)
    if not await execute(postgres.url, "SELECT 1 FROM pg_roles WHERE rolname = 'modest'"):
        await execute(postgres.url, "CREATE ROLE modest LOGIN")
    await execute(postgres.url, f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    modest = PostgresAddress.parse(address.dsn.replace("chat@", "modest@"))
    database = PostgresDatabase(modest, IMPATIENT)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await add_user(database)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "no connection left" in line
    assert "too many connections" in line
    monkeypatch.setattr(database, "_silent_until", 0.0)
    with pytest.raises(Unavailable):
        await add_user(database)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 2
    await database.aclose()


async def test_a_server_that_does_not_let_us_in_is_unavailable_and_says_why(postgres: Postgres) -> None:
    database = PostgresDatabase(postgres.database("nowhere_at_all"), IMPATIENT)
    with pytest.raises(Unavailable) as caught:
        await add_user(database)
    assert "nowhere_at_all" in str(caught.value.__cause__)
    assert "nowhere_at_all" not in caught.value.message
    await database.aclose()


async def test_a_transaction_that_stands_still_is_ended_by_the_server(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is stopped, or cut off: what it has taken must not be held for ever."""
    monkeypatch.setattr("models.postgres_driver.STANDING_SECONDS", 0.2)

    async def stand_still() -> None:
        async with database.write() as session:
            await hold(session, "a")
            await asyncio.sleep(0.6)

    with pytest.raises(Unavailable):
        await stand_still()
    async with database.write() as session:
        await hold(session, "a")


class TestHold:
    async def test_is_one_transaction_s_at_a_time(self, database: PostgresDatabase) -> None:
        async with database.write() as session:
            await hold(session, "a", "b")
            async with database.write() as other:
                await hold(other, "c")
            with pytest.raises(Unavailable):
                await self.take(database, "b")

    async def take(self, database: PostgresDatabase, name: str) -> None:
        async with database.write() as session:
            await hold(session, name)

    async def test_two_who_take_several_never_wait_for_each_other(self, database: PostgresDatabase) -> None:
        async def take(*names: str) -> None:
            for _ in range(50):
                async with database.write() as session:
                    await hold(session, *names)

        await asyncio.gather(take("a", "b", "c"), take("c", "b", "a"), take("b", "a"))


async def test_a_cancelled_task_gives_its_connection_back(database: PostgresDatabase) -> None:
    async def slow() -> None:
        await run_sql(database, "SELECT pg_sleep(0.3)")

    for _ in range(6):
        tasks = [asyncio.create_task(slow()) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await add_user(database)
