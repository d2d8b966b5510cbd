"""conversationEvents over real sockets: resumed anywhere, on any process, after any death, by readers of any speed."""

from __future__ import annotations

import asyncio
import json
import signal
import socket as sockets
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import Account, StartServer, register_on
from tests.graph.client import dial, open_socket
from tests.graph.documents import DELETE, ONE_RUN, REPLACE, UPDATE, create, ended, send
from tests.graph.http_client import SECONDS, Graph, Json, Refused
from tests.graph.people import EVENTS, REGENERATE, is_run, reading, settled, texts
from tests.server import Server

FIELD = "conversationEvents"
WORDS = "".join(f"w{number} " for number in range(60))


def _plain(events: list[Json]) -> list[tuple[str, ...]]:
    return [(event["__typename"], event.get("message", {}).get("id", ""), event.get("id", "")) for event in events]


async def _rest(server: Server, token: str, conversation: str, after: str, last: str) -> list[Json]:
    async with reading(server, token, EVENTS, FIELD, id=conversation, after=after) as reader:
        await reader.until(lambda event: event["cursor"] == last)
        return reader.seen


def _check(seen: list[Json], rest: list[Json], whole: list[Json]) -> None:
    """Nothing is missing, nothing comes twice, whatever was merged."""
    together = [*seen, *rest]
    assert texts(together) == texts(whole)
    changes = [event for event in _plain(together) if event[0] != "ConversationRunEvent"]
    assert changes == [event for event in _plain(whole) if event[0] != "ConversationRunEvent"]
    seqs: dict[str, list[int]] = {}
    for event in together:
        if "event" in event:
            seqs.setdefault(event["event"]["runId"], []).append(event["event"]["seq"])
    for found in seqs.values():
        assert found == sorted(set(found))


async def test_anonymous_and_strangers_and_bad_cursors(
    server: Server, viewer: Graph, viewer_account: Account, stranger_account: Account
) -> None:
    conversation = (await create(viewer))["id"]
    for token, code in ((None, "UNAUTHENTICATED"), (stranger_account.token, "NOT_FOUND")):
        async with open_socket(server, token) as socket:
            for after in (None, "MQ"):
                with pytest.raises(Refused) as raised:
                    await anext(socket.events(EVENTS, id=conversation, after=after))
                assert raised.value.code == code
    async with open_socket(server, viewer_account.token) as socket:
        for after in ("", "garbage!", "MX5y", "☃" * 50, "A" * 100_000):
            with pytest.raises(Refused) as raised:
                await anext(socket.events(EVENTS, id=conversation, after=after))
            assert raised.value.code == "BAD_USER_INPUT"
            assert raised.value.errors[0]["extensions"]["field"] == "after"


