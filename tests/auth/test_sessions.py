from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import select

from auth import sessions as module
from auth.accounts import Accounts
from auth.device import UNKNOWN, Device
from auth.sessions import PREFIX, SessionLimits, Sessions, SignedIn, Viewer, _family_of
from auth.tokens import Tokens
from errors import InvalidCredentials, NotFound, TokenExpired, TokenInvalid
from models.columns import utc_now
from models.database import Database
from models.user import User
from models.user_session import UserSession, end_expired_sessions
from tests.auth.conftest import SECRET
from tests.conftest import add_user

pytestmark = pytest.mark.on_both

LIMITS = SessionLimits(idle=1000, absolute=4000, per_user=3, grace=10)
Clock = Callable[[float], None]


@pytest.fixture
def sessions(database: Database, tokens: Tokens) -> Sessions:
    return Sessions(database, tokens, LIMITS)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let seconds pass, for sessions; tokens have a clock of their own."""
    passed = timedelta()

    def now() -> datetime:
        return utc_now() + passed

    def move(seconds: float) -> None:
        nonlocal passed
        passed += timedelta(seconds=seconds)

    monkeypatch.setattr(module, "utc_now", now)
    return move


async def user_of(database: Database) -> User:
    """Whom no password was hashed for: that takes longer than all the rest."""
    name = await add_user(database)
    async with database.read() as session:
        user = await session.get(User, name)
    assert user is not None
    return user


async def sign_in(
    database: Database, sessions: Sessions, user: User, device: Device = UNKNOWN, *, refreshable: bool = True
) -> SignedIn:
    async with database.write() as session:
        return await sessions.open(session, user, device, refreshable=refreshable)


async def change(database: Database, user: User, **values: Any) -> None:
    async with database.write() as session:
        row = await session.get(User, user.id)
        assert row is not None
        for name, value in values.items():
            setattr(row, name, value)
        session.add(row)


async def rows(database: Database) -> list[UserSession]:
    async with database.read() as session:
        return list(await session.exec(select(UserSession)))


async def refused(sessions: Sessions, token: str | None) -> bool:
    try:
        await sessions.refresh(token or "", UNKNOWN)
    except TokenInvalid as error:
        return error.message == "Token无效"
    return False


class TestWhoIsAsking:
    async def test_a_token_says_the_user_and_the_session(self, database: Database, sessions: Sessions) -> None:
        user = await user_of(database)
        signed = await sign_in(database, sessions, user)
        viewer = await sessions.viewer(signed.access_token)
        (row,) = await sessions.listed(user.id)
        assert (viewer.id, viewer.username, viewer.session_id) == (user.id, user.username, row.id)
        assert viewer.expires_at == pytest.approx(time.time() + signed.expires_in, abs=2)

    async def test_a_token_of_a_disabled_user_is_invalid(self, database: Database, sessions: Sessions) -> None:
        user = await user_of(database)
        signed = await sign_in(database, sessions, user)
        await change(database, user, disabled=True)
        for call in (sessions.viewer(signed.access_token), sessions.user_of(signed.access_token)):
            with pytest.raises(TokenInvalid):
                await call
        assert await refused(sessions, signed.refresh_token)

    async def test_a_token_of_a_deleted_user_is_invalid_but_says_whose_it_was(
        self, database: Database, sessions: Sessions
    ) -> None:
        """/api/auth/me answers 404 for it, everything else 401."""
        user = await user_of(database)
        signed = await sign_in(database, sessions, user)
        await sessions.log_out(Viewer(user.id, "", 0), everywhere=True)
        async with database.write() as session:
            await session.delete(user)
        with pytest.raises(TokenInvalid):
            await sessions.viewer(signed.access_token)
        gone, claims = await sessions.user_of(signed.access_token)
        assert gone is None
        assert claims.user_id == user.id

    async def test_an_expired_token_says_so(self, database: Database) -> None:
        sessions = Sessions(database, Tokens(SECRET, -1), LIMITS)
        signed = await sign_in(database, sessions, await user_of(database))
        with pytest.raises(TokenExpired):
            await sessions.viewer(signed.access_token)

    async def test_a_token_with_another_s_session_is_invalid(
        self, database: Database, sessions: Sessions, tokens: Tokens
    ) -> None:
        one, other = await user_of(database), await user_of(database)
        viewer = await sessions.viewer((await sign_in(database, sessions, one)).access_token)
        with pytest.raises(TokenInvalid):
            await sessions.viewer(tokens.issue(other.id, viewer.session_id or ""))


class TestRefreshing:
    async def test_rotates_and_lives_on(self, database: Database, sessions: Sessions, later: Clock) -> None:
        user = await user_of(database)
        signed = await sign_in(database, sessions, user, Device("192.0.2.1", "one"))
        seen = {signed.refresh_token}
        for _ in range(3):
            later(900)
            signed = await sessions.refresh(signed.refresh_token or "", Device("192.0.2.2", "two"))
            seen.add(signed.refresh_token)
            assert (await sessions.viewer(signed.access_token)).id == user.id
        assert len(seen) == 4
        (row,) = await sessions.listed(user.id)
        assert (row.address, row.user_agent) == ("192.0.2.2", "two")

    async def test_nothing_of_a_token_is_stored(self, database: Database, sessions: Sessions, later: Clock) -> None:
        """Whoever reads the database cannot go on with anybody's session."""
        signed = await sign_in(database, sessions, await user_of(database))
        later(20)
        tokens = [
            signed.refresh_token or "",
            (await sessions.refresh(signed.refresh_token or "", UNKNOWN)).refresh_token or "",
        ]
        (row,) = await rows(database)
        stored = row.model_dump_json()
        for token in tokens:
            assert token.startswith(PREFIX)
            assert token[len(PREFIX) :] not in stored
            assert token[-20:] not in stored
        assert row.token_hash == hashlib.sha256(tokens[1].encode()).hexdigest()

    async def test_a_used_one_ends_the_session(self, database: Database, sessions: Sessions, later: Clock) -> None:
        """It was copied: nobody can tell whether the thief or the user came second."""
        user = await user_of(database)
        first, other = [await sign_in(database, sessions, user) for _ in range(2)]
        second = await sessions.refresh(first.refresh_token or "", UNKNOWN)
        later(LIMITS.grace)
        third = await sessions.refresh(second.refresh_token or "", UNKNOWN)
        assert await refused(sessions, first.refresh_token)
        assert await refused(sessions, third.refresh_token)
        for signed in (first, second, third):
            with pytest.raises(TokenInvalid):
                await sessions.viewer(signed.access_token)
        assert (await sessions.viewer(other.access_token)).id == user.id, "the user's other devices stay"

    async def test_the_one_before_it_ends_the_session_behind_the_grace(
        self, database: Database, sessions: Sessions, later: Clock
    ) -> None:
        first = await sign_in(database, sessions, await user_of(database))
        second = await sessions.refresh(first.refresh_token or "", UNKNOWN)
        later(LIMITS.grace)
        assert await refused(sessions, first.refresh_token)
        assert await refused(sessions, second.refresh_token)

    async def test_two_tabs_at_once_are_told_the_same(
        self, database: Database, sessions: Sessions, tokens: Tokens
    ) -> None:
        """On two server processes too: whichever answer the browser keeps last, it goes on with it."""
        signed = await sign_in(database, sessions, await user_of(database))
        others = Sessions(database, tokens, LIMITS)
        both = await asyncio.gather(
            *(process.refresh(signed.refresh_token or "", UNKNOWN) for process in (sessions, others) * 4)
        )
        assert len({answer.refresh_token for answer in both}) == 1
        assert both[0].refresh_token != signed.refresh_token
        for answer in both:
            await sessions.viewer(answer.access_token)

    async def test_within_the_grace_it_turns_once(self, database: Database, sessions: Sessions, later: Clock) -> None:
        """A tab that refreshes twice would push the other one's request two turns behind, and log both out."""
        first = (await sign_in(database, sessions, await user_of(database))).refresh_token or ""
        second = (await sessions.refresh(first, UNKNOWN)).refresh_token or ""
        assert (await sessions.refresh(second, UNKNOWN)).refresh_token == second
        assert (await sessions.refresh(first, UNKNOWN)).refresh_token == second
        later(LIMITS.grace)
        assert (await sessions.refresh(second, UNKNOWN)).refresh_token not in {first, second}

    async def test_the_successor_takes_the_server_s_secret(self, database: Database, sessions: Sessions) -> None:
        """An old token and a copy of the database are not enough."""
        first = (await sign_in(database, sessions, await user_of(database))).refresh_token or ""
        second = (await sessions.refresh(first, UNKNOWN)).refresh_token
        (row,) = await rows(database)
        other = Sessions(database, Tokens("another secret of at least 32 bytes", 30), LIMITS)
        assert sessions._successor(first, row.salt or "") == second
        assert other._successor(first, row.salt or "") != second

    async def test_ends_with_the_idle_and_the_absolute_life(
        self, database: Database, sessions: Sessions, later: Clock
    ) -> None:
        idle = await sign_in(database, sessions, await user_of(database))
        later(LIMITS.idle)
        assert await refused(sessions, idle.refresh_token)
        busy = await sign_in(database, sessions, await user_of(database))
        for _ in range(4):
            later(900)
            busy = await sessions.refresh(busy.refresh_token or "", UNKNOWN)
        assert busy.expires_in <= 400, "no access token outlives its session"
        later(400)
        assert await refused(sessions, busy.refresh_token)

    async def test_a_session_without_a_refresh_token_ends_with_its_access_token(
        self, database: Database, sessions: Sessions, tokens: Tokens
    ) -> None:
        signed = await sign_in(database, sessions, await user_of(database), refreshable=False)
        assert signed.refresh_token is None
        (row,) = await rows(database)
        assert row.expires_at - row.created_at == timedelta(seconds=tokens.lifetime + 1)

    @pytest.mark.parametrize(
        "token",
        ["", "x", PREFIX, PREFIX + "é", PREFIX + "A" * 64, PREFIX + "A" * 63, PREFIX + "=" * 64, "A" * 64, "\ud800"],
    )
    async def test_what_is_none_is_refused(self, sessions: Sessions, token: str) -> None:
        assert await refused(sessions, token)

    async def test_an_access_token_is_none(self, database: Database, sessions: Sessions) -> None:
        signed = await sign_in(database, sessions, await user_of(database))
        assert await refused(sessions, signed.access_token)
        with pytest.raises(TokenInvalid):
            await sessions.viewer(signed.refresh_token or "")


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_whatever_comes_is_no_refresh_token(text: str) -> None:
    for token in (text, PREFIX + text):
        with pytest.raises(TokenInvalid):
            _family_of(token)


