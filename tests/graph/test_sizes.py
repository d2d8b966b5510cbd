"""Texts: a field costs the same whatever it holds, and one text may stand in an answer as often as it has aliases."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import orjson
import pytest

from assembly import build_services
from auth.sessions import Viewer
from errors import QueryTooComplex
from graph import sizes
from graph.context import Context
from graph.execution import Runner
from graph.schema import core_schema
from graph.shape import QueryLimits
from graph.sizes import check_answer
from models import message as messages
from models.conversation import Conversation
from models.message import Message
from models.search import index_messages
from models.user import User
from services import Services
from settings import Settings
from tests.graph.http_client import Json

RUNNER = Runner(core_schema(), QueryLimits())
CHARS = 2_000
PAGE = "{ conversations(first: %d) { edges { node { messages(first: %d) { edges { node { %s } } } } } } }"
NODES = "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Message { %s } } }"


@pytest.fixture
async def services(path: Path) -> AsyncIterator[Services]:
    settings = Settings(data_dir=path.parent, scripted_model=True, embedded_model=False)
    async with build_services(settings) as built:
        async with built.database.write() as session:
            session.add(User(id="user_a", username="a", username_key="a", email="a", email_key="a", password_hash="-"))
        yield built


async def _ask(services: Services, query: str, **variables: object) -> tuple[Json, int]:
    """The answer, and how many bytes of texts were read for it."""
    operation = RUNNER.prepare({"query": query, "variables": variables})
    context = Context(services, Viewer("user_a", "user_a", int(time.time()) + 60, "session"))
    return await RUNNER.execute(operation, context), context.held


def _refused(answer: Json) -> bool:
    return "errors" in answer and {each["extensions"]["code"] for each in answer["errors"]} == {"QUERY_TOO_COMPLEX"}


async def _conversation(services: Services, content: str, count: int, *, beside: bool = False) -> Sequence[str]:
    """Its messages' ids: one below the other, or versions of one answer."""
    row = Conversation(owner_id="user_a", title="x", model="scripted")
    made: list[Message] = []
    for number in range(count):
        above = None if not made else made[0 if beside else -1].id
        depth = min(number, 1) if beside else number
        made.append(Message(conversation_id=row.id, parent_id=above, depth=depth, role="USER", content=content))
    async with services.database.write() as session:
        session.add(row)
        await session.flush()
        session.add_all(made)
        await session.flush()
        await index_messages(session, [(message.id, content) for message in made])
    return [message.id for message in made]


@pytest.mark.parametrize("letter", ["a", "中", "😀", "\x01", '"'], ids=ascii)
async def test_an_answer_has_a_length(services: Services, monkeypatch: pytest.MonkeyPatch, letter: str) -> None:
    """A page of a hundred long messages under fifteen aliases was 150 to 900 MB, and 17 s of compression."""
    await _conversation(services, letter * CHARS, 6)
    answer, _ = await _ask(services, PAGE % (1, 6, "content"))
    monkeypatch.setattr(sizes, "MAX_ANSWER_BYTES", len(orjson.dumps(answer)))
    assert (await _ask(services, PAGE % (1, 6, "content")))[0] == answer
    answer, _ = await _ask(services, PAGE % (1, 4, "content again: content"))
    assert (_refused(answer), answer["data"]) == (True, None)
    assert "data" in (await _ask(services, PAGE % (1, 6, "id")))[0]


def test_short_texts_add_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_ANSWER_BYTES", 100)
    check_answer({"a": ["x" * 50, {"b": "x" * 50, "c": None, "d": 1.5, "e": True}]})
    with pytest.raises(QueryTooComplex):
        check_answer({"a": ["x" * 50, {"b": "x" * 51}]})


async def test_what_is_read_has_a_length(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is in the answer or not, and however it is come to; no more than a page of it is read in vain."""
    monkeypatch.setattr(messages, "READ_AT_ONCE", 2)
    monkeypatch.setattr("graph.context.READ_AT_ONCE", 2)
    ids = [key for _ in range(5) for key in await _conversation(services, "x" * CHARS, 4)]
    versions = await _conversation(services, "needle " + "x" * CHARS, 12, beside=True)
    ways: list[tuple[str, dict[str, object]]] = [
        (PAGE % (5, 2, "id"), {}),
        (PAGE % (1, 100, "parent { id }"), {}),
        (NODES % "id", {"ids": ids}),
        (NODES % "siblings { id }", {"ids": versions[1:2]}),
        ('{ searchMessages(query: "needle", first: 6) { edges { cursor } } }', {}),
    ]
    for query, variables in ways:
        answer, held = await _ask(services, query, **variables)
        assert "errors" not in answer, query
        with monkeypatch.context() as patch:
            patch.setattr(sizes, "MAX_READ_BYTES", held)
            assert (await _ask(services, query, **variables))[0] == answer
            patch.setattr(sizes, "MAX_READ_BYTES", held // 2)
            answer, read = await _ask(services, query, **variables)
            assert _refused(answer), query
            assert read <= held // 2 + 7 * (CHARS + 200), query


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        (PAGE % (2, 3, "id"), True),
        (NODES % "id", True),
        (PAGE % (1, 2, "content"), False),
        (PAGE % (1, 1, "siblings { parent { id } }"), False),
    ],
)
async def test_what_was_read_is_let_go_at_once(
    services: Services, monkeypatch: pytest.MonkeyPatch, query: str, refused: bool
) -> None:
    """Rings of errors and frames kept 38 MB of each refused operation, up to 1 GB, until they were searched for."""
    monkeypatch.setattr(sizes, "MAX_READ_BYTES", 4 * CHARS)
    ids = [*await _conversation(services, "x" * CHARS, 3), *await _conversation(services, "x" * CHARS, 3)]
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            answer, _ = await _ask(services, query, **({"ids": ids} if "$ids" in query else {}))
            assert _refused(answer) == refused
        await asyncio.sleep(0)
        assert [each for each in gc.get_objects() if isinstance(each, Message)] == []
    finally:
        gc.enable()


async def test_versions_are_read_in_portions_and_all_of_them(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "READ_AT_ONCE", 3)
    for count in (3, 4, 7, 10):
        made = await _conversation(services, "x", count, beside=True)
        answer, _ = await _ask(services, NODES % "siblings { id }", ids=[made[0], made[1]])
        found = [[each["id"] for each in node["siblings"]] for node in answer["data"]["nodes"]]
        assert found == [[made[0]], sorted(made[1:])]
