import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from chat.conversations import ConversationChanges
from chat.drafts import DEFAULT_TITLE, ConversationDraft, MessageDraft
from chat.events import RunFinished
from chat.listing import whole_list
from errors import BadUserInput, Conflict, NotFound
from models.address import Address
from models.branch import BranchRow
from models.columns import EPOCH
from models.message import Message
from models.run import RunStatus
from models.user import user_by_id
from providers.base import Role
from tests.chat.conftest import INPUTS, Core, open_core, said
from tests.conftest import all_messages
from tests.waiting import until

pytestmark = pytest.mark.on_both

THEN = EPOCH + timedelta(days=20_000, milliseconds=123)
LATER = THEN + timedelta(days=1)


def draft(*messages: MessageDraft, **more: Any) -> ConversationDraft:
    return ConversationDraft(**{"title": "t", "model": "scripted", "messages": messages, **more})


def texts(messages: Sequence[Message] | Sequence[BranchRow]) -> list[str]:
    return [message.content for message in messages]


async def counters(core: Core, user_id: str) -> tuple[int, int]:
    async with core.database.read() as session:
        user = await user_by_id(session, user_id)
    assert user is not None
    return user.conversation_count, user.message_count


@pytest.fixture
async def stranger(core: Core) -> str:
    return await core.user()


class TestSomeoneElses:
    """What is not the viewer's does not exist."""

    async def test_is_found_under_neither_id(self, core: Core, user: str, stranger: str) -> None:
        made, _ = await core.conversations.create(user, draft(said("a"), external_id="mine"))
        for key in (made.id, "mine"):
            assert await core.conversations.find(stranger, key) is None
            for call in (
                core.conversations.get(stranger, key),
                core.conversations.replace(stranger, key, draft()),
                core.conversations.update(stranger, key, ConversationChanges(title="x")),
                core.conversations.delete(stranger, key),
                core.send(stranger, "text=a", made),
            ):
                with pytest.raises(NotFound):
                    await call
        _, messages = await core.conversations.get(user, "mine")
        assert texts(messages) == ["a"]
        assert [whole async for whole in whole_list(core.database, stranger)] == []
        assert await core.conversations.page(stranger, limit=10) == []

    async def test_id_may_be_chosen_again(self, core: Core, user: str, stranger: str) -> None:
        first, _ = await core.conversations.create(user, draft(said("a"), external_id="conv_1"))
        second, _ = await core.conversations.create(stranger, draft(said("b"), external_id="conv_1"))
        assert first.id != second.id
        assert texts((await core.conversations.get(stranger, "conv_1"))[1]) == ["b"]

    async def test_run_cannot_be_seen_followed_or_stopped(self, core: Core, user: str, stranger: str) -> None:
        run = await core.send(user, "wait=30")
        assert await core.chats.run(stranger, run.id) is None
        with pytest.raises(NotFound):
            await core.events(stranger, run)
        with pytest.raises(NotFound):
            await core.chats.cancel(stranger, run.id)
        assert (await core.chats.cancel(user, run.id)).status == RunStatus.CANCELLED


