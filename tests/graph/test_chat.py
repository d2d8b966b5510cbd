"""The stateless chat: nothing of it is kept but what it cost."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.conftest import StartServer, register_on
from tests.graph.client import open_socket
from tests.graph.documents import CHAT, CHAT_STREAM, FOLLOW, ONE_RUN, SEND, chat, create, follow, text_of
from tests.graph.http_client import Graph, Json, Refused


async def _stream(graph: Graph, asked: Json) -> list[Json]:
    return [data["chat"] async for data in graph.events(CHAT_STREAM, input=asked)]


async def test_nobody_may_chat(anonymous: Graph) -> None:
    assert await anonymous.code(CHAT, input=chat()) == "UNAUTHENTICATED"
    with pytest.raises(Refused) as refused:
        await _stream(anonymous, chat())
    assert refused.value.code == "UNAUTHENTICATED"


async def test_the_whole_answer_at_once(viewer: Graph) -> None:
    answer = (await viewer.data(CHAT, input=chat("one two three")))["chat"]
    assert (answer["content"], answer["tokens"], answer["model"]) == ("one two three ", 6, "scripted")
    assert answer["runId"].startswith("run_")


async def test_the_same_answer_streamed(viewer: Graph) -> None:
    events = await _stream(viewer, chat("one two three", model="scripted:every=0.03,words=5"))
    assert events[0]["__typename"] == "RunStarted"
    assert events[0]["messageId"] is None
    assert text_of(events) == "w0 w1 w2 w3 w4 "
    finished = events[-1]
    assert (finished["status"], finished["finishReason"], finished["message"]) == ("COMPLETED", "STOP", None)
    assert finished["usage"]["totalTokens"] == 8
    assert len([event for event in events if event["__typename"] == "RunTextDelta"]) > 1


async def test_roles_reach_the_model_and_only_the_last_message_is_echoed(viewer: Graph) -> None:
    messages = [
        {"role": "SYSTEM", "content": "be brief"},
        {"role": "USER", "content": "first"},
        {"role": "ASSISTANT", "content": ""},
        {"role": "USER", "content": "second"},
    ]
    answer = (await viewer.data(CHAT, input={"messages": messages}))["chat"]
    assert (answer["content"], answer["tokens"]) == ("second ", 5)


async def test_afterwards_the_run_has_figures_and_no_text(viewer: Graph) -> None:
    """What was said in a stateless chat is not the server's to keep."""
    run_id = (await viewer.data(CHAT, input=chat("a secret")))["chat"]["runId"]
    run = (await viewer.data(ONE_RUN, id=run_id))["run"]
    assert (run["status"], run["model"], run["usage"]["totalTokens"]) == ("COMPLETED", "scripted", 4)
    assert (run["message"], run["conversation"]) == (None, None)
    events = await follow(viewer, run_id)
    assert [event["__typename"] for event in events] == ["RunFinished"]
    assert events[0]["seq"] == run["lastSeq"]


