"""The conversation as a tree, over HTTP: edits, regenerations, the head, and what one may not reach."""

from __future__ import annotations

import asyncio

import pytest

from tests.graph.documents import NEVER, SEND, UPDATE, create, ended, send
from tests.graph.http_client import Graph, Json
from tests.graph.people import BRANCH, EDIT, REGENERATE


async def _branch(graph: Graph, conversation: str) -> list[tuple[str, str]]:
    found: Json = (await graph.data(BRANCH, id=conversation))["conversation"]
    rows = [edge["node"] for edge in found["messages"]["edges"]]
    assert found["messageCount"] == len(rows)
    assert (found["head"] or {}).get("id") == (rows[-1]["id"] if rows else None)
    for row, parent in zip(rows, [None, *rows], strict=False):
        assert (row["parent"] or {}).get("id") == (parent or {}).get("id")
        assert row["id"] in [sibling["id"] for sibling in row["siblings"]]
    return [(row["role"], row["content"]) for row in rows]


async def _exchange(graph: Graph, conversation: str, content: str, **values: object) -> tuple[str, str]:
    sent = await send(graph, conversation, content, **values)
    await ended(graph, sent["run"]["id"])
    return sent["message"]["id"], sent["run"]["message"]["id"]


async def test_who_has_no_part_in_it_changes_no_tree(viewer: Graph, stranger: Graph, anonymous: Graph) -> None:
    conversation = (await create(viewer, model="scripted"))["id"]
    question, answer = await _exchange(viewer, conversation, "one")
    for graph, code in ((anonymous, "UNAUTHENTICATED"), (stranger, "NOT_FOUND")):
        assert await graph.code(EDIT, input={"messageId": question, "content": "x"}) == code
        assert await graph.code(REGENERATE, input={"messageId": answer}) == code
        assert await graph.code(UPDATE, input={"id": conversation, "headMessageId": question}) == code
    # What is somebody else's and what never was are told apart by nothing.
    for query, name in ((EDIT, "messageId"), (REGENERATE, "messageId")):
        values = {"content": "x"} if query is EDIT else {}
        theirs = await stranger.answer(query, input={"messageId": question, **values})
        never = await stranger.answer(query, input={"messageId": "msg_never", **values})
        assert theirs["errors"] == never["errors"]
        assert theirs["errors"][0]["extensions"]["field"] == name
    assert len(await _branch(viewer, conversation)) == 2


async def test_edit_regenerate_and_back(viewer: Graph) -> None:
    conversation = (await create(viewer, model="scripted"))["id"]
    question, answer = await _exchange(viewer, conversation, "one")
    edited = (await viewer.data(EDIT, input={"messageId": question, "content": "two"}))["editMessage"]
    assert [sibling["id"] for sibling in edited["message"]["siblings"]] == [question, edited["message"]["id"]]
    assert edited["message"]["parent"] is None
    await ended(viewer, edited["run"]["id"])
    assert await _branch(viewer, conversation) == [("USER", "two"), ("ASSISTANT", "two ")]
    again = (await viewer.data(REGENERATE, input={"messageId": answer}))["regenerate"]["run"]
    await ended(viewer, again["id"])
    assert await _branch(viewer, conversation) == [("USER", "one"), ("ASSISTANT", "one ")]
    assert again["message"]["id"] != answer
    moved = await viewer.data(UPDATE, input={"id": conversation, "headMessageId": edited["run"]["message"]["id"]})
    assert moved["updateConversation"]["conversation"]["messageCount"] == 2
    assert await _branch(viewer, conversation) == [("USER", "two"), ("ASSISTANT", "two ")]
    await _exchange(viewer, conversation, "three", parentId=answer)
    assert [content for _, content in await _branch(viewer, conversation)] == ["one", "one ", "three", "three "]


async def test_a_message_has_no_text_while_it_is_written(viewer: Graph) -> None:
    """Its text so far is what the run's events say: a client that adds them up would count it twice."""
    conversation = (await create(viewer, model="scripted:text=one,wait=8"))["id"]
    sent = await send(viewer, conversation)
    assert (await _branch(viewer, conversation))[-1] == ("ASSISTANT", "")
    await viewer.data("mutation ($id: ID!) { cancelRun(input: { runId: $id }) { run { id } } }", id=sent["run"]["id"])
    assert (await _branch(viewer, conversation))[-1] == ("ASSISTANT", "one")


async def test_a_parent_elsewhere_is_no_parent(viewer: Graph, stranger: Graph) -> None:
    mine, second = [(await create(viewer, model="scripted"))["id"] for _ in range(2)]
    theirs = (await create(stranger, model="scripted"))["id"]
    parents = ["msg_never", (await _exchange(viewer, second, "x"))[1], (await _exchange(stranger, theirs, "x"))[1]]
    answers = [
        await viewer.error(SEND, input={"conversationId": mine, "content": "x", "parentId": parent})
        for parent in parents
    ]
    assert answers == [{"code": "NOT_FOUND", "field": "parentId"}] * 3
    heads = [await viewer.error(UPDATE, input={"id": mine, "headMessageId": parent}) for parent in parents]
    assert heads == [{"code": "NOT_FOUND", "field": "headMessageId"}] * 3
    assert await viewer.code(SEND, input={"conversationId": NEVER, "content": "x"}) == "NOT_FOUND"
    assert await _branch(viewer, mine) == []


async def test_queued_or_refused(viewer: Graph) -> None:
    conversation = (await create(viewer, model="scripted:text=a_,wait=0.3,text=b"))["id"]
    first = await send(viewer, conversation, "one")
    assert await viewer.code(SEND, input={"conversationId": conversation, "content": "two"}) == "RUN_ACTIVE"
    second = await send(viewer, conversation, "two", queue=True, model="scripted")
    assert second["run"]["status"] == "QUEUED"
    assert (await ended(viewer, second["run"]["id"]))["status"] == "COMPLETED"
    assert (await ended(viewer, first["run"]["id"]))["message"]["content"] == "a b"
    assert [content for _, content in await _branch(viewer, conversation)] == ["one", "a b", "two", "two "]


@pytest.mark.parametrize("mutation", ["send", "edit", "regenerate"])
async def test_the_same_key_at_once_starts_one_run(viewer: Graph, mutation: str) -> None:
    conversation = (await create(viewer, model="scripted"))["id"]
    question, answer = await _exchange(viewer, conversation, "one")
    query, name, values = {
        "send": (SEND, "sendMessage", {"conversationId": conversation, "content": "x"}),
        "edit": (EDIT, "editMessage", {"messageId": question, "content": "x"}),
        "regenerate": (REGENERATE, "regenerate", {"messageId": answer}),
    }[mutation]
    again = [viewer.data(query, input={**values, "idempotencyKey": f"{mutation} {conversation}"}) for _ in range(6)]
    runs = {data[name]["run"]["id"] for data in await asyncio.gather(*again)}
    assert len(runs) == 1
    await ended(viewer, runs.pop())
