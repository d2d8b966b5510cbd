"""Column types that mean the same on every database."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Integer, String
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_MILLIS = 253_402_300_799_999


def to_millis(moment: datetime) -> int:
    """Whole milliseconds since the epoch, exact (no float on the way)."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def from_millis(millis: int) -> datetime:
    return EPOCH + timedelta(milliseconds=millis)


def utc_now() -> datetime:
    """Now, cut to the millisecond that the database keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def Text() -> String:  # noqa: N802
    """For migrations: text that both databases compare and sort by its bytes. By a language's rules, which change with
    the operating system's version, two machines would not agree on the order of ids."""
    return String().with_variant(String(collation="C"), "postgresql")


def Serial() -> BigInteger:  # noqa: N802
    """A number that the database gives to each row: 64 bits on both, though SQLite counts only in what it calls so."""
    return BigInteger().with_variant(Integer(), "sqlite")


class Millis(TypeDecorator[datetime]):
    """An aware datetime kept as integer milliseconds: SQLite would lose its zone, and REST speaks milliseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else to_millis(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else from_millis(value)


class Day(TypeDecorator[date]):
    """A UTC date kept as days since the epoch: what milliseconds divided by a day's give, on every database."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: date | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - EPOCH.date()).days

    def process_result_value(self, value: Any | None, dialect: Dialect) -> date | None:  # noqa: ARG002
        return None if value is None else EPOCH.date() + timedelta(days=value)
