"""What leaves as JSON comes back as it was: to another server, twice, damaged, and under another user."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from chat import erasures as erasing
from chat import importing
from chat.branches import set_head
from chat.erasures import Erasures
from chat.exporting import export_conversations
from chat.importing import Imported, import_conversations
from chat.inputs import InputLimits
from chat.search import Searches
from chat.transfer import TransferError
from models.address import Address
from models.columns import utc_now
from models.conversation import Conversation, conversation_of
from models.database import Database
from models.member import Member
from models.message import Message
from models.opening import open_database
from models.run import Run
from models.transfer import whole_tree
from models.user import User, user_by_id
from tests.conftest import add_user, all_messages
from tests.databases import KINDS, Postgres, look
from tests.people.conftest import open_studio

pytestmark = pytest.mark.on_both
LIMITS = InputLimits(
    message=100, system_prompt=100, title=50, conversation_messages=100, chat_messages=100, conversations=3
)
Json = dict[str, Any]


@pytest.fixture
def other_address(kind: str, request: pytest.FixtureRequest) -> Iterator[Address]:
    """Of the other kind: the shape is no database's own."""
    if kind != KINDS[0]:
        yield request.getfixturevalue("path")
        return
    server: Postgres = request.getfixturevalue("postgres")
    with server.migrated() as made:
        yield made


@pytest.fixture
async def elsewhere(other_address: Address) -> AsyncIterator[Database]:
    """Another server's database."""
    database = open_database(other_address)
    yield database
    await database.aclose()


