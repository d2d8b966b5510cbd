"""deleteMessage: a message goes with the branches below it, and only for those who may."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from chat.sending import Asking
from errors import Forbidden, NotFound
from models.change import Change, ChangeKind
from models.member import MemberRole
from models.run import RunStatus
from models.user import user_by_id
from tests.conftest import all_messages
from tests.people.conftest import Studio

pytestmark = pytest.mark.on_both


async def _ids(studio: Studio, conversation: str) -> set[str]:
    async with studio.database.read() as session:
        return {row.id for row in await all_messages(session, conversation)}


async def _active(studio: Studio, conversation: str) -> list[str]:
    return [message.id for message in await studio.branch(conversation)]


async def test_only_the_owner_may_and_strangers_see_nothing(studio: Studio) -> None:
    owner, editor, reader, stranger = [await studio.user() for _ in range(4)]
    conversation = await studio.conversation(owner, editor)
    await studio.members.add(owner, conversation, reader, MemberRole.VIEWER)
    question, answer = await studio.exchange(owner, conversation)
    said = set()
    for user, message in ((stranger, question), (owner, "msg_never"), (owner, conversation), (stranger, "")):
        with pytest.raises(NotFound) as raised:
            await studio.conversations.delete_message(user, message)
        said.add((raised.value.message, raised.value.field))
    assert said == {("No such message", "id")}
    for user in (editor, reader):
        with pytest.raises(Forbidden):
            await studio.conversations.delete_message(user, answer)
    assert await _ids(studio, conversation) == {question, answer}


async def test_what_stands_below_goes_too_and_the_counters_agree(studio: Studio) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user)
    first = await studio.exchange(user, conversation, "one")
    second = await studio.exchange(user, conversation, "two")
    third = await studio.exchange(user, conversation, "three", parent_id=first[1])
    version = (await studio.row(conversation)).version
    deleted = await studio.conversations.delete_message(user, third[0])
    assert (deleted.version, deleted.head_id) == (version + 1, second[1]), "the branch beside it goes on"
    assert await _active(studio, conversation) == [*first, *second]
    await studio.conversations.delete_message(user, second[0])
    assert await _active(studio, conversation) == [*first], "there is none beside it: it ends above"
    await studio.conversations.delete_message(user, first[0])
    assert await _ids(studio, conversation) == set()
    row = await studio.row(conversation)
    assert (row.head_id, row.message_count) == (None, 0)
    async with studio.database.read() as session:
        counted = await user_by_id(session, user)
    assert counted is not None
    assert counted.message_count == 0


async def test_of_another_branch_the_active_one_stays(studio: Studio) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user)
    first = await studio.exchange(user, conversation, "one")
    second = await studio.exchange(user, conversation, "two", parent_id=first[1])
    third = await studio.exchange(user, conversation, "three", parent_id=first[1])
    await studio.conversations.delete_message(user, second[0])
    assert await _active(studio, conversation) == [*first, *third]
    assert await _ids(studio, conversation) == {*first, *third}


async def test_an_answer_that_is_being_written_there_is_cancelled_and_another_is_not(studio: Studio) -> None:
    user = await studio.user()
    conversation = await studio.conversation(user)
    first = await studio.exchange(user, conversation, "one")
    kept, keeps = await studio.send(user, conversation, "two", model="held:a")
    gone, goes = await studio.send(user, conversation, "three", parent_id=first[1], model="held:b")
    studio.held.say("b", "half")
    await studio.conversations.delete_message(user, gone.id)
    assert (await studio.ended(goes)).status == RunStatus.CANCELLED
    assert await _active(studio, conversation) == [*first, kept.id, keeps.message_id]
    studio.held.say("a", "whole", None)
    assert (await studio.ended(keeps)).status == RunStatus.COMPLETED
    assert [message.content for message in await studio.branch(conversation)][-1] == "whole"


async def test_everyone_who_has_it_open_is_told(studio: Studio) -> None:
    owner, editor = await studio.user(), await studio.user()
    conversation = await studio.conversation(owner, editor)
    question, answer = await studio.exchange(owner, conversation)
    _, run = await studio.sendings.edit(owner, question, "another", Asking(model="held:a"))
    studio.held.say("a", "one ")
    async with aclosing(studio.happenings.of_conversation(editor, conversation, None)) as events:
        await studio.told(events, 2)  # it is being followed from here on
        await studio.conversations.delete_message(owner, question)
        told = [happening.what for happening in await studio.told(events, 3)]
    changes = [what for what in told if isinstance(what, Change)]
    assert {change.ref for change in changes[:2]} == {question, answer}
    assert [change.kind for change in changes] == [ChangeKind.MESSAGE_REMOVED] * 2 + [ChangeKind.CHANGED]
    studio.held.say("a", None)
    assert (await studio.ended(run)).status == RunStatus.COMPLETED
