"""Following a conversation or a viewer: every cursor gives exactly the rest, and nothing grows with a slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from sqlalchemy import delete

from chat.conversations import ConversationChanges
from chat.cursor import MAX_RUNS, Cursor
from chat.events import RunEvent, RunFinished, RunSnapshot, RunTextDelta
from chat.feed import FORGOTTEN_AT_ONCE
from chat.happenings import Happening
from chat.sending import Asking
from chat.typing import TypingNotice
from errors import BadUserInput, NotFound
from models.address import Address
from models.change import Change, ChangeKind
from models.conversation import touch_conversation
from models.journal import JournalRow, Segment
from models.member import MemberRole
from tests.chat.conftest import SECONDS
from tests.people.conftest import Studio, open_studio
from tests.people.told import names, texts
from tests.waiting import until

pytestmark = pytest.mark.on_both


async def _record(studio: Studio, user: str, conversation: str) -> list[Happening]:
    """A scene of everything: two runs at once, a regeneration, a queue, renames, typing."""
    found: list[Happening] = []
    done = asyncio.Event()

    async def read() -> None:
        async with aclosing(studio.happenings.of_conversation(user, conversation, None)) as events:
            async for happening in events:
                found.append(happening)
                if isinstance(happening.what, Change) and happening.what.kind == ChangeKind.RESYNC:
                    break
        done.set()

    reader = asyncio.create_task(read())
    await until(lambda: bool(studio.rights._guards))
    question, first = await studio.send(user, conversation, "one", model="held:a")
    studio.held.say("a", "a0 ")
    await until(lambda: any(isinstance(item.what, RunTextDelta) for item in found))
    await studio.conversations.update(user, conversation, ConversationChanges(title="renamed"))
    _, second = await studio.sendings.edit(user, question.id, "uno", Asking(model="held:b"))
    _, third = await studio.send(user, conversation, "queued", model="scripted:text=c0_,text=c1", queue=True)
    for number in range(3):
        studio.held.say("a", f"a{number} ")
        studio.held.say("b", f"b{number} ")
        await asyncio.sleep(0.03)
    studio.held.say("a", None)
    studio.held.say("b", None)
    for run in (first, second, third):
        await studio.ended(run)
    finished = {run.id for run in (first, second, third)}
    await until(lambda: finished <= {item.what.run_id for item in found if isinstance(item.what, RunFinished)})
    async with studio.database.write() as session:
        session.add(Change(audience=conversation, kind=ChangeKind.RESYNC, ref=conversation))
    await asyncio.wait_for(done.wait(), SECONDS)
    await reader
    return found


async def _compare(studio: Studio, user: str, conversation: str, found: list[Happening], step: int = 1) -> None:
    whole, last = texts(found), found[-1].cursor
    for index in range(0, len(found) - 1, step):
        seen, rest = found[: index + 1], await studio.until_quiet(user, conversation, found[index].cursor, last)
        changes = [name for name in names(found[index + 1 :]) if isinstance(name[0], int)]
        assert [name for name in names(rest) if isinstance(name[0], int)] == changes, index
        together = [*seen, *rest]
        assert texts(together) == whole, index
        ends = [item.what.run_id for item in together if isinstance(item.what, RunFinished)]
        assert sorted(ends) == sorted(whole), index
        for run_id in whole:
            told = [
                item.what.seq for item in together if isinstance(item.what, RunEvent) and item.what.run_id == run_id
            ]
            assert told == sorted(set(told)), "an event came twice, or out of order"


async def test_every_cursor_gives_exactly_the_rest(studio: Studio, address: Address) -> None:
    """In the same process, in another one, and when the server was started again and the events are compacted."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    found = await _record(studio, user, conversation)
    assert len(found) > 15
    await _compare(studio, user, conversation, found)
    async with open_studio(address) as other:
        await _compare(other, user, conversation, found, step=3)
    for job in list(studio.engine._jobs.values()):
        studio.engine._forget(job)
    async with studio.database.write() as session:
        await session.exec(delete(Segment))
        await session.exec(delete(JournalRow))
    rest = await studio.until_quiet(user, conversation, found[4].cursor, found[-1].cursor)
    assert any(isinstance(item.what, RunSnapshot) for item in rest)
    await _compare(studio, user, conversation, found)


