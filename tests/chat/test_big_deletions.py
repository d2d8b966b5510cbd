"""A conversation that is too big for one transaction: gone for everyone at once, and erased behind that to the end."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from auth.administration import Administration
from auth.passwords import Passwords
from chat import erasures as erasing
from chat.chats import StatelessChat
from chat.drafts import ConversationDraft, MessageDraft
from chat.erasures import Erasures
from chat.exporting import export_conversations
from chat.search import Searches
from chat.stats import server_totals, user_stats
from errors import Conflict, NotFound
from models import erasure, search
from models.address import Address
from models.change import ChangeKind
from models.message import ids_below, messages_of
from models.user import User
from providers.base import Role, Turn
from tests.chat.conftest import SECONDS
from tests.chat.test_erasures import close, traces
from tests.databases import look
from tests.people.conftest import Studio, open_studio

pytestmark = pytest.mark.on_both
LEFT = ("message", "message_search", "conversation", "erasure")


@pytest.fixture
async def studio(address: Address, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Studio]:
    """In which two messages are as many as one transaction deletes."""
    monkeypatch.setattr(erasure, "MESSAGES_AT_ONCE", 2)
    monkeypatch.setattr(erasing, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(erasing, "ABANDONED", timedelta(0))
    async with open_studio(address) as opened:
        yield opened


def erasures_of(studio: Studio) -> Erasures:
    return Erasures(studio.database, studio.engine, studio.conversations, studio.members)


def counts(address: Address) -> dict[str, int]:
    columns = ", ".join(f"(SELECT count(*) FROM {name})" for name in LEFT)
    return dict(zip(LEFT, look(address, f"SELECT {columns}")[0], strict=True))


async def until_empty(address: Address) -> None:
    async with asyncio.timeout(SECONDS):
        while any(counts(address).values()):
            await asyncio.sleep(0.05)


async def answered(studio: Studio, user: str, key: str) -> str:
    chat = StatelessChat([Turn(Role.USER, "hi")], "scripted:text=other", idempotency_key=key)
    return (await studio.chats.answer(user, chat)).content


async def big(studio: Studio, owner: str, *members: str, **more: Any) -> tuple[str, list[str], list[str]]:
    """A conversation of six messages and a branch of two; the six, and the runs that wrote three of them."""
    conversation = await studio.conversation(owner, *members, **more)
    messages, runs = [], []
    for number in range(3):
        question, run = await studio.send(owner, conversation, f"needle {number}")
        await studio.ended(run)
        messages += [question.id, run.message_id or ""]
        runs.append(run.id)
    await studio.exchange(owner, conversation, "needle beside", parent_id=messages[1])
    return conversation, messages, runs


async def test_it_is_gone_for_everyone_at_once(
    address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here nobody erases what is left."""
    monkeypatch.setattr(search, "CANDIDATES", 1)
    owner, member = await studio.user(), await studio.user()
    kept = await studio.conversation(owner)
    await studio.exchange(owner, kept, "needle kept")
    before = await user_stats(studio.database, owner)
    conversation, messages, runs = await big(studio, owner, member, external_id="chosen")
    async with (
        aclosing(studio.happenings.of_conversation(member, conversation, None)) as inside,
        aclosing(studio.happenings.of_viewer(member, None)) as outside,
        studio.rights.guard(member, conversation) as (guard, _),
    ):
        watching = [asyncio.ensure_future(anext(told)) for told in (inside, outside)]
        await asyncio.sleep(0.1)
        assert await studio.conversations.delete(owner, "chosen") == conversation
        async with asyncio.timeout(SECONDS):
            for told in watching:
                what: Any = (await told).what
                assert (what.kind, what.ref) == (ChangeKind.DELETED, conversation)
            with pytest.raises(StopAsyncIteration):
                await anext(inside)

        # Whoever has it open had the right to its end, and may hear of it late.
        await studio.rights._look(conversation)
        guard.check()
        await studio.happenings.check(member, conversation)

    assert look(address, "SELECT count(*) FROM message WHERE conversation_id = ?", conversation)[0][0] == 6
    for user in (owner, member):
        for key in (conversation, "chosen"):
            with pytest.raises(NotFound):
                await studio.conversations.get(user, key)
            assert await studio.conversations.find(user, key) is None
        with pytest.raises(NotFound):
            await studio.conversations.delete_message(user, messages[0])
        listed = await studio.conversations.page(user, limit=9)
        assert [row.id for row in listed] == ([kept] if user == owner else [])
        async with studio.database.read() as session:
            assert await messages_of(session, user, messages) == {}
        hits = await Searches(studio.database).messages(user, "needle", limit=9)
        assert [hit.message.content for hit in hits] == (["needle kept"] if user == owner else [])
    file = io.BytesIO()
    async with studio.database.read() as session:
        row = await session.get(User, owner)
    assert row is not None
    exported = await export_conversations(studio.database, row, file.write)
    assert (exported.conversations, exported.messages, conversation.encode() in file.getvalue()) == (1, 2, False)
    after = await user_stats(studio.database, owner)
    assert (after.total_conversations, after.total_messages) == (before.total_conversations, before.total_messages)
    assert await server_totals(studio.database) == (2, 1)
    users = await Administration(studio.database, Passwords()).page(None)
    assert {user.id for user in users} == {owner, member}
    # Whoever was told the end of its last answer can still read it.
    assert (await studio.chats.own_run(owner, runs[-1])).conversation_id is None
    again, _ = await studio.conversations.create(owner, ConversationDraft(external_id="chosen"))
    assert again.id != conversation
    assert await server_totals(studio.database) == (2, 2)


