"""The tree against a model of it: whatever is done in whatever order, the rows, the head and the counters agree."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import select

from chat.conversations import ConversationChanges
from chat.drafts import ConversationDraft, MessageDraft
from chat.sending import Asking
from chat.stats import user_stats
from models.message import Message, siblings_of
from models.run import Run
from models.user import User
from providers.base import Role
from tests.conftest import all_messages
from tests.people.conftest import Studio, open_studio

T = TypeVar("T")


@dataclass
class Node:
    id: str
    parent: str | None
    role: str
    content: str


class Tree(RuleBasedStateMachine):
    """An owner and an editor take turns in one conversation; a second one is there to be counted too."""

    template: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.nodes: dict[str, Node] = {}
        self.head: str | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        async def open_all() -> tuple[Studio, str, str, str]:
            path = Path(shutil.copy(self.template, self.folder / "chat.db"))
            studio = await self.stack.enter_async_context(open_studio(path))
            owner, editor = await studio.user(), await studio.user()
            side = await studio.conversation(owner)
            await studio.exchange(owner, side)
            return studio, owner, editor, await studio.conversation(owner, editor)

        self.studio, self.owner, self.editor, self.conversation = self.run(open_all())

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)

    def _path(self, node_id: str | None) -> list[str]:
        path: list[str] = []
        while node_id is not None:
            path.append(node_id)
            node_id = self.nodes[node_id].parent
        return path[::-1]

    def _pick(self, data: st.DataObject, role: str | None = None) -> str | None:
        ids = [node.id for node in self.nodes.values() if role in {None, node.role}]
        return data.draw(st.sampled_from(ids)) if ids else None

    def _note(self, question: Message | None, run: Run, parent: str | None) -> None:
        assert run.message_id is not None
        if question is not None:
            self.nodes[question.id] = Node(question.id, parent, "USER", question.content)
            parent = question.id
        self.nodes[run.message_id] = Node(run.message_id, parent, "ASSISTANT", "ok")
        self.head = run.message_id
        self.run(self.studio.ended(run))

    @rule(data=st.data(), anywhere=st.booleans(), mine=st.booleans())
    def send(self, data: st.DataObject, anywhere: bool, mine: bool) -> None:
        parent = self._pick(data) if anywhere else None
        sender = self.owner if mine else self.editor
        content = f"question {len(self.nodes)}"
        question, run = self.run(self.studio.send(sender, self.conversation, content, parent_id=parent))
        self._note(question, run, self.head if parent is None else parent)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def delete_message(self, data: st.DataObject) -> None:
        chosen = self._pick(data)
        assert chosen is not None
        parent, active = self.nodes[chosen].parent, chosen in self._path(self.head)
        for node_id in [node_id for node_id in self.nodes if chosen in self._path(node_id)][::-1]:
            del self.nodes[node_id]
        if active:
            parents = {node.parent for node in self.nodes.values()}
            beside = {node.id for node in self.nodes.values() if node.parent == parent}
            leaves = [key for key in self.nodes if key not in parents and beside & set(self._path(key))]
            self.head = max(leaves, default=parent)
        self.run(self.studio.conversations.delete_message(self.owner, chosen))

    @rule(data=st.data(), mine=st.booleans())
    def edit(self, data: st.DataObject, mine: bool) -> None:
        if (target := self._pick(data, "USER")) is not None:
            sender = self.owner if mine else self.editor
            question, run = self.run(self.studio.sendings.edit(sender, target, f"edit {len(self.nodes)}", Asking()))
            self._note(question, run, self.nodes[target].parent)

    @rule(data=st.data())
    def regenerate(self, data: st.DataObject) -> None:
        target = self._pick(data, "ASSISTANT")
        if target is not None and self.nodes[target].parent is not None:
            run = self.run(self.studio.sendings.regenerate(self.editor, target, Asking()))
            self._note(None, run, self.nodes[target].parent)

    @rule(data=st.data())
    def set_head(self, data: st.DataObject) -> None:
        if (target := self._pick(data)) is not None:
            changes = ConversationChanges(head_id=target)
            self.run(self.studio.conversations.update(self.editor, self.conversation, changes))
            self.head = target

    @precondition(lambda self: len(self.nodes) > 4)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """Some of the messages keep their identity, wherever in the tree they stood; some are new."""
        kept = data.draw(st.lists(st.sampled_from(sorted(self.nodes)), max_size=4, unique=True))
        drafts = [MessageDraft(Role(self.nodes[key].role), self.nodes[key].content, key) for key in kept]
        drafts += [MessageDraft(Role.USER, "new")] * data.draw(st.integers(0, 2))
        draft = ConversationDraft(model="scripted:text=ok", messages=drafts)
        _, branch = self.run(self.studio.conversations.replace(self.owner, self.conversation, draft))
        assert [row.id for row in branch[: len(kept)]] == kept
        parents = [None, *(row.id for row in branch)]
        self.nodes = {
            row.id: Node(row.id, parent, row.role, row.content) for row, parent in zip(branch, parents, strict=False)
        }
        self.head = branch[-1].id if branch else None

    @precondition(lambda self: len(self.nodes) > 6)
    @rule()
    def delete(self) -> None:
        self.run(self.studio.conversations.delete(self.owner, self.conversation))
        self.conversation = self.run(self.studio.conversation(self.owner, self.editor))
        self.nodes, self.head = {}, None

    @invariant()
    def rows_agree(self) -> None:
        if hasattr(self, "conversation"):
            self.run(self._check())

    async def _check(self) -> None:
        conversation = await self.studio.row(self.conversation)
        async with self.studio.database.read() as session:
            rows = await all_messages(session, self.conversation)
            siblings = await siblings_of(session, rows)
            everything = (await session.exec(select(Message).where(Message.active))).all()
            users = {key: await session.get(User, key) for key in (self.owner, self.editor)}
        path = self._path(self.head)
        assert {row.id: row.parent_id for row in rows} == {node.id: node.parent for node in self.nodes.values()}
        assert {row.id: row.depth for row in rows} == {key: len(self._path(key)) - 1 for key in self.nodes}
        assert {row.id for row in rows if row.active} == set(path)
        assert (conversation.head_id, conversation.message_count) == (self.head, len(path))
        assert [row.id for row in await self.studio.branch(self.conversation)] == path
        for key, node in self.nodes.items():
            expected = sorted(other.id for other in self.nodes.values() if other.parent == node.parent)
            assert [row.id for row in siblings[key]] == expected
        stats = await user_stats(self.studio.database, self.owner)
        assert (stats.total_conversations, stats.total_messages) == (2, len(everything)) == (2, len(path) + 2)
        editor = users[self.editor]
        assert editor is not None
        assert (editor.conversation_count, editor.message_count) == (0, 0), "what is shared was counted as one's own"


def test_rows_head_and_counters_agree_whatever_is_done(migrated: Path, tmp_path: Path) -> None:
    """Every list and every statistic is read from `active`, `depth` and counters that only these writes keep true."""
    Tree.template = migrated
    run_state_machine_as_test(Tree, settings=settings(max_examples=8, stateful_step_count=20, deadline=None))
