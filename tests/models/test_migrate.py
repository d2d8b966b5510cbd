"""Migrations, on both databases: up and down with data in them, by many processes at once, and what cannot work."""

import asyncio
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, create_engine, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from errors import StartError
from models.address import Address, PostgresAddress
from models.change import Change
from models.conversation import Conversation
from models.member import Member
from models.message import Message
from models.migrate import check_migrated, configuration, head, migrate, revision_of
from models.opening import open_database
from models.postgres_driver import connect
from models.run import Run
from models.search import index_messages, search_messages
from models.words import Term
from tests.conftest import add_user
from tests.databases import KINDS, Postgres, run
from tests.server import free_port

T = TypeVar("T")


def on(address: Address, work: Callable[[Connection], T]) -> T:
    """What `work` gives on a connection of its own."""
    if isinstance(address, PostgresAddress):
        return run(_on_postgres(address, work))
    engine = create_engine(URL.create("sqlite", database=str(address)), poolclass=NullPool)
    with engine.connect() as connection:
        return work(connection)


async def _on_postgres(address: PostgresAddress, work: Callable[[Connection], T]) -> T:
    def connected() -> Any:
        return connect(address, 30)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connected, poolclass=NullPool)
    async with engine.connect() as connection:
        return await connection.run_sync(work)


def alembic(address: Address, step: Callable[..., None], revision: str) -> None:
    def work(connection: Connection) -> None:
        config = configuration()
        config.attributes["connection"] = connection
        step(config, revision)

    on(address, work)


def tables(address: Address) -> set[str]:
    return on(address, lambda connection: set(inspect(connection).get_table_names())) - {"sqlite_sequence"}


def statement(address: Address, sql: str) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text(sql))
        connection.commit()

    on(address, work)


def rows(address: Address, sql: str) -> list[tuple[Any, ...]]:
    return on(address, lambda connection: [tuple(row) for row in connection.execute(text(sql))])


@contextmanager
def unmade(kind: str, request: pytest.FixtureRequest) -> Iterator[Address]:
    """A place where there is no database yet, or one without a table."""
    if kind == KINDS[0]:
        folder: Path = request.getfixturevalue("tmp_path")
        yield folder / "new" / "chat.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.empty() as made:
        yield made


async def fill(address: Address) -> str:
    """A row in every table that existed from the beginning; the user's id."""
    database = open_database(address)
    user = await add_user(database)
    conversation = Conversation(owner_id=user, title="t", model="m")
    async with database.write() as session:
        session.add(conversation)
        await session.flush()
        session.add(Message(conversation_id=conversation.id, depth=0, role="USER", content="你好"))
        session.add(Run(user_id=user, requested_model="m", model="m", provider="p", attempts=[{"model": "m"}]))
    await database.aclose()
    return user


@pytest.mark.on_both
async def test_data_lives_through_another_migrate(address: Address) -> None:
    await fill(address)
    migrate_apart(address)
    assert rows(address, "SELECT content FROM message") == [("你好",)]


def migrate_apart(address: Address) -> None:
    """As the server does: in a thread without a loop."""
    run(asyncio.to_thread(migrate, address))


@pytest.mark.on_both
async def test_every_migration_can_be_undone_and_done_again_with_data(address: Address) -> None:
    user = await fill(address)
    steps = len(list(ScriptDirectory.from_config(configuration()).walk_revisions()))
    for back in range(1, steps):
        alembic(address, command.downgrade, f"-{back}")
        assert rows(address, "SELECT content FROM message") == [("你好",)]
        migrate_apart(address)
        assert rows(address, "SELECT id FROM user_account") == [(user,)]
        assert on(address, revision_of) == head()
    alembic(address, command.downgrade, "base")
    assert tables(address) == {"alembic_version"}
    migrate_apart(address)
    assert {"user_account", "conversation", "message", "run"} < tables(address)
    await fill(address)


@pytest.mark.on_both
async def test_each_migration_finds_the_rows_of_all_that_came_before(address: Address) -> None:
    """Every table has rows, more than a migration reads at once, when it is taken back and made again; what was counted
    or indexed from them is then there again."""
    user = await fill(address)
    conversation = rows(address, "SELECT id FROM conversation")[0][0]
    database = open_database(address)
    friend = await add_user(database)
    async with database.write() as session:
        session.add_all(
            Message(
                id=f"msg_{number:05}", conversation_id=conversation, depth=1, role="USER", content=f"needle{number}"
            )
            for number in range(1_200)
        )
        session.add(Member(conversation_id=conversation, user_id=friend, role="VIEWER"))
        session.add_all(Change(audience=user, kind="run", ref="x") for _ in range(3))
        await session.flush()
        await index_messages(session, [(f"msg_{number:05}", f"needle{number}") for number in range(1_200)])
    await database.aclose()
    walked = list(ScriptDirectory.from_config(configuration()).walk_revisions())
    for revision in walked[:-1]:
        alembic(address, command.downgrade, str(revision.down_revision))
    assert rows(address, "SELECT count(*) FROM message") == [(1_201,)]
    for revision in reversed(walked[:-1]):
        alembic(address, command.upgrade, revision.revision)
    assert rows(address, "SELECT count(*) FROM message_search") == [(1_201,)]
    database = open_database(address)
    async with database.read() as session:
        for number in (0, 499, 500, 1_199):
            assert [f.message_id for f in await search_messages(session, user, [Term((f"needle{number}",))])] == [
                f"msg_{number:05}"
            ]
    await database.aclose()


