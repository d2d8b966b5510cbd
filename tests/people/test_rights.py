"""Members: who may do what, and how what they follow ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from auth.administration import Administration
from auth.passwords import Passwords
from chat.chats import StatelessChat
from chat.conversations import ConversationChanges
from chat.cursor import Cursor
from chat.drafts import ConversationDraft, MessageDraft
from chat.events import RunFinished, RunStarted, RunTextDelta
from chat.members import MAX_MEMBERS
from chat.sending import Asking
from chat.stats import user_stats
from errors import BadUserInput, ChatError, Conflict, NotFound
from models.address import Address
from models.change import Change
from models.member import MemberRole
from models.run import RunStatus
from models.user import User
from providers.base import Role, Turn
from tests.chat.conftest import SECONDS
from tests.people.conftest import Studio, open_studio
from tests.waiting import until

pytestmark = pytest.mark.on_both

Operation = Callable[[Studio, str, str, str, str], Awaitable[Any]]
"""Done by a user in a conversation with a question and an answer."""

READ: dict[str, Operation] = {
    "find": lambda studio, user, conversation, _q, _a: _found(studio, user, conversation),
    "run": lambda studio, user, _c, _q, answer: studio.chats.own_run(user, answer),
    "type": lambda studio, user, conversation, _q, _a: studio.typing.tell(user, user, conversation),
}
WRITE: dict[str, Operation] = {
    "send": lambda studio, user, conversation, _q, _a: studio.exchange(user, conversation),
    "edit": lambda studio, user, _c, question, _a: studio.sendings.edit(user, question, "x", Asking()),
    "rename": lambda studio, user, conversation, _q, _a: _update(studio, user, conversation, title="x"),
    "head": lambda studio, user, conversation, question, _a: _update(studio, user, conversation, head_id=question),
    "cancel": lambda studio, user, _c, _q, answer: studio.chats.cancel(user, answer),
}
OWN: dict[str, Operation] = {
    "replace": lambda studio, user, conversation, _q, _a: studio.conversations.replace(
        user, conversation, ConversationDraft(messages=[MessageDraft(Role.USER, "x")])
    ),
    "add": lambda studio, user, conversation, _q, _a: studio.members.add(user, conversation, user, MemberRole.VIEWER),
    "delete": lambda studio, user, conversation, _q, _a: studio.conversations.delete(user, conversation),
}


async def _found(studio: Studio, user: str, conversation: str) -> None:
    if await studio.conversations.find(user, conversation) is None:
        raise NotFound


async def _update(studio: Studio, user: str, conversation: str, **changes: Any) -> None:
    await studio.conversations.update(user, conversation, ConversationChanges(**changes))


async def _code(work: Awaitable[Any]) -> str:
    try:
        await work
    except BadUserInput:
        # The role was enough: adding oneself is refused for what it is.
        return "OK"
    except ChatError as error:
        return error.code.value
    return "OK"


@pytest.mark.parametrize("role", [None, *MemberRole])
async def test_each_role_may_do_what_it_says_and_nothing_else(studio: Studio, role: MemberRole | None) -> None:
    """The whole matrix. Nobody's and somebody else's look the same; a role too low is told so."""
    owner, user = await studio.user(), await studio.user()
    if role is MemberRole.OWNER:
        user = owner
    conversation = await studio.conversation(owner)
    if role in {MemberRole.EDITOR, MemberRole.VIEWER}:
        assert role is not None
        await studio.members.add(owner, conversation, user, role)
    question, run = await studio.send(owner, conversation)
    await studio.ended(run)
    rank = -1 if role is None else [MemberRole.VIEWER, MemberRole.EDITOR, MemberRole.OWNER].index(role)
    for least, operations in enumerate((READ, WRITE, OWN)):
        expected = "NOT_FOUND" if rank < 0 else "OK" if rank >= least else "FORBIDDEN"
        for name, operation in operations.items():
            assert await _code(operation(studio, user, conversation, question.id, run.id)) == expected, name
    for name, operation in (READ | WRITE | OWN).items():
        assert await _code(operation(studio, user, "conv_never", "msg_never", "run_never")) == "NOT_FOUND", name


async def test_adding_and_removing(studio: Studio) -> None:
    owner, editor, viewer, stranger = [await studio.user() for _ in range(4)]
    conversation = await studio.conversation(owner)
    add, remove = studio.members.add, studio.members.remove
    await add(owner, conversation, editor, MemberRole.VIEWER)
    assert await _code(_update(studio, editor, conversation, title="x")) == "FORBIDDEN"
    await add(owner, conversation, editor, MemberRole.EDITOR)
    await _update(studio, editor, conversation, title="x")
    await add(owner, conversation, viewer, MemberRole.VIEWER)
    with pytest.raises(NotFound) as raised:
        await add(owner, conversation, "nobody", MemberRole.VIEWER)
    assert raised.value.field == "username"
    for name, role in ((owner, MemberRole.VIEWER), (stranger, MemberRole.OWNER)):
        with pytest.raises(BadUserInput):
            await add(owner, conversation, name, role)
    assert await _code(remove(stranger, conversation, viewer)) == "NOT_FOUND"
    for other in (viewer, owner, stranger):
        assert await _code(remove(editor, conversation, other)) == "FORBIDDEN", "who stands in it was given away"
    assert await _code(remove(owner, conversation, stranger)) == "NOT_FOUND"
    with pytest.raises(BadUserInput):
        await remove(owner, conversation, owner)
    for leaving in (viewer, editor):
        await remove(leaving, conversation, leaving)
        assert await _code(_found(studio, leaving, conversation)) == "NOT_FOUND"


async def test_members_are_bounded(studio: Studio) -> None:
    owner = await studio.user()
    names = [await studio.user() for _ in range(MAX_MEMBERS + 1)]
    conversation = await studio.conversation(owner, *names[:-1])
    with pytest.raises(Conflict):
        await studio.members.add(owner, conversation, names[-1], MemberRole.VIEWER)
    # One who is in can still be given another role.
    await studio.members.add(owner, conversation, names[0], MemberRole.VIEWER)


async def test_the_owners_own_id_is_nobody_elses(studio: Studio) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member, external_id="holiday")
    assert await _code(_found(studio, owner, "holiday")) == "OK"
    assert await _code(_found(studio, member, "holiday")) == "NOT_FOUND"
    # Who names one of theirs like an id of ours does not hide what is shared with them.
    mine = await studio.conversation(member, external_id=conversation)
    found = await studio.conversations.find(member, conversation)
    assert found is not None
    assert found.id == conversation != mine


async def test_what_is_shared_is_counted_for_its_owner_alone(studio: Studio) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member)
    await studio.exchange(member, conversation)
    stats = [await user_stats(studio.database, user) for user in (owner, member)]
    assert [(found.total_conversations, found.total_messages) for found in stats] == [(1, 2), (0, 0)]
    # Who asked has caused the tokens.
    assert (stats[0].total_tokens, stats[1].total_tokens > 0) == (0, True)


async def _ends(events: AsyncGenerator[Any, None]) -> None:
    """The stream says NOT_FOUND, and nothing else, soon."""
    async with asyncio.timeout(SECONDS):
        with pytest.raises(NotFound):
            await anext(events)


async def test_whoever_is_put_out_stops_receiving_at_once(studio: Studio) -> None:
    """An idle follower does not wait for the next token to learn of it, and what comes behind is for the others."""
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member)
    _, run = await studio.send(owner, conversation, model="held:a")
    studio.held.say("a", "one ")
    happenings = studio.happenings

    def follow(user: str) -> dict[str, AsyncGenerator[Any, None]]:
        return {
            "run": happenings.of_run(user, run.id, None),
            "conversation": happenings.of_conversation(user, conversation, None),
            "typing": happenings.of_typing(user, conversation),
        }

    theirs, owners = follow(member), follow(owner)
    for user, streams in ((member, theirs), (owner, owners)):
        for name in ("run", "conversation"):
            seen = [await anext(streams[name]), await anext(streams[name])]
            kinds = [type(getattr(event, "what", event)) for event in seen]
            assert kinds == [RunStarted, RunTextDelta], (user, name)
    waiting = {name: asyncio.ensure_future(anext(events)) for name, events in theirs.items()}
    typed = asyncio.ensure_future(anext(owners["typing"]))
    await until(lambda: len(studio.rights._guards[conversation]) == 6)
    await studio.members.remove(owner, conversation, member)
    done, _ = await asyncio.wait(waiting.values(), timeout=1)
    assert len(done) == 3, "an idle follower was left waiting"
    assert all(isinstance(task.exception(), NotFound) for task in done)
    # The others go on.
    studio.held.say("a", "two", None)
    async with asyncio.timeout(SECONDS):
        assert [event.text async for event in owners["run"] if isinstance(event, RunTextDelta)] == ["two"]
    typed.cancel()
    await asyncio.gather(typed, return_exceptions=True)
    for events in (*theirs.values(), *owners.values()):
        await events.aclose()


async def test_a_follower_that_reads_late_gets_nothing_of_what_came_behind(studio: Studio) -> None:
    """What waits for a slow reader is not handed out once the right is gone."""
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member)
    events = studio.happenings.of_conversation(member, conversation, None)
    first = asyncio.ensure_future(anext(events))
    await until(lambda: bool(studio.rights._guards))
    _, run = await studio.send(owner, conversation, "hello", model="held:a")
    await first
    studio.held.say("a", "secret", None)
    await studio.ended(run)
    await studio.members.remove(owner, conversation, member)
    await _ends(events)


async def test_a_cursor_opens_no_run_of_another_conversation(studio: Studio) -> None:
    """A forged one, shown in a conversation of one's own, where nobody can be put out."""
    owner, member = await studio.user(), await studio.user()
    shared, own = await studio.conversation(owner, member), await studio.conversation(member)
    _, run = await studio.send(owner, shared, model="held:a")
    forged = Cursor(await studio.feed.now(own), {run.id: -1}).encode()
    async with aclosing(studio.happenings.of_conversation(member, own, forged)) as events:
        told = asyncio.ensure_future(anext(events))
        await until(lambda: bool(studio.rights._guards))
        studio.held.say("a", "one ")
        await studio.members.remove(owner, shared, member)
        studio.held.say("a", "secret", None)
        await studio.ended(run)
        await studio.conversations.update(member, own, ConversationChanges(title="mine"))
        async with asyncio.timeout(SECONDS):
            assert isinstance((await told).what, Change), "its own conversation's"