async def test_its_run_is_the_viewers_alone(viewer: Graph, stranger: Graph) -> None:
    run_id = (await viewer.data(CHAT, input=chat()))["chat"]["runId"]
    assert await stranger.data(ONE_RUN, id=run_id) == {"run": None}
    with pytest.raises(Refused) as refused:
        await follow(stranger, run_id)
    assert refused.value.code == "NOT_FOUND"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"messages": []}, "messages"),
        (chat(""), "messages"),
        (chat(" \n "), "messages"),
        (chat("x" * 100_001), "messages"),
        (chat("a\u0000b"), "messages"),
        ({"messages": [{"role": "USER", "content": "x"}] * 2_001}, "messages"),
        (chat(model=""), "model"),
        (chat(model="x" * 201), "model"),
        (chat(temperature=-1), "temperature"),
        (chat(temperature=2.5), "temperature"),
        (chat(maxTokens=0), "maxTokens"),
        (chat(maxTokens=5000), "maxTokens"),
        (chat(idempotencyKey="x" * 201), "idempotencyKey"),
        (chat(idempotencyKey="\u0000"), "idempotencyKey"),
        (None, None),
        ({"messages": None}, None),
        ({"messages": [None]}, None),
        ({"messages": [{"role": "user", "content": "lower case"}]}, None),
        ({"messages": [{"role": "USER", "content": 5}]}, None),
        (chat(temperature="1"), None),
        (chat(maxTokens=2.5), None),
        (chat(stream=True), None),
    ],
)
async def test_bad_input_is_refused_both_ways(viewer: Graph, asked: Json, field: str | None) -> None:
    error = await viewer.error(CHAT, input=asked)
    assert (error["code"], error.get("field")) == ("BAD_USER_INPUT", field)
    with pytest.raises(Refused) as refused:
        await _stream(viewer, asked)
    (streamed,) = refused.value.errors
    assert streamed["extensions"] == error


@pytest.mark.parametrize(
    "code",
    [
        "PROVIDER_ERROR",
        "PROVIDER_AUTH",
        "PROVIDER_RATE_LIMITED",
        "PROVIDER_TIMEOUT",
        "CONTENT_FILTERED",
        "CONTEXT_TOO_LONG",
        "MODEL_UNAVAILABLE",
    ],
)
async def test_a_providers_failure_keeps_its_code(viewer: Graph, code: str) -> None:
    """As an error where the whole answer is waited for, as the end of the run where it is followed."""
    model = f"scripted:text=half_an_,text=answer,wait=0.05,fail={code}"
    assert await viewer.code(CHAT, input=chat(model=model)) == code
    events = await _stream(viewer, chat(model=model))
    assert text_of(events) == "half an answer"
    assert (events[-1]["status"], events[-1]["error"]["code"]) == ("FAILED", code)
    run = (await viewer.data(ONE_RUN, id=events[-1]["runId"]))["run"]
    assert (run["status"], run["error"]["code"], run["finishReason"]) == ("FAILED", code, None)
    assert run["usage"]["estimated"], "what was sent and received has a price, also when it was cut off"


async def test_a_stream_without_an_end_is_a_failure(viewer: Graph) -> None:
    assert await viewer.code(CHAT, input=chat(model="scripted:text=a,cut")) == "PROVIDER_ERROR"


async def test_a_model_that_nobody_has_is_answered_by_the_default_one(viewer: Graph) -> None:
    """Without a paid provider every name is answered, and the answer says by whom."""
    events = await _stream(viewer, chat("hi", model="gpt-3.5-turbo"))
    assert (events[0]["requestedModel"], events[0]["model"]) == ("gpt-3.5-turbo", "scripted")
    assert (await viewer.data(CHAT, input=chat("hi", model="gpt-3.5-turbo")))["chat"]["model"] == "scripted"


async def test_without_a_fallback_an_unknown_model_is_unavailable(start_server: StartServer) -> None:
    strict = start_server(MODEL_FALLBACK="none")
    async with open_socket(strict, register_on(strict).token) as socket:
        with pytest.raises(Refused) as refused:
            await socket.data(CHAT, input=chat(model="gpt-4"))
        assert refused.value.code == "MODEL_UNAVAILABLE"
        conversation = (await socket.data("mutation { createConversation(input: {}) { conversation { id } } }"))[
            "createConversation"
        ]["conversation"]["id"]
        with pytest.raises(Refused) as refused:
            await socket.data(SEND, input={"conversationId": conversation, "content": "x", "model": "gpt-4"})
        assert refused.value.code == "MODEL_UNAVAILABLE"
        query = "query ($id: ID!) { conversation(id: $id) { messageCount } }"
        assert (await socket.data(query, id=conversation))["conversation"]["messageCount"] == 0


