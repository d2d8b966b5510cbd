"""Usage and cost, wherever they are shown."""

from __future__ import annotations

import pytest

from tests.graph.documents import create, send
from tests.graph.http_client import Graph, Json

USAGE = "usage { promptTokens completionTokens totalTokens cachedTokens reasoningTokens costUsd estimated }"
EVENTS = (
    f"subscription ($id: ID!) {{ runEvents(runId: $id) {{ ... on RunFinished {{ {USAGE} message {{ {USAGE} }} }} }} }}"
)
RUN = f"query ($id: ID!) {{ run(id: $id) {{ {USAGE} message {{ {USAGE} run {{ {USAGE} }} }} }} }}"
CHAT = f"subscription ($input: ChatInput!) {{ chat(input: $input) {{ ... on RunFinished {{ {USAGE} }} }} }}"


def usage(prompt: int, completion: int, cost: float | None) -> Json:
    return {
        "promptTokens": prompt,
        "completionTokens": completion,
        "totalTokens": prompt + completion,
        "cachedTokens": None,
        "reasoningTokens": None,
        "costUsd": cost,
        "estimated": False,
    }


@pytest.mark.parametrize(
    ("model", "cost"),
    [
        ("scripted@2.5/10:text=a,usage=1000/500", 0.0075),
        ("scripted@0/0:text=a,usage=1000/500", 0.0),
        ("scripted:text=a,usage=1000/500", None),
    ],
)
async def test_is_the_same_on_run_message_and_event(newcomer: Graph, model: str, cost: float | None) -> None:
    run_id = (await send(newcomer, (await create(newcomer))["id"], "hello", model=model))["run"]["id"]
    expected = usage(1000, 500, cost)
    for _ in range(2):
        events = [event["runEvents"] async for event in newcomer.events(EVENTS, id=run_id)]
        assert (events[-1]["usage"], events[-1]["message"]["usage"]) == (expected, expected)
    run = (await newcomer.data(RUN, id=run_id))["run"]
    assert (run["usage"], run["message"]["usage"], run["message"]["run"]["usage"]) == (expected, expected, expected)


async def test_of_a_chat_that_is_stored_nowhere(newcomer: Graph) -> None:
    asked = {"messages": [{"role": "USER", "content": "x"}], "model": "scripted@2.5/10:text=a,usage=1000/500"}
    events = [event["chat"] async for event in newcomer.events(CHAT, input=asked)]
    assert events[-1]["usage"] == usage(1000, 500, 0.0075)


async def test_of_an_answer_that_was_never_begun_is_null(newcomer: Graph) -> None:
    run_id = (await send(newcomer, (await create(newcomer))["id"], "hello", model="scripted@1/1:fail=PROVIDER_AUTH"))[
        "run"
    ]["id"]
    events = [event["runEvents"] async for event in newcomer.events(EVENTS, id=run_id)]
    assert events[-1]["usage"] is None
