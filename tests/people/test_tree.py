"""The conversation as a tree: where messages go, what is active, and what the model is told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from chat.conversations import ConversationChanges
from chat.drafts import ConversationDraft, MessageDraft
from chat.sending import MAX_WRITING, Asking
from errors import BadUserInput, ChatError, Conflict, NotFound, RateLimited, RunActive
from models.member import MemberRole
from models.message import Message, MessageStatus, siblings_of
from models.run import RunStatus
from models.user import User
from providers.base import Role
from tests.people.conftest import Studio, open_studio
from tests.waiting import until

pytestmark = pytest.mark.on_both


async def _siblings(studio: Studio, message_id: str) -> list[str]:
    async with studio.database.read() as session:
        message = await session.get(Message, message_id)
        assert message is not None
        return [row.id for row in (await siblings_of(session, [message]))[message_id]]


def _prompt(studio: Studio) -> list[tuple[str, str]]:
    """What the held provider was asked last."""
    return [(turn.role.value, turn.content) for turn in studio.held.asked[-1].turns]


async def test_an_unknown_parent_is_another_conversations_and_somebody_elses(studio: Studio) -> None:
    """One answer for all three: what it says must not tell them apart."""
    user, other = await studio.user(), await studio.user()
    mine, second, theirs = [await studio.conversation(owner) for owner in (user, user, other)]
    parents = ["msg_never", (await studio.exchange(user, second))[0], (await studio.exchange(other, theirs))[0], ""]
    said = set()
    for parent in parents:
        with pytest.raises(NotFound) as raised:
            await studio.send(user, mine, parent_id=parent)
        said.add((raised.value.message, raised.value.field))
        with pytest.raises(NotFound) as raised:
            await studio.conversations.update(user, mine, ConversationChanges(head_id=parent))
        assert raised.value.field == "headMessageId"
    assert said == {("No such message", "parentId")}
    assert (await studio.row(mine)).message_count == 0


async def test_the_first_message_can_be_edited(studio: Studio) -> None:
    """It has no parent: its sibling is a second root, and its branch has nothing of the first."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    first, _ = await studio.exchange(user, conversation, "one")
    await studio.exchange(user, conversation, "two")
    edited, run = await studio.sendings.edit(user, first, "uno", Asking(model="held:a"))
    studio.held.say("a", "sí", None)
    await studio.ended(run)
    assert [row.content for row in await studio.branch(conversation)] == ["uno", "sí"]
    assert await _siblings(studio, edited.id) == [first, edited.id]
    assert edited.parent_id is None
    assert _prompt(studio) == [("USER", "uno")]


async def test_the_model_is_told_the_system_prompt_and_the_active_branch_alone(studio: Studio) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user, system_prompt="Be brief.")
    await studio.exchange(user, conversation, "one")
    second, answer = await studio.exchange(user, conversation, "two")
    studio.held.say("a", "A", None)
    _, run = await studio.sendings.edit(user, second, "zwei", Asking(model="held:a"))
    await studio.ended(run)
    assert _prompt(studio) == [("SYSTEM", "Be brief."), ("USER", "one"), ("ASSISTANT", "ok"), ("USER", "zwei")]
    # Back to the branch that was left, then on.
    studio.held.say("a", "B", None)
    await studio.exchange(user, conversation, "three", parent_id=answer, model="held:a")
    assert [content for _, content in _prompt(studio)] == ["Be brief.", "one", "ok", "two", "ok", "three"]
    studio.held.say("a", "C", None)
    run = await studio.sendings.regenerate(user, answer, Asking(model="held:a"))
    await studio.ended(run)
    assert [content for _, content in _prompt(studio)] == ["Be brief.", "one", "ok", "two"]
    assert await _siblings(studio, answer) == [answer, run.message_id]
    assert [row.content for row in await studio.branch(conversation)] == ["one", "ok", "two", "C"]


async def test_only_questions_are_edited_and_only_answers_regenerated(studio: Studio) -> None:
    user, other = await studio.user(), await studio.user()
    conversation = await studio.conversation(user)
    question, answer = await studio.exchange(user, conversation)
    for message in (question, answer, "msg_never"):
        with pytest.raises(NotFound):
            await studio.sendings.edit(other, message, "x", Asking())
        with pytest.raises(NotFound):
            await studio.sendings.regenerate(other, message, Asking())
    with pytest.raises(BadUserInput):
        await studio.sendings.edit(user, answer, "x", Asking())
    with pytest.raises(BadUserInput):
        await studio.sendings.regenerate(user, question, Asking())
    assert (await studio.row(conversation)).message_count == 2


