"""runEvents from any point: no gap and no repeat, whatever the client has seen before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.conftest import register_on
from tests.graph.documents import FOLLOW, ONE_RUN, create, ended, follow, send, start, text_of
from tests.graph.http_client import Graph, Json, Refused
from tests.server import Server, running

WORDS = "".join(f"w{number} " for number in range(30))
SCRIPT = "scripted:every=0.03,words=30"


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that drops the log of a finished run almost at once."""
    with running(tmp_path_factory.mktemp("forgetful"), RUN_KEEP_SECONDS="0.2", CHAT_KEY_SECONDS="0.2") as server:
        yield server


@pytest.fixture(scope="module")
def token(forgetful: Server) -> str:
    return register_on(forgetful).token


@pytest.fixture
async def late(forgetful: Server, token: str) -> AsyncIterator[Graph]:
    async with httpx.AsyncClient(base_url=forgetful.url, timeout=30) as http:
        yield Graph(http, token)


async def _refused(graph: Graph, run_id: str, after: int) -> Json:
    with pytest.raises(Refused) as refused:
        await follow(graph, run_id, after)
    error: Json = refused.value.errors[0]["extensions"]
    return error


async def test_a_follower_goes_on_behind_what_it_has(viewer: Graph) -> None:
    """At every seq of the run, live and when it is over."""
    run = await start(viewer, SCRIPT)
    whole = await follow(viewer, run["id"])
    assert text_of(whole) == WORDS
    for index, event in enumerate(whole):
        rest = await follow(viewer, run["id"], event["seq"])
        assert text_of(whole[: index + 1]) + text_of(rest) == WORDS
        assert all(later["seq"] > event["seq"] for later in rest)
        assert rest == [] or rest[-1] == whole[-1]


async def test_a_follower_that_drops_and_comes_back_again_and_again_misses_nothing(viewer: Graph) -> None:
    run = await start(viewer, SCRIPT)
    seen: list[Json] = []
    while not seen or seen[-1]["__typename"] != "RunFinished":
        events = viewer.events(FOLLOW, id=run["id"], after=seen[-1]["seq"] if seen else None)
        for _ in range(3):
            if (data := await anext(events, None)) is None:
                break
            seen.append(data["runEvents"])
        await events.aclose()
    assert text_of(seen) == WORDS
    seqs = [event["seq"] for event in seen]
    assert seqs == sorted(set(seqs))


async def test_behind_the_last_event_there_is_nothing(viewer: Graph) -> None:
    run = await start(viewer, "scripted")
    last = (await follow(viewer, run["id"]))[-1]["seq"]
    assert await follow(viewer, run["id"], last) == []
    assert await follow(viewer, run["id"], last - 1) == [(await follow(viewer, run["id"]))[-1]]


@pytest.mark.parametrize("where", [-1, 1, 1_000_000, -(2**31), 2**31 - 1])
async def test_after_out_of_range_is_refused(viewer: Graph, where: int) -> None:
    run = await start(viewer, "scripted")
    last = (await follow(viewer, run["id"]))[-1]["seq"]
    after = last + 1 if where == 1 else where
    assert await _refused(viewer, run["id"], after) == {"code": "BAD_USER_INPUT", "field": "after"}


async def test_after_beyond_what_is_written_so_far_is_refused(viewer: Graph) -> None:
    """Not waited for: a client that is ahead of the log has mistaken one run for another."""
    run = await start(viewer, "scripted:text=a,wait=20")
    events = viewer.events(FOLLOW, id=run["id"])
    first = (await anext(events))["runEvents"]
    assert await _refused(viewer, run["id"], first["seq"] + 50) == {"code": "BAD_USER_INPUT", "field": "after"}
    await events.aclose()
    await viewer.data("mutation ($id: ID!) { cancelRun(input: {runId: $id}) { run { id } } }", id=run["id"])


@pytest.mark.parametrize("after", ["3", 1.5, [1], 2**31])
async def test_after_of_the_wrong_type_is_refused(viewer: Graph, after: object) -> None:
    with pytest.raises(Refused) as refused:
        _ = [event async for event in viewer.events(FOLLOW, id="run_x", after=after)]
    assert refused.value.code == "BAD_USER_INPUT"


async def _dropped(graph: Graph, model: str) -> tuple[str, list[Json]]:
    """A run whose log is gone, and the events that it had."""
    run = await start(graph, model)
    events = await follow(graph, run["id"])
    while (again := await follow(graph, run["id"]))[0]["__typename"] != "RunSnapshot":
        assert text_of(again) == text_of(events)
    return run["id"], events


async def test_a_dropped_log_is_one_snapshot_and_the_end(late: Graph) -> None:
    run_id, events = await _dropped(late, "scripted:think=hm,words=5")
    snapshot, finished = await follow(late, run_id)
    assert snapshot["__typename"] == "RunSnapshot"
    assert (snapshot["text"], snapshot["reasoning"]) == ("w0 w1 w2 w3 w4 ", "hm")
    assert snapshot["seq"] == finished["seq"] - 1
    assert finished == events[-1]
    assert (await late.data(ONE_RUN, id=run_id))["run"]["lastSeq"] == finished["seq"]


async def test_a_snapshot_stands_for_every_cursor_that_is_too_old(late: Graph) -> None:
    run_id, events = await _dropped(late, "scripted:every=0.03,words=5")
    last = events[-1]["seq"]
    whole = await follow(late, run_id)
    for after in range(last - 1):
        assert await follow(late, run_id, after) == whole
    assert await follow(late, run_id, last - 1) == whole[-1:]
    assert await follow(late, run_id, last) == []
    for after in (-1, last + 1):
        assert await _refused(late, run_id, after) == {"code": "BAD_USER_INPUT", "field": "after"}


async def test_what_a_failed_run_wrote_is_in_its_snapshot(late: Graph) -> None:
    run_id, _ = await _dropped(late, "scripted:text=half,wait=0.05,fail=PROVIDER_TIMEOUT")
    snapshot, finished = await follow(late, run_id)
    assert snapshot["text"] == "half"
    assert (finished["status"], finished["error"]["code"]) == ("FAILED", "PROVIDER_TIMEOUT")


async def test_the_log_of_a_deleted_conversation_keeps_no_text(late: Graph) -> None:
    conversation = (await create(late))["id"]
    run_id = (await send(late, conversation, "secret"))["run"]["id"]
    await ended(late, run_id)
    await late.data("mutation ($id: ID!) { deleteConversation(input: {id: $id}) { id } }", id=conversation)
    while len(events := await follow(late, run_id)) > 1:
        pass
    assert events[0]["__typename"] == "RunFinished"
    assert events[0]["message"] is None
