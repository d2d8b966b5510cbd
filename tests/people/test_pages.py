"""The list of owned and shared conversations as one, by keyset; and what a page costs."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from assembly import build_services
from auth.sessions import Viewer
from chat.drafts import ConversationDraft
from chat.sending import Asking
from graph.context import Context
from graph.execution import Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from models.conversation import Conversation, Position
from models.database import Database
from models.member import Member, MemberRole
from models.user import User
from services import Services
from settings import Settings
from tests.people.conftest import Studio, open_studio

START = datetime(2025, 1, 1, tzinfo=UTC)


async def _page(studio: Studio, user: str, size: int, position: Position | None, backwards: bool) -> list[Conversation]:
    place = {"newer_than" if backwards else "older_than": position}
    rows = await studio.conversations.page(user, limit=size, from_oldest=backwards, **place)  # type: ignore[arg-type]
    return list(rows)


async def _walk(studio: Studio, user: str, size: int, backwards: bool) -> list[Position]:
    found: list[Position] = []
    position: Position | None = None
    while rows := await _page(studio, user, size, position, backwards):
        found += [Position(row.updated_at, row.id) for row in rows]
        position = found[-1]
        assert len(rows) <= size
    return found


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=14),
    size=st.integers(1, 5),
    backwards=st.booleans(),
)
def test_owned_and_shared_are_one_list(
    migrated: Path, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[bool, int]], size: int, backwards: bool
) -> None:
    """Whoever pages through it, in whichever direction, meets each conversation once and in order, also where many
    changed in the same millisecond."""

    async def check() -> None:
        path = Path(shutil.copy(migrated, tmp_path_factory.mktemp("pages") / "chat.db"))
        async with open_studio(path) as studio:
            user, other = await studio.user(), await studio.user()
            async with studio.database.write() as session:
                for shared, moment in rows:
                    made = Conversation(owner_id=other if shared else user, title="x", model="m")
                    made.updated_at = START + timedelta(milliseconds=moment)
                    session.add(made)
                    await session.flush()
                    if shared:
                        session.add(Member(conversation_id=made.id, user_id=user, role=MemberRole.VIEWER))
                # Not the user's to see.
                session.add(Conversation(owner_id=other, title="theirs", model="m"))
            found = await _walk(studio, user, size, backwards)
            assert len(found) == len(rows)
            assert found == sorted(set(found), reverse=not backwards)

    asyncio.run(check())


class Counter:
    """How many statements were run."""

    count = 0

    def __call__(self, *_: Any) -> None:
        self.count += 1


@contextmanager
def counting(database: Database) -> Iterator[Counter]:
    counter = Counter()
    for engine in database.engines:
        event.listen(engine.sync_engine, "before_cursor_execute", counter)
    yield counter
    for engine in database.engines:
        event.remove(engine.sync_engine, "before_cursor_execute", counter)


@pytest.fixture
async def services(path: Path) -> AsyncIterator[Services]:
    settings = Settings(data_dir=path.parent, scripted_model=True, embedded_model=False)
    async with build_services(settings) as built:
        yield built


LIST = """{ conversations(first: 100) { edges { node { id externalId title messageCount viewerRole
    head { id content role author { username } run { id status } } activeRun { id status }
    members { role user { username } } } } } }"""
BRANCH = """query ($id: ID!) { conversation(id: $id) { viewerRole messages(first: 100) { edges { node { id content
    author { username } usage { totalTokens } run { id message { id } } parent { id } siblings { id } } } } } }"""


async def _costs(services: Services, user: str, query: str, **variables: object) -> tuple[int, dict[str, Any]]:
    runner = Runner(core_schema(), QueryLimits())
    viewer = Viewer(user, user, int(time.time()) + 60)
    operation = runner.prepare({"query": query, "variables": variables})
    counts = []
    # The keeper has statements of its own, now and then: the least of several is the query's.
    for _ in range(4):
        with counting(services.database) as counter:
            result = await runner.execute(operation, Context(services, viewer))
        assert "errors" not in result, result
        counts.append(counter.count)
    data: dict[str, Any] = result["data"]
    return min(counts), data


async def _person(services: Services, name: str) -> str:
    user = User(id=f"user_{name}", username=name, username_key=name, email=name, email_key=name, password_hash="-")
    async with services.database.write() as session:
        session.add(user)
    return user.id


async def _shared(services: Services, owner: str, member: str, exchanges: int = 1) -> str:
    made, _ = await services.conversations.create(owner, ConversationDraft(model="scripted:text=ok"))
    await services.members.add(owner, made.id, member.removeprefix("user_"), MemberRole.EDITOR)
    for _ in range(exchanges):
        await _ask(services, member, made.id)
    return made.id


async def _ask(services: Services, user: str, conversation: str) -> None:
    _, run = await services.sendings.send(user, conversation, "hello", Asking())
    await services.engine.wait_for_end(run)


async def test_a_list_costs_as_many_statements_as_it_has_kinds(services: Services) -> None:
    owner, member = await _person(services, "owner"), await _person(services, "member")
    await _shared(services, owner, member)
    few, data = await _costs(services, member, LIST)
    assert len(data["conversations"]["edges"]) == 1
    for number in range(14):
        await _shared(services, *((owner, member) if number % 2 else (member, owner)))
    many, data = await _costs(services, member, LIST)
    assert len(data["conversations"]["edges"]) == 15
    assert many <= few + 2, "a statement for each conversation"
    assert many <= 20


async def test_a_branch_costs_the_same_however_long_it_is(services: Services) -> None:
    """Siblings too: a client asks for them at every message, to show where the tree forks."""
    owner, member = await _person(services, "owner"), await _person(services, "member")
    conversation = await _shared(services, owner, member)
    few, _ = await _costs(services, member, BRANCH, id=conversation)
    for _ in range(15):
        await _ask(services, member, conversation)
    many, data = await _costs(services, member, BRANCH, id=conversation)
    assert len(data["conversation"]["messages"]["edges"]) == 32
    assert many <= few + 2, "a statement for each message"
    assert many <= 20


async def test_a_question_costs_the_same_however_long_its_branch_is(services: Services) -> None:
    owner, member = await _person(services, "owner"), await _person(services, "member")
    conversation = await _shared(services, owner, member)
    counts = []
    for _ in range(12):
        with counting(services.database) as counter:
            await _ask(services, member, conversation)
        counts.append(counter.count)
    # The keeper has its own statements, four times a lease: not each of these can have met it.
    assert min(counts[6:]) <= min(counts[:6]) + 2
