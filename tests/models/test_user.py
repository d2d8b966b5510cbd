import pytest
from sqlalchemy.exc import IntegrityError

from models.database import Database
from models.user import (
    User,
    add_to_counters,
    count_users,
    name_key,
    user_by_id,
    user_by_name,
    user_exists,
    users_by_ids,
)
from tests.conftest import add_user

pytestmark = pytest.mark.on_both


@pytest.mark.parametrize(
    ("one", "other"), [("ANN", "ann"), ("JOSE\u0301", "josé"), ("Straße", "STRASSE"), ("ﬁ", "FI"), ("İ", "i\u0307")]
)
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


async def test_a_name_is_found_by_any_spelling_and_is_unique(database: Database) -> None:
    def ann() -> User:
        return User(username="Ann", username_key="ann", email="A@b.c", email_key=name_key("A@b.c"), password_hash="-")

    async with database.write() as session:
        session.add(ann())
    async with database.read() as session:
        user = await user_by_name(session, "ANN")
        assert user is not None
        assert await user_by_id(session, user.id) == user
        assert await user_exists(session, username="aNN")
        assert await user_exists(session, email="a@B.C")
        assert not await user_exists(session, username="bob")
        assert await users_by_ids(session, [user.id, "none"]) == {user.id: user}
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            session.add(ann())


async def test_counters_change_by_amounts(database: Database) -> None:
    """In SQL, not by reading first: two processes that count at once must both be counted."""
    user_id, other = await add_user(database), await add_user(database)
    async with database.write() as session:
        await add_to_counters(session, user_id, conversations=2, messages=5, tokens=2**40)
        await add_to_counters(session, user_id, conversations=-1, messages=-2)
    async with database.read() as session:
        user, untouched = await user_by_id(session, user_id), await user_by_id(session, other)
        assert await count_users(session) == 2
    assert user is not None
    assert untouched is not None
    assert (user.conversation_count, user.message_count, user.total_tokens) == (1, 3, 2**40)
    assert (untouched.conversation_count, untouched.total_tokens) == (0, 0)
