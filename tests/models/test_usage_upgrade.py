"""A server that is brought up to date has runs in its database: what they used is in the new columns and counters."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, text

from chat.stats import count_run
from models.address import Address
from models.columns import EPOCH
from models.migrate import migrate
from models.opening import open_database
from models.run import Run
from models.usage import MOST_MODELS
from tests.conftest import add_user as new_user
from tests.models.test_migrate import alembic, on

pytestmark = pytest.mark.on_both
COUNTERS = ("daily_usage", "model_usage")


@pytest.fixture
def old(address: Address) -> Address:
    """A database of the version before costs, with a user."""
    alembic(address, command.downgrade, "0003")
    columns = "id, username, username_key, email, email_key"
    rest = "password_hash, role, disabled, created_at, conversation_count, message_count, total_tokens"
    values = "'user_1', 'a', 'a', 'a', 'a', '-', 'USER', false, 0, 0, 0, 0"
    change(address, f"INSERT INTO user_account ({columns}, {rest}) VALUES ({values})")
    return address


def change(address: Address, statement: str, **values: Any) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text(statement), values)
        connection.commit()

    on(address, work)


def look(address: Address, statement: str) -> list[Any]:
    return on(address, lambda connection: [tuple(row) for row in connection.execute(text(statement))])


def add_run(address: Address, number: int, **values: object) -> None:
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
    marks = ", ".join(f":{name}" for name in row)
    change(address, f"INSERT INTO run ({', '.join(row)}) VALUES ({marks})", **row)


def test_what_the_embedded_model_wrote_cost_nothing_the_rest_nobody_knows(old: Address) -> None:
    add_run(old, 1, prompt_tokens=5, completion_tokens=5)
    add_run(old, 2, prompt_tokens=5, completion_tokens=5, provider="scripted")
    add_run(old, 3)
    migrate(old)
    rows = look(old, "SELECT id, cost_nanos FROM run ORDER BY id")
    assert rows == [("run_1", 0), ("run_2", None), ("run_3", None)]


async def test_what_it_counts_is_what_runs_count_at_their_end(address: Address) -> None:
    """The counters of a database that was there before are as if they had always been."""
    database = open_database(address)
    users = [await new_user(database) for _ in range(2)]
    async with database.write() as session:
        for run in some_runs(users):
            session.add(run)
            await session.flush()
            if not run.active:
                await count_run(session, run)
    await database.aclose()
    queries = [f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4" for table in COUNTERS]
    counted = [look(address, query) for query in queries]
    assert len(counted[0]) == 2 * 20
    assert len({row[:3] for row in counted[1]}) == 2 * (MOST_MODELS + 1)
    alembic(address, command.downgrade, "0005")
    await asyncio.to_thread(migrate, address)
    assert [look(address, query) for query in queries] == counted


def some_runs(users: list[str]) -> Iterator[Run]:
    """Of every kind, over 20 days, with more models than are counted by their names."""
    for number in range(700):
        for user in (*users, None):
            # The order of ids is the order of ends: which models come too late to have a name depends on it.
            run = Run(id=f"run_{number:03}_{user}", user_id=user, requested_model="m", model="m", provider="p")
            run.model = f"m{number % 250}"
            run.created_at = EPOCH + timedelta(days=20_000 + number % 20, hours=number % 24)
            run.time_to_first_token_ms = None if number % 250 % 3 else 1.07 ** (number % 250)
            if number % 5:
                run.prompt_tokens, run.completion_tokens = number, 7
                run.cost_nanos = number * 11 if number % 3 else None
            run.status = "RUNNING" if number % 50 == 49 else "FAILED" if number % 4 else "COMPLETED"
            yield run


def test_it_can_be_undone_with_data_in_it(old: Address) -> None:
    add_run(old, 1, prompt_tokens=5, completion_tokens=5)
    query = "SELECT id, user_id, model, prompt_tokens, created_at, max_tokens FROM run"
    before = look(old, query)
    migrate(old)
    alembic(old, command.downgrade, "0003")
    assert look(old, query) == before