class TestMany:
    async def test_a_user_has_so_many(self, database: Database, sessions: Sessions, later: Clock) -> None:
        """Those that would end first go: a script that logs in over REST does not log the user's browsers out."""
        user, other = await user_of(database), await user_of(database)
        bystander = await sign_in(database, sessions, other)
        browsers = []
        for _ in range(3):
            later(1)
            browsers.append(await sign_in(database, sessions, user))
        later(1)
        newest = await sign_in(database, sessions, user)
        with pytest.raises(TokenInvalid):
            await sessions.viewer(browsers[0].access_token)
        for signed in (*browsers[1:], newest, bystander):
            await sessions.viewer(signed.access_token)
        long = Sessions(database, Tokens(SECRET, 10), LIMITS)
        scripts = [await sign_in(database, long, user, refreshable=False) for _ in range(3)]
        await sessions.viewer(scripts[-1].access_token)
        await sessions.viewer(newest.access_token)
        assert len(await sessions.listed(user.id)) == LIMITS.per_user

    async def test_without_a_limit(self, database: Database, tokens: Tokens) -> None:
        sessions = Sessions(database, tokens, replace(LIMITS, per_user=None))
        user = await user_of(database)
        for _ in range(5):
            await sign_in(database, sessions, user)
        assert len(await sessions.listed(user.id)) == 5

    async def test_expired_ones_are_swept(self, database: Database, sessions: Sessions) -> None:
        user = await user_of(database)
        for _ in range(3):
            await sign_in(database, sessions, user)
        async with database.write() as session:
            assert await end_expired_sessions(session, utc_now(), 10) == 0
            assert await end_expired_sessions(session, utc_now() + timedelta(seconds=LIMITS.idle + 1), 2) == 2
        assert len(await rows(database)) == 1


