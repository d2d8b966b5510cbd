from __future__ import annotations

import asyncio
import uuid
from datetime import datetime

import pytest

from tests.graph.client import open_socket
from tests.graph.documents import (
    CANCEL,
    FOLLOW,
    NEVER,
    ONE,
    ONE_RUN,
    SEND,
    SLOW,
    create,
    ended,
    follow,
    send,
    start,
    text_of,
)
from tests.graph.http_client import Graph, Json, Refused
from tests.server import Server


async def test_nobody_can_send_follow_or_cancel(anonymous: Graph, viewer: Graph) -> None:
    run = await start(viewer, "scripted")
    asked = {"conversationId": run["conversation"]["id"], "content": "x"}
    assert await anonymous.code(SEND, input=asked) == "UNAUTHENTICATED"
    assert await anonymous.code(CANCEL, id=run["id"]) == "UNAUTHENTICATED"
    assert await anonymous.data(ONE_RUN, id=run["id"]) == {"run": None}
    with pytest.raises(Refused) as refused:
        await follow(anonymous, run["id"])
    assert refused.value.code == "UNAUTHENTICATED"


async def test_someone_elses_run_is_like_one_that_never_was(viewer: Graph, stranger: Graph) -> None:
    run = await start(viewer, SLOW)
    for run_id in (run["id"], "run_00000000000000000000000000", "", "\u0000"):
        assert await stranger.data(ONE_RUN, id=run_id) == {"run": None}
        assert await stranger.error(CANCEL, id=run_id) == {"code": "NOT_FOUND", "field": "runId"}
        with pytest.raises(Refused) as refused:
            await follow(stranger, run_id)
        assert refused.value.errors[0]["extensions"] == {"code": "NOT_FOUND", "field": "runId"}
    for conversation_id in (run["conversation"]["id"], NEVER):
        asked = {"conversationId": conversation_id, "content": "x"}
        assert await stranger.code(SEND, input=asked) == "NOT_FOUND"
    assert (await viewer.data(CANCEL, id=run["id"]))["cancelRun"]["run"]["status"] == "CANCELLED"


async def test_a_message_is_answered_and_both_are_kept(viewer: Graph) -> None:
    conversation = await create(viewer, systemPrompt="be brief")
    payload = await send(viewer, conversation["id"], "one two three")
    assert (payload["message"]["role"], payload["message"]["content"]) == ("USER", "one two three")
    assert payload["run"]["id"].startswith("run_")

    events = await follow(viewer, payload["run"]["id"])

    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})
    assert [event["runId"] for event in events] == [payload["run"]["id"]] * len(events)
    started, finished = events[0], events[-1]
    assert started["__typename"] == "RunStarted"
    assert (started["requestedModel"], started["model"], started["provider"]) == ("scripted",) * 3
    assert started["messageId"] == finished["message"]["id"]
    assert text_of(events) == finished["message"]["content"] == "one two three "
    usage = {"promptTokens": 5, "completionTokens": 3, "totalTokens": 8, "estimated": False}
    assert finished["__typename"] == "RunFinished"
    assert (finished["status"], finished["finishReason"], finished["error"]) == ("COMPLETED", "STOP", None)
    assert finished["usage"] == usage

    run = (await viewer.data(ONE_RUN, id=payload["run"]["id"]))["run"]
    assert (run["status"], run["finishReason"], run["usage"], run["lastSeq"]) == (
        "COMPLETED",
        "STOP",
        usage,
        finished["seq"],
    )
    assert run["conversation"] == {"id": conversation["id"]}
    times = [datetime.fromisoformat(run[name]) for name in ("createdAt", "startedAt", "finishedAt")]
    assert times == sorted(times)
    assert 0 <= run["timeToFirstTokenMs"] < 10_000
    assert [(attempt["model"], attempt["error"]) for attempt in run["attempts"]] == [("scripted", None)]

    stored = (await viewer.data(ONE, id=conversation["id"]))["conversation"]
    nodes = [edge["node"] for edge in stored["messages"]["edges"]]
    assert [(node["role"], node["content"], node["status"]) for node in nodes] == [
        ("USER", "one two three", "COMPLETE"),
        ("ASSISTANT", "one two three ", "COMPLETE"),
    ]
    assert stored["messageCount"] == 2


