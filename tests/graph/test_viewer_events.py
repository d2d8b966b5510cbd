"""viewerEvents over real sockets: what a second device, and another person, is told of."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx
import pytest

from tests.conftest import Account, Register, StartServer, register_on
from tests.graph.client import open_socket
from tests.graph.documents import DELETE, UPDATE, chat, create, ended, send
from tests.graph.http_client import SECONDS, Graph, Json, Refused
from tests.graph.people import ADD, REMOVE, VIEWER, Reader, reading
from tests.server import Server

FIELD = "viewerEvents"
CHAT = "mutation ($input: ChatInput!) { chat(input: $input) { runId } }"


async def _ready(reader: Reader, graph: Graph) -> str:
    """Make conversations until the reader is told of one: it is there from then on. The cursor."""
    async with asyncio.timeout(SECONDS):
        while not reader.seen:
            await create(graph, title="to be seen")
            reader.news.clear()
            try:
                await asyncio.wait_for(reader.news.wait(), 0.3)
            except TimeoutError:
                continue
    return str(reader.seen[0]["cursor"])


async def test_anonymous_and_bad_cursors(server: Server, account: Account) -> None:
    async with open_socket(server) as socket:
        with pytest.raises(Refused) as raised:
            await anext(socket.events(VIEWER))
        assert raised.value.code == "UNAUTHENTICATED"
    async with open_socket(server, account.token) as socket:
        for after in ("", "garbage!", "☃"):
            with pytest.raises(Refused) as raised:
                await anext(socket.events(VIEWER, after=after))
            assert raised.value.code == "BAD_USER_INPUT"


async def test_a_second_device_sees_what_the_first_does(
    server: Server, newcomer: Graph, account: Account, stranger: Graph
) -> None:
    """Created, renamed, run, deleted; stateless runs too. Nothing of other users."""
    async with reading(server, account.token, VIEWER, FIELD) as reader:
        start = await _ready(reader, newcomer)
        await create(stranger, title="not yours")
        conversation = (await create(newcomer, title="first", model="scripted"))["id"]
        await newcomer.data(UPDATE, input={"id": conversation, "title": "second"})
        run = (await send(newcomer, conversation))["run"]["id"]
        await ended(newcomer, run)
        stateless = (await newcomer.data(CHAT, input=chat(model="scripted")))["chat"]["runId"]
        await newcomer.data(DELETE, input={"id": conversation})
        last = await reader.until(lambda event: event.get("conversationId") == conversation)
        assert last["__typename"] == "ConversationDeleted"
        ids = {event["conversation"]["id"] for event in reader.seen if "conversation" in event}
        titles = [event["conversation"]["title"] for event in reader.seen if "conversation" in event]
        assert "not yours" not in titles
        assert "second" in titles
        assert conversation in ids
        runs = [event["run"] for event in reader.seen if "run" in event]
        assert [found["id"] for found in runs] == [run, run, stateless, stateless]
        assert runs[1]["status"] == "COMPLETED"
        assert runs[1]["conversation"] is None or runs[1]["conversation"]["id"] == conversation
        cursors = [event["cursor"] for event in reader.seen]
    # From each cursor exactly as many events as were behind it: what is gone by now is told as gone.
    index = cursors.index(start)
    for position in (index, index + 2, len(cursors) - 2):
        async with reading(server, account.token, VIEWER, FIELD, after=cursors[position]) as again:
            await again.until(lambda event: event["cursor"] == cursors[-1])
            assert [event["cursor"] for event in again.seen] == cursors[position + 1 :]


async def test_what_is_shared_appears_and_goes(
    server: Server, viewer: Graph, account: Account, newcomer: Graph, register: Register
) -> None:
    conversation = (await create(viewer, title="shared", model="scripted"))["id"]
    async with reading(server, account.token, VIEWER, FIELD) as reader:
        await _ready(reader, newcomer)
        added = {"conversationId": conversation, "username": account.username, "role": "VIEWER"}
        await viewer.data(ADD, input=added)
        told = await reader.until(lambda event: event.get("conversation", {}).get("id") == conversation)
        assert told["conversation"] == {"id": conversation, "title": "shared", "viewerRole": "VIEWER"}
        run = (await send(viewer, conversation))["run"]["id"]
        await reader.until(lambda event: event.get("run", {}).get("id") == run)
        await viewer.data(REMOVE, input={"conversationId": conversation, "userId": account.id})
        gone = await reader.kind("ConversationDeleted")
        assert gone["conversationId"] == conversation
        await viewer.data(UPDATE, input={"id": conversation, "title": "secret"})
        await create(newcomer, title="the end")
        await reader.until(lambda event: event.get("conversation", {}).get("title") == "the end")
        assert "secret" not in [event["conversation"]["title"] for event in reader.seen if "conversation" in event]


async def test_two_servers_tell_of_the_same_and_a_cursor_goes_from_one_to_the_other(
    start_server: StartServer,
) -> None:
    first = start_server()
    account = register_on(first)
    second = start_server(first.data_dir)
    async with httpx.AsyncClient(base_url=first.url, timeout=30) as http:
        graph = Graph(http, account.token)
        async with (
            reading(first, account.token, VIEWER, FIELD) as here,
            reading(second, account.token, VIEWER, FIELD) as there,
        ):
            await _ready(here, graph)
            await _ready(there, graph)
            titles = [f"number {number}" for number in range(60)]
            made = await asyncio.gather(*(create(graph, title=title) for title in titles))
            for reader in (here, there):
                for conversation in made:
                    await reader.until(partial(_is_about, conversation["id"]))
            cursor = here.seen[0]["cursor"]
        async with reading(second, account.token, VIEWER, FIELD, after=cursor) as again:
            last = here.seen[-1]["cursor"]
            await again.until(lambda event: event["cursor"] == last)
            assert [event["cursor"] for event in again.seen] == [event["cursor"] for event in here.seen[1:]]
        assert len({event["cursor"] for event in here.seen}) == len(here.seen)


def _is_about(conversation: str, event: Json) -> bool:
    return str(event.get("conversation", {}).get("id")) == conversation
