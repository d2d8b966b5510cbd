"""Answers in pieces, to clients that leave and clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.types import Message

from rest.streams import PiecesResponse, ReaderStuck, in_time

SCOPE = {"type": "http"}


async def pieces() -> AsyncIterator[bytes]:
    for piece in (b"[1", b",2]"):
        yield piece


async def stays() -> Message:
    await asyncio.sleep(60)
    raise AssertionError("unreachable")


async def test_all_pieces_and_an_end() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await PiecesResponse(pieces(), send_timeout=1)(SCOPE, stays, send)
    assert sent[0]["status"] == 200
    assert (b"content-type", b"application/json") in sent[0]["headers"]
    assert b"".join(message["body"] for message in sent[1:]) == b"[1,2]"
    assert [message["more_body"] for message in sent[1:]] == [True, True, False]


async def test_a_client_that_leaves_ends_it() -> None:
    async def leaves() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.sleep(60)

    async with asyncio.timeout(5):
        await PiecesResponse(pieces(), send_timeout=60)(SCOPE, leaves, send)


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    async def send(message: Message) -> None:
        await asyncio.sleep(60)

    async with asyncio.timeout(5):
        await PiecesResponse(pieces(), send_timeout=0.05)(SCOPE, stays, send)


async def test_in_time_tells_a_stuck_reader_from_other_timeouts() -> None:
    async def send(message: Message) -> None:
        await asyncio.sleep(60)

    with pytest.raises(ReaderStuck):
        await in_time(send, 0.01)({"type": "http.response.body"})
