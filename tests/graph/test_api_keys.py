"""API keys by every way in: where an access token is taken, so are they, but they do not manage the account."""

from __future__ import annotations

import httpx
import pytest

from tests.conftest import Account
from tests.graph.client import open_socket
from tests.graph.http_client import Graph, Json, Refused
from tests.rest.talk import legacy
from tests.server import Server

CREATE = """mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) {
    key apiKey { id name prefix createdAt lastUsedAt expiresAt } } }"""
REVOKE = "mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { id } }"
KEYS = "{ me { id apiKeys { id name prefix lastUsedAt expiresAt } } }"
NODE = "query ($id: ID!) { node(id: $id) { id ... on ApiKey { name } } }"
EVENTS = 'subscription { chat(input: { messages: [{ role: USER, content: "x" }], model: "scripted:words=1" }) { seq } }'
MANAGING = (
    "mutation { beginTotp { secret } }",
    'mutation { confirmTotp(input: { code: "000000" }) { recoveryCodes } }',
    'mutation { disableTotp(input: { code: "000000" }) { user { id } } }',
    'mutation { createApiKey(input: { name: "another" }) { key } }',
    'mutation { revokeApiKey(input: { id: "key_1" }) { id } }',
)


async def create(graph: Graph, **given: object) -> Json:
    found: Json = (await graph.data(CREATE, input={"name": "a key", **given}))["createApiKey"]
    return found


async def test_anonymous_and_somebody_else(anonymous: Graph, viewer: Graph, stranger: Graph) -> None:
    assert await anonymous.code(CREATE, input={"name": "a"}) == "UNAUTHENTICATED"
    made = await create(viewer)
    for asker in (anonymous, stranger):
        assert await asker.data(NODE, id=made["apiKey"]["id"]) == {"node": None}
    assert await stranger.code(REVOKE, id=made["apiKey"]["id"]) == "NOT_FOUND"
    assert (await viewer.data(NODE, id=made["apiKey"]["id"]))["node"]["name"] == "a key"


async def test_a_key_is_shown_once_and_listed_until_it_is_revoked(newcomer: Graph) -> None:
    made = await create(newcomer, name="for the build", expiresAt="2031-01-01T00:00:00+08:00")
    key, row = made["key"], made["apiKey"]
    assert key.startswith(row["prefix"])
    assert row["prefix"].startswith("acs_")
    assert (row["name"], row["expiresAt"]) == ("for the build", "2030-12-31T16:00:00+00:00")
    listed = (await newcomer.answer(KEYS))["data"]["me"]["apiKeys"]
    assert [(item["id"], item["lastUsedAt"]) for item in listed] == [(row["id"], None)]
    assert key not in str(listed)
    assert await newcomer.data(REVOKE, id=row["id"]) == {"revokeApiKey": {"id": row["id"]}}
    assert (await newcomer.data(KEYS))["me"]["apiKeys"] == []


@pytest.mark.parametrize(
    ("given", "field"),
    [({"name": ""}, "name"), ({"name": "x" * 101}, "name"), ({"expiresAt": "2001-01-01T00:00:00Z"}, "expiresAt")],
)
async def test_what_cannot_be_is_named(viewer: Graph, given: Json, field: str) -> None:
    assert await viewer.error(CREATE, input={"name": "a", **given}) == {"code": "BAD_USER_INPUT", "field": field}


async def test_it_opens_every_way_in_until_it_is_revoked(
    server: Server, client: httpx.AsyncClient, newcomer: Graph, account: Account
) -> None:
    made = await create(newcomer)
    key = Graph(client, made["key"])
    me = await client.get("/api/auth/me", headers=key.headers)
    assert me.json()["id"] == account.id
    assert (await client.get("/api/conversations", headers=key.headers)).json() == []
    assert (await key.data(KEYS))["me"] == {"id": account.id, "apiKeys": None}, "it is not shown the others"
    assert [event["chat"]["seq"] async for event in key.events(EVENTS)]
    async with open_socket(server, made["key"]) as socket:
        assert (await socket.data("{ me { id } }"))["me"]["id"] == account.id
    async with legacy(server, account.id, f"?token={made['key']}") as old:
        await old.say(type="ping")
        assert (await old.hear())["type"] == "pong"
    assert (await newcomer.data(KEYS))["me"]["apiKeys"][0]["lastUsedAt"] is not None

    await newcomer.data(REVOKE, id=made["apiKey"]["id"])
    assert (await client.get("/api/auth/me", headers=key.headers)).json() == {"detail": "Token无效"}
    assert await key.code("{ me { id } }") == "UNAUTHENTICATED"
    async with legacy(server, account.id, f"?token={made['key']}") as old:
        assert (await old.closed())[0] == 4401


@pytest.mark.parametrize("document", MANAGING)
async def test_it_does_not_manage_the_account(
    server: Server, client: httpx.AsyncClient, viewer: Graph, document: str
) -> None:
    """Whoever finds one in a repository must not be able to stay: no new key, no other password, no second factor."""
    made = await create(viewer)
    try:
        answer = await Graph(client, made["key"]).answer(document)
        assert answer["errors"][0]["extensions"] == {"code": "FORBIDDEN"}
        assert answer["errors"][0]["message"] == "An API key cannot manage the account; sign in"
        async with open_socket(server, made["key"]) as socket:
            with pytest.raises(Refused) as caught:
                await socket.data(document)
        assert caught.value.code == "FORBIDDEN"
    finally:
        await viewer.data(REVOKE, id=made["apiKey"]["id"])
