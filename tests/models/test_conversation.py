from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from models.columns import EPOCH
from models.conversation import (
    Conversation,
    ConversationFilter,
    Position,
    Span,
    conversation_of,
    count_conversations,
    list_conversations,
    touch_conversation,
)
from models.database import Database
from models.member import readable_conversations
from tests.conftest import add_user

pytestmark = pytest.mark.on_both

THEN = EPOCH + timedelta(days=20_000)


async def add(database: Database, owner: str, **values: Any) -> Conversation:
    row = Conversation(**{"owner_id": owner, "title": "t", "model": "m", **values})
    async with database.write() as session:
        session.add(row)
    return row


@pytest.fixture
async def owner(database: Database) -> str:
    return await add_user(database)


@pytest.fixture
async def eleven(database: Database, owner: str) -> list[str]:
    """Ids of eleven conversations, newest first; most share their moment with others."""
    rows = [await add(database, owner, updated_at=THEN + timedelta(milliseconds=number // 4)) for number in range(11)]
    await add(database, await add_user(database), updated_at=THEN)
    return [row.id for row in sorted(rows, key=lambda row: (row.updated_at, row.id), reverse=True)]


def ids(rows: Sequence[Conversation]) -> list[str]:
    return [row.id for row in rows]


def place(row: Conversation) -> Position:
    return Position(row.updated_at, row.id)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 11, 12])
async def test_pages_from_either_end_are_the_whole_list(
    database: Database, owner: str, eleven: list[str], size: int
) -> None:
    async with database.read() as session:
        assert ids(await list_conversations(session, owner)) == eleven
        forth: list[Conversation] = []
        while page := await list_conversations(
            session, owner, span=Span(older_than=place(forth[-1]) if forth else None, limit=size)
        ):
            forth += page
        back: list[Conversation] = []
        while page := await list_conversations(
            session, owner, span=Span(newer_than=place(back[-1]) if back else None, from_oldest=True, limit=size)
        ):
            back += page
    assert ids(forth) == eleven
    assert ids(back) == eleven[::-1]


async def test_a_page_between_two_places_holds_neither(database: Database, owner: str, eleven: list[str]) -> None:
    async with database.read() as session:
        rows = await list_conversations(session, owner)
        between = await list_conversations(session, owner, span=Span(place(rows[2]), place(rows[6])))
    assert ids(between) == eleven[3:6]


async def test_filters_narrow_and_nothing_in_them_is_a_pattern(database: Database, owner: str) -> None:
    percent = await add(database, owner, title="100% sure", pinned=True)
    letters = await add(database, owner, title="1000 sure", archived=True, model="other")

    async def found(**only: object) -> set[str]:
        async with database.read() as session:
            return set(ids(await list_conversations(session, owner, only=ConversationFilter(**only))))  # type: ignore[arg-type]

    assert await found() == {percent.id, letters.id}
    assert await found(title_contains="100% s") == {percent.id}
    assert await found(title_contains="100_ s") == set()
    assert await found(title_contains="") == {percent.id, letters.id}
    assert await found(archived=True) == {letters.id}
    assert await found(archived=False, pinned=True) == {percent.id}
    assert await found(model="other") == {letters.id}


async def test_ours_is_tried_before_the_client_s_id(database: Database, owner: str) -> None:
    first = await add(database, owner)
    second = await add(database, owner, external_id=first.id)
    third = await add(database, owner, external_id="mine")
    async with database.read() as session:
        for key, expected in ((first.id, first), (second.id, second), ("mine", third), ("none", None)):
            assert await conversation_of(session, owner, key) == expected


async def test_every_query_is_the_owner_s(database: Database, owner: str) -> None:
    stranger = await add_user(database)
    row = await add(database, owner, external_id="mine")
    async with database.read() as session:
        assert await conversation_of(session, stranger, row.id) is None
        assert await conversation_of(session, stranger, "mine") is None
        assert await readable_conversations(session, stranger, [row.id]) == {}
        assert await list_conversations(session, stranger) == []
        assert await readable_conversations(session, owner, [row.id, "none"]) == {row.id: row}
        assert await count_conversations(session) == 1


async def test_a_touch_brings_it_to_the_front(database: Database, owner: str, eleven: list[str]) -> None:
    async with database.write() as session:
        await touch_conversation(session, eleven[-1])
    async with database.read() as session:
        assert ids(await list_conversations(session, owner, span=Span(limit=1))) == [eleven[-1]]
