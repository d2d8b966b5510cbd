import multiprocessing
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine
from sqlmodel import SQLModel

import models.conversation
import models.message
import models.run
import models.user
from errors import StartError
from models.conversation import Conversation
from models.database import Database
from models.message import Message
from models.migrate import _config, _head, _revision, migrate
from models.run import Run
from tests.models.conftest import add_user

TABLES = (models.conversation, models.message, models.run, models.user)


def alembic(path: Path, step: Callable[..., None], revision: str) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        step(config, revision)
    engine.dispose()


def tables(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()


async def test_data_lives_through_another_migrate(path: Path) -> None:
    database = Database(path)
    user = await add_user(database)
    conversation = Conversation(owner_id=user, title="t", model="m")
    async with database.write() as session:
        session.add(conversation)
        await session.flush()
        session.add(Message(conversation_id=conversation.id, depth=0, role="USER", content="你好"))
        session.add(Run(user_id=user, requested_model="m", model="m", provider="p", attempts=[{"model": "m"}]))
    await database.aclose()
    migrate(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT content FROM message").fetchall() == [("你好",)]
    connection.close()


async def test_every_migration_can_be_undone_and_done_again_with_data(path: Path) -> None:
    database = Database(path)
    await add_user(database)
    await database.aclose()
    alembic(path, command.downgrade, "base")
    assert tables(path) - {"sqlite_sequence"} == {"alembic_version"}
    migrate(path)
    assert {"user_account", "conversation", "message", "run"} < tables(path)
    assert _revision(path) == _head()


def test_the_migrations_make_what_the_models_say(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    engine.dispose()


def test_four_processes_at_once_do_it_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "chat.db"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=migrate, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert _revision(path) == _head()


@pytest.mark.parametrize("name", ["chat.db", "with space", "per%41cent", "question?mark", "ha#sh", "中文", "quote'\"s"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "chat.db"
    migrate(path)
    assert path.exists()
    assert [each.name for each in tmp_path.iterdir()] == [name]


def one_line(path: Path) -> str:
    with pytest.raises(StartError) as caught:
        migrate(path)
    line = str(caught.value)
    assert "\n" not in line
    assert "DATABASE_URL" in line
    assert str(path) in line
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


def test_a_database_of_a_newer_version_is_said(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    assert "9999" in one_line(path)


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    one_line(tmp_path / "file" / "chat.db")
    one_line(Path("/proc/nowhere/chat.db"))


def test_a_directory_in_the_file_s_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "chat.db").mkdir()
    one_line(tmp_path / "chat.db")