async def test_a_message_that_is_being_written_leaves_its_text_to_the_run(viewer: Graph) -> None:
    """A reload in the middle takes the text from the run's events: from both, a client would have it twice."""
    run = await start(viewer, "scripted:text=begun,wait=20")
    events = viewer.events(FOLLOW, id=run["id"])
    while (await anext(events))["runEvents"]["__typename"] != "RunTextDelta":
        pass
    query = """query ($id: ID!) { conversation(id: $id) {
        head { content status run { id } } activeRun { id status } } }"""
    found = (await viewer.data(query, id=run["conversation"]["id"]))["conversation"]
    assert found["head"] == {"content": "", "status": "STREAMING", "run": {"id": run["id"]}}
    assert found["activeRun"] == {"id": run["id"], "status": "RUNNING"}
    await viewer.data(CANCEL, id=run["id"])
    await events.aclose()
    found = (await viewer.data(query, id=run["conversation"]["id"]))["conversation"]
    assert found["head"] == {"content": "begun", "status": "CANCELLED", "run": {"id": run["id"]}}
    assert found["activeRun"] is None


async def test_one_answer_at_a_time(viewer: Graph) -> None:
    run = await start(viewer, SLOW)
    asked = {"conversationId": run["conversation"]["id"], "content": "again"}
    assert await viewer.code(SEND, input=asked) == "RUN_ACTIVE"
    await viewer.data(CANCEL, id=run["id"])
    assert (await viewer.data(SEND, input=asked))["sendMessage"]["run"]["id"] != run["id"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"content": ""}, "content"),
        ({"content": " \n"}, "content"),
        ({"content": "x" * 100_001}, "content"),
        ({"content": "a\u0000b"}, "content"),
        ({"model": ""}, "model"),
        ({"model": "x" * 201}, "model"),
        ({"temperature": -0.01}, "temperature"),
        ({"temperature": 2.01}, "temperature"),
        ({"maxTokens": 0}, "maxTokens"),
        ({"maxTokens": 4097}, "maxTokens"),
        ({"idempotencyKey": "x" * 201}, "idempotencyKey"),
        ({"idempotencyKey": "a\u0000b"}, "idempotencyKey"),
        ({"content": None}, None),
        ({"conversationId": None}, None),
        ({"content": 5}, None),
        ({"temperature": "warm"}, None),
        ({"maxTokens": 1.5}, None),
        ({"maxTokens": True}, None),
        ({"parentId": 5.5}, None),
    ],
)
async def test_bad_input_stores_nothing(viewer: Graph, values: Json, field: str | None) -> None:
    conversation = await create(viewer)
    error = await viewer.error(SEND, input={"conversationId": conversation["id"], "content": "x", **values})
    assert (error["code"], error.get("field")) == ("BAD_USER_INPUT", field)
    assert (await viewer.data(ONE, id=conversation["id"]))["conversation"]["messageCount"] == 0


@pytest.mark.parametrize("values", [{"temperature": 0}, {"temperature": 2}, {"maxTokens": 1}, {"maxTokens": 4096}])
async def test_the_ends_of_the_ranges_are_in_them(viewer: Graph, values: Json) -> None:
    payload = await send(viewer, (await create(viewer))["id"], "one two", **values)
    events = await follow(viewer, payload["run"]["id"])
    short = values == {"maxTokens": 1}
    assert text_of(events) == ("one " if short else "one two ")
    assert events[-1]["finishReason"] == ("LENGTH" if short else "STOP")


async def test_null_options_are_as_absent(viewer: Graph) -> None:
    nothing = {"model": None, "temperature": None, "maxTokens": None, "idempotencyKey": None}
    payload = await send(viewer, (await create(viewer))["id"], "one", **nothing)
    assert text_of(await follow(viewer, payload["run"]["id"])) == "one "


async def test_the_same_key_returns_the_first_result(viewer: Graph) -> None:
    conversation = (await create(viewer))["id"]
    key = uuid.uuid4().hex
    first = await send(viewer, conversation, "one", idempotencyKey=key)
    await follow(viewer, first["run"]["id"])
    again = await send(viewer, conversation, "something else", idempotencyKey=key)
    assert (again["message"], again["run"]["id"]) == (first["message"], first["run"]["id"])
    assert (await viewer.data(ONE, id=conversation))["conversation"]["messageCount"] == 2


