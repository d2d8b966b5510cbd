"""Whatever is done in whatever order: a user's counters are what a recount gives, and every branch is a chain."""

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from sqlmodel import select

from chat.chats import StatelessChat
from chat.drafts import ConversationDraft, MessageDraft
from chat.sending import Asking
from chat.stats import user_stats
from errors import ModelUnavailable
from models.conversation import Conversation, list_conversations
from models.message import Message, MessageStatus, all_messages
from models.migrate import migrate
from models.run import Run
from providers.base import Role, Turn
from tests.chat.conftest import Core, open_core

TEMPLATE = Path(tempfile.mkdtemp()) / "chat.db"
SCRIPTS = st.sampled_from(
    ["text=a,usage=3/4", "text=a,text=b", "fail=PROVIDER_ERROR", "text=a,cut", "think=a,usage=1/1", "wait=0.01,text=c"]
)
MESSAGES = st.lists(
    st.builds(MessageDraft, st.sampled_from([Role.USER, Role.ASSISTANT]), st.sampled_from("xy"), st.none()), max_size=4
)


class Counters(RuleBasedStateMachine):
    conversations: Bundle[str] = Bundle("conversations")

    def __init__(self) -> None:
        super().__init__()
        if not TEMPLATE.exists():
            migrate(TEMPLATE)
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(shutil.copy(TEMPLATE, Path(self.folder.name) / "chat.db"))
        self.core: Core = self.runner.run(self.stack.enter_async_context(open_core(path)))
        self.user = self.runner.run(self.core.user())
        self.open: list[Run] = []

    def teardown(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    @initialize(target=conversations)
    def begin(self) -> str:
        return self.runner.run(self.core.conversation(self.user)).id

    @rule(target=conversations, messages=MESSAGES)
    def create(self, messages: list[MessageDraft]) -> str:
        made, _ = self.runner.run(self.core.conversations.create(self.user, ConversationDraft(messages=messages)))
        return made.id

    @rule(conversation=conversations, messages=MESSAGES, keep=st.integers(0, 5))
    def replace(self, conversation: str, messages: list[MessageDraft], keep: int) -> None:
        async def replace() -> None:
            _, rows = await self.core.conversations.get(self.user, conversation)
            kept = [MessageDraft(Role(row.role), row.content, row.id) for row in rows[:keep]]
            before = {row.id for row in rows[:keep] if row.status != MessageStatus.STREAMING}
            draft = ConversationDraft(messages=[*kept, *messages])
            _, branch = await self.core.conversations.replace(self.user, conversation, draft)
            still = {row.id for row in branch}
            assert before <= still

        self.runner.run(replace())

    @rule(conversation=consumes(conversations))
    def delete(self, conversation: str) -> None:
        self.runner.run(self.core.conversations.delete(self.user, conversation))

    @rule(conversation=conversations, script=SCRIPTS, wait=st.booleans())
    def send(self, conversation: str, script: str, wait: bool) -> None:
        async def send() -> None:
            row = await self.core.conversations.find(self.user, conversation)
            assert row is not None
            for run in self.open:
                await self.core.events(self.user, run)
            self.open = [await self.core.send(self.user, script, row)]
            if wait:
                await self.core.events(self.user, self.open[0])

        self.runner.run(send())

    @rule()
    def cancel(self) -> None:
        for run in self.open:
            self.runner.run(self.core.chats.cancel(self.user, run.id))

    @rule(script=SCRIPTS)
    def chat_without_a_conversation(self, script: str) -> None:
        async def chat() -> None:
            asking = StatelessChat([Turn(Role.USER, "x")], model=f"scripted:{script}")
            async for _ in self.core.chats.chat(self.user, asking):
                pass

        self.runner.run(chat())

    @rule(conversation=conversations)
    def send_to_a_model_that_is_not_here(self, conversation: str) -> None:
        async def send() -> None:
            for run in self.open:
                await self.core.events(self.user, run)
            row = await self.core.conversations.find(self.user, conversation)
            assert row is not None
            row.model = "nowhere"
            async with self.core.database.write() as session:
                await session.merge(row)
            try:
                await self.core.sendings.send(self.user, conversation, "hello", Asking())
            except ModelUnavailable:
                return
            raise AssertionError

        self.runner.run(send())

    @invariant()
    def recount(self) -> None:
        self.runner.run(self._recount())

    async def _recount(self) -> None:
        """In one reading transaction: runs that end meanwhile change neither numbers nor shapes, but tokens."""
        async with self.core.database.read() as session:
            rows = await list_conversations(session, self.user)
            counted = 0
            for row in rows:
                counted += row.message_count
                _check_tree(row, list(await all_messages(session, row.id)))
            runs = (await session.exec(select(Run).where(Run.user_id == self.user))).all()
        stats = await user_stats(self.core.database, self.user)
        assert (stats.total_conversations, stats.total_messages) == (len(rows), counted)
        if not any(run.active for run in runs):
            assert stats.total_tokens == sum((run.prompt_tokens or 0) + (run.completion_tokens or 0) for run in runs)


def _check_tree(conversation: Conversation, rows: list[Message]) -> None:
    active = [row for row in rows if row.active]
    assert len(active) == conversation.message_count
    assert [row.depth for row in active] == list(range(len(active)))
    assert [row.parent_id for row in active] == [None, *[row.id for row in active][:-1]][: len(active)]
    assert conversation.head_id == (active[-1].id if active else None)


TestCounters = Counters.TestCase
TestCounters.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