async def test_one_answer_at_a_time_in_a_branch_and_as_many_as_there_are_branches(studio: Studio) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user)
    question, _ = await studio.exchange(user, conversation, "one")
    _, first = await studio.send(user, conversation, "two", model="held:a")
    with pytest.raises(RunActive):
        await studio.send(user, conversation, "three")
    with pytest.raises(RunActive):
        await studio.send(user, conversation, "three", parent_id=first.message_id)
    # Elsewhere: a sibling of the answer under way, a sibling of its question, a new root.
    assert first.message_id is not None
    second = await studio.sendings.regenerate(user, first.message_id, Asking(model="held:b"))
    _, third = await studio.sendings.edit(user, question, "uno", Asking(model="held:c"))
    runs = [first, second, third]
    studio.held.say("a", "A", None)
    studio.held.say("b", "B", None)
    studio.held.say("c", "C", None)
    assert [(await studio.ended(run)).status for run in runs] == [RunStatus.COMPLETED] * 3
    assert [row.content for row in await studio.branch(conversation)] == ["uno", "C"]
    await studio.exchange(user, conversation, "three", parent_id=second.message_id)
    assert [row.content for row in await studio.branch(conversation)] == ["one", "ok", "two", "B", "three", "ok"]


async def test_answers_under_way_in_one_conversation_are_bounded(studio: Studio) -> None:
    """Whoever follows the conversation has each of them in its cursor."""
    user, other = await studio.user(), await studio.user()
    conversation = await studio.conversation(user, other)
    question, _ = await studio.exchange(user, conversation)
    runs = [
        (await studio.sendings.edit((user, other)[number % 2], question, "x", Asking(model="held:a")))[1]
        for number in range(MAX_WRITING)
    ]
    for attempt in (
        studio.sendings.edit(user, question, "x", Asking(model="held:a")),
        studio.send(other, conversation, queue=True),
    ):
        with pytest.raises(RateLimited):
            await attempt
    studio.held.say("a", *[None] * MAX_WRITING)
    for run in runs:
        await studio.ended(run)


async def test_a_queued_question_sees_the_answer_in_front_of_it(studio: Studio) -> None:
    """A chain of three: each is asked when the one before has ended, whichever way it ended."""
    user = await studio.user()
    conversation = await studio.conversation(user, system_prompt="Be brief.")
    _, first = await studio.send(user, conversation, "1", model="held:a")
    _, second = await studio.send(user, conversation, "2", model="scripted:text=half,fail=PROVIDER_ERROR", queue=True)
    _, third = await studio.send(user, conversation, "3", model="held:c", queue=True)
    await until(lambda: bool(studio.held.asked))
    assert third.status == RunStatus.QUEUED
    studio.held.say("c", "C", None)
    studio.held.say("a", "A", None)
    assert (await studio.ended(second)).status == RunStatus.FAILED
    assert (await studio.ended(third)).status == RunStatus.COMPLETED
    assert first.status == RunStatus.COMPLETED
    assert [content for _, content in _prompt(studio)] == ["Be brief.", "1", "A", "2", "half", "3"]
    assert [row.content for row in await studio.branch(conversation)] == ["1", "A", "2", "half", "3", "C"]


async def test_a_queued_question_can_be_cancelled_and_the_next_goes_on(studio: Studio) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user)
    _, first = await studio.send(user, conversation, "1", model="held:a")
    _, second = await studio.send(user, conversation, "2", model="held:b", queue=True)
    _, third = await studio.send(user, conversation, "3", model="held:c", queue=True)
    assert (await studio.chats.cancel(user, second.id)).status == RunStatus.CANCELLED
    assert len(studio.held.asked) <= 1, "a cancelled question was asked"
    studio.held.say("a", "A", None)
    studio.held.say("c", "C", None)
    await studio.ended(third)
    assert [content for _, content in _prompt(studio)] == ["1", "A", "2", "3"]
    rows = await studio.branch(conversation)
    assert [(row.content, row.status) for row in rows if row.role == Role.ASSISTANT] == [
        ("A", MessageStatus.COMPLETE),
        ("", MessageStatus.CANCELLED),
        ("C", MessageStatus.COMPLETE),
    ]
    assert first.status == RunStatus.COMPLETED


@pytest.mark.parametrize("way", ["delete", "replace"])
async def test_what_is_queued_goes_with_its_conversation(studio: Studio, way: str) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user)
    runs = [(await studio.send(user, conversation, "x", model="held:a", queue=True))[1] for _ in range(3)]
    async with asyncio.timeout(5):
        if way == "delete":
            await studio.conversations.delete(user, conversation)
        else:
            draft = ConversationDraft(messages=[MessageDraft(Role.USER, "new")])
            await studio.conversations.replace(user, conversation, draft)
            assert [row.content for row in await studio.branch(conversation)] == ["new"]
    assert [(await studio.ended(run)).status for run in runs] == [RunStatus.CANCELLED] * 3
    assert len(studio.held.asked) <= 1, "the queue moved up while it was emptied"
    async with studio.database.read() as session:
        counted = await session.get(User, user)
    assert counted is not None
    assert (counted.conversation_count, counted.message_count) == ((0, 0) if way == "delete" else (1, 1))


