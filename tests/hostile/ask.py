"""One GraphQL operation by every way in, to the text of its answer."""

from __future__ import annotations

import asyncio
import json

import httpx

from tests.graph.client import dial
from tests.graph.http_client import Json
from tests.server import Server

SILENCE = 0.4
"""Seconds. A subscription that was let in has nothing to say, and one that was refused says so at once."""
WAYS = ("json", "events", "socket")


async def ask(way: str, server: Server, http: httpx.AsyncClient, token: str | None, payload: Json) -> str:
    """The bytes of the answer, as text; of a subscription those that come until its end or until it is silent."""
    if way == "socket":
        return await over_socket(server, token, payload)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    accept = "application/json" if way == "json" else "text/event-stream"
    heard: list[str] = []
    async with http.stream("POST", "/graphql", json=payload, headers={**headers, "Accept": accept}) as answer:
        heard.append(str(answer.status_code))
        reading = asyncio.create_task(_read(answer, heard))
        streams = payload["query"].startswith("subscription") and way == "events"
        await asyncio.wait({reading}, timeout=SILENCE if streams else 10)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return " ".join(heard)


async def _read(answer: httpx.Response, heard: list[str]) -> None:
    async for text in answer.aiter_text():
        heard.append(text)


async def over_socket(server: Server, token: str | None, payload: Json) -> str:
    heard: list[str] = []
    async with dial(server) as connection:
        init: Json = {} if token is None else {"authorization": f"Bearer {token}"}
        await connection.send(json.dumps({"type": "connection_init", "payload": init}))
        await connection.recv()
        await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        wait = SILENCE if payload["query"].startswith("subscription") else 10
        while not heard or json.loads(heard[-1])["type"] == "next":
            try:
                async with asyncio.timeout(wait):
                    heard.append(str(await connection.recv()))
            except TimeoutError:
                break
    return " ".join(heard)
