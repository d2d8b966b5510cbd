"""POST /api/chat with `stream: true`: the legacy socket's objects as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import httpx
import pytest

import rest.sse
from chat.events import RunEvent, RunFinished, RunStarted, RunTextDelta
from errors import BadUserInput, Unavailable
from models.run import RunStatus
from providers.base import FinishReason, Usage
from rest.sse import begun
from tests.conftest import Account, StartServer, register_on
from tests.rest.talk import SLOW, Json, question, tokens_appear

PATH = "/api/chat"


def frames_of(text: str) -> list[Json]:
    """One `data:` line per event, lines ended by LF, events by an empty line."""
    assert "\r" not in text
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def streamed(client: httpx.AsyncClient, account: Account, **fields: object) -> list[Json]:
    answer = await client.post(PATH, json=question(**{"stream": True} | fields), headers=account.headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return frames_of(answer.text)


async def test_chunks_then_complete_with_tokens_and_model(client: httpx.AsyncClient, account: Account) -> None:
    *chunks, last = await streamed(client, account, model="scripted:text=你好,every=0.05,text=_there,usage=3/2")
    assert chunks == [{"type": "chat_chunk", "content": "你好"}, {"type": "chat_chunk", "content": " there"}]
    model = "scripted:text=你好,every=0.05,text=_there,usage=3/2"
    assert last == {"type": "chat_complete", "tokens": 5, "model": model}


async def test_the_text_is_the_plain_answers(client: httpx.AsyncClient, account: Account) -> None:
    body = question("one two three four")
    plain = (await client.post(PATH, json=body, headers=account.headers)).json()
    *chunks, last = await streamed(client, account, content="one two three four")
    assert "".join(chunk["content"] for chunk in chunks) == plain["content"]
    assert (last["tokens"], last["model"]) == (plain["tokens"], plain["model"])


async def test_no_proxy_and_no_cache_may_hold_it_back(client: httpx.AsyncClient, account: Account) -> None:
    answer = await client.post(PATH, json=question(stream=True), headers=account.headers)
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


async def test_thoughts_are_not_the_answer(client: httpx.AsyncClient, account: Account) -> None:
    """Chunks carry the model's text only."""
    frames = await streamed(client, account, model="scripted:think=hm,text=yes")
    assert [frame.get("content") for frame in frames] == ["yes", None]


async def test_a_failure_is_an_error_object_and_then_complete(client: httpx.AsyncClient, account: Account) -> None:
    frames = await streamed(client, account, model="scripted:text=a,usage=4/1,fail=PROVIDER_TIMEOUT")
    assert [frame["type"] for frame in frames] == ["chat_chunk", "error", "chat_complete"]
    assert frames[1]["code"] == "PROVIDER_TIMEOUT"
    assert set(frames[1]) == {"type", "code", "message"}
    assert set(frames[2]) == {"type", "tokens", "model"}


async def test_a_failure_without_a_word_is_told_in_the_stream(start_server: StartServer) -> None:
    """The run has begun: its end is an event like any other."""
    server = start_server(MODEL_FALLBACK="none")
    async with httpx.AsyncClient(base_url=server.url) as client:
        frames = await streamed(client, register_on(server), model="scripted:fail=PROVIDER_AUTH")
    assert [frame["type"] for frame in frames] == ["error", "chat_complete"]


async def test_it_comes_as_it_is_made(client: httpx.AsyncClient, account: Account) -> None:
    body = question(model="scripted:text=first,wait=30,text=last", stream=True)
    async with asyncio.timeout(10), client.stream("POST", PATH, json=body, headers=account.headers) as answer:
        async for line in answer.aiter_lines():
            assert json.loads(line.removeprefix("data: "))["content"] == "first"
            break