async def test_a_cursor_taken_in_mid_run_goes_on_there(studio: Studio, address: Address) -> None:
    """On this process and on another: the second device has what the first has."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    _, run = await studio.send(user, conversation, model="held:a")
    async with (
        open_studio(address) as there,
        aclosing(studio.happenings.of_conversation(user, conversation, None)) as events,
    ):
        studio.held.say("a", "one ")
        seen = await studio.told(events, 2)
        others: list[tuple[Studio, AsyncGenerator[Happening, None]]] = [
            (place, place.happenings.of_conversation(user, conversation, seen[-1].cursor)) for place in (studio, there)
        ]
        studio.held.say("a", "two ")
        for place, other in others:
            assert texts([*seen, *await place.told(other, 1)]) == {run.id: "one two "}
        studio.held.say("a", "three", None)
        for place, other in others:
            rest = await place.told(other, 2)
            assert [type(item.what) for item in rest] == [RunTextDelta, RunFinished]
            assert not Cursor.decode(rest[-1].cursor).runs
            await other.aclose()


@pytest.mark.parametrize(
    "after",
    ["", "!", "ä", "MQ==x", "LTE", "MX5ydW5fYQ", Cursor(1, {f"run_{n}": 1 for n in range(MAX_RUNS + 1)}).encode()],
)
async def test_what_is_no_cursor_is_refused(studio: Studio, after: str) -> None:
    user, other = await studio.user(), await studio.user()
    conversation = await studio.conversation(user)
    with pytest.raises(BadUserInput):
        await anext(studio.happenings.of_conversation(user, conversation, after))
    with pytest.raises(BadUserInput):
        await anext(studio.happenings.of_viewer(user, after))
    with pytest.raises((NotFound, BadUserInput)):
        await anext(studio.happenings.of_conversation(other, conversation, after))


async def test_a_cursor_of_the_future_or_of_somebody_else_gives_nothing_away(studio: Studio) -> None:
    user, other = await studio.user(), await studio.user()
    mine, theirs = await studio.conversation(user), await studio.conversation(other)
    _, run = await studio.send(other, theirs, model="held:a")
    studio.held.say("a", "secret", None)
    await studio.ended(run)
    now = await studio.feed.now("")
    forged = Cursor(now, {run.id: -1, "run_never": 3, "": 10**14}).encode()
    async with aclosing(studio.happenings.of_conversation(user, mine, forged)) as events:
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: bool(studio.rights._guards))
        await studio.conversations.update(user, mine, ConversationChanges(title="x"))
        (told,) = [await asyncio.wait_for(waiting, SECONDS)]
    assert names([told])[0][1:] == (ChangeKind.CHANGED, mine)
    async with aclosing(studio.happenings.of_conversation(user, mine, Cursor(now + 999, {}).encode())) as events:
        (resync,) = await studio.told(events, 1)
        assert resync.what is None
        await studio.conversations.update(user, mine, ConversationChanges(title="y"))
        assert names(await studio.told(events, 1))[0][1:] == (ChangeKind.CHANGED, mine)


async def test_a_cursor_that_is_too_old_is_told_so_once_and_then_it_is_live(studio: Studio) -> None:
    """Answers that are being written are told from their start: what was fetched again has nothing of them."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    await studio.exchange(user, conversation)
    _, run = await studio.send(user, conversation, model="held:a")
    studio.held.say("a", "one ")
    await _forget_everything(studio)
    old = Cursor(1, {}).encode()
    async with aclosing(studio.happenings.of_conversation(user, conversation, old)) as events:
        told = await studio.told(events, 3)
        assert told[0].what is None
        assert texts(told) == {run.id: "one "}
        studio.held.say("a", "two", None)
        assert texts([*told, *await studio.told(events, 2)]) == {run.id: "one two"}
        await studio.conversations.update(user, conversation, ConversationChanges(title="x"))
        assert names(await studio.told(events, 1))[0][1:] == (ChangeKind.CHANGED, conversation)
    async with aclosing(studio.happenings.of_viewer(user, old)) as viewer:
        told = await studio.told(viewer, 1)
        assert told[0].what is None
        await studio.conversations.update(user, conversation, ConversationChanges(title="y"))
        assert names(await studio.told(viewer, 1))[0][1:] == (ChangeKind.CHANGED, conversation)


async def _forget_everything(studio: Studio) -> None:
    """As if a day had passed."""
    studio.feed._keep, kept = 0, studio.feed._keep
    await asyncio.sleep(0.002)
    await studio.feed.forget()
    studio.feed._keep = kept


async def test_old_changes_go_and_the_newest_stays(studio: Studio) -> None:
    user = await studio.user()
    async with studio.database.write() as session:
        session.add_all([Change(audience=user, kind="changed", ref="x") for _ in range(FORGOTTEN_AT_ONCE + 7)])
    now = await studio.feed.now("")
    await studio.feed.forget()
    await studio.happenings.of_viewer(user, Cursor(0, {}).encode()).aclose()
    async with aclosing(studio.happenings.of_viewer(user, Cursor(now - 5, {}).encode())) as events:
        assert len(await studio.told(events, 5)) == 5, "what is young enough was deleted"
    await _forget_everything(studio)
    assert await studio.feed.now("") == now
    async with studio.database.read() as session:
        assert await session.get(Change, now) is not None
        assert await session.get(Change, now - 1) is None


