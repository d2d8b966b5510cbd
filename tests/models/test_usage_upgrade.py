"""A server that is brought up to date has runs in its database: what they used is in the new columns and counters."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command

from models.migrate import migrate
from tests.models.test_migrate import alembic


@pytest.fixture
def old(path: Path) -> Path:
    """A database of the version before costs."""
    alembic(path, command.downgrade, "0003")
    return path


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def add_run(connection: sqlite3.Connection, number: int, **values: object) -> None:
    row = {
        "id": f"run_{number}",
        "user_id": "user_1",
        "status": "COMPLETED",
        "requested_model": "m",
        "model": "m",
        "provider": "local",
        "created_at": 1_760_000_000_000,
        "usage_estimated": False,
        "attempts": "[]",
        "last_seq": 3,
        "cancel_requested": False,
    } | values
    columns, marks = ", ".join(row), ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO run ({columns}) VALUES ({marks})", list(row.values()))


def add_user(connection: sqlite3.Connection, name: str = "user_1") -> None:
    connection.execute(
        "INSERT INTO user_account VALUES (?, ?, ?, ?, ?, '-', 'USER', 0, 0, 0, 0, 0)", [name, name, name, name, name]
    )


def test_what_the_embedded_model_wrote_cost_nothing_the_rest_nobody_knows(old: Path) -> None:
    with opened(old) as connection:
        add_user(connection)
        add_run(connection, 1, prompt_tokens=5, completion_tokens=5)
        add_run(connection, 2, prompt_tokens=5, completion_tokens=5, provider="scripted")
        add_run(connection, 3)
    migrate(old)
    with opened(old) as connection:
        rows = connection.execute("SELECT id, cost_nanos FROM run ORDER BY id").fetchall()
    assert rows == [("run_1", 0), ("run_2", None), ("run_3", None)]


def test_it_can_be_undone_with_data_in_it(old: Path, tmp_path: Path) -> None:
    with opened(old) as connection:
        add_user(connection)
        add_run(connection, 1, prompt_tokens=5, completion_tokens=5)
        before = connection.execute("SELECT * FROM run").fetchall()
    migrate(old)
    alembic(old, command.downgrade, "0003")
    with opened(Path(shutil.copy(old, tmp_path / "copy.db"))) as connection:
        assert connection.execute("SELECT * FROM run").fetchall() == before