async def test_the_same_key_gives_the_first_result_and_starts_nothing(studio: Studio) -> None:
    """All three mutations; also at once, and for a key whose first use was another mutation."""
    user, other = await studio.user(), await studio.user()
    conversation = await studio.conversation(user, other)
    again = [studio.send(user, conversation, "one", idempotency_key="k") for _ in range(8)]
    results = await asyncio.gather(*again)
    assert len({(question.id, run.id) for question, run in results}) == 1
    question, run = results[0]
    await studio.ended(run)
    assert run.message_id is not None
    edits = await asyncio.gather(
        *(studio.sendings.edit(user, question.id, "uno", Asking(idempotency_key="e")) for _ in range(4))
    )
    assert len({found.id for found, _ in edits}) == 1
    await studio.ended(edits[0][1])
    answers = await asyncio.gather(
        *(studio.sendings.regenerate(user, run.message_id, Asking(idempotency_key="r")) for _ in range(4))
    )
    assert len({found.id for found in answers}) == 1
    await studio.ended(answers[0])
    assert (await studio.send(user, conversation, "other words", idempotency_key="e"))[0].id == edits[0][0].id
    # A key is its user's own.
    theirs, their_run = await studio.send(other, conversation, "one", idempotency_key="k")
    assert theirs.id != question.id
    await studio.ended(their_run)
    assert len(await _siblings(studio, question.id)) == 2
    assert len(await _siblings(studio, run.message_id)) == 2


async def test_a_key_gives_nothing_away_once_its_conversation_is_out_of_reach(studio: Studio) -> None:
    owner, user = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, user)
    _, run = await studio.send(user, conversation, idempotency_key="k")
    await studio.ended(run)
    await studio.members.remove(owner, conversation, user)
    with pytest.raises(NotFound):
        await studio.send(user, conversation, idempotency_key="k")
    await studio.conversations.delete(owner, conversation)
    with pytest.raises(ChatError) as raised:
        await studio.send(user, conversation, idempotency_key="k")
    assert isinstance(raised.value, NotFound | Conflict)


async def test_an_answer_that_is_still_written_can_be_regenerated(studio: Studio) -> None:
    """Its sibling is another branch; the first goes on and keeps what it wrote."""
    user = await studio.user()
    conversation = await studio.conversation(user)
    _, first = await studio.send(user, conversation, model="held:a")
    assert first.message_id is not None
    second = await studio.sendings.regenerate(user, first.message_id, Asking(model="held:b"))
    studio.held.say("b", "B", None)
    await studio.ended(second)
    studio.held.say("a", "A", None)
    await studio.ended(first)
    assert [row.content for row in await studio.branch(conversation)] == ["hello", "B"]
    async with studio.database.read() as session:
        row = await session.get(Message, first.message_id)
    assert row is not None
    assert (row.content, row.status, row.active) == ("A", MessageStatus.COMPLETE, False)


async def test_who_may_only_read_starts_nothing(studio: Studio) -> None:
    owner, viewer = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, viewer, role=MemberRole.VIEWER)
    question, answer = await studio.exchange(owner, conversation)
    for attempt in (
        studio.send(viewer, conversation),
        studio.sendings.edit(viewer, question, "x", Asking()),
        studio.sendings.regenerate(viewer, answer, Asking()),
    ):
        with pytest.raises(ChatError) as raised:
            await attempt
        assert raised.value.code == "FORBIDDEN"
    assert (await studio.row(conversation)).message_count == 2
    assert not studio.engine.places.taken


@pytest.fixture
async def first(path: Path) -> AsyncIterator[Studio]:
    """On a file, which can be copied at any moment."""
    async with open_studio(path) as opened:
        yield opened


async def test_a_queue_is_kept_when_another_process_takes_it_over(first: Studio, path: Path, tmp_path: Path) -> None:
    """None of them had come to a word: each is begun again, and still behind the one in front of it."""
    studio = first
    user = await studio.user()
    conversation = await studio.conversation(user)
    runs = [(await studio.send(user, conversation, str(number), model="held:a", queue=True))[1] for number in range(3)]
    # What a process leaves that dies at this moment.
    left = tmp_path / "left.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(left)) as target:
        source.backup(target)
    async with open_studio(left) as heir:
        await until(lambda: bool(heir.held.asked))
        await until(lambda: all(heir.engine.log_of(run.id) for run in runs))
        assert len(heir.held.asked) == 1
        heir.held.say("a", "A", None, "B", None, "C", None)
        for run in runs:
            assert (await heir.ended(await heir.chats.own_run(user, run.id))).status == RunStatus.COMPLETED
        assert [row.content for row in await heir.branch(conversation)] == ["0", "A", "1", "B", "2", "C"]
        assert [content for _, content in _prompt(heir)] == ["0", "A", "1", "B", "2"]
    studio.held.say("a", None, None, None)