class TestEnding:
    async def test_log_out_here_or_everywhere(self, database: Database, sessions: Sessions) -> None:
        user, other = await user_of(database), await user_of(database)
        signed = [await sign_in(database, sessions, user) for _ in range(3)]
        bystander = await sign_in(database, sessions, other)
        viewer = await sessions.viewer(signed[0].access_token)
        assert await sessions.log_out(viewer, everywhere=False) == 1
        assert await sessions.log_out(viewer, everywhere=False) == 0
        with pytest.raises(TokenInvalid):
            await sessions.viewer(signed[0].access_token)
        assert await refused(sessions, signed[0].refresh_token)
        viewer = await sessions.viewer(signed[1].access_token)
        assert await sessions.log_out(viewer, everywhere=True) == 2
        assert await sessions.listed(user.id) == []
        await sessions.viewer(bystander.access_token)

    async def test_only_one_s_own_is_revoked(self, database: Database, sessions: Sessions) -> None:
        user, other = await user_of(database), await user_of(database)
        signed = await sign_in(database, sessions, user)
        (row,) = await sessions.listed(user.id)
        for key in (row.id, "sess_unknown", ""):
            with pytest.raises(NotFound):
                await sessions.revoke(other.id, key)
        await sessions.viewer(signed.access_token)
        await sessions.revoke(user.id, row.id)
        with pytest.raises(TokenInvalid):
            await sessions.viewer(signed.access_token)

    async def test_nobody_signs_in_by_a_password_that_was_changed_meanwhile(
        self, database: Database, sessions: Sessions
    ) -> None:
        """It was right when it was looked at; the change has ended all sessions, and must not miss this one."""
        user = await user_of(database)
        for values in ({"password_hash": "another"}, {"disabled": True}):
            await change(database, user, **values)
            with pytest.raises(InvalidCredentials):
                await sign_in(database, sessions, user)
        assert await rows(database) == []


async def test_the_last_use_is_noted_at_most_once_a_minute(
    database: Database, sessions: Sessions, later: Clock
) -> None:
    signed = await sign_in(database, sessions, await user_of(database))
    later(30)
    viewer = await sessions.viewer(signed.access_token)
    assert sessions.take_seen() == set()
    later(31)
    await sessions.viewer(signed.access_token)
    assert sessions.take_seen() == {viewer.session_id}
    assert sessions.take_seen() == set()


async def test_the_seam_to_accounts(accounts: Accounts, sessions: Sessions) -> None:
    signed = await accounts.register("ann", "ann@example.com", "password123", Device("192.0.2.1", "curl"))
    again = await accounts.login("ann", "password123", refreshable=False)
    assert (signed.refresh_token is None, again.refresh_token is None) == (False, True)
    assert {(row.address, row.user_agent) for row in await sessions.listed(signed.user.id)} == {
        ("192.0.2.1", "curl"),
        (None, None),
    }
