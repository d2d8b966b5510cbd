"""Several people in one conversation, over the wire: roles, what is shared where, and who stops receiving."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.conftest import Account, Register
from tests.graph.client import open_socket
from tests.graph.documents import CANCEL, DELETE, FOLLOW, ONE_RUN, REPLACE, SEND, SLOW, UPDATE, create, ended, send
from tests.graph.http_client import Graph, Refused
from tests.graph.people import ADD, BRANCH, EDIT, EVENTS, REGENERATE, REMOVE, TYPE, TYPING, VIEWER, reading, settled
from tests.server import Server

ROLES = ["anonymous", "none", "VIEWER", "EDITOR", "OWNER"]


@pytest.fixture
def owner_account(register: Register) -> Account:
    return register()


@pytest.fixture
def owner(client: httpx.AsyncClient, owner_account: Account) -> Graph:
    return Graph(client, owner_account.token)


async def _add(owner: Graph, conversation: str, account: Account, role: str) -> None:
    await owner.data(ADD, input={"conversationId": conversation, "username": account.username, "role": role})


@pytest.mark.parametrize("role", ROLES)
async def test_the_matrix(
    client: httpx.AsyncClient, server: Server, owner: Graph, owner_account: Account, account: Account, role: str
) -> None:
    """Every mutation, query and subscription on a conversation, its messages and its runs, for every role."""
    conversation = (await create(owner, model="scripted", externalId="mine"))["id"]
    sent = await send(owner, conversation)
    run = await ended(owner, sent["run"]["id"])
    question, answer = sent["message"]["id"], run["message"]["id"]
    if role in {"VIEWER", "EDITOR"}:
        await _add(owner, conversation, account, role)
    token = {"anonymous": None, "OWNER": owner_account.token}.get(role, account.token)
    graph = Graph(client, token)
    rank = ROLES.index(role) - 2
    nothing = "UNAUTHENTICATED" if role == "anonymous" else "NOT_FOUND"

    async def check(least: int, query: str, **variables: object) -> None:
        expected = nothing if rank < 0 else "OK" if rank >= least else "FORBIDDEN"
        found = await graph.answer(query, **variables)
        code = "OK" if "errors" not in found else found["errors"][0]["extensions"]["code"]
        assert code == expected, (query, found)

    for key in (conversation, question, answer, run["id"]):
        node = await graph.data("query ($id: ID!) { node(id: $id) { id } }", id=key)
        assert (node["node"] is not None) == (rank >= 0), key
    assert ((await graph.data(BRANCH, id=conversation))["conversation"] is not None) == (rank >= 0)
    assert ((await graph.data(BRANCH, id="mine"))["conversation"] is not None) == (role == "OWNER")
    assert ((await graph.data(ONE_RUN, id=run["id"]))["run"] is not None) == (rank >= 0)
    if token is not None:
        listed = await graph.data(
            "{ conversations { edges { node { id viewerRole externalId } } } stats { totalMessages } }"
        )
        nodes = [edge["node"] for edge in listed["conversations"]["edges"]]
        own = "mine" if role == "OWNER" else None
        assert nodes == ([{"id": conversation, "viewerRole": role, "externalId": own}] if rank >= 0 else [])
        assert listed["stats"]["totalMessages"] == (2 if role == "OWNER" else 0)
    await check(0, TYPE, id=conversation)
    await check(1, EDIT, input={"messageId": question, "content": "x"})
    await check(1, REGENERATE, input={"messageId": answer})
    await check(1, UPDATE, input={"id": conversation, "title": "x"})
    await check(1, UPDATE, input={"id": conversation, "headMessageId": answer})
    await check(1, CANCEL, id=run["id"])
    await check(1, SEND, input={"conversationId": conversation, "content": "x"})
    await _subscriptions(server, token, owner, conversation, run["id"], None if rank >= 0 else nothing)
    await check(2, ADD, input={"conversationId": conversation, "username": account.username, "role": "VIEWER"})
    await check(2, REPLACE, input={"id": conversation, "title": "x", "model": "scripted", "messages": []})
    if role != "OWNER":
        await check(2, REMOVE, input={"conversationId": conversation, "userId": owner_account.id})
    await check(2, DELETE, input={"id": conversation})


async def _subscriptions(
    server: Server, token: str | None, owner: Graph, conversation: str, run: str, refused: str | None
) -> None:
    async with open_socket(server, token) as socket:
        if refused is not None:
            for query, key in ((EVENTS, conversation), (FOLLOW, run), (TYPING, conversation)):
                with pytest.raises(Refused) as raised:
                    await anext(socket.events(query, id=key))
                assert raised.value.code == refused
            return
        events = socket.events(FOLLOW, id=run)
        assert (await anext(events))["runEvents"]["seq"] == 0
        await events.aclose()
    async with reading(server, token, EVENTS, "conversationEvents", id=conversation, after=None) as reader:
        await settled(reader, owner, conversation)


async def test_rest_shows_what_one_owns(client: httpx.AsyncClient, owner: Graph, account: Account) -> None:
    """Shared conversations are GraphQL's: to a client of the guide they do not exist, whatever the role."""
    conversation = (await create(owner, model="scripted"))["id"]
    await _add(owner, conversation, account, "EDITOR")
    address = f"/api/conversations/{conversation}"
    body = {"title": "x", "messages": []}
    headers = account.headers
    assert (await client.get("/api/conversations", headers=headers)).json() == []
    for answer in (
        await client.get(address, headers=headers),
        await client.put(address, json=body, headers=headers),
        await client.delete(address, headers=headers),
        await client.get("/api/conversations", params={"before": conversation}, headers=headers),
    ):
        assert (answer.status_code, answer.json()) == (404, {"detail": "对话不存在"})
    assert (await owner.data(BRANCH, id=conversation))["conversation"] is not None


