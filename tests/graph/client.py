"""GraphQL over graphql-transport-ws, as graphql-ws speaks it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.graph.http_client import SECONDS, Json, Refused
from tests.server import Server

PROTOCOL = "graphql-transport-ws"


def dial(server: Server, protocol: str | None = PROTOCOL, **options: Any) -> connect:
    """A bare WebSocket to /graphql."""
    subprotocols = None if protocol is None else [Subprotocol(protocol)]
    return connect(f"{server.ws}/graphql", subprotocols=subprotocols, proxy=None, compression=None, **options)


class Socket:
    """An initialised socket that carries many operations at once."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self._operations: dict[str, asyncio.Queue[Json]] = {}
        self._numbers = itertools.count(1)

    async def read(self) -> None:
        """Hand each message to its operation, until the socket closes."""
        with suppress(ConnectionClosed):
            async for frame in self.connection:
                message = json.loads(frame)
                if (queue := self._operations.get(message.get("id", ""))) is not None:
                    queue.put_nowait(message)
        for queue in self._operations.values():
            queue.put_nowait({"type": "closed"})

    async def operate(self, payload: Json) -> AsyncGenerator[Json, None]:
        """The payload of each `next`, up to `complete`. Closing the generator sends `complete`."""
        key = f"operation {next(self._numbers)}"
        queue = self._operations[key] = asyncio.Queue()
        await self.connection.send(json.dumps({"id": key, "type": "subscribe", "payload": payload}))
        under_way = True
        try:
            while (message := await _next(queue))["type"] == "next":
                yield message["payload"]
            under_way = False
            if message["type"] == "error":
                raise Refused(message["payload"])
            assert message["type"] == "complete", message
        finally:
            del self._operations[key]
            if under_way:
                with suppress(ConnectionClosed):
                    await self.connection.send(json.dumps({"id": key, "type": "complete"}))

    async def events(self, query: str, **variables: object) -> AsyncGenerator[Json, None]:
        """The `data` of each event."""
        async with aclosing(self.operate({"query": query, "variables": variables})) as results:
            async for result in results:
                if "errors" in result:
                    raise Refused(result["errors"])
                yield result["data"]

    async def data(self, query: str, **variables: object) -> Json:
        """The answer to a query or a mutation."""
        (data,) = [data async for data in self.events(query, **variables)]
        return data


async def _next(queue: asyncio.Queue[Json]) -> Json:
    # Not wait_for: in 3.11 it loses a cancel that comes together with a message, and the reader then waits on.
    async with asyncio.timeout(SECONDS):
        return await queue.get()


@asynccontextmanager
async def open_socket(server: Server, token: str | None = None, **options: Any) -> AsyncIterator[Socket]:
    """A socket past connection_init."""
    async with dial(server, **options) as connection:
        payload = {} if token is None else {"authorization": f"Bearer {token}"}
        await connection.send(json.dumps({"type": "connection_init", "payload": payload}))
        assert json.loads(await connection.recv()) == {"type": "connection_ack"}
        socket = Socket(connection)
        reader = asyncio.create_task(socket.read())
        try:
            yield socket
        finally:
            await connection.close()
            await reader