class TestCreate:
    async def test_keeps_everything_it_was_given(self, core: Core, user: str) -> None:
        message = MessageDraft(Role.ASSISTANT, "a", "m1", THEN)
        given = ConversationDraft("t", "m", "p", "c1", THEN, LATER, [message])
        made, (row,) = await core.conversations.create(user, given)
        found, (same,) = await core.conversations.get(user, "c1")
        assert found == made
        assert (same.id, same.content, same.created_at, same.depth) == (row.id, "a", THEN, 0)
        assert (found.title, found.model, found.system_prompt, found.external_id) == ("t", "m", "p", "c1")
        assert (found.created_at, found.updated_at, found.version) == (THEN, LATER, 1)
        assert (row.role, row.content, row.external_id, row.created_at) == (Role.ASSISTANT, "a", "m1", THEN)
        assert await counters(core, user) == (1, 1)

    async def test_without_anything_has_defaults(self, core: Core, user: str) -> None:
        made, messages = await core.conversations.create(user, ConversationDraft())
        assert (made.title, made.model, messages) == (DEFAULT_TITLE, "scripted", [])
        assert (await core.conversations.get(user, made.id))[0] == made

    async def test_again_returns_what_is_stored(self, core: Core, user: str) -> None:
        given = draft(said("a", "1"), said("b"), external_id="c1")
        first, _ = await core.conversations.create(user, given)
        second, messages = await core.conversations.create(user, given)
        assert (second.id, second.version, texts(messages)) == (first.id, 1, ["a", "b"])
        assert await counters(core, user) == (1, 2)

    async def test_of_another_under_the_same_id_is_a_conflict(self, core: Core, user: str) -> None:
        made, _ = await core.conversations.create(user, draft(said("a"), external_id="c1"))
        for key in ("c1", made.id):
            with pytest.raises(Conflict) as caught:
                await core.conversations.create(user, draft(said("other"), external_id=key))
            assert caught.value.field == "id"
        assert texts((await core.conversations.get(user, "c1"))[1]) == ["a"]

    async def test_twice_at_once_makes_one(self, address: Address) -> None:
        """Also from two processes: the look and the insert are one transaction."""
        async with open_core(address) as mine, open_core(address) as theirs:
            user = await mine.user()
            given = draft(said("a", "1"), external_id="c1")
            made = await asyncio.gather(
                *(core.conversations.create(user, given) for core in (mine, theirs) for _ in range(5))
            )
            assert len({conversation.id for conversation, _ in made}) == 1
            assert await counters(mine, user) == (1, 1)

    async def test_refuses_the_one_too_many(self, address: Address) -> None:
        async with open_core(address, inputs=replace(INPUTS, conversations=2)) as core:
            user = await core.user()
            for _ in range(2):
                await core.conversations.create(user, ConversationDraft())
            with pytest.raises(BadUserInput):
                await core.conversations.create(user, ConversationDraft())

    async def test_that_is_refused_leaves_nothing(self, core: Core, user: str) -> None:
        with pytest.raises(BadUserInput):
            await core.conversations.create(user, draft(said("a", "same"), said("b", "same"), external_id="c1"))
        assert await core.conversations.find(user, "c1") is None
        assert await counters(core, user) == (0, 0)