async def test_the_same_key_at_once_starts_one_run(viewer: Graph) -> None:
    """A client that is unsure whether its first request arrived sends another before it knows."""
    conversation = (await create(viewer))["id"]
    key = uuid.uuid4().hex
    sent = await asyncio.gather(*(send(viewer, conversation, "one", idempotencyKey=key) for _ in range(6)))
    assert len({payload["run"]["id"] for payload in sent}) == 1
    assert len({payload["message"]["id"] for payload in sent}) == 1
    assert (await viewer.data(ONE, id=conversation))["conversation"]["messageCount"] == 2


async def test_the_same_key_of_another_user_is_another_key(viewer: Graph, stranger: Graph) -> None:
    key = uuid.uuid4().hex
    mine = await send(viewer, (await create(viewer))["id"], "mine", idempotencyKey=key)
    theirs = await send(stranger, (await create(stranger))["id"], "theirs", idempotencyKey=key)
    assert mine["run"]["id"] != theirs["run"]["id"]


async def test_a_conversation_is_sent_to_by_its_external_id_too(viewer: Graph) -> None:
    key = uuid.uuid4().hex
    await create(viewer, externalId=key)
    payload = await send(viewer, key, "one")
    assert text_of(await follow(viewer, payload["run"]["id"])) == "one "


async def test_cancel_before_the_first_token(viewer: Graph) -> None:
    run = await start(viewer, "scripted:wait=20,text=never")
    cancelled = (await viewer.data(CANCEL, id=run["id"]))["cancelRun"]["run"]
    assert (cancelled["status"], cancelled["message"]["content"]) == ("CANCELLED", "")
    events = await follow(viewer, run["id"])
    assert [event["__typename"] for event in events] == ["RunFinished"]
    assert (events[0]["status"], events[0]["error"], events[0]["finishReason"]) == ("CANCELLED", None, None)


async def test_cancel_in_the_middle_keeps_the_text(viewer: Graph) -> None:
    run = await start(viewer, SLOW)
    events = viewer.events(FOLLOW, id=run["id"])
    seen: list[Json] = []
    while text_of(seen).count("w") < 3:
        seen.append((await anext(events))["runEvents"])
    cancelled = (await viewer.data(CANCEL, id=run["id"]))["cancelRun"]["run"]
    seen += [data["runEvents"] async for data in events]
    assert seen[-1]["status"] == "CANCELLED"
    assert text_of(seen).startswith("w0 w1 w2 ")
    assert cancelled["message"]["content"] == seen[-1]["message"]["content"] == text_of(seen)
    assert cancelled["message"]["status"] == "CANCELLED"
    assert cancelled["usage"]["estimated"]
    assert cancelled["usage"]["completionTokens"] > 0


async def test_cancel_after_the_end_changes_nothing(viewer: Graph) -> None:
    run = await start(viewer, "scripted")
    before = await ended(viewer, run["id"])
    assert (await viewer.data(CANCEL, id=run["id"]))["cancelRun"]["run"] == before
    assert before["status"] == "COMPLETED"


async def test_deleting_a_conversation_cancels_its_answer(viewer: Graph) -> None:
    run = await start(viewer, SLOW)
    delete = "mutation ($id: ID!) { deleteConversation(input: {id: $id}) { id } }"
    await viewer.data(delete, id=run["conversation"]["id"])
    after = (await viewer.data(ONE_RUN, id=run["id"]))["run"]
    assert (after["status"], after["message"], after["conversation"]) == ("CANCELLED", None, None)


async def test_reasoning_is_told_apart_from_text(viewer: Graph) -> None:
    run = await start(viewer, "scripted:think=hm_,think=so,text=yes")
    events = await follow(viewer, run["id"])
    assert "".join(event["text"] for event in events if event["__typename"] == "RunReasoningDelta") == "hm so"
    assert text_of(events) == "yes"
    message = (await viewer.data(ONE_RUN, id=run["id"]))["run"]["message"]
    assert (message["reasoning"], message["content"]) == ("hm so", "yes")


async def test_many_followers_see_the_same(server: Server, viewer: Graph) -> None:
    run = await start(viewer, "scripted:every=0.01,words=40")
    async with open_socket(server, viewer.token) as socket:

        async def by_socket() -> list[Json]:
            return [data["runEvents"] async for data in socket.events(FOLLOW, id=run["id"])]

        seen = await asyncio.gather(*(follow(viewer, run["id"]) for _ in range(2)), *(by_socket() for _ in range(2)))
    late = await follow(viewer, run["id"])
    for events in (*seen, late):
        assert text_of(events) == "".join(f"w{number} " for number in range(40))
        assert events[-1] == late[-1]
