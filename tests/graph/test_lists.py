"""Lists whose length nobody asks for, and that no argument bounds: what they cost is counted once they are there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from graphql import GraphQLObjectType

from assembly import build_services
from auth.sessions import Viewer
from chat.conversations import ConversationChanges
from chat.drafts import ConversationDraft
from graph import context
from graph.context import Context
from graph.execution import RequestRefused, Runner
from graph.limits import MAX_COST, SIZES
from graph.schema import core_schema
from graph.shape import QueryLimits
from models.api_key import ApiKey
from models.conversation import Conversation
from models.member import Member, MemberRole
from models.message import Message
from models.user import User
from services import Services
from settings import Settings
from tests.graph.http_client import Json

RUNNER = Runner(core_schema(), QueryLimits())
SIBLINGS = """query ($id: ID!, $inner: Boolean = true) { node(id: $id) { ... on Message { siblings { id
    siblings @include(if: $inner) { id %s } } } } }"""


MESSAGES = "{ conversations { edges { node { messages(%s) { edges { cursor } } } } } }"
REFUSED = {
    ("Query", "conversations", "first"): "{ conversations(first: %s) { edges { cursor } } }",
    ("Query", "conversations", "last"): "{ conversations(last: %s) { edges { cursor } } }",
    ("Query", "searchMessages", "first"): '{ searchMessages(query: "x", first: %s) { edges { cursor } } }',
    ("Query", "nodes", "ids"): "{ nodes(ids: %s) { id } }",
    ("Conversation", "messages", "first"): MESSAGES % "first: %s",
    ("Conversation", "messages", "last"): MESSAGES % "last: %s",
    ("Stats", "daily", "days"): "{ stats { daily(days: %s) { date } } }",
}
"""Every field with an argument that says how many."""


@pytest.fixture
async def services(path: Path) -> AsyncIterator[Services]:
    settings = Settings(data_dir=path.parent, scripted_model=True, embedded_model=False)
    async with build_services(settings) as built:
        yield built


async def _answer(services: Services, user: str, query: str, **variables: object) -> Json:
    operation = RUNNER.prepare({"query": query, "variables": variables})
    return await RUNNER.execute(operation, Context(services, Viewer(user, user, int(time.time()) + 60, "session")))


def _code(answer: Json) -> str:
    return str(answer["errors"][0]["extensions"]["code"])


async def _person(services: Services, name: str) -> str:
    user = User(id=f"user_{name}", username=name, username_key=name, email=name, email_key=name, password_hash="-")
    async with services.database.write() as session:
        session.add(user)
    return user.id


async def _versions(services: Services, owner: str, count: int) -> str:
    """A message that was answered so many times; the id of one answer."""
    conversation = Conversation(owner_id=owner, title="x", model="scripted")
    question = Message(conversation_id=conversation.id, depth=0, role="USER", content="?")
    answers = [
        Message(
            conversation_id=conversation.id, parent_id=question.id, depth=1, role="ASSISTANT", content="!", active=not n
        )
        for n in range(count)
    ]
    async with services.database.write() as session:
        session.add(conversation)
        await session.flush()
        session.add_all([question, *answers])
    return answers[0].id


async def test_versions_of_versions_multiply(services: Services) -> None:
    """A thousand versions of an answer, and all of them for each of them, held the process for 28 seconds."""
    owner = await _person(services, "owner")
    some, many = await _versions(services, owner, 40), await _versions(services, owner, 400)
    found = (await _answer(services, owner, SIBLINGS % "role content", id=some))["data"]["node"]["siblings"]
    assert [len(each["siblings"]) for each in found] == [40] * 40
    begun = time.process_time()
    assert _code(await _answer(services, owner, SIBLINGS % "", id=many)) == "QUERY_TOO_COMPLEX"
    below = "siblings { id siblings { id } }"
    assert _code(await _answer(services, owner, SIBLINGS % below, id=some)) == "QUERY_TOO_COMPLEX"
    assert time.process_time() - begun < 2
    found = (await _answer(services, owner, SIBLINGS % "", id=many, inner=False))["data"]["node"]["siblings"]
    assert len(found) == 400, "the list itself is answered, however long it is"


async def test_no_more_versions_are_read_than_can_be_answered(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "MOST_SIBLINGS", 50)
    owner = await _person(services, "owner")
    assert "errors" not in await _answer(services, owner, SIBLINGS % "", id=await _versions(services, owner, 50))
    one_more = await _versions(services, owner, 51)
    assert _code(await _answer(services, owner, SIBLINGS % "", id=one_more, inner=False)) == "QUERY_TOO_COMPLEX"


async def test_members_are_counted_as_many_as_there_are(services: Services) -> None:
    """Fifty of a hundred conversations each, five times over: 25,000 users."""
    owner = await _person(services, "owner")
    others = [await _person(services, f"other{n}") for n in range(50)]
    made = [Conversation(owner_id=owner, title="x", model="scripted") for _ in range(20)]
    async with services.database.write() as session:
        session.add_all(made)
        await session.flush()
        session.add_all(
            Member(conversation_id=each.id, user_id=other, role=MemberRole.VIEWER) for each in made for other in others
        )
    user = "members { role user { id username email createdAt role } }"
    page = "{ conversations(first: 100) { edges { node { %s } } } }"
    found = await _answer(services, owner, page % user)
    assert {len(edge["node"]["members"]) for edge in found["data"]["conversations"]["edges"]} == {51}
    again = " ".join(f"a{n}: {user}" for n in range(5))
    assert _code(await _answer(services, owner, page % again)) == "QUERY_TOO_COMPLEX"


async def test_a_list_of_the_account_is_a_read_for_each_author(services: Services) -> None:
    owner = await _person(services, "owner")
    async with services.database.write() as session:
        session.add_all(ApiKey(user_id=owner, name="n", prefix="p", digest=str(n)) for n in range(50))
    assert len((await _answer(services, owner, "{ me { apiKeys { id name } } }"))["data"]["me"]["apiKeys"]) == 50
    page = (
        "{ conversations(first: 100) { edges { node { messages(first: 20) { edges { node { author { %s } } } } } } } }"
    )
    for name in ("apiKeys", "identities", "sessions"):
        with pytest.raises(RequestRefused):
            await _answer(services, owner, page % f"{name} {{ id }}")


async def test_each_event_of_a_subscription_is_counted_for_itself(services: Services) -> None:
    """A socket that is open for days hears of the same members again and again."""
    owner = await _person(services, "owner")
    others = [await _person(services, f"other{n}") for n in range(50)]
    row, _ = await services.conversations.create(owner, ConversationDraft(model="scripted"))
    async with services.database.write() as session:
        session.add_all(Member(conversation_id=row.id, user_id=other, role=MemberRole.VIEWER) for other in others)
    members = " ".join(f"a{n}: members {{ user {{ id username email createdAt role }} }}" for n in range(10))
    query = f"subscription {{ viewerEvents {{ ... on ConversationUpserted {{ conversation {{ {members} }} }} }} }}"
    spent = Context(services, Viewer(owner, owner, int(time.time()) + 60))
    events = RUNNER.subscribe(RUNNER.prepare({"query": query}), spent)
    heard: list[Json] = []
    async with aclosing(events), asyncio.timeout(20):
        while len(heard) < 15:
            coming = asyncio.ensure_future(anext(events))
            while not coming.done():
                changes = ConversationChanges(title=f"title {len(heard)}")
                await services.conversations.update(owner, row.id, changes, None)
                await asyncio.wait({coming}, timeout=0.2)
            heard.append(coming.result())
    assert spent.spent > MAX_COST / 15, "fifteen events together would be too much"
    assert [len(each["data"]["viewerEvents"]["conversation"]["a9"]) for each in heard] == [51] * 15


def test_all_fields_that_take_a_size_are_known() -> None:
    found = {
        (kind.name, name, argument)
        for kind in core_schema().type_map.values()
        if isinstance(kind, GraphQLObjectType)
        for name, field in kind.fields.items()
        for argument in field.args
        if argument in SIZES
    }
    assert found == set(REFUSED)


@pytest.mark.parametrize("place", REFUSED, ids=str)
async def test_a_size_that_there_is_not_is_refused(services: Services, place: tuple[str, str, str]) -> None:
    """`graph/limits.py` relies on it: what is below such a size weighs nothing."""
    owner = await _person(services, "owner")
    await services.conversations.create(owner, ConversationDraft(model="scripted"))
    most = SIZES[place[2]]
    for size in (most + 1, 2**31 - 1, 0, -1):
        given = str(["x"] * min(size, 200)).replace("'", '"') if place[2] == "ids" else size
        if given == "[]":
            continue  # an empty list is one
        answer = await _answer(services, owner, REFUSED[place] % given)
        assert (answer.get("data"), _code(answer)) == (None, "BAD_USER_INPUT"), answer
