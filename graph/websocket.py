"""graphql-transport-ws, after https://github.com/enisdenjo/graphql-ws/blob/master/PROTOCOL.md.

One socket carries many operations; each has its own context, and a bad one fails alone. What breaks the protocol closes
the socket with a code: 4400 a message that is none, 4401 not initialised or a refused token, 4403 an expired one,
4408 initialised too late, 4409 an id twice, 4429 initialised twice or too many messages, 1009 a frame too large, 1013
a reader that does not read, or too many sockets.
"""

import asyncio
import logging
import time
from contextlib import ExitStack, aclosing, suppress
from typing import Any

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected, WebSocketState

from auth.sessions import Viewer
from auth.tokens import bearer
from errors import ChatError, RateLimited, TokenExpired, Unavailable
from graph.context import Context
from graph.errors import format_chat_error
from graph.execution import RequestRefused, Runner
from origins import origin_allowed
from peers import device_of
from rates import Rates
from services import Services

logger = logging.getLogger(__name__)

PROTOCOL = "graphql-transport-ws"
MAX_ID_CHARS = 128


class Close(Exception):
    """Ends the socket."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


async def serve(websocket: WebSocket, runner: Runner, services: Services) -> None:
    """One socket from its first byte to its last."""
    if not origin_allowed(websocket, services.settings.origins):
        await websocket.close(4403, "Origin not allowed")
        return
    device = device_of(websocket)
    try:
        services.operations.of_address(device)
        with services.presence.socket(device):
            await _serve(websocket, runner, services)
    except (Unavailable, RateLimited) as error:
        # Opened first: a refused handshake has no code that says to come back.
        await websocket.accept(PROTOCOL if PROTOCOL in websocket.scope.get("subprotocols", []) else None)
        await websocket.close(1013, error.message)


async def _serve(websocket: WebSocket, runner: Runner, services: Services) -> None:
    if PROTOCOL not in websocket.scope.get("subprotocols", []):
        await websocket.accept()
        await websocket.close(4406, "Subprotocol not acceptable")
        return
    await websocket.accept(subprotocol=PROTOCOL)
    connection = Connection(websocket, runner, services)
    try:
        await connection.run()
    except Close as close:
        # First: an operation that sends behind the close frame would fail as if it were ours to fix.
        await connection.stop()
        await connection.close(close)
    except WebSocketDisconnect:
        pass
    finally:
        await connection.stop()


class Connection:
    """The state of one socket: who it is for, and the operations under way on it."""

    def __init__(self, websocket: WebSocket, runner: Runner, services: Services) -> None:
        self._websocket = websocket
        self._runner = runner
        self._services = services
        self._viewer: Viewer | None = None
        self._device = device_of(websocket)
        self._initialised = False
        self._acknowledged = False
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Those of `_operations`, and those whose last message is on its way."""
        self._ended: asyncio.Future[Close] = asyncio.get_running_loop().create_future()
        self._expiry: asyncio.TimerHandle | None = None
        self._frames = Rates(services.limits.graph_frames_per_minute)
        self._seat = ExitStack()
        """This socket among its user's."""

    async def run(self) -> None:
        """
        Raises:
            Close: the socket has to be closed.
            WebSocketDisconnect: it has been.
        """
        reader = asyncio.create_task(self._read())
        try:
            waiting: set[asyncio.Future[Any]] = {reader, self._ended}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise self._ended.result()
            reader.result()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, Close, WebSocketDisconnect):
                await reader

    async def stop(self) -> None:
        """End what is still under way: this follower leaves, the runs of conversations go on."""
        if self._expiry is not None:
            self._expiry.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._seat.close()

    async def close(self, close: Close) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(Exception):
                async with asyncio.timeout(self._services.limits.send_timeout):
                    await self._websocket.close(close.code, close.reason)

    def _end(self, code: int, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(Close(code, reason))

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._services.limits.init_timeout):
                while not self._initialised:
                    await self._handle(await self._receive())
        except TimeoutError:
            raise Close(4408, "Connection initialisation timeout") from None
        while True:
            await self._handle(await self._receive())

    async def _receive(self) -> dict[str, Any]:
        frame = await self._websocket.receive()
        if frame["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(frame.get("code", 1005))
        text = frame.get("text")
        if text is None:
            raise Close(4400, "Messages are text")
        if len(text) > self._services.limits.frame or len(text.encode()) > self._services.limits.frame:
            raise Close(1009, "Message too large")
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise Close(4400, "The message is not JSON") from None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            raise Close(4400, "A message is an object with a type")
        payload = message.get("payload")
        if payload is not None and not isinstance(payload, dict):
            raise Close(4400, "payload must be an object")
        return message

    async def _handle(self, message: dict[str, Any]) -> None:
        if self._frames.take("messages"):
            raise Close(4429, "Too many messages")
        match message["type"]:
            case "connection_init":
                await self._initialise(message.get("payload") or {})
            case "ping":
                await self._send({"type": "pong"})
            case "pong":
                pass
            case "subscribe":
                await self._subscribe(message)
            case "complete":
                self._complete(_id_of(message))
            case other:
                raise Close(4400, f"Unknown message type {other[:50]!r}")

    async def _initialise(self, payload: dict[str, Any]) -> None:
        if self._initialised:
            raise Close(4429, "Too many initialisation requests")
        self._initialised = True
        token = bearer(_authorization(payload) or self._websocket.headers.get("authorization"))
        if token is not None:
            await self._authenticate(token)
        await self._send({"type": "connection_ack"})
        self._acknowledged = True

    async def _authenticate(self, token: str) -> None:
        try:
            self._viewer = await self._services.sessions.viewer(token)
            self._seat.enter_context(self._services.presence.user(self._viewer.id))
        except TokenExpired as error:
            # 4403, not 4401: clients come back after it, with a new token.
            raise Close(4403, error.message) from None
        except Unavailable as error:
            raise Close(1013, error.message) from None
        except ChatError as error:
            raise Close(4401, error.message) from None
        left = max(0.0, self._viewer.expires_at - time.time())
        loop = asyncio.get_running_loop()
        # A month at most: asyncio's timers do not take more than some years on every platform.
        self._expiry = loop.call_later(min(left, 30 * 86_400), self._end, 4403, TokenExpired.default_message)

    async def _subscribe(self, message: dict[str, Any]) -> None:
        if not self._acknowledged:
            raise Close(4401, "Unauthorized")
        key = _id_of(message)
        if key in self._operations:
            raise Close(4409, f"Subscriber for {key} already exists")
        if not isinstance(message.get("payload"), dict):
            raise Close(4400, "subscribe needs a payload")
        try:
            self._admit()
        except RateLimited as refusal:
            # Sent from here, so that no more frames are read from a client that does not read these.
            await self._send({"id": key, "type": "error", "payload": [format_chat_error(refusal)]})
            return
        task = asyncio.create_task(self._operate(key, message["payload"]), name=f"operation {key}")
        self._operations[key] = task
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._done(key, done))

    def _admit(self) -> None:
        services, limits = self._services, self._services.limits
        if limits.counted and len(self._tasks) >= limits.operations_per_socket:
            raise RateLimited(f"At most {limits.operations_per_socket} operations on one socket")
        services.operations.of_address(self._device)
        if self._viewer is not None:
            services.operations.of_user(self._viewer.id)

    def _done(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._operations.get(key) is task:
            del self._operations[key]
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, Close):
            self._end(error.code, error.reason)
        else:
            self._end(1011, "Internal error")
            if not isinstance(error, WebSocketDisconnect | OSError):
                logger.error("an operation on a socket failed", exc_info=error)

    def _complete(self, key: str) -> None:
        task = self._operations.pop(key, None)
        if task is not None:
            task.cancel()

    async def _operate(self, key: str, request: dict[str, Any]) -> None:
        """One operation, to its `complete` or its `error`."""
        try:
            operation = self._runner.prepare(request)
            context = Context(self._services, self._viewer, self._device)
            if operation.streams:
                async with aclosing(self._runner.subscribe(operation, context)) as results:
                    async for result in results:
                        await self._send({"id": key, "type": "next", "payload": result})
            else:
                result = await self._runner.execute(operation, context)
                await self._send({"id": key, "type": "next", "payload": result})
        except RequestRefused as refused:
            end = {"id": key, "type": "error", "payload": refused.errors}
        else:
            end = {"id": key, "type": "complete"}
        # The id is free from here on: a client may use it again as soon as it has read this.
        self._operations.pop(key, None)
        await self._send(end)

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._services.limits.send_timeout):
                # Text, not bytes: a binary frame is refused by clients.
                await self._websocket.send_text(orjson.dumps(message).decode())
        except TimeoutError:
            raise Close(1013, "The reader does not read") from None
        except WebSocketDisconnected:
            # Another operation has found out already that the client is gone.
            raise WebSocketDisconnect from None


def _id_of(message: dict[str, Any]) -> str:
    key = message.get("id")
    if not isinstance(key, str) or not 0 < len(key) <= MAX_ID_CHARS:
        raise Close(4400, f"id must be text of 1 to {MAX_ID_CHARS} characters")
    return key


def _authorization(payload: dict[str, Any]) -> str | None:
    """The value under `authorization`, in whatever case the client writes it."""
    for name, value in payload.items():
        if name.lower() == "authorization":
            if value is not None and not isinstance(value, str):
                raise Close(4400, "authorization must be text")
            return value
    return None
