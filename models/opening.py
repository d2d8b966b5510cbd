"""The database behind an address."""

from models.address import Address, PostgresAddress
from models.database import Database
from models.postgres import PoolLimits, PostgresDatabase
from models.sqlite import SqliteDatabase


def open_database(address: Address, limits: PoolLimits | None = None) -> Database:
    """`limits` are for PostgreSQL. Nothing is connected yet."""
    if isinstance(address, PostgresAddress):
        return PostgresDatabase(address, limits)
    return SqliteDatabase(address)