async def test_old_changes_go_by_themselves(address: Address) -> None:
    async with open_studio(address, keep_changes=0.2) as studio:
        user = await studio.user()
        studio.feed.start()
        await studio.conversation(user)
        await studio.conversation(user)
        async with asyncio.timeout(SECONDS):
            while True:
                async with studio.database.read() as session:
                    if await session.get(Change, 1) is None:
                        break
                await asyncio.sleep(0.05)


async def test_a_deletion_is_the_last_thing_told(studio: Studio) -> None:
    """Also when so much happened just before that the reader learns of it when all is gone."""
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member)
    streams = [studio.happenings.of_conversation(user, conversation, None) for user in (owner, member)]
    waiting = [asyncio.ensure_future(anext(events)) for events in streams]
    await until(lambda: len(studio.rights._guards.get(conversation, ())) == 2)
    for number in range(5):
        await studio.conversations.update(owner, conversation, ConversationChanges(title=str(number)))
    await studio.send(owner, conversation, model="held:a")
    await studio.conversations.delete(owner, conversation)
    for first, events in zip(waiting, streams, strict=True):
        async with asyncio.timeout(SECONDS):
            told = [await first, *[happening async for happening in events]]
        assert names(told)[-1][1] == ChangeKind.DELETED
        with pytest.raises(NotFound):
            await anext(studio.happenings.of_conversation(owner, conversation, told[-1].cursor))


async def test_typing_is_told_and_never_replayed(studio: Studio) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member)
    async with aclosing(studio.happenings.of_conversation(owner, conversation, None)) as events:
        waiting = asyncio.ensure_future(anext(events))
        await until(lambda: bool(studio.rights._guards))
        before = await studio.feed.now("")
        async with asyncio.timeout(SECONDS):
            while not waiting.done():
                studio.typing._last.clear()
                await studio.typing.tell(member, member, conversation)
                await asyncio.sleep(0.01)
        told = waiting.result()
    assert isinstance(told.what, TypingNotice)
    assert (told.what.user_id, Cursor.decode(told.cursor).change) == (member, before)
    assert await studio.feed.now("") == before, "typing was stored"


async def test_a_burst_reaches_the_viewer_whole(studio: Studio, address: Address) -> None:
    """500 changes at once, from this process and from another."""
    user = await studio.user()
    ids = [await studio.conversation(user) for _ in range(5)]
    async with open_studio(address) as there, aclosing(studio.happenings.of_viewer(user, None)) as events:
        first = asyncio.ensure_future(anext(events))
        await until(lambda: bool(studio.feed._waiters))
        for place, count in ((studio, 250), (there, 250)):
            async with place.database.write() as session:
                session.add_all([Change(audience=user, kind="changed", ref=ids[n % 5]) for n in range(count)])
                await touch_conversation(session, ids[0])
        told = [await asyncio.wait_for(first, SECONDS), *await studio.told(events, 499)]
    numbers = [item.what.id or 0 for item in told if isinstance(item.what, Change)]
    assert numbers == list(range(numbers[0], numbers[0] + 500))


async def test_the_viewer_is_told_of_what_is_shared_and_taken_away(studio: Studio) -> None:
    owner, member, stranger = await studio.user(), await studio.user(), await studio.user()
    conversation = await studio.conversation(owner)
    start = Cursor(await studio.feed.now(""), {}).encode()
    await studio.members.add(owner, conversation, member, MemberRole.VIEWER)
    _, run = await studio.send(owner, conversation)
    await studio.ended(run)
    await studio.members.remove(owner, conversation, member)
    await studio.conversations.update(owner, conversation, ConversationChanges(title="x"))
    async with aclosing(studio.happenings.of_viewer(member, start)) as events:
        assert [name[1:] for name in names(await studio.told(events, 4))] == [
            (ChangeKind.CHANGED, conversation),
            (ChangeKind.RUN, run.id),
            (ChangeKind.RUN, run.id),
            (ChangeKind.CHANGED, conversation),
        ]
    async with aclosing(studio.happenings.of_viewer(owner, start)) as events:
        assert len(await studio.told(events, 5)) == 5
    async with studio.database.read() as session:
        for change in range(1, await studio.feed.now("") + 1):
            row = await session.get(Change, change)
            assert row is None or row.audience != stranger
