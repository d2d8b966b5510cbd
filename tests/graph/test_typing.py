from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Account, Register
from tests.graph.client import open_socket
from tests.graph.documents import NEVER, create
from tests.graph.http_client import Graph, Json, Refused
from tests.server import Server

TELL = "mutation ($id: ID) { setTyping(input: {conversationId: $id}) { delivered } }"
LISTEN = "subscription ($id: ID) { typing(conversationId: $id) { userId username conversationId at } }"


async def _refused(graph: Graph, conversation_id: object) -> Json:
    with pytest.raises(Refused) as refused:
        _ = [event async for event in graph.events(LISTEN, id=conversation_id)]
    error: Json = refused.value.errors[0]["extensions"]
    return error


async def test_nobody_types_or_listens(anonymous: Graph) -> None:
    assert await anonymous.code(TELL) == "UNAUTHENTICATED"
    assert (await _refused(anonymous, None))["code"] == "UNAUTHENTICATED"


async def test_someone_elses_conversation_is_like_one_that_never_was(viewer: Graph, stranger: Graph) -> None:
    mine = (await create(viewer))["id"]
    for conversation_id in (mine, NEVER, "", "\u0000"):
        assert await stranger.error(TELL, id=conversation_id) == {"code": "NOT_FOUND", "field": "conversationId"}
        assert await _refused(stranger, conversation_id) == {"code": "NOT_FOUND", "field": "conversationId"}


async def test_an_id_that_is_no_text_is_refused(viewer: Graph) -> None:
    assert await viewer.code(TELL, id=["x"]) == "BAD_USER_INPUT"
    assert (await _refused(viewer, {}))["code"] == "BAD_USER_INPUT"


async def test_one_notice_every_two_seconds_in_one_place(newcomer: Graph) -> None:
    """A client sends one for each key press."""
    mine = (await create(newcomer))["id"]
    begun = time.monotonic()
    assert (await newcomer.data(TELL, id=mine))["setTyping"]["delivered"]
    again = (await newcomer.data(TELL, id=mine))["setTyping"]["delivered"]
    assert not again or time.monotonic() - begun > 2
    assert (await newcomer.data(TELL))["setTyping"]["delivered"], "another place is not throttled with it"


async def _until_heard(events: AsyncGenerator[Json, None], register: Register, graph: Graph) -> tuple[Account, Json]:
    """New users type until the listener, who may not be there yet, hears one of them."""
    hearing = asyncio.ensure_future(anext(events))
    told: dict[str, Account] = {}
    while not hearing.done():
        typist = register()
        told[typist.id] = typist
        assert (await Graph(graph.http, typist.token).data(TELL, id=None))["setTyping"]["delivered"]
        await asyncio.wait({hearing}, timeout=0.5)
    event: Json = hearing.result()["typing"]
    return told[event["userId"]], event


async def test_the_broadcast_tells_who_and_when(viewer: Graph, register: Register) -> None:
    events = viewer.events(LISTEN)
    typist, event = await _until_heard(events, register, viewer)
    assert (event["username"], event["conversationId"]) == (typist.username, None)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(event["at"])) < timedelta(minutes=1)
    await events.aclose()


async def test_nobody_hears_themselves(server: Server, viewer: Graph, register: Register) -> None:
    """Neither in another tab: a client would show its own user as someone else."""
    me = register()
    async with open_socket(server, me.token) as socket:
        events = socket.events(LISTEN)
        await _until_heard(events, register, viewer)
        assert (await socket.data(TELL))["setTyping"]["delivered"]
        typist, event = await _until_heard(events, register, viewer)
        assert event["userId"] == typist.id != me.id
