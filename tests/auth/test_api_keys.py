"""API keys on a real database."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from auth.accounts import Accounts
from auth.api_keys import MAX_NAME_CHARS, ApiKeys, clean_expiry
from auth.device import UNKNOWN
from auth.sessions import NEVER, Sessions
from errors import BadUserInput, Conflict, NotFound, TokenExpired, TokenInvalid
from models.address import Address
from models.api_key import note_use
from models.columns import utc_now
from models.database import Database
from models.user import User, user_by_id
from tests.conftest import add_user
from tests.databases import everything

pytestmark = pytest.mark.on_both


@pytest.fixture
def keys(database: Database) -> ApiKeys:
    return ApiKeys(database)


async def test_a_key_says_who_asks(keys: ApiKeys, sessions: Sessions, database: Database) -> None:
    user = await add_user(database)
    text, row = await keys.create(user, " for the build ", None)
    viewer = await sessions.viewer(text)
    assert (viewer.id, viewer.session_id, viewer.key_id, viewer.expires_at) == (user, None, row.id, NEVER)
    found, _ = await sessions.user_of(text)
    assert found is not None
    assert found.id == user
    assert (row.name, text.startswith(row.prefix), len(row.prefix), len(text)) == ("for the build", True, 10, 47)


async def test_only_its_hash_is_kept(address: Address, keys: ApiKeys, database: Database) -> None:
    text, _ = await keys.create(await add_user(database), "a", None)
    assert text[12:].encode() not in everything(address)


async def test_what_is_no_key_is_refused(keys: ApiKeys, sessions: Sessions, database: Database) -> None:
    text, row = await keys.create(await add_user(database), "a", None)
    odd = ("acs_", "acs_\ud800", "acs_\x00", "acs_" + "x" * 99_999)
    for wrong in (*odd, text[:-1], text + "x", text.swapcase(), row.prefix):
        with pytest.raises(TokenInvalid):
            await sessions.viewer(wrong)


async def test_a_revoked_key_is_no_key(keys: ApiKeys, sessions: Sessions, database: Database) -> None:
    user, other = await add_user(database), await add_user(database)
    text, row = await keys.create(user, "a", None)
    with pytest.raises(NotFound):
        await keys.revoke(other, row.id)
    assert await keys.get(other, row.id) is None
    assert (await sessions.viewer(text)).id == user
    await keys.revoke(user, row.id)
    with pytest.raises(TokenInvalid):
        await sessions.viewer(text)
    with pytest.raises(NotFound):
        await keys.revoke(user, row.id)


async def test_an_expired_key_says_so(
    keys: ApiKeys, sessions: Sessions, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = utc_now() + timedelta(hours=1)
    text, _ = await keys.create(await add_user(database), "a", end)
    assert abs((await sessions.viewer(text)).expires_at - end.timestamp()) <= 1
    monkeypatch.setattr("auth.api_keys.utc_now", lambda: end)
    with pytest.raises(TokenExpired):
        await sessions.viewer(text)


async def test_a_disabled_user_s_key_is_no_key(keys: ApiKeys, sessions: Sessions, database: Database) -> None:
    user = await add_user(database)
    text, _ = await keys.create(user, "a", None)
    async with database.write() as session:
        row = await user_by_id(session, user)
        assert isinstance(row, User)
        row.disabled = True
        session.add(row)
    with pytest.raises(TokenInvalid):
        await sessions.viewer(text)


async def test_a_key_is_no_password_and_no_refresh_token(keys: ApiKeys, sessions: Sessions, accounts: Accounts) -> None:
    signed = await accounts.register("ann", "a@example.com", "password123")
    text, _ = await keys.create(signed.user.id, "a", None)
    with pytest.raises(TokenInvalid):
        await sessions.refresh(text, UNKNOWN)


@pytest.mark.parametrize("name", ["", " ", "x" * (MAX_NAME_CHARS + 1), "a\nb", "a\u202eb", "\ud800", "\x00"])
async def test_names_are_printable_and_bounded(keys: ApiKeys, database: Database, name: str) -> None:
    with pytest.raises(BadUserInput) as caught:
        await keys.create(await add_user(database), name, None)
    assert caught.value.field == "name"


def test_an_end_lies_ahead() -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    assert clean_expiry(soon.replace(tzinfo=None)) == soon, "without a zone it is UTC"
    assert clean_expiry(soon.astimezone(timezone(timedelta(hours=8)))) == soon
    for wrong in (
        datetime.now(UTC) - timedelta(seconds=1),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-12))),
        datetime(1, 1, 1),  # noqa: DTZ001
    ):
        with pytest.raises(BadUserInput) as caught:
            clean_expiry(wrong)
        assert caught.value.field == "expiresAt"


async def test_a_user_has_so_many_and_no_more_whoever_is_quick(
    keys: ApiKeys, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auth.api_keys.MOST_KEYS", 3)
    user, other = await add_user(database), await add_user(database)
    made = await asyncio.gather(*(keys.create(user, str(n), None) for n in range(8)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in made) == ["Conflict"] * 5 + ["tuple"] * 3
    assert len(await keys.of(user)) == 3
    await keys.create(other, "a", None)
    await keys.revoke(user, (await keys.of(user))[0].id)
    await keys.create(user, "a", None)
    with pytest.raises(Conflict):
        await keys.create(user, "a", None)


class TestTheLastUse:
    async def test_is_noted_at_most_once_a_minute(
        self, keys: ApiKeys, sessions: Sessions, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        user, begin = await add_user(database), utc_now()
        text, _ = await keys.create(user, "a", None)
        assert (await keys.of(user))[0].last_used_at is None
        noted = []
        for seconds in (0, 30, 59, 61, 90):
            moment = begin + timedelta(seconds=seconds)
            monkeypatch.setattr("auth.api_keys.utc_now", lambda moment=moment: moment)
            await sessions.viewer(text)
            noted.append((await keys.of(user))[0].last_used_at)
        assert noted == [begin, begin, begin, begin + timedelta(seconds=61), begin + timedelta(seconds=61)]

    async def test_is_written_by_one_of_many(self, keys: ApiKeys, database: Database) -> None:
        user, now = await add_user(database), utc_now()
        _, row = await keys.create(user, "a", None)
        for moment in (now, now + timedelta(seconds=30)):
            async with database.write() as session:
                await note_use(session, row.id, moment)
        assert (await keys.of(user))[0].last_used_at == now