async def test_the_keys_of_all_its_answers_are_free_at_once(address: Address, studio: Studio) -> None:
    """As those of a small one are; its owner's and its members'."""
    owner, member = await studio.user(), await studio.user()
    conversation, kept = await studio.conversation(owner, member), await studio.conversation(owner, member)
    for number in range(3):
        for user in (owner, member):
            await studio.exchange(user, conversation, idempotency_key=f"key {number}")
    with pytest.raises(Conflict):
        await studio.send(member, kept, idempotency_key="key 0")
    await studio.conversations.delete(owner, conversation)
    left = "SELECT count(*) FROM run WHERE idempotency_key IS NOT NULL AND conversation_id = ?"
    assert look(address, left, conversation)[0][0] == 4, "nobody erases what is left"
    for user in (owner, member):
        question, run = await studio.send(user, kept, idempotency_key="key 0")
        assert question.conversation_id == kept
        await studio.ended(run)
    assert await answered(studio, member, "key 1") == "other"
    # Two at once are one answer, as with any key.
    both = await asyncio.gather(*(studio.send(owner, kept, idempotency_key="key 1") for _ in range(2)))
    assert both[0][1].id == both[1][1].id
    await studio.ended(both[0][1])
    assert look(address, left, conversation)[0][0] == 0


