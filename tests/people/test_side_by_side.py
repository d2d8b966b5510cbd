"""Two processes that write at the same moment: what is decided by a look holds until the commit, and whoever follows
misses nothing, whatever the order of the commits. SQLite has one writer at a time; PostgreSQL has many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from chat.conversations import ConversationChanges
from chat.happenings import Happening
from chat.stats import user_stats
from errors import ChatError, Conflict, NotFound, Unavailable
from models.address import Address, PostgresAddress
from models.change import Change, ChangeKind, add_changes
from models.locks import key_of
from models.member import MemberRole, members_of
from models.run import Run
from tests.chat.conftest import SECONDS
from tests.conftest import all_messages
from tests.databases import Postgres, look
from tests.people.conftest import Studio, open_studio

pytestmark = pytest.mark.on_both

Pair = tuple[Studio, Studio]


@pytest.fixture
async def pair(address: Address) -> AsyncIterator[Pair]:
    """Two processes on one database."""
    async with open_studio(address) as one, open_studio(address) as two:
        yield one, two


async def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each gave, or the error of the product it ended with."""
    async with asyncio.timeout(SECONDS):
        results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and (not isinstance(result, ChatError) or isinstance(result, Unavailable)):
            raise result
    return results


def fine(results: list[Any]) -> list[Any]:
    return [result for result in results if not isinstance(result, BaseException)]