async def test_headers_do_not_wait_for_the_first_word(client: httpx.AsyncClient, account: Account) -> None:
    body = question(model="scripted:wait=30,text=late", stream=True)
    async with asyncio.timeout(10), client.stream("POST", PATH, json=body, headers=account.headers) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("model", [SLOW, "scripted:text=a,wait=50"], ids=["busy", "silent"])
async def test_a_client_that_leaves_ends_the_run_at_once(
    client: httpx.AsyncClient, account: Account, model: str
) -> None:
    body = question(model=model, stream=True)
    async with client.stream("POST", PATH, json=body, headers=account.headers) as answer:
        await anext(answer.aiter_lines())
    assert await tokens_appear(client, account, 2)


async def test_a_client_that_leaves_before_anything_came_ends_the_run(
    client: httpx.AsyncClient, account: Account
) -> None:
    body = question(model="scripted:wait=50", stream=True)
    asking = asyncio.create_task(client.post(PATH, json=body, headers=account.headers))
    await asyncio.sleep(0.4)
    asking.cancel()
    assert await tokens_appear(client, account, 2)


# What follows needs no server: a run is any generator of events.


def finished(error: None = None) -> RunFinished:
    usage = Usage(1, 2)
    return RunFinished("run", 2, RunStatus.COMPLETED, FinishReason.STOP, usage, error, "scripted", None)


async def lines_of(events: AsyncGenerator[RunEvent, None]) -> list[Json]:
    async with aclosing(await begun(events)) as lines:
        return frames_of((b"".join([line async for line in lines])).decode())


async def test_events_without_a_frame_send_nothing() -> None:
    async def events() -> AsyncIterator[RunEvent]:
        yield RunStarted("run", 0, "scripted", "scripted", "scripted", None)
        yield RunTextDelta("run", 1, "a\nb\u2028")
        yield finished()

    assert await lines_of(_generator(events())) == [
        {"type": "chat_chunk", "content": "a\nb\u2028"},
        {"type": "chat_complete", "tokens": 3, "model": "scripted"},
    ]


async def _generator(events: AsyncIterator[RunEvent]) -> AsyncGenerator[RunEvent, None]:
    async for event in events:
        yield event


async def test_what_refuses_a_run_is_raised_before_there_are_lines() -> None:
    async def events() -> AsyncIterator[RunEvent]:
        raise BadUserInput("no")
        yield finished()

    with pytest.raises(BadUserInput):
        await begun(_generator(events()))


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable("full"), "UNAVAILABLE"), (ValueError("private"), "INTERNAL_ERROR")]
)
async def test_what_breaks_later_is_told_in_the_stream_and_masked(error: Exception, code: str) -> None:
    async def events() -> AsyncIterator[RunEvent]:
        yield RunTextDelta("run", 0, "a")
        raise error

    frames = await lines_of(_generator(events()))
    assert [frame["type"] for frame in frames] == ["chat_chunk", "error", "chat_complete"]
    assert frames[1]["code"] == code
    assert "private" not in frames[1]["message"]


async def test_a_refusal_that_comes_late_is_told_in_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest.sse, "BEGUN_SECONDS", 0.01)

    async def events() -> AsyncIterator[RunEvent]:
        await asyncio.sleep(0.1)
        raise Unavailable("full")
        yield finished()

    assert [frame["type"] for frame in await lines_of(_generator(events()))] == ["error", "chat_complete"]


@pytest.mark.parametrize("taken", [0, 1])
async def test_closing_the_lines_closes_the_events_at_once(monkeypatch: pytest.MonkeyPatch, taken: int) -> None:
    """Also while the first event is still awaited."""
    monkeypatch.setattr(rest.sse, "BEGUN_SECONDS", 0.01)
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[RunEvent, None]:
        try:
            for number in range(taken):
                yield RunTextDelta("run", number, "a")
            await asyncio.sleep(60)
            yield finished()
        finally:
            closed.set()

    lines = await begun(events())
    for _ in range(taken):
        await anext(lines)
    await lines.aclose()
    assert closed.is_set()
