from __future__ import annotations

import pytest

from tests.conftest import Account
from tests.graph.documents import start
from tests.graph.http_client import Graph, Json

NODE = """query ($id: ID!) { node(id: $id) { __typename id
    ... on User { username email } ... on Conversation { title }
    ... on Message { content } ... on Run { requestedModel } } }"""
NODES = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"


async def _ids(graph: Graph, account: Account) -> dict[str, str]:
    """One id of each kind that the viewer may see."""
    run = await start(graph, "scripted")
    return {
        "User": account.id,
        "Conversation": run["conversation"]["id"],
        "Message": run["message"]["id"],
        "Run": run["id"],
    }


async def test_any_id_finds_what_it_names(viewer: Graph, viewer_account: Account) -> None:
    for kind, key in (await _ids(viewer, viewer_account)).items():
        node = (await viewer.data(NODE, id=key))["node"]
        assert (node["__typename"], node["id"]) == (kind, key)
        assert len(node) > 2


async def test_ids_say_what_they_name(viewer: Graph, viewer_account: Account) -> None:
    prefixes = {key.partition("_")[0] for key in (await _ids(viewer, viewer_account)).values()}
    assert prefixes == {"user", "conv", "msg", "run"}


async def test_nobody_and_strangers_find_nothing(
    anonymous: Graph, viewer: Graph, stranger: Graph, viewer_account: Account
) -> None:
    ids = list((await _ids(viewer, viewer_account)).values())
    for graph in (anonymous, stranger):
        for key in ids:
            assert await graph.data(NODE, id=key) == {"node": None}
        assert await graph.data(NODES, ids=ids) == {"nodes": [None] * len(ids)}


@pytest.mark.parametrize("key", ["", "conv", "conv_", "nothing_1", "\u0000", "_", "run_" + "x" * 10_000, "使用者_1"])
async def test_what_names_nothing_is_null(viewer: Graph, key: str) -> None:
    assert await viewer.data(NODE, id=key) == {"node": None}


async def test_many_at_once_in_the_order_asked_for(viewer: Graph, viewer_account: Account) -> None:
    ids = await _ids(viewer, viewer_account)
    asked = [ids["Run"], "conv_never", ids["User"], ids["Run"], ids["Message"], ids["Conversation"]]
    nodes: list[Json | None] = (await viewer.data(NODES, ids=asked))["nodes"]
    assert [None if node is None else node["id"] for node in nodes] == [asked[0], None, *asked[2:]]
    assert await viewer.data(NODES, ids=[]) == {"nodes": []}


async def test_a_hundred_at_most(viewer: Graph) -> None:
    assert await viewer.data(NODES, ids=["conv_never"] * 100) == {"nodes": [None] * 100}
    assert await viewer.error(NODES, ids=["conv_never"] * 101) == {"code": "BAD_USER_INPUT", "field": "ids"}


@pytest.mark.parametrize("ids", [None, [None], [["x"]], [1.5], {}])
async def test_ids_of_the_wrong_type_are_refused(viewer: Graph, ids: object) -> None:
    assert await viewer.code(NODES, ids=ids) == "BAD_USER_INPUT"
    assert await viewer.code(NODE, id=ids) == "BAD_USER_INPUT"


async def test_only_the_viewer_sees_their_own_address(viewer: Graph, viewer_account: Account) -> None:
    node = (await viewer.data(NODE, id=viewer_account.id))["node"]
    assert node["email"] == f"{viewer_account.username}@example.com"
