"""searchMessages, through the server."""

from __future__ import annotations

import json

import pytest

from tests.graph.documents import create
from tests.graph.http_client import Graph, Json
from tests.graph.people import ADD, REMOVE

SEARCH = """query ($words: String!, $first: Int, $after: String) { searchMessages(query: $words, first: $first,
    after: $after) { edges { cursor snippet parts { text hit } node { id content } conversation { id viewerRole } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""


async def search(graph: Graph, query: str, **more: object) -> Json:
    found: Json = (await graph.data(SEARCH, words=query, **more))["searchMessages"]
    return found


async def texts(graph: Graph, query: str) -> list[str]:
    return [edge["node"]["content"] for edge in (await search(graph, query))["edges"]]


async def store(graph: Graph, *messages: str) -> Json:
    return await create(graph, messages=[{"role": "USER", "content": text} for text in messages])


async def test_nobody_finds_what_is_not_theirs(anonymous: Graph, viewer: Graph, stranger: Graph) -> None:
    made = await store(viewer, "a heliotrope in the garden", "我们讨论数据库的问题")
    assert await anonymous.code(SEARCH, words="heliotrope") == "UNAUTHENTICATED"
    assert await texts(stranger, "heliotrope") == []
    (edge,) = (await search(viewer, "heliotrope"))["edges"]
    assert edge["node"]["content"] == edge["snippet"] == "a heliotrope in the garden"
    assert edge["conversation"] == {"id": made["id"], "viewerRole": "OWNER"}
    assert [part["text"] for part in edge["parts"] if part["hit"]] == ["heliotrope"]
    assert "".join(part["text"] for part in edge["parts"]) == edge["snippet"]
    assert await texts(viewer, "问题") == ["我们讨论数据库的问题"]


async def test_a_member_finds_until_removed(viewer: Graph, stranger: Graph) -> None:
    made = await store(viewer, "an amaranth")
    me = (await stranger.data("{ me { id username } }"))["me"]
    added = {"conversationId": made["id"], "username": me["username"], "role": "VIEWER"}
    await viewer.data(ADD, input=added)
    assert await texts(stranger, "amaranth") == ["an amaranth"]
    await viewer.data(REMOVE, input={"conversationId": made["id"], "userId": me["id"]})
    assert await texts(stranger, "amaranth") == []


async def test_pages_go_on_where_they_ended(viewer: Graph) -> None:
    await store(viewer, *[f"chrysanthemum {number}" for number in range(7)])
    whole = await search(viewer, "chrysanthemum")
    assert whole["pageInfo"]["hasNextPage"] is False
    found: list[str] = []
    page = await search(viewer, "chrysanthemum", first=3)
    found += [edge["node"]["id"] for edge in page["edges"]]
    while page["pageInfo"]["hasNextPage"]:
        page = await search(viewer, "chrysanthemum", first=3, after=page["pageInfo"]["endCursor"])
        assert page["pageInfo"]["hasPreviousPage"] is True
        found += [edge["node"]["id"] for edge in page["edges"]]
    assert found == [edge["node"]["id"] for edge in whole["edges"]]
    assert len(found) == 7


@pytest.mark.parametrize("query", ["", " ", "x" * 10_000, "a\x00b", "\ud800"])
async def test_what_is_no_query_is_the_client_s_mistake(viewer: Graph, query: str) -> None:
    body = json.dumps({"query": SEARCH, "variables": {"words": query}})
    headers = viewer.headers | {"Content-Type": "application/json"}
    answer = (await viewer.http.post("/graphql", content=body, headers=headers)).json()
    assert answer["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


@pytest.mark.parametrize("query", ["!?…", '"', '""', "*", "AND", "a AND (", "words:x", "' OR 1=1 --", ":* & |"])
async def test_whatever_else_is_typed_is_answered(viewer: Graph, query: str) -> None:
    assert (await search(viewer, query))["pageInfo"]["hasNextPage"] is False


@pytest.mark.parametrize("values", [{"first": 0}, {"first": 101}, {"after": "x"}, {"after": "MQ"}, {"after": "YTpi"}])
async def test_sizes_and_cursors_are_checked(viewer: Graph, values: Json) -> None:
    assert await viewer.code(SEARCH, words="x", **values) == "BAD_USER_INPUT"