async def test_every_cursor_of_a_stream_gives_the_rest(start_server: StartServer, tmp_path: Path) -> None:
    """On the server that wrote it, on another beside it, and when the only one was started again."""
    first = start_server(tmp_path / "shared")
    account = register_on(first)
    second = start_server(tmp_path / "shared")
    async with httpx.AsyncClient(base_url=first.url, timeout=30) as http:
        graph = Graph(http, account.token)
        conversation = (await create(graph, model="scripted:every=0.01,words=20"))["id"]
        async with (
            reading(first, account.token, EVENTS, FIELD, id=conversation) as here,
            reading(second, account.token, EVENTS, FIELD, id=conversation) as there,
        ):
            await settled(here, graph, conversation)
            await settled(there, graph, conversation)
            start = here.seen[-1]["cursor"]
            sent = await send(graph, conversation)
            await graph.data(UPDATE, input={"id": conversation, "title": "renamed"})
            again = await graph.data(REGENERATE, input={"messageId": sent["run"]["message"]["id"]})
            for reader in (here, there):
                await reader.finished(sent["run"]["id"])
                await reader.finished(again["regenerate"]["run"]["id"])
        whole = await _rest(first, account.token, conversation, start, here.seen[-1]["cursor"])
        tail = here.seen[next(n for n, event in enumerate(here.seen) if event["cursor"] == start) + 1 :]
        _check([], tail, whole)
        assert texts(there.seen) == texts(whole)
        step = max(1, len(tail) // 8)
        for server in (first, second):
            for index in range(0, len(tail) - 1, step):
                rest = await _rest(server, account.token, conversation, tail[index]["cursor"], tail[-1]["cursor"])
                _check(tail[: index + 1], rest, tail)
    for server in (first, second):
        server.stop()
        assert "Traceback" not in server.log()
    third = start_server(tmp_path / "shared")
    for index in range(0, len(tail) - 1, step):
        rest = await _rest(third, account.token, conversation, tail[index]["cursor"], tail[-1]["cursor"])
        _check(tail[: index + 1], rest, tail)


async def test_a_server_that_is_killed_in_mid_answer_loses_nothing_that_was_seen(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The other server's followers get the rest and the end; what the dead one's followers had is a prefix of it."""
    first = start_server(tmp_path / "shared", LEASE_SECONDS="1")
    account = register_on(first)
    second = start_server(tmp_path / "shared", LEASE_SECONDS="1")
    async with (
        httpx.AsyncClient(base_url=first.url, timeout=30) as http,
        httpx.AsyncClient(base_url=second.url, timeout=30) as other,
    ):
        graph = Graph(http, account.token)
        conversation = (await create(graph, model="scripted:every=0.02,words=400"))["id"]
        async with (
            reading(first, account.token, EVENTS, FIELD, id=conversation) as here,
            reading(second, account.token, EVENTS, FIELD, id=conversation) as there,
        ):
            await settled(here, graph, conversation)
            await settled(there, graph, conversation)
            run = (await send(graph, conversation))["run"]["id"]
            await here.until(lambda event: "w20 " in event.get("event", {}).get("text", ""))
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            await there.finished(run)
            await asyncio.gather(*(task for task in (here.task,) if task is not None), return_exceptions=True)
        stored: Json = (await Graph(other, account.token).data(ONE_RUN, id=run))["run"]
        assert stored["status"] == "INTERRUPTED"
        text = stored["message"]["content"]
        assert texts(there.seen)[run] == text
        seen = texts(here.seen)[run]
        assert "w20 " in seen
        assert text.startswith(seen), "what somebody saw is gone"
        last = there.seen[-1]["cursor"]
        rest = await _rest(second, account.token, conversation, here.seen[-1]["cursor"], last)
        assert texts([*here.seen, *rest])[run] == text
        assert [is_run(event, run, "RunFinished") for event in rest].count(True) == 1


async def test_a_cursor_that_is_too_old_is_told_so_and_it_goes_on_live(start_server: StartServer) -> None:
    server = start_server(CHANGES_KEEP_SECONDS="0.4")
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        graph = Graph(http, account.token)
        conversation = (await create(graph, model="scripted"))["id"]
        for title in "abc":
            await graph.data(UPDATE, input={"id": conversation, "title": title})
        for _ in range(20):
            async with reading(server, account.token, EVENTS, FIELD, id=conversation, after="MQ") as reader:
                await settled(reader, graph, conversation)
            if reader.seen[0]["__typename"] == "ConversationResync":
                break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError((reader.seen, server.log()))
        kinds = [event["__typename"] for event in reader.seen]
        assert kinds.count("ConversationResync") == 1, (reader.seen, server.log())
        assert kinds[-1] == "ConversationChanged"
        async with reading(server, account.token, EVENTS, FIELD, id=conversation, after="OTk5OTk5") as reader:
            await reader.kind("ConversationResync")


async def test_replaced_and_deleted(server: Server, viewer: Graph, viewer_account: Account) -> None:
    """What goes is told; the deletion is the last event, and completes the subscription."""
    conversation = (await create(viewer, model="scripted"))["id"]
    async with reading(server, viewer_account.token, EVENTS, FIELD, id=conversation) as reader:
        await settled(reader, viewer, conversation)
        sent = await send(viewer, conversation)
        await ended(viewer, sent["run"]["id"])
        answer = sent["run"]["message"]["id"]
        messages = [{"role": "USER", "content": "one two three", "externalId": sent["message"]["id"]}]
        values = {"id": conversation, "title": "x", "model": "scripted", "messages": messages}
        await viewer.data(REPLACE, input=values)
        removed = await reader.kind("MessageRemoved")
        assert removed["id"] == answer
        await viewer.data(DELETE, input={"id": conversation})
        await reader.end()
        assert reader.seen[-1]["__typename"] == "ConversationDeleted"
        assert {event["conversationId"] for event in reader.seen} == {conversation}


async def _stalled(server: Server, token: str, conversation: str) -> AsyncGenerator[Json, None]:
    """A reader that takes nothing until it is asked for more; its buffers are small."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4_096)
    raw.connect(("127.0.0.1", server.port))
    raw.setblocking(False)
    async with dial(server, sock=raw, max_queue=1) as connection:
        await connection.send(json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {token}"}}))
        await connection.recv()
        payload = {"query": EVENTS, "variables": {"id": conversation}}
        await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        while True:
            try:
                message = json.loads(await connection.recv())
            except ConnectionClosed as closed:
                yield {"closed": closed.rcvd.code if closed.rcvd is not None else None}
                return
            yield message["payload"]["data"][FIELD]


async def test_a_reader_that_takes_nothing_is_closed_and_can_come_back(start_server: StartServer) -> None:
    """Long answers while it does not read; behind the cursor of what it had it finds all the rest."""
    server = start_server(SEND_TIMEOUT_SECONDS="1")
    account = register_on(server)
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        graph = Graph(http, account.token)
        text = ("x" * 1_000 + " ") * 90
        conversation = (await create(graph, model="scripted"))["id"]
        events = _stalled(server, account.token, conversation)
        first = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(SECONDS):
            while not first.done():
                await graph.data(UPDATE, input={"id": conversation, "pinned": True})
                await asyncio.wait([first], timeout=0.2)
        seen = [first.result()]
        runs: list[str] = []
        async with asyncio.timeout(SECONDS):
            # As many as fill every buffer between the two.
            while (await http.get("/health")).json()["active_connections"]:
                runs.append((await send(graph, conversation, text))["run"]["id"])
                await ended(graph, runs[-1])
        async with asyncio.timeout(SECONDS):
            seen += [event async for event in events]
        assert seen[-1] in ({"closed": 1013}, {"closed": None})
        async with reading(server, account.token, EVENTS, FIELD, id=conversation, after=seen[-2]["cursor"]) as reader:
            await reader.finished(runs[-1])
        whole = texts([*seen[:-1], *reader.seen])
        assert [whole[run] for run in runs] == [text] * len(runs)
