from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from chat.listing import whole_conversation, whole_list
from models.conversation import Conversation
from models.database import Database
from models.message import (
    Message,
    active_branch,
    delete_messages,
    delete_some_messages,
    finish_message,
    messages_of,
    siblings_of,
)
from tests.conftest import add_user, all_messages

pytestmark = pytest.mark.on_both


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The SELECTs that are made while the block lasts."""
    made: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT"):
            made.append(statement)

    for engine in database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        for engine in database.engines:
            event.remove(engine.sync_engine, "before_cursor_execute", note)


async def add_conversation(database: Database, owner: str, size: int) -> Conversation:
    """A branch of this many messages, and beside each of them one that is not active."""
    conversation = Conversation(owner_id=owner, title="t", model="m", message_count=size)
    parent: str | None = None
    rows: list[Message] = []
    for depth in range(size):
        for active in (True, False):
            row = Message(
                conversation_id=conversation.id,
                parent_id=parent,
                depth=depth,
                active=active,
                role="USER",
                content=f"{depth} {active}",
            )
            rows.append(row)
        parent = rows[-2].id
    async with database.write() as session:
        session.add(conversation)
        await session.flush()
        session.add_all(rows)
    return conversation


@pytest.fixture
async def owner(database: Database) -> str:
    return await add_user(database)


async def test_the_active_branch_is_paged_by_depth(database: Database, owner: str) -> None:
    conversation = await add_conversation(database, owner, 7)
    async with database.read() as session:

        async def depths(**bounds: object) -> list[int]:
            rows = await active_branch(session, conversation.id, **bounds)  # type: ignore[arg-type]
            assert all(row.active for row in rows)
            return [row.depth for row in rows]

        assert await depths() == list(range(7))
        assert await depths(limit=2) == [0, 1]
        assert await depths(limit=2, after_depth=1) == [2, 3]
        assert await depths(limit=2, from_end=True) == [6, 5]
        assert await depths(limit=2, from_end=True, before_depth=5) == [4, 3]
        assert await depths(after_depth=2, before_depth=5) == [3, 4]
        assert await depths(after_depth=6) == []
        assert len(await all_messages(session, conversation.id)) == 14


@pytest.mark.parametrize(("conversations", "size"), [(0, 0), (1, 3), (30, 3), (3, 400)])
async def test_the_whole_list_is_two_statements_whatever_is_in_it(
    database: Database, owner: str, conversations: int, size: int
) -> None:
    made = [(await add_conversation(database, owner, size)).id for _ in range(conversations)]
    await add_conversation(database, await add_user(database), 1)
    with statements(database) as selects:
        wholes = [whole async for whole in whole_list(database, owner)]
    assert len(selects) == 2
    assert {whole.id for whole, _ in wholes} == set(made)
    for _, messages in wholes:
        assert [message.content for message in messages] == [f"{depth} True" for depth in range(size)]


async def test_empty_conversations_stand_in_the_list_in_their_place(database: Database, owner: str) -> None:
    made = [(await add_conversation(database, owner, size)).id for size in (0, 2, 0, 0, 1, 0)]
    listed = [(whole.id, len(messages)) async for whole, messages in whole_list(database, owner)]
    assert sorted(listed) == sorted(zip(made, (0, 2, 0, 0, 1, 0), strict=True))
    rest = [(whole.id, len(messages)) async for whole, messages in whole_list(database, owner, 2, listed[1][0])]
    assert rest == listed[2:4]
    whole, messages = await whole_conversation(database, owner, made[1])
    assert (whole.id, len(messages)) == (made[1], 2)


async def test_a_list_that_is_left_early_gives_its_reader_back(database: Database, owner: str) -> None:
    for _ in range(2):
        await add_conversation(database, owner, 2)
    for _ in range(20):
        stream = whole_list(database, owner)
        await anext(stream)
        await stream.aclose()
    async with database.read() as session:
        assert await all_messages(session, "none") == []


async def test_messages_are_reached_through_their_owner_only(database: Database, owner: str) -> None:
    conversation = await add_conversation(database, owner, 2)
    stranger = await add_user(database)
    async with database.read() as session:
        ids = [row.id for row in await all_messages(session, conversation.id)]
        assert set(await messages_of(session, owner, ids)) == set(ids)
        assert await messages_of(session, stranger, ids) == {}


async def test_siblings_have_one_parent(database: Database, owner: str) -> None:
    conversation = await add_conversation(database, owner, 2)
    async with database.read() as session:
        rows = await all_messages(session, conversation.id)
        families = await siblings_of(session, rows)
        for row in rows:
            siblings = families[row.id]
            assert [other.depth for other in siblings] == [row.depth] * 2
            assert row in siblings


async def test_many_are_deleted_and_others_stay(database: Database, owner: str) -> None:
    """More than SQLite takes in one statement."""
    conversation, other = [await add_conversation(database, owner, size) for size in (1_200, 2)]
    async with database.write() as session:
        rows = await all_messages(session, conversation.id)
        await delete_messages(session, conversation.id, [row.id for row in rows[1:]])
        await delete_messages(session, other.id, [row.id for row in rows])
    async with database.read() as session:
        assert [row.id for row in await all_messages(session, conversation.id)] == [rows[0].id]
        assert len(await all_messages(session, other.id)) == 4


async def test_some_are_deleted_by_their_number_and_by_their_characters(database: Database, owner: str) -> None:
    conversation, other = [await add_conversation(database, owner, size) for size in (3, 1)]
    left = []
    for limit, chars in ((2, 1_000), (3, 1), (3, 1_000)):
        async with database.write() as session:
            await delete_some_messages(session, conversation.id, limit, chars)
        async with database.read() as session:
            left.append(len(await all_messages(session, conversation.id)))
    assert left == [4, 3, 0], "of each two branches: two, one which has the characters, all"
    async with database.read() as session:
        assert len(await all_messages(session, other.id)) == 2


async def test_a_message_deleted_meanwhile_stays_deleted(database: Database, owner: str) -> None:
    conversation = await add_conversation(database, owner, 1)
    async with database.write() as session:
        await finish_message(session, "msg_gone", status="COMPLETE", content="x", reasoning=None, model="m")
    async with database.read() as session:
        assert len(await all_messages(session, conversation.id)) == 2
