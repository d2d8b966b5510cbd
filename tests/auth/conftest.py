"""Accounts on a real SQLite file."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from auth.accounts import Accounts
from auth.passwords import Passwords
from auth.throttle import NO_LIMITS, Throttle
from auth.tokens import Tokens
from models.database import Database
from models.migrate import migrate

SECRET = "a secret for tests only, 32 bytes or more"
MINUTES = 30


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "chat.db"
    migrate(path)
    return path


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords()
    yield passwords
    passwords.close()


@pytest.fixture
async def database(tmp_path: Path, migrated: Path) -> AsyncIterator[Database]:
    database = Database(Path(shutil.copy(migrated, tmp_path / "chat.db")))
    yield database
    await database.aclose()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(SECRET, MINUTES)


@pytest.fixture
def accounts(database: Database, passwords: Passwords, tokens: Tokens) -> Accounts:
    return Accounts(database, passwords, tokens, Throttle(database, NO_LIMITS))