@pytest.mark.on_both
def test_the_migrations_make_what_the_models_say(address: Address) -> None:
    """Alembic says what is missing or too much."""
    alembic(address, lambda config, _: command.check(config), "head")


def test_every_text_is_sorted_by_its_bytes(postgres: Postgres) -> None:
    """By a language's rules two machines would not agree on the order of ids, nor an index with itself after the
    operating system's update. `models.columns.Text` says so in a migration."""
    with postgres.migrated() as address:
        sql = """SELECT table_name, column_name FROM information_schema.columns
            WHERE table_schema = 'public' AND data_type IN ('text', 'character varying')
            AND collation_name IS DISTINCT FROM 'C' AND table_name <> 'alembic_version'"""
        assert rows(address, sql) == []


@pytest.mark.on_both
def test_four_processes_at_once_do_it_once(kind: str, request: pytest.FixtureRequest) -> None:
    with unmade(kind, request) as address:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=migrate, args=(address,)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        assert on(address, revision_of) == head()


def test_a_migration_that_fails_leaves_nothing_half_done(postgres: Postgres) -> None:
    with postgres.empty() as address:
        statement(address, "CREATE TABLE message (id text)")
        assert "already exists" in one_line(address)
        assert tables(address) == {"message"}


def test_a_server_that_is_not_there_is_said_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.migrate.PATIENCE_SECONDS", 0.1)
    line = one_line(PostgresAddress.parse(f"postgresql://u:hidden@127.0.0.1:{free_port()}/chat"))
    assert "refused" in line.lower() or "connect" in line.lower()
    assert "hidden" not in line


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=require", "SSL"),
        ("sslmode=verify-full", "certificate"),
        ("sslmode=bogus", "sslmode"),
        ("sslmode=verify-ca&sslrootcert=/nowhere.pem", "No such file"),
        ("foo=bar", "foo"),
        ("target_session_attrs=bogus", "target_session_attrs"),
    ],
)
def test_a_parameter_that_cannot_be_kept_is_said_at_once(postgres: Postgres, query: str, said: str) -> None:
    """Never less safe than asked for: a server without TLS is refused, not used without it."""
    begun = time.monotonic()
    assert said in one_line(PostgresAddress.parse(f"{postgres.url}?{query}"))
    assert time.monotonic() - begun < 5, "it will not change by waiting"


@pytest.mark.parametrize(
    "query", ["sslmode=prefer", "sslmode=disable", "application_name=x", "target_session_attrs=read-write"]
)
def test_a_parameter_that_can_be_kept_is(postgres: Postgres, query: str) -> None:
    with postgres.migrated() as address:
        migrate(PostgresAddress.parse(f"{address.dsn}?{query}"))


def test_a_database_that_is_not_there_is_said(postgres: Postgres) -> None:
    assert "does not exist" in one_line(postgres.database("nowhere_at_all"))


@pytest.mark.parametrize("name", ["chat.db", "with space", "per%41cent", "question?mark", "ha#sh", "中文", "quote'\"s"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "chat.db"
    migrate(path)
    assert path.exists()
    assert [each.name for each in tmp_path.iterdir()] == [name]


def one_line(address: Address) -> str:
    with pytest.raises(StartError) as caught:
        migrate(address)
    line = str(caught.value)
    assert "\n" not in line
    assert "DATABASE_URL" in line
    assert str(address) in line
    return line


def test_a_file_that_is_no_database_is_said_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    path.write_bytes(b"this is not a database, " * 100)
    assert "not a database" in one_line(path)
    assert path.read_bytes() == b"this is not a database, " * 100


def test_a_database_of_someone_else_s_is_said(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE user_account (id TEXT)")
    connection.close()
    assert "already exists" in one_line(path)


@pytest.mark.on_both
def test_a_database_of_a_newer_version_is_said(address: Address) -> None:
    statement(address, "UPDATE alembic_version SET version_num = '9999'")
    assert "9999" in one_line(address)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    one_line(tmp_path / "file" / "chat.db")
    one_line(Path("/proc/nowhere/chat.db"))


def test_a_directory_in_the_file_s_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "chat.db").mkdir()
    one_line(tmp_path / "chat.db")


@pytest.mark.on_both
async def test_a_database_that_is_a_step_ahead_is_served_and_one_that_is_further_is_not(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """A rolling upgrade: the new version has migrated, and an old process is restarted. Migrations only add."""
    ahead = f"{int(head() or 0) + 1:04}"
    statement(address, "ALTER TABLE conversation ADD COLUMN of_tomorrow VARCHAR")
    statement(address, f"UPDATE alembic_version SET version_num = '{ahead}'")
    migrate_apart(address)
    run(asyncio.to_thread(check_migrated, address))
    assert "a step ahead" in caplog.text
    assert on(address, revision_of) == ahead
    await fill(address)
    assert rows(address, "SELECT content FROM message") == [("你好",)]
    statement(address, f"UPDATE alembic_version SET version_num = '{int(ahead) + 1:04}'")
    with pytest.raises(StartError):
        migrate_apart(address)
