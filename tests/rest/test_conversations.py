"""/api/conversations: the guide's routes, and what docs and contract decide about ids, times and replacing."""

from __future__ import annotations

from urllib.parse import quote

import httpx
import pytest

from tests.conftest import Account
from tests.rest.talk import SLOW, Json, conversation, message, question, stats

PATH = "/api/conversations"
ITEM = f"{PATH}/conv_123"


@pytest.fixture
async def owned(client: httpx.AsyncClient, account: Account) -> Json:
    """A conversation of the account's with two messages."""
    messages = [message("hi", id="m1", timestamp=1), message("hello", id="m2", role="assistant", timestamp=2)]
    answer = await client.post(PATH, json=conversation(messages=messages), headers=account.headers)
    assert answer.status_code == 200, answer.text
    body: Json = answer.json()
    return body


async def test_a_strangers_conversation_is_404_like_one_that_is_not(
    client: httpx.AsyncClient, other: Account, owned: Json
) -> None:
    for path in (ITEM, f"{PATH}/nothing"):
        for method in ("GET", "PUT", "DELETE"):
            answer = await client.request(method, path, json=conversation(), headers=other.headers)
            assert (answer.status_code, answer.json()) == (404, {"detail": "对话不存在"})


async def test_created_and_read_back_as_the_guide_shows_it(
    client: httpx.AsyncClient, account: Account, owned: Json
) -> None:
    """`userId` in the body is ignored; the client's times and ids are kept."""
    assert owned == {
        "id": "conv_123",
        "title": "新对话",
        "messages": [
            {"id": "m1", "content": "hi", "role": "user", "timestamp": 1},
            {"id": "m2", "content": "hello", "role": "assistant", "timestamp": 2},
        ],
        "createdAt": 1697467200000,
        "updatedAt": 1697467200000,
        "model": "gpt-3.5-turbo",
        "systemPrompt": None,
        "userId": account.id,
    }
    read = await client.get(ITEM, headers=account.headers)
    assert (read.status_code, read.json()) == (200, owned)


async def test_without_an_id_the_server_makes_one(client: httpx.AsyncClient, account: Account) -> None:
    made = (await client.post(PATH, json={}, headers=account.headers)).json()
    assert made["id"].startswith("conv_")
    assert (made["title"], made["messages"]) == ("新对话", [])
    assert made["createdAt"] == made["updatedAt"] > 1_600_000_000_000
    assert (await client.get(f"{PATH}/{made['id']}", headers=account.headers)).json() == made


async def test_the_same_body_again_gives_the_stored_one(
    client: httpx.AsyncClient, account: Account, owned: Json
) -> None:
    """A client that heard no answer asks again."""
    again = await client.post(PATH, json=owned, headers=account.headers)
    assert (again.status_code, again.json()) == (200, owned)
    assert (await stats(client, account))["total_conversations"] == 1


@pytest.mark.parametrize("change", [{"title": "else"}, {"messages": []}, {"updatedAt": 5}, {"systemPrompt": "p"}])
async def test_another_body_under_a_known_id_is_409(
    client: httpx.AsyncClient, account: Account, owned: Json, change: Json
) -> None:
    answer = await client.post(PATH, json=owned | change, headers=account.headers)
    assert answer.status_code == 409
    assert isinstance(answer.json()["detail"], str)
    assert (await client.get(ITEM, headers=account.headers)).json() == owned


async def test_two_users_may_choose_the_same_id(
    client: httpx.AsyncClient, account: Account, other: Account, owned: Json
) -> None:
    theirs = await client.post(PATH, json=conversation(title="theirs"), headers=other.headers)
    assert theirs.status_code == 200
    assert theirs.json()["userId"] == other.id
    assert (await client.get(ITEM, headers=account.headers)).json() == owned
    await client.delete(ITEM, headers=other.headers)
    assert (await client.get(ITEM, headers=account.headers)).json() == owned


@pytest.mark.parametrize("key", ["a/b/c", "对话", "a b", "a%b", "a?b#c", "x" * 200, "conv_123/"])
async def test_whatever_id_a_client_chose_finds_it(client: httpx.AsyncClient, account: Account, key: str) -> None:
    """The guide's client does not escape the id, so a slash comes as it is."""
    made = await client.post(PATH, json=conversation(id=key), headers=account.headers)
    assert made.json()["id"] == key
    path = f"{PATH}/{quote(key)}"
    assert (await client.get(path, headers=account.headers)).json() == made.json()
    assert (await client.delete(path, headers=account.headers)).status_code == 200


async def test_our_own_id_comes_before_a_clients(client: httpx.AsyncClient, account: Account) -> None:
    """A look-up tries ours first."""
    ours = (await client.post(PATH, json={"title": "ours"}, headers=account.headers)).json()
    taken = await client.post(PATH, json=conversation(id=ours["id"]), headers=account.headers)
    assert taken.status_code == 409
    assert (await client.get(f"{PATH}/{ours['id']}", headers=account.headers)).json() == ours


async def test_put_replaces_everything_and_the_paths_id_wins(
    client: httpx.AsyncClient, account: Account, owned: Json
) -> None:
    body = {
        "id": "another",
        "title": "renamed",
        "messages": [message("new", id="m9", timestamp=9)],
        "createdAt": 7,
        "updatedAt": 8,
        "model": "scripted",
        "systemPrompt": "be brief",
        "userId": "user_1",
        "unknown": {"a": 1},
    }
    answer = await client.put(ITEM, json=body, headers=account.headers)
    assert answer.status_code == 200
    expected = {key: value for key, value in body.items() if key != "unknown"}
    assert answer.json() == expected | {"id": "conv_123", "userId": account.id}
    assert (await client.get(ITEM, headers=account.headers)).json() == answer.json()
    assert (await client.get(f"{PATH}/another", headers=account.headers)).status_code == 404
    assert (await stats(client, account))["total_messages"] == 1


