"""An account that is deleted leaves nothing behind: with answers under way, in portions, to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import pytest
from sqlmodel import SQLModel

from chat import erasures as module
from chat.erasures import Erasures
from chat.stats import user_stats
from errors import NotFound, Unavailable
from models.address import Address
from models.change import ChangeKind
from models.database import Database
from models.erasure import close_user
from models.member import MemberRole
from models.user import User
from tests.chat.conftest import SECONDS
from tests.databases import look
from tests.people.conftest import Studio, open_studio

pytestmark = pytest.mark.on_both


@pytest.fixture
async def studio(address: Address) -> AsyncIterator[Studio]:
    async with open_studio(address) as opened:
        yield opened


@pytest.fixture
async def erasures(studio: Studio) -> AsyncIterator[Erasures]:
    made = Erasures(studio.database, studio.engine, studio.conversations, studio.members)
    yield made
    await made.aclose()


async def close(database: Database, user_id: str) -> None:
    async with database.write() as session:
        user = await session.get(User, user_id)
        assert user is not None
        await close_user(session, user)


def traces(address: Address, user_id: str) -> list[str]:
    """The columns in which the user is named."""
    parts = [
        f"""SELECT '{table.name}.{column.name}' FROM "{table.name}" WHERE CAST("{column.name}" AS TEXT) = '{user_id}'"""
        for table in SQLModel.metadata.sorted_tables
        for column in table.columns
        if column.name != "body"
    ]
    return sorted({row[0] for row in look(address, " UNION ALL ".join(parts))})


async def test_nothing_is_left_and_others_keep_what_is_theirs(
    address: Address, studio: Studio, erasures: Erasures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)
    gone, stays = await studio.user(), await studio.user()
    mine = [await studio.conversation(gone) for _ in range(5)]
    shared = await studio.conversation(gone, stays)
    theirs = await studio.conversation(stays, gone, role=MemberRole.EDITOR)
    for conversation_id in (*mine, shared, theirs):
        await studio.exchange(gone, conversation_id)
    await studio.exchange(stays, theirs)
    _, run = await studio.send(gone, mine[0], model="held:never")
    _, other_run = await studio.send(gone, theirs, model="held:never too")
    assert len(traces(address, gone)) > 5

    async with aclosing(studio.happenings.of_viewer(stays, None)) as told:
        following = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0.1)
        await close(studio.database, gone)
        async with asyncio.timeout(SECONDS):
            await erasures.erase(gone)
            happening = await following
            while getattr(happening.what, "ref", None) != shared:
                happening = await anext(told)
        assert getattr(happening.what, "kind", None) == ChangeKind.DELETED

    assert traces(address, gone) == []
    assert look(address, "SELECT count(*) FROM run WHERE id = ?", run.id)[0][0] == 0
    assert look(address, "SELECT status FROM run WHERE id = ?", other_run.id)[0][0] == "CANCELLED"
    with pytest.raises(NotFound):
        await studio.conversations.get(stays, shared)
    _, messages = await studio.conversations.get(stays, theirs)
    assert len(messages) == 6, "what was said in somebody else's conversation stays, without its author"
    assert {message.author_id for message in messages} <= {None, stays}
    assert (await user_stats(studio.database, stays)).total_tokens > 0


async def test_another_process_goes_on_with_what_was_begun(
    address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(module, "ABANDONED", timedelta(0))
    gone = await studio.user()
    for _ in range(3):
        await studio.exchange(gone, await studio.conversation(gone))
    await close(studio.database, gone)
    first = Erasures(studio.database, studio.engine, studio.conversations, studio.members)

    async def broken(*_: object) -> bool:
        raise Unavailable

    with monkeypatch.context() as patch:
        patch.setattr(module, "erase_some", broken)
        with pytest.raises(Unavailable):
            await first.erase(gone)
    await first.aclose()
    second = Erasures(studio.database, studio.engine, studio.conversations, studio.members)
    second.start()
    async with asyncio.timeout(SECONDS):
        while traces(address, gone):
            await asyncio.sleep(0.05)
    await second.aclose()


async def test_it_goes_on_when_nobody_waits_for_it(address: Address, studio: Studio, erasures: Erasures) -> None:
    """A browser that is closed behind the click has deleted its account all the same."""
    gone = await studio.user()
    for _ in range(3):
        await studio.conversation(gone)
    await close(studio.database, gone)
    waiting = asyncio.create_task(erasures.erase(gone))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(SECONDS):
        while traces(address, gone):
            await asyncio.sleep(0.05)