async def test_before_the_first_text_another_model_is_tried(viewer: Graph) -> None:
    """The default model stands in for one that wants too much time; who failed and why is told, in the log and by the
    run."""
    model = "scripted:wait=0.01,fail=PROVIDER_RATE_LIMITED/60"
    events = await _stream(viewer, chat("hi", model=model))
    assert [event["__typename"] for event in events] == [
        "RunAttemptFailed",
        "RunStarted",
        "RunTextDelta",
        "RunFinished",
    ]
    assert (events[0]["model"], events[0]["failure"]["code"]) == (model, "PROVIDER_RATE_LIMITED")
    assert (events[1]["requestedModel"], events[1]["model"]) == (model, "scripted")
    assert text_of(events) == "hi "
    run = (await viewer.data(ONE_RUN, id=events[0]["runId"]))["run"]
    assert [(attempt["model"], attempt["error"]) for attempt in run["attempts"]] == [
        (model, {"code": "PROVIDER_RATE_LIMITED", "retryable": True, "retryAfter": 60}),
        ("scripted", None),
    ]
    assert (run["requestedModel"], run["model"], run["error"]) == (model, "scripted", None)


async def test_before_the_first_text_the_same_model_is_asked_again(viewer: Graph) -> None:
    model = f"scripted:flaky=1/PROVIDER_ERROR/0.1,text=now,usage={uuid.uuid4().int % 10**6}/1"
    events = await _stream(viewer, chat("hi", model=model))
    kinds = [event["__typename"] for event in events]
    assert kinds == ["RunAttemptFailed", "RunStarted", "RunTextDelta", "RunFinished"]
    assert [event["model"] for event in events[:2]] == [model, model]
    run = (await viewer.data(ONE_RUN, id=events[0]["runId"]))["run"]
    assert [attempt["error"] for attempt in run["attempts"]] == [
        {"code": "PROVIDER_ERROR", "retryable": True, "retryAfter": 0.1},
        None,
    ]


@pytest.mark.parametrize("begun", ["text=a", "think=a"])
async def test_after_the_first_word_no_other_model_is_tried(viewer: Graph, begun: str) -> None:
    """Its text would be glued to the first one's."""
    events = await _stream(viewer, chat(model=f"scripted:{begun},fail=PROVIDER_ERROR"))
    assert "RunAttemptFailed" not in {event["__typename"] for event in events}
    assert events[-1]["status"] == "FAILED"
    run = (await viewer.data(ONE_RUN, id=events[-1]["runId"]))["run"]
    assert [attempt["error"]["code"] for attempt in run["attempts"]] == ["PROVIDER_ERROR"]


@pytest.mark.parametrize("code", ["PROVIDER_AUTH", "CONTENT_FILTERED", "CONTEXT_TOO_LONG"])
async def test_what_will_not_pass_is_not_tried_elsewhere(viewer: Graph, code: str) -> None:
    assert await viewer.code(CHAT, input=chat(model=f"scripted:fail={code}")) == code


async def test_the_same_key_follows_the_same_run_from_its_start(viewer: Graph) -> None:
    """Clients resend a subscription when they reconnect: that must not pay for a second answer."""
    asked = chat(model="scripted:every=0.02,words=20", idempotencyKey=uuid.uuid4().hex)
    first, second = await asyncio.gather(_stream(viewer, asked), _stream(viewer, asked))
    assert {event["runId"] for event in first} == {event["runId"] for event in second}
    assert text_of(first) == text_of(second) == "".join(f"w{number} " for number in range(20))
    again = await _stream(viewer, asked)
    assert (again[0]["seq"], text_of(again), again[-1]) == (0, text_of(first), first[-1])
    assert (await viewer.data(CHAT, input=asked))["chat"]["runId"] == first[0]["runId"]