async def test_put_of_an_unknown_id_makes_nothing(client: httpx.AsyncClient, account: Account) -> None:
    answer = await client.put(ITEM, json=conversation(), headers=account.headers)
    assert (answer.status_code, answer.json()) == (404, {"detail": "对话不存在"})
    assert (await client.get(PATH, headers=account.headers)).json() == []


async def test_put_keeps_times_that_the_body_leaves_out(
    client: httpx.AsyncClient, account: Account, owned: Json
) -> None:
    answer = (await client.put(ITEM, json={"messages": owned["messages"]}, headers=account.headers)).json()
    assert answer["messages"] == owned["messages"]
    assert answer["createdAt"] == owned["createdAt"]
    assert answer["updatedAt"] > owned["updatedAt"]


async def _graphql(client: httpx.AsyncClient, account: Account, query: str, **variables: object) -> Json:
    body = {"query": query, "variables": variables}
    answer = (await client.post("/graphql", json=body, headers=account.headers)).json()
    assert "errors" not in answer, answer
    data: Json = answer["data"]
    return data


CONVERSATION = """query ($id: ID!) { conversation(id: $id) { version
    messages { edges { node { id externalId content run { status } } } } activeRun { id } } }"""
SEND = """mutation ($id: ID!, $model: String!) { sendMessage(input: {conversationId: $id, content: "go", model: $model})
    { run { id } } }"""


async def test_put_keeps_identity_and_run_of_unchanged_messages_and_counts_the_version(
    client: httpx.AsyncClient, account: Account, owned: Json
) -> None:
    await _graphql(client, account, SEND, id="conv_123", model="scripted:text=answer")
    before = await _settled(client, account)
    nodes = [edge["node"] for edge in before["messages"]["edges"]]
    stored = (await client.get(ITEM, headers=account.headers)).json()
    changed = [dict(item) for item in stored["messages"]]
    changed[0]["content"] = "edited"
    await client.put(ITEM, json=stored | {"messages": changed}, headers=account.headers)
    after = (await _graphql(client, account, CONVERSATION, id="conv_123"))["conversation"]
    kept = [edge["node"] for edge in after["messages"]["edges"]]
    assert after["version"] == before["version"] + 1
    assert kept[0]["id"] != nodes[0]["id"]
    assert kept[1:] == nodes[1:]
    assert kept[-1]["run"]["status"] == "COMPLETED"


async def _settled(client: httpx.AsyncClient, account: Account) -> Json:
    for _ in range(200):
        found: Json = (await _graphql(client, account, CONVERSATION, id="conv_123"))["conversation"]
        if found["activeRun"] is None:
            # Again: fields are read side by side, and the messages may have been read before the run's end.
            again: Json = (await _graphql(client, account, CONVERSATION, id="conv_123"))["conversation"]
            return again
    raise AssertionError("the run did not end")


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_put_and_delete_cancel_an_active_run(
    client: httpx.AsyncClient, account: Account, owned: Json, method: str
) -> None:
    started = await _graphql(client, account, SEND, id="conv_123", model=SLOW)
    run = started["sendMessage"]["run"]["id"]
    answer = await client.request(method, ITEM, json=owned, headers=account.headers)
    assert answer.status_code == 200
    state = await _graphql(client, account, "query ($id: ID!) { run(id: $id) { status } }", id=run)
    assert state["run"]["status"] == "CANCELLED"


async def test_delete(client: httpx.AsyncClient, account: Account, owned: Json) -> None:
    answer = await client.delete(ITEM, headers=account.headers)
    assert (answer.status_code, answer.json()) == (200, {"message": "对话已删除"})
    gone = await client.delete(ITEM, headers=account.headers)
    assert (gone.status_code, gone.json()) == (404, {"detail": "对话不存在"})
    figures = await stats(client, account)
    assert (figures["total_conversations"], figures["total_messages"]) == (0, 0)


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_message_id_twice_is_422(client: httpx.AsyncClient, account: Account, owned: Json, method: str) -> None:
    body = conversation(id="two", messages=[message(id="same"), message(id="same")])
    path = PATH if method == "POST" else ITEM
    answer = await client.request(method, path, json=body, headers=account.headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][:2] == ["body", "messages"]
    assert (await client.get(ITEM, headers=account.headers)).json() == owned


async def test_roles_are_lower_case(client: httpx.AsyncClient, account: Account) -> None:
    messages = [message(id=role, role=role) for role in ("system", "user", "assistant")]
    made = (await client.post(PATH, json=conversation(messages=messages), headers=account.headers)).json()
    assert [item["role"] for item in made["messages"]] == ["system", "user", "assistant"]
    upper = await client.post(PATH, json=conversation(id="u", messages=[message(role="USER")]), headers=account.headers)
    assert upper.status_code == 422


async def test_a_message_without_id_and_time_gets_both(client: httpx.AsyncClient, account: Account) -> None:
    body = conversation(messages=[{"content": "hi", "role": "user"}])
    (made,) = (await client.post(PATH, json=body, headers=account.headers)).json()["messages"]
    assert made["id"].startswith("msg_")
    assert made["timestamp"] > 1_600_000_000_000


async def test_a_chat_leaves_conversations_alone(client: httpx.AsyncClient, account: Account, owned: Json) -> None:
    """A stateless run keeps no text."""
    await client.post("/api/chat", json=question("a very secret word"), headers=account.headers)
    assert (await client.get(PATH, headers=account.headers)).json() == [owned]