async def test_what_is_left_is_erased_to_the_end_also_when_a_process_stops_between(
    address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation, _, runs = await big(studio, owner, member)
    tokens = (await user_stats(studio.database, owner)).total_tokens
    done = asyncio.Event()
    erase = erasure.erase_conversation

    async def once(*arguments: Any) -> bool:
        if done.is_set():
            await asyncio.sleep(SECONDS)
        done.set()
        return await erase(*arguments)

    first = erasures_of(studio)
    first.start()
    with monkeypatch.context() as patch:
        patch.setattr(erasing, "erase_conversation", once)
        await studio.conversations.delete(owner, conversation)
        async with asyncio.timeout(SECONDS):
            await done.wait()
            while counts(address)["message"] > 2:
                await asyncio.sleep(0.05)
        # As when it is killed: the transaction that it stood in is not committed.
        await first.aclose()
    assert counts(address) == {"message": 2, "message_search": 2, "conversation": 1, "erasure": 1}

    second = erasures_of(studio)
    second.start()
    await until_empty(address)
    await second.aclose()
    assert look(address, "SELECT count(*) FROM user_account")[0][0] == 2
    assert look(address, "SELECT count(*) FROM run WHERE user_id = ? AND conversation_id IS NULL", owner)[0][0] == 4
    assert (await studio.chats.own_run(owner, runs[0])).message_id is None
    assert (await user_stats(studio.database, owner)).total_tokens == tokens > 0
    assert await server_totals(studio.database) == (2, 0)


async def test_the_process_that_deletes_goes_on_by_itself_and_with_one_portion_at_a_time(
    address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "ABANDONED", timedelta(days=1))
    owner, at_once, most = await studio.user(), 0, 0
    erase = erasure.erase_conversation

    async def watched(*arguments: Any) -> bool:
        nonlocal at_once, most
        most = max(most, at_once := at_once + 1)
        gone = await erase(*arguments)
        at_once -= 1
        return gone

    monkeypatch.setattr(erasing, "erase_conversation", watched)
    made = [(await big(studio, owner))[0] for _ in range(2)]
    erasures = erasures_of(studio)
    erasures.start()
    for conversation in made:
        await studio.conversations.delete(owner, conversation)
    await until_empty(address)
    assert most == 1
    await erasures.aclose()


async def test_an_account_leaves_its_members_at_once_and_its_messages_in_portions(
    address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation, _, _ = await big(studio, owner, member)
    seen = []
    erase = erasure.erase_conversation

    async def watched(*arguments: Any) -> bool:
        seen.append(counts(address)["message"])
        assert await studio.conversations.find(member, conversation) is None
        return await erase(*arguments)

    monkeypatch.setattr(erasing, "erase_conversation", watched)
    erasures = erasures_of(studio)
    async with aclosing(studio.happenings.of_conversation(member, conversation, None)) as told:
        following = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0.1)
        await close(studio.database, owner)
        async with asyncio.timeout(SECONDS):
            await erasures.erase(owner)
            what: Any = (await following).what
    assert (what.kind, what.ref) == (ChangeKind.DELETED, conversation)
    assert seen == [6, 4, 2]
    assert traces(address, owner) == []
    assert counts(address) == dict.fromkeys(LEFT, 0)


async def test_a_stage_whose_conversation_is_gone_already_is_closed(
    address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes erase the same, and the one that comes to its end dies there."""
    owner = await studio.user()
    conversation, _, _ = await big(studio, owner)
    await studio.conversations.delete(owner, conversation)
    (stage,) = look(address, "SELECT user_id FROM erasure")[0]
    erase = erasure.erase_conversation

    async def too_late(*arguments: Any) -> bool:
        while not await erase(*arguments):
            pass
        return await erase(*arguments)

    monkeypatch.setattr(erasing, "erase_conversation", too_late)
    erasures = erasures_of(studio)
    async with asyncio.timeout(SECONDS):
        await erasures.erase(stage)
    assert counts(address) == dict.fromkeys(LEFT, 0)


async def test_a_small_one_leaves_no_stage(address: Address, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "MESSAGES_AT_ONCE", 8)
    staged: list[str] = []
    studio.conversations.on_set_aside = staged.append
    owner = await studio.user()
    conversation, _, _ = await big(studio, owner)
    await studio.conversations.delete(owner, conversation)
    assert (staged, counts(address)) == ([], dict.fromkeys(LEFT, 0))


async def cut_off(studio: Studio, owner: str, conversation: str, messages: list[str]) -> str:
    return (await studio.conversations.delete_message(owner, messages[1])).id


async def replaced(studio: Studio, owner: str, conversation: str, messages: list[str]) -> str:
    drafts = [MessageDraft(Role.USER, "needle 0", external_id=messages[0])]
    return (await studio.conversations.replace(owner, conversation, ConversationDraft(messages=drafts)))[0].id


@pytest.mark.parametrize("way", [cut_off, replaced])
async def test_many_messages_go_at_once_and_their_conversation_stays(
    address: Address, studio: Studio, way: Callable[[Studio, str, str, list[str]], Awaitable[str]]
) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation, messages, _ = await big(studio, owner, member, external_id="chosen")
    assert await way(studio, owner, conversation, messages) == conversation
    assert look(address, "SELECT count(*) FROM message")[0][0] == 8, "what goes is there, and nobody's"
    assert [message.id for message in await studio.branch(conversation)] == messages[:1]
    row = await studio.row(conversation)
    assert (row.head_id, row.message_count, row.owner_id) == (messages[0], 1, owner)
    for user in (owner, member):
        async with studio.database.read() as session:
            found = await messages_of(session, user, messages)
            assert list(found) == messages[:1]
            assert await ids_below(session, messages[0]) == messages[:1]
        hits = await Searches(studio.database).messages(user, "needle", limit=9)
        assert [hit.message.content for hit in hits] == ["needle 0"]
    stats = await user_stats(studio.database, owner)
    assert (stats.total_conversations, stats.total_messages) == (1, 1)
    assert await server_totals(studio.database) == (2, 1)
    erasures = erasures_of(studio)
    erasures.start()
    async with asyncio.timeout(SECONDS):
        while counts(address)["erasure"]:
            await asyncio.sleep(0.05)
    await erasures.aclose()
    assert counts(address) == {"message": 1, "message_search": 1, "conversation": 1, "erasure": 0}
    await studio.exchange(member, conversation, "and on")
    assert len(await studio.branch(conversation)) == 3
