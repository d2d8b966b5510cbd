"""A migrated SQLite file, opened."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.database import Database
from models.ids import new_id
from models.migrate import migrate
from models.user import User


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "chat.db"
    migrate(path)
    return path


@pytest.fixture
def path(tmp_path: Path, migrated: Path) -> Path:
    return Path(shutil.copy(migrated, tmp_path / "chat.db"))


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = Database(path)
    yield database
    await database.aclose()


async def add_user(database: Database) -> str:
    name = new_id("name")
    user = User(username=name, username_key=name, email=name, email_key=name, password_hash="-")
    async with database.write() as session:
        session.add(user)
    return user.id
