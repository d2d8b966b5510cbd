"""One statement that inserts a row or changes the one that is there, however many transactions do it at once."""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

INSERTS = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def insert_into(session: AsyncSession, table: type[SQLModel]) -> Any:
    """An INSERT of this session's database, with `on_conflict_do_update`: both have the same."""
    return INSERTS[session.get_bind().dialect.name](table)