class TestReplace:
    async def test_of_an_unknown_id_makes_nothing(self, core: Core, user: str) -> None:
        with pytest.raises(NotFound):
            await core.conversations.replace(user, "c1", draft(external_id="c1"))
        assert await core.conversations.find(user, "c1") is None

    async def test_keeps_identity_run_and_usage_of_what_is_unchanged(self, core: Core, user: str) -> None:
        made, _ = await core.conversations.create(user, draft(said("a", "m1"), external_id="c1"))
        run = await core.send(user, "text=answer,usage=5/6", made)
        await core.events(user, run)
        _, before = await core.conversations.get(user, "c1")
        drafts = [MessageDraft(Role(row.role), row.content, row.external_id or row.id) for row in before]
        after, messages = await core.conversations.replace(user, "c1", draft(*drafts, said("more")))
        assert [row.id for row in messages[:3]] == [row.id for row in before]
        _, stored = await core.conversations.get(user, "c1")
        assert [row.id for row in stored] == [row.id for row in messages]
        assert stored[2].run_id == run.id
        assert (await core.row(run.id)).completion_tokens == 6
        assert (after.version, after.message_count, after.head_id) == (2, 4, messages[3].id)
        assert await counters(core, user) == (1, 4)

    async def test_moves_what_is_kept(self, core: Core, user: str) -> None:
        drafts = [said(text, text) for text in "abc"]
        made, before = await core.conversations.create(user, draft(*drafts))
        turned = [MessageDraft(Role.USER, text, text, LATER) for text in "cba"]
        _, after = await core.conversations.replace(user, made.id, draft(*turned))
        assert [row.id for row in after] == [row.id for row in reversed(before)]
        async with core.database.read() as session:
            rows = await all_messages(session, made.id)
        assert [(row.content, row.depth, row.created_at) for row in rows] == [
            ("c", 0, LATER),
            ("b", 1, LATER),
            ("a", 2, LATER),
        ]
        assert [row.parent_id for row in rows] == [None, rows[0].id, rows[1].id]

    async def test_deletes_the_others(self, core: Core, user: str) -> None:
        made, _ = await core.conversations.create(user, draft(said("a", "1"), said("b", "2"), said("c", "3")))
        await core.conversations.replace(user, made.id, draft(said("c", "3"), said("b2", "2")))
        async with core.database.read() as session:
            rows = await all_messages(session, made.id)
        assert [(row.content, row.external_id, row.depth, row.active) for row in rows] == [
            ("c", "3", 0, True),
            ("b2", "2", 1, True),
        ]
        assert rows[0].parent_id is None
        assert rows[1].parent_id == rows[0].id
        assert await counters(core, user) == (1, 2)

    async def test_cancels_an_active_run(self, core: Core, user: str) -> None:
        made = await core.conversation(user)
        run = await core.send(user, "text=a,wait=30", made)
        following = asyncio.create_task(core.events(user, run))
        log = core.engine.log_of(run.id)
        assert log is not None
        await until(lambda: log.text == "a")
        _, messages = await core.conversations.replace(user, made.id, draft(said("new")))
        end = (await following)[-1]
        assert isinstance(end, RunFinished)
        assert end.status is RunStatus.CANCELLED
        assert texts(messages) == ["new"]
        assert texts((await core.conversations.get(user, made.id))[1]) == ["new"]
        assert await counters(core, user) == (1, 1)

    async def test_times_that_are_not_given_stay_or_are_now(self, core: Core, user: str) -> None:
        given = ConversationDraft("t", "m", None, "c1", THEN, THEN, [MessageDraft(Role.USER, "a", "1", THEN)])
        await core.conversations.create(user, given)
        after, (row,) = await core.conversations.replace(user, "c1", draft(said("a", "1")))
        assert (after.created_at, row.created_at) == (THEN, THEN)
        assert after.updated_at > LATER
        times = replace(given, created_at=LATER, updated_at=LATER)
        after, _ = await core.conversations.replace(user, "c1", times)
        assert (after.created_at, after.updated_at) == (LATER, LATER)

    async def test_clears_what_is_not_given_but_keeps_the_model_and_the_id(self, core: Core, user: str) -> None:
        await core.conversations.create(user, ConversationDraft("t", "m", "p", "c1"))
        after, _ = await core.conversations.replace(user, "c1", ConversationDraft(external_id="other"))
        assert (after.title, after.model, after.system_prompt) == (DEFAULT_TITLE, "m", None)
        assert after.external_id == "c1"

    async def test_at_another_version_changes_nothing(self, core: Core, user: str) -> None:
        made, _ = await core.conversations.create(user, draft(said("a")))
        run = await core.send(user, "wait=30", made)
        with pytest.raises(Conflict) as caught:
            await core.conversations.replace(user, made.id, draft(), expected_version=2)
        assert caught.value.field == "expectedVersion"
        assert (await core.row(run.id)).active, "nor stops the run"
        after, _ = await core.conversations.replace(user, made.id, draft(), expected_version=1)
        assert after.version == 2

    async def test_of_one_message_under_both_its_ids_is_refused(self, core: Core, user: str) -> None:
        made, (row,) = await core.conversations.create(user, draft(said("a", "1")))
        with pytest.raises(BadUserInput):
            await core.conversations.replace(user, made.id, draft(said("a", row.id), said("b", "1")))
        assert texts((await core.conversations.get(user, made.id))[1]) == ["a"]