async def test_a_deleted_conversation_is_not_read_by_its_runs(address: Address) -> None:
    """By whoever asked, neither by the run's id nor by its key, at whichever process."""
    async with open_studio(address) as here, open_studio(address) as there:
        owner, member = await here.user(), await here.user()
        conversation = await here.conversation(owner, member)
        _, run = await here.send(member, conversation, model="held:a", idempotency_key="key")
        here.held.say("a", "secret", None)
        await here.ended(run)
        await there.conversations.delete(owner, conversation)
        for studio in (there, here):
            told = [event async for event in studio.happenings.of_run(member, run.id, None)]
            assert [type(event) for event in told] == [RunFinished]
            chat = StatelessChat([Turn(Role.USER, "hi")], "scripted:text=other", idempotency_key="key")
            assert (await studio.chats.answer(member, chat)).content == "other"


async def test_a_member_put_out_by_another_process_stops_receiving(address: Address) -> None:
    owner = member = conversation = ""
    async with open_studio(address) as here, open_studio(address) as there:
        owner, member = await here.user(), await here.user()
        conversation = await here.conversation(owner, member)
        _, run = await here.send(owner, conversation, model="held:a")
        here.held.say("a", "one ")
        followed = [
            there.happenings.of_run(member, run.id, None),
            there.happenings.of_conversation(member, conversation, None),
        ]
        for events in followed:
            async with asyncio.timeout(SECONDS):
                await anext(events)
                await anext(events)
        await here.members.remove(owner, conversation, member)
        for events in followed:
            await _ends(events)
        here.held.say("a", None)
        await here.ended(run)


