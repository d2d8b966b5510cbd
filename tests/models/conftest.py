"""A database at the newest migration, opened."""

from collections.abc import AsyncIterator

import pytest

from models.address import Address
from models.database import Database
from models.ids import new_id
from models.opening import open_database
from models.user import User


@pytest.fixture
async def database(address: Address) -> AsyncIterator[Database]:
    database = open_database(address)
    yield database
    await database.aclose()


async def add_user(database: Database) -> str:
    name = new_id("name")
    user = User(username=name, username_key=name, email=name, email_key=name, password_hash="-")
    async with database.write() as session:
        session.add(user)
    return user.id