class TestUpdate:
    async def test_changes_what_is_given_and_no_more(self, core: Core, user: str) -> None:
        made, _ = await core.conversations.create(user, ConversationDraft("t", "m", "p", messages=[said("a")]))
        for changes, expected in (
            (ConversationChanges(title="new"), ("new", "m", "p", False, False)),
            (ConversationChanges(system_prompt=None), ("new", "m", None, False, False)),
            (ConversationChanges(archived=True, pinned=True, model="m2"), ("new", "m2", None, True, True)),
        ):
            row = await core.conversations.update(user, made.id, changes)
            assert (row.title, row.model, row.system_prompt, row.archived, row.pinned) == expected
        found, messages = await core.conversations.get(user, made.id)
        assert (found.version, texts(messages)) == (4, ["a"])

    async def test_at_another_version_or_with_bad_input_changes_nothing(self, core: Core, user: str) -> None:
        made = await core.conversation(user)
        with pytest.raises(Conflict):
            await core.conversations.update(user, made.id, ConversationChanges(title="x"), expected_version=9)
        for changes in (ConversationChanges(title="x" * 101), ConversationChanges(model=" ")):
            with pytest.raises(BadUserInput):
                await core.conversations.update(user, made.id, changes)
        assert (await core.conversations.get(user, made.id))[0] == made


class TestDelete:
    async def test_takes_the_messages_and_leaves_runs_and_their_tokens(self, core: Core, user: str) -> None:
        made, _ = await core.conversations.create(user, draft(said("a"), external_id="c1"))
        run = await core.send(user, "text=a,usage=5/6", made)
        await core.events(user, run)
        assert await core.conversations.delete(user, "c1") == made.id
        with pytest.raises(NotFound):
            await core.conversations.delete(user, "c1")
        async with core.database.read() as session:
            assert await all_messages(session, made.id) == []
        row = await core.row(run.id)
        assert (row.conversation_id, row.message_id, row.completion_tokens) == (None, None, 6)
        assert await counters(core, user) == (0, 0)

    async def test_the_id_is_free_again(self, core: Core, user: str) -> None:
        for text in "ab":
            await core.conversations.create(user, draft(said(text), external_id="c1"))
            await core.conversations.delete(user, "c1")
        assert await counters(core, user) == (0, 0)


class TestLarge:
    """Some frontends send the whole conversation again after each answer."""

    COUNT = 5_000
    LONGEST = 0.2
    """Seconds of processor time. It is 0.016; before these rows went past the ORM it was 0.6."""

    @pytest.fixture(autouse=True)
    def young(self) -> Iterator[None]:
        """As in a server: what was there before is not walked through again and again by the garbage collector."""
        gc.collect()
        gc.freeze()
        yield
        gc.unfreeze()

    async def test_many_messages_do_not_hold_the_loop(self, address: Address) -> None:
        limits = replace(INPUTS, conversation_messages=self.COUNT)
        drafts = [MessageDraft(Role.USER, f"text {n}", f"m{n}", THEN) for n in range(self.COUNT)]
        changed = [MessageDraft(Role.USER, f"text {n}.", f"m{n}", THEN) for n in range(self.COUNT)]
        async with open_core(address, inputs=limits) as core:
            user = await core.user()
            for what in (drafts, drafts, changed):
                held = asyncio.create_task(self._longest_hold())
                if what is drafts:
                    made, _ = await core.conversations.create(user, draft(*what, external_id="c1"))
                else:
                    await core.conversations.replace(user, "c1", draft(*what))
                held.cancel()
                assert await held < self.LONGEST
            assert (await core.conversations.get(user, made.id))[0].message_count == self.COUNT

    @staticmethod
    async def _longest_hold() -> float:
        longest, last = 0.0, time.thread_time()
        try:
            while True:
                await asyncio.sleep(0)
                longest, last = max(longest, time.thread_time() - last), time.thread_time()
        except asyncio.CancelledError:
            return max(longest, time.thread_time() - last)