async def test_the_same_key_at_once_starts_one_run(viewer: Graph) -> None:
    asked = chat("one", idempotencyKey=uuid.uuid4().hex)
    answers = await asyncio.gather(*(viewer.data(CHAT, input=asked) for _ in range(8)))
    assert len({answer["chat"]["runId"] for answer in answers}) == 1
    assert {answer["chat"]["content"] for answer in answers} == {"one "}


async def test_the_same_key_of_another_user_is_another_key(viewer: Graph, stranger: Graph) -> None:
    asked = chat("one", idempotencyKey=uuid.uuid4().hex)
    mine = (await viewer.data(CHAT, input=asked))["chat"]["runId"]
    assert (await stranger.data(CHAT, input=asked))["chat"]["runId"] != mine


async def test_a_key_is_for_one_thing(viewer: Graph) -> None:
    key = uuid.uuid4().hex
    conversation = (await create(viewer))["id"]
    await viewer.data(SEND, input={"conversationId": conversation, "content": "x", "idempotencyKey": key})
    assert await viewer.code(CHAT, input=chat(idempotencyKey=key)) == "CONFLICT"
    other = uuid.uuid4().hex
    await viewer.data(CHAT, input=chat(idempotencyKey=other))
    asked = {"conversationId": conversation, "content": "x", "idempotencyKey": other}
    assert await viewer.code(SEND, input=asked) == "CONFLICT"


async def test_a_key_whose_text_is_gone_starts_anew(start_server: StartServer) -> None:
    """An answer without its text, as of a run that ended before a restart, would be an empty success."""
    server = start_server()
    token = register_on(server).token
    asked = chat("one", idempotencyKey="k")
    async with open_socket(server, token) as socket:
        first = (await socket.data(CHAT, input=asked))["chat"]
    server.stop()
    restarted = start_server(data_dir=server.data_dir)
    async with open_socket(restarted, token) as socket:
        second = (await socket.data(CHAT, input=asked))["chat"]
        assert (second["content"], second["runId"] != first["runId"]) == ("one ", True)
        assert (await socket.data(ONE_RUN, id=first["runId"]))["run"]["status"] == "COMPLETED"


async def test_a_key_is_free_again_after_its_time(start_server: StartServer) -> None:
    server = start_server(CHAT_KEY_SECONDS="0.1")
    async with open_socket(server, register_on(server).token) as socket:
        asked = chat("one", idempotencyKey="k")
        first = (await socket.data(CHAT, input=asked))["chat"]["runId"]
        while (await socket.data(CHAT, input=asked))["chat"]["runId"] == first:
            await asyncio.sleep(0.02)


async def test_a_stateless_run_may_be_followed_and_cancelled_while_it_lasts(viewer: Graph) -> None:
    events = viewer.events(CHAT_STREAM, input=chat(model="scripted:text=a,wait=20"))
    run_id = (await anext(events))["chat"]["runId"]
    follower = viewer.events(FOLLOW, id=run_id)
    assert (await anext(follower))["runEvents"]["seq"] == 0
    await viewer.data("mutation ($id: ID!) { cancelRun(input: {runId: $id}) { run { id } } }", id=run_id)
    ends = [[data async for data in stream][-1] for stream in (events, follower)]
    assert [end["chat" if "chat" in end else "runEvents"]["status"] for end in ends] == ["CANCELLED"] * 2


async def test_a_cancelled_answer_that_was_waited_for_is_a_conflict(viewer: Graph) -> None:
    """The one who waits for the whole is told that it is not whole."""
    asked = chat(model="scripted:text=a,wait=20", idempotencyKey=uuid.uuid4().hex)
    events = viewer.events(CHAT_STREAM, input=asked)
    run_id = (await anext(events))["chat"]["runId"]
    waiting = asyncio.create_task(viewer.code(CHAT, input=asked))
    await viewer.data("mutation ($id: ID!) { cancelRun(input: {runId: $id}) { run { id } } }", id=run_id)
    assert await waiting == "CONFLICT"
    await events.aclose()