@pytest.fixture(params=["at once", "in portions"])
def portions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How a conversation is stored, which shows nowhere."""
    if request.param == "in portions":
        monkeypatch.setattr(importing, "AT_ONCE", 1)


async def user_of(database: Database, user_id: str) -> User:
    async with database.read() as session:
        user = await user_by_id(session, user_id)
    assert user is not None
    return user


async def add_tree(database: Database, owner: str, **values: Any) -> Conversation:
    """A question with two answers, of which the first goes on and is the active branch; another member wrote in it."""
    other, now = await add_user(database), utc_now()
    conversation = Conversation(
        owner_id=owner, title="题目", model="m", system_prompt="be brief", pinned=True, **values
    )
    here: Json = {"conversation_id": conversation.id, "active": False}
    run = Run(user_id=owner, requested_model="a", model="m", provider="p", status="COMPLETED", created_at=now)
    run.prompt_tokens, run.completion_tokens, run.cost_nanos, run.finish_reason = 7, 9, 1_234, "STOP"
    run.conversation_id, run.time_to_first_token_ms, run.last_seq = conversation.id, 12.5, 4
    root = Message(**here, depth=0, role="USER", content="问题 \u2028 question", author_id=owner, external_id="mine")
    first = Message(**here, depth=1, parent_id=root.id, role="ASSISTANT", content="one", model="m", run_id=run.id)
    second = Message(**here, depth=1, parent_id=root.id, role="ASSISTANT", content="two", reasoning="hm")
    more = Message(**here, depth=2, parent_id=first.id, role="USER", content="more", author_id=other)
    running = Message(**here, depth=3, parent_id=more.id, role="ASSISTANT", content="", status="STREAMING")
    async with database.write() as session:
        session.add(conversation)
        await session.flush()
        session.add_all([root, first, second, more, running, run])
        session.add(Member(conversation_id=conversation.id, user_id=other, role="EDITOR"))
        await session.flush()
        await set_head(session, conversation, more)
    return conversation


async def exported(database: Database, user_id: str) -> bytes:
    file = io.BytesIO()
    await export_conversations(database, await user_of(database, user_id), file.write)
    return file.getvalue()


async def imported(database: Database, user_id: str, content: bytes) -> Imported:
    return await import_conversations(database, user_id, LIMITS, io.BytesIO(content))


def records(content: bytes) -> list[Json]:
    return [json.loads(line) for line in content.splitlines()]


async def tree_of(database: Database, conversation_id: str) -> list[Any]:
    async with database.read() as session:
        return [(message, run) async for message, run in whole_tree(session, conversation_id)]


@pytest.mark.usefixtures("portions")
async def test_the_whole_tree_comes_back_on_the_other_database(database: Database, elsewhere: Database) -> None:
    owner, there = await add_user(database), await add_user(elsewhere)
    made = await add_tree(database, owner, external_id="client's")
    content = await exported(database, owner)
    done = await imported(elsewhere, there, content)
    assert (done.added, done.known, done.messages) == (1, 0, 5)

    before, after = await tree_of(database, made.id), await tree_of(elsewhere, made.id)
    for (old, old_run), (new, new_run) in zip(before, after, strict=True):
        status = "INTERRUPTED" if old["status"] == "STREAMING" else old["status"]
        author = there if old["author_id"] in {owner, None} else None
        assert new == old | {"status": status, "author_id": author}
        assert new_run == old_run
    async with elsewhere.read() as session:
        found = await conversation_of(session, there, "client's")
        active = [message.content for message in await all_messages(session, made.id) if message.active]
    assert found is not None
    assert (found.title, found.system_prompt, found.pinned, found.message_count) == ("题目", "be brief", True, 3)
    assert found.updated_at == made.updated_at
    assert active == ["问题 \u2028 question", "one", "more"]
    user = await user_of(elsewhere, there)
    assert (user.conversation_count, user.message_count, user.total_tokens) == (1, 3, 0)
    hits = await Searches(elsewhere).messages(there, "问题", limit=5)
    assert [hit.message.external_id for hit in hits] == ["mine"]
    again = await exported(elsewhere, there)
    assert records(again)[1] == records(content)[1]


@pytest.mark.usefixtures("portions")
async def test_a_second_time_adds_nothing(database: Database) -> None:
    """Neither where it came from, nor where it went."""
    owner, other = await add_user(database), await add_user(database)
    await add_tree(database, owner)
    content = await exported(database, owner)
    assert (await imported(database, owner, content)).known == 1
    first = await imported(database, other, content)
    assert (first.added, first.known) == (1, 0)
    second = await imported(database, other, content)
    assert (second.added, second.known) == (0, 1)


@pytest.mark.usefixtures("portions")
async def test_ids_that_are_somebody_elses_are_replaced(database: Database) -> None:
    """And tell nobody that they are: the importer has a conversation of its own, theirs is as it was."""
    owner, other = await add_user(database), await add_user(database)
    made = await add_tree(database, owner)
    before = await tree_of(database, made.id)
    await imported(database, other, await exported(database, owner))
    assert await tree_of(database, made.id) == before
    async with database.read() as session:
        found = await conversation_of(session, other, made.id)
    assert found is not None
    assert (found.id != made.id, found.external_id) == (True, made.id)
    copies = await tree_of(database, found.id)
    assert {message["id"] for message, _ in copies}.isdisjoint(message["id"] for message, _ in before)
    assert [message["content"] for message, _ in copies] == [message["content"] for message, _ in before]
    assert [run["prompt_tokens"] for _, run in copies if run] == [7]


async def test_only_what_the_user_owns_leaves_and_no_member_is_named(database: Database) -> None:
    owner = await add_user(database)
    made = await add_tree(database, owner)
    async with database.read() as session:
        member = next(row.author_id for row in await all_messages(session, made.id) if row.content == "more")
    assert member is not None
    assert len(records(await exported(database, member))) == 2
    content = await exported(database, owner)
    assert member.encode() not in content
    assert [item["message"]["byOwner"] for item in records(content)[2:-1]] == [True, True, True, False, True]


HEAD = {"format": "ai-chat-studio/conversations", "version": 1}
CONVERSATION = {"id": "c", "title": "t", "model": "m", "createdAt": 1, "updatedAt": 1}
MESSAGE = {"id": "a", "role": "USER", "content": "x", "createdAt": 1}


def document(*items: object) -> bytes:
    return b"".join(item if isinstance(item, bytes) else json.dumps(item).encode() + b"\n" for item in (HEAD, *items))


def conversation(**values: object) -> Json:
    return {"conversation": CONVERSATION | values}


def message(**values: object) -> Json:
    return {"message": MESSAGE | values}


END = {"end": {"conversations": 1, "messages": 1}}
DAMAGED = {
    "not JSON": (document(conversation(), b'{"message": {"id": "a", \n'), r"line 3, column \d+: is not JSON"),
    "cut off": (document(conversation(), message()), r"line 4: the file was cut off here"),
    "cut in a line": (document(conversation(), message(), END)[:-20], r"line 4, column \d+: is not JSON"),
    "a line is gone": (document(conversation(messages=1), END), r"line 2: conversation.messages: it had 1 messages"),
    "a conversation is gone": (
        document(END),
        r"line 2: the file had 1 conversations with 1 messages",
    ),
    "an empty one is gone": (
        document(conversation(), {"end": {"conversations": 2, "messages": 0}}),
        r"line 3: the file had 2 conversations with 0 messages, and has 1 with 0",
    ),
    "more behind": (document(conversation(), message(), END, conversation()), r"line 5: there is something behind"),
    "unknown": (document({"what": {}}), r"line 2: is none of conversation, message, end"),
    "an orphan": (document(message()), r"line 2: a message without its conversation"),
    "no parent": (document(conversation(), message(parentId="b"), END), r"line 3: message.parentId: there is no such"),
    "itself": (document(conversation(), message(parentId="a"), END), r"line 3: message.parentId: there is no such"),
    "twice": (document(conversation(), message(), message(), END), r"line 4: message.id: there is another"),
    "no head": (document(conversation(headId="b"), message(), END), r"line 2: conversation.headId: there is no such"),
    "no role": (document(conversation(), message(role="KING"), END), r"line 3: message.role: is none of SYSTEM"),
    "NUL": (document(conversation(), message(content="a\0b"), END), r"line 3: message.content: .*not text"),
    "long": (document(conversation(title="t" * 51)), r"line 2: conversation.title is longer than 50"),
    "too early": (document(conversation(createdAt=-1)), r"line 2: conversation.createdAt: "),
    "a number": (document(conversation(), message(content=5), END), r"line 3: message.content: "),
    "huge": (document(conversation(), message(run={"promptTokens": 2**40}), END), r"line 3: message.run"),
    "newer": (b'{"format": "ai-chat-studio/conversations", "version": 2}\n', r"line 1: is an export of version 2"),
    "something else": (b"[]\n", r"line 1: is not an export"),
    "empty": (b"", r"line 1: the file was cut off"),
    "binary": (b"\xff\xfe\x00", r"line 1, column \d+: is not JSON"),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_file_names_the_place_and_adds_nothing_of_that_conversation(
    database: Database, name: str
) -> None:
    content, told = DAMAGED[name]
    user = await add_user(database)
    with pytest.raises(TransferError, match=told):
        await imported(database, user, content)
    whole_before = name in {"more behind", "an empty one is gone"}
    assert (await user_of(database, user)).conversation_count == int(whole_before)


async def test_what_was_whole_before_the_damage_stays_and_the_mended_file_brings_the_rest(database: Database) -> None:
    user = await add_user(database)
    good = document(
        conversation(), message(), conversation(id="d"), message(), {"end": {"conversations": 2, "messages": 2}}
    )
    with pytest.raises(TransferError):
        await imported(database, user, good[:-60])
    assert (await user_of(database, user)).conversation_count == 1
    done = await imported(database, user, good)
    assert (done.added, done.known) == (1, 1)


@pytest.mark.usefixtures("portions")
async def test_no_more_than_the_user_may_have(database: Database) -> None:
    user = await add_user(database)
    many = [conversation(id=f"c{number}") for number in range(4)]
    with pytest.raises(TransferError, match="line 5: the user may have 3 conversations"):
        await imported(database, user, document(*many, {"end": {"conversations": 4, "messages": 0}}))
    assert (await user_of(database, user)).conversation_count == 3


LARGE = 250


def large() -> bytes:
    """One conversation, which takes three transactions and more."""
    run = {"status": "COMPLETED", "requestedModel": "m", "model": "m", "provider": "p", "createdAt": 1}
    lines = [
        message(id=f"m{number}", content=f"needle number{number}", run=run | {"id": f"r{number}"})
        for number in range(LARGE)
    ]
    for number, line in enumerate(lines[1:]):
        line["message"]["parentId"] = f"m{number}"
    head = conversation(headId=f"m{LARGE - 1}", messages=LARGE)
    return document(head, *lines, {"end": {"conversations": 1, "messages": LARGE}})


async def test_a_large_conversation_keeps_nobody_waiting_and_is_seen_when_it_is_whole(
    address: Address, database: Database
) -> None:
    user = await add_user(database)
    work = asyncio.create_task(imported(database, user, large()))
    seen = set()
    while not work.done():
        seen.add(look(address, "SELECT count(*) FROM message")[0][0])
        hits = await Searches(database).messages(user, "needle", limit=5)
        async with database.read() as session:
            found = await conversation_of(session, user, "c")
            user_row = await user_by_id(session, user)
        assert user_row is not None
        assert (found is None) == (user_row.conversation_count == 0)
        assert found is not None or not hits
        await asyncio.sleep(0)
    assert (await work).messages == LARGE
    assert {100, 200} & seen, "others have their turn between"
    hits = await Searches(database).messages(user, f"number{LARGE - 1}", limit=5)
    assert len(hits) == 1
    assert look(address, "SELECT count(*) FROM run WHERE user_id = ?", user)[0][0] == LARGE
    assert look(address, "SELECT count(*) FROM user_account")[0][0] == 1, "nobody else is left"
    assert look(address, "SELECT count(*) FROM erasure")[0][0] == 0


async def test_what_a_stopped_import_leaves_is_nobodys_and_is_erased(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(erasing, "ABANDONED", timedelta(0))
    async with open_studio(address) as studio:
        user = await studio.user()
        work = asyncio.create_task(imported(studio.database, user, large()))
        while not look(address, "SELECT count(*) FROM message")[0][0]:
            await asyncio.sleep(0.001)
        work.cancel()
        await asyncio.wait({work})
        assert work.cancelled()
        assert (await user_of(studio.database, user)).conversation_count == 0
        erasures = Erasures(studio.database, studio.engine, studio.conversations, studio.members)
        erasures.start()
        async with asyncio.timeout(20):
            while look(address, "SELECT count(*) FROM erasure")[0][0]:
                await asyncio.sleep(0.02)
        await erasures.aclose()
        for table in ("message", "message_search", "conversation", "run"):
            assert look(address, f"SELECT count(*) FROM {table}")[0][0] == 0
        assert (await imported(studio.database, user, large())).added == 1