async def test_members_see_each_other_and_no_addresses(
    client: httpx.AsyncClient, owner: Graph, owner_account: Account, account: Account, other: Account
) -> None:
    conversation = (await create(owner))["id"]
    await _add(owner, conversation, account, "VIEWER")
    await _add(owner, conversation, other, "VIEWER")
    added = await owner.data(ADD, input={"conversationId": conversation, "username": other.username, "role": "EDITOR"})
    members = added["addMember"]["conversation"]["members"]
    assert [(member["role"], member["user"]["id"]) for member in members] == [
        ("OWNER", owner_account.id),
        ("VIEWER", account.id),
        ("EDITOR", other.id),
    ]
    assert [member["user"]["email"] is None for member in members] == [False, True, True]
    for name in ("nobody", owner_account.username):
        values = {"conversationId": conversation, "username": name, "role": "VIEWER"}
        assert (await owner.error(ADD, input=values))["field"] == "username"
    # Anyone may leave, but the owner.
    member = Graph(client, account.token)
    await member.data(REMOVE, input={"conversationId": conversation, "userId": account.id})
    assert (await member.data(BRANCH, id=conversation))["conversation"] is None
    values = {"conversationId": conversation, "userId": owner_account.id}
    assert await owner.code(REMOVE, input=values) == "BAD_USER_INPUT"


async def test_who_is_put_out_stops_receiving_at_once(server: Server, owner: Graph, account: Account) -> None:
    """Of the conversation, of a run that says nothing at the moment, and of who types."""
    conversation = (await create(owner, model="scripted:text=one,wait=20,text=two"))["id"]
    await _add(owner, conversation, account, "EDITOR")
    sent = await send(owner, conversation)
    token = account.token
    async with (
        reading(server, token, EVENTS, "conversationEvents", id=conversation, after=None) as events,
        reading(server, token, FOLLOW, "runEvents", id=sent["run"]["id"]) as run,
        reading(server, token, TYPING, "typing", id=conversation) as typing,
        reading(server, token, VIEWER, "viewerEvents", after=None) as viewer,
    ):
        await run.kind("RunTextDelta")
        await settled(events, owner, conversation)
        await owner.data(REMOVE, input={"conversationId": conversation, "userId": account.id})
        started = asyncio.get_running_loop().time()
        for reader in (events, run, typing):
            with pytest.raises(Refused) as raised:
                await reader.end()
            assert raised.value.code == "NOT_FOUND"
        assert asyncio.get_running_loop().time() - started < 3, "an idle follower was left waiting"
        assert (await viewer.kind("ConversationDeleted"))["conversationId"] == conversation
    await owner.data(CANCEL, id=sent["run"]["id"])


async def test_a_member_sends_and_the_owner_follows(
    client: httpx.AsyncClient, server: Server, owner: Graph, owner_account: Account, account: Account
) -> None:
    conversation = (await create(owner, model=SLOW))["id"]
    await _add(owner, conversation, account, "EDITOR")
    member = Graph(client, account.token)
    async with reading(server, owner_account.token, EVENTS, "conversationEvents", id=conversation) as reader:
        await settled(reader, owner, conversation)
        sent = await send(member, conversation, model="scripted:text=hello")
        await reader.finished(sent["run"]["id"])
        assert (await member.data(TYPE, id=conversation))["setTyping"]["delivered"]
        assert (await reader.kind("ConversationTyping"))["userId"] == account.id
        assert not (await member.data(TYPE, id=conversation))["setTyping"]["delivered"]
