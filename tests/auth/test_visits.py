"""What one process does for the sockets that are open in it; tests/test_open_ends.py opens real ones on several."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from datetime import timedelta

import pytest
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from auth import visits as module
from auth.api_keys import ApiKeys
from auth.device import UNKNOWN
from auth.sessions import Sessions, SignedIn, Viewer, standing
from auth.visits import Visit, Visits
from bus.memory import MemoryBus
from errors import TokenExpired, TokenInvalid, Unauthenticated, Unavailable
from models.columns import utc_now
from models.database import Database
from models.user import User
from models.user_session import UserSession
from tests.conftest import add_user

pytestmark = pytest.mark.on_both

SECONDS = 15


@pytest.fixture
async def visits(database: Database, sessions: Sessions) -> AsyncIterator[Visits]:
    visits = Visits(database, MemoryBus(), sessions)
    visits.start()
    yield visits
    await visits.aclose()


async def sign_in(database: Database, sessions: Sessions) -> tuple[SignedIn, Viewer]:
    name = await add_user(database)
    async with database.write() as session:
        user = await session.get(User, name)
        assert user is not None
        signed = await sessions.open(session, user, UNKNOWN, refreshable=True)
    return signed, await sessions.viewer(signed.access_token)


async def looked(visits: Visits) -> None:
    """Wait until all that is open has been looked at, from now on."""
    async with asyncio.timeout(SECONDS):
        for _ in range(2):
            before = visits._polled_at
            while visits._polled_at == before:
                await asyncio.sleep(0.01)


async def reason(visit: Visit) -> type[Unauthenticated]:
    async with asyncio.timeout(SECONDS):
        over: Unauthenticated = await asyncio.shield(visit.over)
    return type(over)


async def test_a_session_that_ends_here_ends_its_visits_at_once(
    database: Database, sessions: Sessions, visits: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 3600.0)
    _, viewer = await sign_in(database, sessions)
    _, other = await sign_in(database, sessions)
    await asyncio.sleep(0)
    with visits.visit(viewer) as visit, visits.visit(other) as bystander, visits.visit(None) as guest:
        await sessions.log_out(viewer, everywhere=False)
        assert await reason(visit) is TokenInvalid
        assert not bystander.over.done()
        assert not guest.over.done()


async def test_one_that_another_process_ends_is_found(database: Database, sessions: Sessions, visits: Visits) -> None:
    """Without a word on the bus; of a user who was disabled too."""
    viewers = [(await sign_in(database, sessions))[1] for _ in range(2)]
    with visits.visit(viewers[0]) as gone, visits.visit(viewers[1]) as disabled:
        async with database.write() as session:
            await session.delete(await session.get(UserSession, viewers[0].session_id))
            user = await session.get(User, viewers[1].id)
            assert user is not None
            user.disabled = True
            session.add(user)
        assert await reason(gone) is TokenInvalid
        assert await reason(disabled) is TokenInvalid


async def test_a_visit_ends_with_its_token_unless_that_is_renewed(
    database: Database, sessions: Sessions, visits: Visits
) -> None:
    _, viewer = await sign_in(database, sessions)
    soon = Viewer(viewer.id, viewer.username, int(time.time()) + 1, viewer.session_id)
    with visits.visit(soon) as visit, visits.visit(soon) as renewed:
        renewed.admit(viewer)
        assert await reason(visit) is TokenExpired
        await asyncio.sleep(0.1)
        assert not renewed.over.done()


async def test_a_renewed_visit_is_its_new_session_s(
    database: Database, sessions: Sessions, visits: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has logged in again goes on, whatever becomes of the session that it came with."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    _, old = await sign_in(database, sessions)
    _, new = await sign_in(database, sessions)
    with visits.visit(old) as visit:
        visit.admit(new)
        await sessions.log_out(old, everywhere=False)
        await looked(visits)
        assert not visit.over.done()
        await sessions.log_out(new, everywhere=False)
        assert await reason(visit) is TokenInvalid


async def test_a_key_ends_its_visits_when_it_is_revoked(database: Database, sessions: Sessions, visits: Visits) -> None:
    keys = ApiKeys(database)
    user_id = await add_user(database)
    texts = [(await keys.create(user_id, name, None))[0] for name in ("one", "two")]
    one, two = [await sessions.viewer(text) for text in texts]
    with visits.visit(one) as revoked, visits.visit(two) as kept:
        await keys.revoke(user_id, one.key_id or "")
        with pytest.raises(TokenInvalid):
            await sessions.check(one)
        assert await reason(revoked) is TokenInvalid
        await sessions.check(two)
        assert not kept.over.done()


async def test_a_right_without_an_end_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's timers are bounded: what lasts longer than one is waited for again."""
    monkeypatch.setattr(module, "MONTH", 0.05)
    visit = Visit()
    visit.admit(Viewer("user_1", "ann", 253_402_300_799, key_id="key_1"))
    await asyncio.sleep(0.2)
    assert not visit.over.done()
    visit.leave()


async def test_nothing_ends_because_the_database_is_away(
    database: Database, sessions: Sessions, visits: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    _, viewer = await sign_in(database, sessions)
    away, failed = True, 0

    async def failing(session: AsyncSession, ids: Collection[str]) -> set[str]:
        nonlocal failed
        if away:
            failed += 1
            raise Unavailable
        return await standing(session, ids)

    monkeypatch.setattr(module, "standing", failing)
    with visits.visit(viewer) as visit:
        await sessions.log_out(viewer, everywhere=False)
        async with asyncio.timeout(SECONDS):
            while failed < 3:
                await asyncio.sleep(0.01)
        assert not visit.over.done()
        away = False
        assert await reason(visit) is TokenInvalid


async def test_last_use_is_written_down_and_expired_sessions_go(
    database: Database, sessions: Sessions, visits: Visits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(module, "SWEEP_SECONDS", 0.05)
    kept, expired = [await sign_in(database, sessions) for _ in range(2)]
    long_ago = utc_now() - timedelta(minutes=5)
    async with database.write() as session:
        for _, viewer in (kept, expired):
            row = await session.get(UserSession, viewer.session_id)
            assert row is not None
            row.last_seen_at = long_ago
            if viewer is expired[1]:
                row.expires_at = long_ago
            session.add(row)
    await sessions.viewer(kept[0].access_token)
    async with asyncio.timeout(SECONDS):
        while True:
            await asyncio.sleep(0.05)
            async with database.read() as session:
                rows = list(await session.exec(select(UserSession)))
            if [row.id for row in rows] == [kept[1].session_id] and rows[0].last_seen_at > long_ago:
                break


async def test_what_is_left_is_forgotten(database: Database, sessions: Sessions, visits: Visits) -> None:
    _, viewer = await sign_in(database, sessions)
    for _ in range(3):
        with visits.visit(viewer):
            assert len(visits._open) == 1
    assert visits._open == set()
