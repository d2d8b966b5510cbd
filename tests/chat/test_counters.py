"""Whatever is done in whatever order: a user's counters are what a recount gives, and every branch is a chain."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import date
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

from chat.budget import reserve
from chat.chats import StatelessChat
from chat.drafts import ConversationDraft, MessageDraft
from chat.latency import bucket_of
from chat.sending import Asking
from chat.stats import user_stats
from errors import ModelUnavailable
from models.conversation import Conversation, list_conversations
from models.journal import add_segment
from models.message import Message, MessageStatus
from models.migrate import migrate
from models.run import Run, RunStatus
from models.usage import DailyUsage, Limits, ModelUsage, days_of, models_of
from providers.base import Role, Turn
from tests.chat.conftest import Core, open_core
from tests.conftest import all_messages

TEMPLATE = Path(tempfile.mkdtemp()) / "chat.db"
AMPLE = Limits(10**12, 10**15)
PRICED = "scripted@2.5/10:"
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
        self.core: Core = self.runner.run(self.stack.enter_async_context(open_core(path, budget=AMPLE)))
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

    @rule(conversation=conversations, script=SCRIPTS, cancelled=st.booleans())
    def send_behind_another(self, conversation: str, script: str, cancelled: bool) -> None:
        async def send() -> None:
            row = await self.core.conversations.find(self.user, conversation)
            assert row is not None
            for run in self.open:
                await self.core.events(self.user, run)
            first = await self.core.send(self.user, "wait=0.01,text=c", row)
            row = await self.core.conversations.find(self.user, conversation)
            assert row is not None
            second = await self.core.ask(self.user, row, f"{PRICED}{script}", queue=True)
            self.open = [first, second]
            if cancelled:
                await self.core.chats.cancel(self.user, second.id)

        self.runner.run(send())

    @rule()
    def cancel(self) -> None:
        for run in self.open:
            self.runner.run(self.core.chats.cancel(self.user, run.id))

    @rule(text=st.sampled_from(["", "half an answer"]))
    def a_worker_dies(self, text: str) -> None:
        """Its run is ended by whoever finds it."""

        async def die() -> None:
            run = Run(user_id=self.user, requested_model="m", model="lost", provider="p", worker="killed")
            run.status, run.prompt_estimate = RunStatus.RUNNING, len(text)
            run.reserved_tokens, run.reserved_nanos = 50, 60
            async with self.core.database.write() as session:
                session.add(run)
                await reserve(session, AMPLE, run)
                if text:
                    await add_segment(session, (run.id, 0, [["t", text]]))
            await self.core.engine.keeper.recover()
            assert (await self.core.row(run.id)).status == RunStatus.INTERRUPTED

        self.runner.run(die())

    @rule(script=SCRIPTS)
    def chat_without_a_conversation(self, script: str) -> None:
        async def chat() -> None:
            asking = StatelessChat([Turn(Role.USER, "x")], model=f"{PRICED}{script}")
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
        """In one reading transaction: runs that end meanwhile are in none of the sums, or in all."""
        async with self.core.database.read() as session:
            rows = await list_conversations(session, self.user)
            counted = 0
            for row in rows:
                counted += row.message_count
                _check_tree(row, list(await all_messages(session, row.id)))
            runs = (await session.exec(select(Run).where(Run.user_id == self.user))).all()
            days = await days_of(session, self.user, date.min, date.max)
            _check_usage([run for run in runs if not run.active], days, await models_of(session, self.user))
            _check_reservations([run for run in runs if run.active], days)
        stats = await user_stats(self.core.database, self.user)
        assert (stats.total_conversations, stats.total_messages) == (len(rows), counted)
        if not any(run.active for run in runs):
            assert stats.total_tokens == sum((run.prompt_tokens or 0) + (run.completion_tokens or 0) for run in runs)


def _check_reservations(active: list[Run], days: Sequence[DailyUsage]) -> None:
    for day in days:
        mine = [run for run in active if run.created_at.date() == day.day]
        held = sum(run.reserved_tokens for run in mine), sum(run.reserved_nanos for run in mine)
        assert (day.reserved_tokens, day.reserved_nanos) == held


def _check_usage(ended: list[Run], days: Sequence[DailyUsage], models: Sequence[ModelUsage]) -> None:
    by_day, by_model = defaultdict(list), defaultdict(list)
    for run in ended:
        by_day[run.created_at.date()].append(run)
        by_model[run.model, run.provider, bucket_of(run.time_to_first_token_ms)].append(run)
    assert {row.day: (row.messages, *_sums(row)) for row in days if row.messages} == {
        day: _recounted(runs) for day, runs in by_day.items()
    }
    assert {(row.model, row.provider, row.bucket): (row.runs, *_sums(row)) for row in models} == {
        key: _recounted(runs) for key, runs in by_model.items()
    }


def _sums(row: DailyUsage | ModelUsage) -> tuple[int, int, int]:
    return row.tokens, row.cost_nanos, row.unpriced


def _recounted(runs: list[Run]) -> tuple[int, int, int, int]:
    tokens = sum((run.prompt_tokens or 0) + (run.completion_tokens or 0) for run in runs)
    unpriced = sum(run.prompt_tokens is not None and run.cost_nanos is None for run in runs)
    return len(runs), tokens, sum(run.cost_nanos or 0 for run in runs), unpriced


def _check_tree(conversation: Conversation, rows: list[Message]) -> None:
    active = [row for row in rows if row.active]
    assert len(active) == conversation.message_count
    assert [row.depth for row in active] == list(range(len(active)))
    assert [row.parent_id for row in active] == [None, *[row.id for row in active][:-1]][: len(active)]
    assert conversation.head_id == (active[-1].id if active else None)


TestCounters = Counters.TestCase
TestCounters.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
