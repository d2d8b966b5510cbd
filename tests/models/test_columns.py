import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import col, select

from models.columns import EPOCH, MAX_MILLIS, from_millis, to_millis, utc_now
from models.conversation import Conversation
from models.database import Database
from models.ids import new_id
from tests.conftest import add_user


@given(st.integers(0, MAX_MILLIS))
def test_milliseconds_come_back_exactly(millis: int) -> None:
    """No float on the way: at 2^53 microseconds one would begin to round."""
    assert to_millis(from_millis(millis)) == millis


@given(st.datetimes(EPOCH.replace(tzinfo=None), timezones=st.just(UTC)), st.integers(-720, 720))
def test_a_moment_is_the_same_in_every_zone(moment: datetime, minutes: int) -> None:
    there = moment.astimezone(timezone(timedelta(minutes=minutes))) if 1971 < moment.year < 9_999 else moment
    assert to_millis(there) == to_millis(moment)
    assert abs(from_millis(to_millis(moment)) - moment) < timedelta(milliseconds=1)


def test_the_last_moment_is_the_last_of_the_calendar() -> None:
    assert from_millis(MAX_MILLIS) == datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    with pytest.raises(OverflowError):
        from_millis(MAX_MILLIS + 1)


def test_now_is_what_the_database_will_give_back() -> None:
    now = utc_now()
    assert from_millis(to_millis(now)) == now


@pytest.mark.parametrize("millis", [0, 1, 1_697_467_200_123, MAX_MILLIS])
async def test_a_stored_moment_is_aware_and_compares_as_a_number(database: Database, millis: int) -> None:
    row = Conversation(owner_id=await add_user(database), title="t", model="m", updated_at=from_millis(millis))
    async with database.write() as session:
        session.add(row)
    async with database.read() as session:
        found = (await session.exec(select(Conversation).where(col(Conversation.updated_at) == row.updated_at))).one()
        connection = await session.connection()
        raw = (await connection.exec_driver_sql("SELECT updated_at FROM conversation")).scalar_one()
    assert found.updated_at == from_millis(millis)
    assert found.updated_at.tzinfo is UTC
    assert raw == millis


def test_ids_sort_by_time_and_have_a_shape() -> None:
    ids = [new_id("conv") for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(re.fullmatch("conv_[0-9a-hjkmnp-tv-z]{26}", each) for each in ids), "no letters that are read as others"
    assert [each[:15] for each in ids] == sorted(each[:15] for each in ids), "ten characters of milliseconds"