class TestOneDecision:
    async def test_of_many_with_one_key_is_one_run(self, pair: Pair) -> None:
        """In one conversation: a retry that went to another process must not be told that an answer is under way."""
        user = await pair[0].user()
        conversation = await pair[0].conversation(user)
        for round_ in range(5):
            sent = await together(
                *(
                    studio.send(user, conversation, "q", model="scripted:text=a", idempotency_key=f"k{round_}")
                    for studio in pair * 4
                )
            )
            assert len({run.id for _, run in fine(sent)}) == 1
            assert len(fine(sent)) == 8
            await pair[0].ended(sent[0][1])

    async def test_of_many_with_one_version_is_one_change(self, pair: Pair) -> None:
        user = await pair[0].user()
        conversation = await pair[0].conversation(user)
        for version in range(1, 6):
            done = await together(
                *(
                    studio.conversations.update(user, conversation, ConversationChanges(title=f"t{number}"), version)
                    for number, studio in enumerate(pair * 4)
                )
            )
            assert len(fine(done)) == 1
            assert all(isinstance(error, Conflict) for error in done if isinstance(error, BaseException))
            assert (await pair[1].row(conversation)).title == fine(done)[0].title

    async def test_of_two_messages_one_is_answered(self, pair: Pair) -> None:
        user = await pair[0].user()
        for _ in range(5):
            conversation = await pair[0].conversation(user)
            sent = await together(*(studio.send(user, conversation, model="held:x") for studio in pair * 3))
            runs: list[Run] = [run for _, run in fine(sent)]
            assert len(runs) == 1
            assert len(await pair[0].branch(conversation)) == 2
            await pair[0].chats.cancel(user, runs[0].id)

    async def test_of_members_there_are_no_more_than_may_be(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("chat.members.MAX_MEMBERS", 3)
        owner = await pair[0].user()
        conversation = await pair[0].conversation(owner)
        people = [await pair[0].user() for _ in range(8)]
        await together(
            *(
                pair[number % 2].members.add(owner, conversation, name, MemberRole.VIEWER)
                for number, name in enumerate(people)
            )
        )
        async with pair[0].database.read() as session:
            assert len((await members_of(session, [conversation]))[conversation]) == 3

    async def test_whoever_is_put_out_has_sent_before_or_not_at_all(self, pair: Pair) -> None:
        owner, member = await pair[0].user(), await pair[0].user()
        for _ in range(6):
            conversation = await pair[0].conversation(owner, member)
            sent, removed = await together(
                pair[0].send(member, conversation, model="scripted:text=a"),
                pair[1].members.remove(owner, conversation, member),
            )
            assert not isinstance(removed, BaseException)
            if isinstance(sent, BaseException):
                assert isinstance(sent, NotFound)
                assert await pair[0].branch(conversation) == []
            else:
                assert len(await pair[0].branch(conversation)) == 2
                await pair[0].ended(sent[1])

    async def test_a_deleted_conversation_leaves_no_message(self, pair: Pair) -> None:
        """A send that finds it, while another process deletes it."""
        user = await pair[0].user()
        for _ in range(6):
            conversation = await pair[0].conversation(user)
            await together(
                pair[0].send(user, conversation, model="scripted:text=a"),
                pair[1].conversations.delete(user, conversation),
            )
            async with pair[0].database.read() as session:
                assert await all_messages(session, conversation) == []
        await until_counted(pair[0], user, conversations=0, messages=0)


async def until_counted(studio: Studio, user: str, *, conversations: int, messages: int) -> None:
    stats = await user_stats(studio.database, user)
    assert (stats.total_conversations, stats.total_messages) == (conversations, messages)


class TestNoneWaitsForTheOther:
    async def test_ends_and_moves_of_the_head(self, pair: Pair) -> None:
        """An end writes the message and then the conversation, a move the conversation and then its messages: in two
        orders each would hold what the other wants."""
        user = await pair[0].user()
        conversation = await pair[0].conversation(user)
        question, answer = await pair[0].exchange(user, conversation, model="scripted:text=a")

        async def talk(studio: Studio) -> None:
            for _ in range(12):
                try:
                    _, run = await studio.send(user, conversation, "q", answer, model="scripted:text=a,text=b")
                    await studio.ended(run)
                except Conflict:
                    await asyncio.sleep(0.01)

        async def move(studio: Studio) -> None:
            for _ in range(40):
                for head in (answer, question):
                    await studio.conversations.update(user, conversation, ConversationChanges(head_id=head))

        await together(talk(pair[0]), talk(pair[1]), move(pair[0]), move(pair[1]))
        rows = await pair[0].branch(conversation)
        assert [row.depth for row in rows] == list(range((await pair[0].row(conversation)).message_count))

    async def test_counters_count_everything(self, pair: Pair) -> None:
        user = await pair[0].user()

        async def live(studio: Studio) -> None:
            for number in range(8):
                conversation = await studio.conversation(user)
                await studio.exchange(user, conversation, model="scripted:text=a,usage=1/1")
                if number % 2:
                    await studio.conversations.delete(user, conversation)

        await together(*(live(studio) for studio in pair * 2))
        stats = await user_stats(pair[0].database, user)
        assert (stats.total_conversations, stats.total_messages, stats.total_tokens) == (16, 32, 64)


async def follow(studio: Studio, user: str, seen: list[Happening], after: str | None = None) -> None:
    async with aclosing(studio.happenings.of_viewer(user, after)) as events:
        async for event in events:
            seen.append(event)


def change_of(happening: Happening) -> int:
    assert isinstance(happening.what, Change)
    return happening.what.id or 0


async def test_a_follower_of_many_writers_misses_nothing(pair: Pair, address: Address) -> None:
    """And one who comes back at any cursor gets exactly the rest."""
    user = await pair[0].user()
    conversations = [await pair[0].conversation(user) for _ in range(6)]
    seen: list[Happening] = []
    following = asyncio.create_task(follow(pair[0], user, seen))
    await asyncio.sleep(0.5)
    before = look(address, "SELECT coalesce(max(id), 0) FROM change")[0][0]

    async def write(studio: Studio, conversation: str) -> None:
        for number in range(15):
            await studio.conversations.update(user, conversation, ConversationChanges(title=f"t{number}"))

    await together(*(write(studio, each) for studio in pair for each in conversations))
    rows = look(address, "SELECT id FROM change WHERE audience = ? AND id > ? ORDER BY id", user, before)
    assert len(rows) == 180
    async with asyncio.timeout(SECONDS):
        while len(seen) < len(rows):
            await asyncio.sleep(0.05)
    assert [change_of(event) for event in seen] == [row[0] for row in rows]
    following.cancel()
    again: list[Happening] = []
    following = asyncio.create_task(follow(pair[1], user, again, seen[50].cursor))
    async with asyncio.timeout(SECONDS):
        while len(again) < len(rows) - 51:
            await asyncio.sleep(0.05)
    following.cancel()
    assert [event.cursor for event in again] == [event.cursor for event in seen[51:]]


class TestAnOpenTransaction:
    """PostgreSQL gives ids when they are asked for, and shows rows when they are committed."""

    @pytest.fixture
    def address(self, postgres: Postgres) -> Any:
        with postgres.migrated() as made:
            yield made

    async def test_holds_back_its_own_audience_and_no_other(self, address: PostgresAddress) -> None:
        """The smaller id comes later: whoever had read up to the larger one would never see it."""
        async with open_studio(address) as studio:
            slow, quick = await studio.user(), await studio.user()
            seen: dict[str, list[Happening]] = {slow: [], quick: []}
            following = [asyncio.create_task(follow(studio, user, seen[user])) for user in (slow, quick)]
            await asyncio.sleep(0.3)
            connection = await asyncpg.connect(address.dsn)
            transaction = connection.transaction()
            await transaction.start()
            # What `store_changes` does, up to the commit.
            await connection.execute("SELECT pg_advisory_xact_lock($1)", key_of(slow))
            first = await connection.fetchval(
                "INSERT INTO change (audience, kind, ref, at) VALUES ($1, 'changed', 'x', 0) RETURNING id", slow
            )
            async with studio.database.write() as session:
                add_changes(session, [Change(audience=quick, kind=ChangeKind.CHANGED, ref="y")])
            async with asyncio.timeout(SECONDS):
                while not seen[quick]:
                    await asyncio.sleep(0.02)
            assert change_of(seen[quick][0]) > first, "the other audience is told at once, under a larger id"
            mine = asyncio.create_task(studio.feed.now(slow))
            other = await studio.feed.now(quick)
            await asyncio.sleep(0.3)
            assert not mine.done(), "a cursor of this audience would be in front of what is not committed yet"
            assert seen[slow] == []
            await transaction.commit()
            await connection.close()
            assert await mine >= other > first
            async with asyncio.timeout(SECONDS):
                while not seen[slow]:
                    await asyncio.sleep(0.02)
            assert change_of(seen[slow][0]) == first
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