async def test_a_demoted_editor_follows_on_and_writes_no_more(studio: Studio) -> None:
    owner, member = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, member)
    _, run = await studio.send(member, conversation, model="held:a")
    async with aclosing(studio.happenings.of_run(member, run.id, None)) as events:
        studio.held.say("a", "one ")
        assert isinstance(await anext(events), RunStarted)
        await studio.members.add(owner, conversation, member, MemberRole.VIEWER)
        assert await _code(studio.chats.cancel(member, run.id)) == "FORBIDDEN"
        studio.held.say("a", "two", None)
        async with asyncio.timeout(SECONDS):
            rest = [event async for event in events]
    assert "".join(event.text for event in rest if isinstance(event, RunTextDelta)) == "one two"
    assert (await studio.ended(run)).status == RunStatus.COMPLETED
    assert await _code(studio.send(member, conversation)) == "FORBIDDEN"


@pytest.mark.parametrize("way", ["put out", "left", "disabled"])
async def test_answers_of_whoever_is_gone_are_stopped(studio: Studio, way: str) -> None:
    """Who pays for them can neither see nor stop them; what waits behind them is never asked."""
    owner, member = await studio.user(), await studio.user()
    conversation, own = await studio.conversation(owner, member), await studio.conversation(member)
    _, writing = await studio.send(member, conversation, model="held:a")
    _, waiting = await studio.send(member, conversation, "and then?", model="held:b", queue=True)
    _, elsewhere = await studio.send(member, own, model="held:c")
    _, others = await studio.send(owner, conversation, "me too", model="held:d", queue=True)
    studio.held.say("a", "one ")
    async with aclosing(studio.happenings.of_run(owner, writing.id, None)) as events:
        assert [type(await anext(events)) for _ in range(2)] == [RunStarted, RunTextDelta]
    if way == "disabled":
        await Administration(studio.database, Passwords()).set_disabled(member, disabled=True)
    else:
        await studio.members.remove(owner if way == "put out" else member, conversation, member)
    assert [(await studio.ended(run)).status for run in (writing, waiting)] == [RunStatus.CANCELLED] * 2
    for key in "cd":
        studio.held.say(key, "two", None)
    assert (await studio.ended(others)).status == RunStatus.COMPLETED
    stays = RunStatus.CANCELLED if way == "disabled" else RunStatus.COMPLETED
    assert (await studio.ended(elsewhere)).status == stays
    texts = [message.content for message in await studio.branch(conversation)]
    assert texts == ["hello", "one ", "and then?", "", "me too", "two"]
    assert "held:b" not in [request.model for request in studio.held.asked]


async def test_a_disabled_user_cannot_be_let_in(studio: Studio) -> None:
    owner, gone = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner)
    async with studio.database.write() as session:
        user = await session.get(User, gone)
        assert user is not None
        user.disabled = True
    with pytest.raises(NotFound):
        await studio.members.add(owner, conversation, gone, MemberRole.VIEWER)
